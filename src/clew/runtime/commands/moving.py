"""Commands that move between sessions and positions."""

from __future__ import annotations

import msgspec

from clew.domain.conversation.ids import BranchId, SessionId
from clew.domain.conversation.messages import Head, Message, ToolCall
from clew.runtime.commands.values import CommandContext, CommandError, CommandReply, a_number, no_arguments
from clew.runtime.turns.opening import Again

_SHOWN_MAX = 60
READING_TOOLS = frozenset(
    {"read", "glob", "grep", "session_search", "process_output", "web_fetch", "web_search"}
)


async def new(context: CommandContext, arguments: str) -> CommandReply:
    leaving = context.session.id if context.session is not None else None
    left = await context.desk.open(
        context.principal,
        context.place,
        leaving=leaving,
        title=arguments.strip() or None,
        cwd=str(context.cwd),
        model=context.session.model if context.session else None,
    )
    cancelled = f" {left.cancelled} waiting messages were cancelled." if left.cancelled else ""
    return CommandReply(text=f"New session {left.row.id}.{cancelled}", session=left.row.id)


async def undo(context: CommandContext, arguments: str) -> CommandReply:
    turns = a_number("undo", arguments, 1)
    waiting = await context.ledger.queued(context.principal, context.current.id)
    rewound = await context.desk.undo(context.principal, context.current.id, turns)
    what = "the last turn" if turns == 1 else f"the last {turns} turns"
    lines = [f"Undone: {what}, back to before “{shortened(rewound.openings[0])}”. /redo brings it back."]
    lines += _left_as_they_are(rewound.calls)
    if waiting:
        lines.append(f"{len(waiting)} messages are still waiting.")
    return CommandReply(text="\n".join(lines), draft=rewound.openings[0].text)


def _left_as_they_are(calls: tuple[ToolCall, ...]) -> list[str]:
    """The effects outside the conversation that an undo does not take back."""
    outside = [call for call in calls if call.name not in READING_TOOLS]
    if not outside:
        return []
    return [
        "Not taken back, because it happened outside the conversation:",
        *(f"- {_effect(c)}" for c in outside),
    ]


def _effect(call: ToolCall) -> str:
    try:
        arguments = msgspec.json.decode(call.arguments)
    except msgspec.DecodeError:
        arguments = None
    told = arguments.get("path") or arguments.get("command") if isinstance(arguments, dict) else None
    return f"{call.name} {str(told or call.arguments)[:_SHOWN_MAX]}"


async def redo(context: CommandContext, arguments: str) -> CommandReply:
    no_arguments("redo", arguments)
    restored = await context.desk.redo(context.principal, context.current.id)
    return CommandReply(text=f"Redone: {restored.messages} messages are back.")


async def retry(context: CommandContext, arguments: str) -> CommandReply:
    no_arguments("retry", arguments)
    message = await context.desk.rewind_for_retry(context.principal, context.current.id)
    return CommandReply(text=f"Again: “{shortened(message)}”", opening=Again())


async def branch(context: CommandContext, arguments: str) -> CommandReply:
    row = await context.desk.branch(
        context.principal, context.current.id, context.place, title=arguments.strip() or None
    )
    return CommandReply(
        text=f"Branched from {context.current.id} into {row.id}; the old one stays as it is.", session=row.id
    )


async def resume(context: CommandContext, arguments: str) -> CommandReply:
    reference = arguments.strip()
    if not reference:
        raise CommandError("/resume takes a session's id, title or number in the list; see /sessions.")
    reference, at, tip = reference.partition("@")
    session = await _referred(context, reference)
    if at:
        row = await context.desk.resume_at(context.principal, session, _tip(tip))
    else:
        row = await context.ledger.session(context.principal, session)
    await context.desk.point(context.place, session)
    return CommandReply(text=f"Back in session {row.id}, {row.handle.head.seq} messages: {row.title or 'untitled'}.",
                        session=row.id)  # fmt: skip


async def _referred(context: CommandContext, reference: str) -> SessionId:
    if reference.isascii() and reference.isdigit() and len(reference) <= 3:
        listed = await context.ledger.sessions(context.principal, limit=int(reference) or 1)
        if 0 < int(reference) <= len(listed):
            return listed[int(reference) - 1].id
        raise CommandError(f"There is no session number {reference}; see /sessions.")
    return await context.ledger.resolve(context.principal, reference)


def _tip(typed: str) -> Head:
    branch, _, seq = typed.partition(".")
    if not (branch.isdigit() and seq.isdigit()):
        raise CommandError(f"“{typed}” is no tip; `clew sessions tree` shows them, such as 12.34.")
    return Head(BranchId(int(branch)), int(seq))


def shortened(message: Message) -> str:
    """The start of a message, on one line."""
    line = " ".join(message.text.split())
    return line if len(line) <= _SHOWN_MAX else line[: _SHOWN_MAX - 1] + "…"
