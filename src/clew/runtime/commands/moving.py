"""Commands that move between sessions and positions."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from clew.domain.conversation.ids import BranchId, SessionId
from clew.domain.conversation.messages import Head, Message, ToolCall
from clew.domain.conversation.text import one_line
from clew.domain.ledger.errors import NotFound
from clew.runtime.commands.values import CommandContext, CommandError, CommandReply, a_number, no_arguments
from clew.runtime.ports.reminders import KIND as REMINDER
from clew.runtime.turns.openings import Again
from clew.runtime.turns.waiting import messages_among, unpack

_SHOWN_MAX = 60
_AT_TIP: Final = re.compile(r"(?P<session>.+)@(?P<branch>[0-9]{1,15})\.(?P<seq>[0-9]{1,15})", re.DOTALL)
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
    jobs = await context.ledger.jobs(context.principal, REMINDER)
    count = sum(job.route_key == context.place.route_key for job in jobs)
    stay = (
        f" What it was to remind you of ({count}) is said here all the same; /remind list." if count else ""
    )
    return CommandReply(
        text=f"New session {left.row.id}.{cancelled}{stay}",
        session=left.row.id,
        ends_turn=leaving is not None,
    )


async def undo(context: CommandContext, arguments: str) -> CommandReply:
    count = a_number("undo", arguments, 1)
    rewound = await context.desk.undo(context.principal, context.current.id, count)
    lines: list[str] = []
    drafts = [unpack(row.body).text for row in rewound.waiting]
    if drafts:
        what = "the message" if len(drafts) == 1 else f"{len(drafts)} messages"
        lines.append(f"Taken back before it was sent: {what} “{one_line(drafts[0], _SHOWN_MAX)}”.")
    if rewound.openings:
        turns = len(rewound.openings)
        what = "the last turn" if turns == 1 else f"the last {turns} turns"
        lines.append(
            f"Undone: {what}, back to before “{shortened(rewound.openings[0])}”. /redo brings it back."
        )
        drafts.insert(0, rewound.openings[0].text)
    lines += _left_as_they_are(rewound.calls)
    waiting = messages_among(await context.ledger.queued(context.principal, context.current.id))
    if waiting:
        lines.append(_still_waiting(len(waiting)))
    return CommandReply(text="\n".join(lines), draft=drafts[0], ends_turn=bool(rewound.openings))


def _still_waiting(count: int) -> str:
    return "1 message is still waiting." if count == 1 else f"{count} messages are still waiting."


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
    back = "1 message is" if restored.messages == 1 else f"{restored.messages} messages are"
    return CommandReply(text=f"Redone: {back} back.", ends_turn=True)


async def retry(context: CommandContext, arguments: str) -> CommandReply:
    no_arguments("retry", arguments)
    await context.models.choose(context.current.model)  # without a model, the old answer stays where it is
    opening = await context.desk.rewind_for_retry(context.principal, context.current.id, context.sender.again)
    return CommandReply(text=f"Again: “{shortened(opening)}”", opening=Again(), ends_turn=True)


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
    session, tip = await _aimed_at(context, reference)
    leaving = context.session.id if context.session is not None else None
    if tip is not None:
        await context.desk.resume_at(context.principal, session, tip)
    row = await context.ledger.session(context.principal, session)
    waiting = await context.desk.resume(context.principal, context.place, session, leaving=leaving)
    text = f"Back in session {row.id}, {row.handle.head.seq} messages: {row.title or 'untitled'}."
    if waiting:
        text += f" In {leaving}, {_still_waiting(waiting)}"
    return CommandReply(text=text, session=row.id, ends_turn=True)


async def _aimed_at(context: CommandContext, reference: str) -> tuple[SessionId, Head | None]:
    """The session, and the tip if one is named. A title may hold an @ as well."""
    named = _AT_TIP.fullmatch(reference)
    if named is not None:
        tip = Head(BranchId(int(named["branch"])), int(named["seq"]))
        return await _referred(context, named["session"]), tip
    try:
        return await _referred(context, reference), None
    except NotFound:
        if "@" not in reference:
            raise
        _, _, tip_typed = reference.rpartition("@")
        raise CommandError(
            f"“{one_line(tip_typed, _SHOWN_MAX)}” is no tip; `clew sessions tree` shows them, such as 12.34."
        ) from None


async def _referred(context: CommandContext, reference: str) -> SessionId:
    if reference.isascii() and reference.isdigit() and len(reference) <= 3:
        listed = await context.ledger.sessions(context.principal, limit=int(reference) or 1)
        if 0 < int(reference) <= len(listed):
            return listed[int(reference) - 1].id
        raise CommandError(f"There is no session number {reference}; see /sessions.")
    return await context.ledger.resolve(context.principal, reference)


def shortened(message: Message) -> str:
    """The start of a message, on one line."""
    return one_line(message.text, _SHOWN_MAX)
