"""Commands that change a session's settings, decide approvals, end things."""

from __future__ import annotations

import msgspec

from clew.domain.conversation.ids import SessionId
from clew.domain.ledger.commits import SessionPatch
from clew.domain.ledger.rows import (
    BACKGROUND,
    ApprovalRow,
    ApprovalState,
    CallState,
    Origin,
    TurnRow,
    TurnState,
)
from clew.domain.tools.policy import ApprovalMode
from clew.domain.tools.session_settings import DEFAULT_EFFORT, Effort, read_settings, write_settings
from clew.runtime.account import second
from clew.runtime.commands.values import CommandContext, CommandError, CommandReply, no_arguments
from clew.runtime.ports.reminders import KIND as REMINDER
from clew.runtime.turns.openings import GoOn, Opening, Recover

MODEL_CHARACTERS_MAX = 200
EXPORT_FORMATS = ("md", "json", "jsonl", "html")


async def title(context: CommandContext, arguments: str) -> CommandReply:
    if not arguments.strip():
        return CommandReply(text=context.current.title or "This session has no title.")
    row = await context.desk.title(context.principal, context.current.id, arguments)
    return CommandReply(text=f"Titled “{row.title}”.")


async def model(context: CommandContext, arguments: str) -> CommandReply:
    name = arguments.strip()
    if len(name.split()) > 1 or len(name) > MODEL_CHARACTERS_MAX:
        raise CommandError("/model takes one name, without spaces.")
    if not name:
        choice = await context.models.choose(context.session.model if context.session else None)
        return CommandReply(
            text=f"The model is {choice.profile.name}. /model NAME uses another in this session."
        )
    choice = await context.models.choose(name)
    await context.desk.change(context.principal, context.current.id, SessionPatch(model=name))
    return CommandReply(text=f"From the next turn on, this session uses {choice.profile.name}.")


async def approval_mode(context: CommandContext, arguments: str) -> CommandReply:
    typed = arguments.strip()
    settings = read_settings(context.current.settings)
    if not typed:
        return CommandReply(text=f"The approval mode is {settings.approval or context.default_mode}.")
    if typed not in set(ApprovalMode):
        raise CommandError(f"/mode takes {', '.join(ApprovalMode)}, not “{typed[:40]}”.")
    changed = msgspec.structs.replace(settings, approval=ApprovalMode(typed))
    await context.desk.change(
        context.principal, context.current.id, SessionPatch(settings=write_settings(changed))
    )
    return CommandReply(text=f"The approval mode of this session is {typed}.")


async def effort(context: CommandContext, arguments: str) -> CommandReply:
    """How long the model thinks: `default` leaves that to its provider."""
    typed = arguments.strip()
    settings = read_settings(context.current.settings)
    choice = await context.models.choose(context.current.model)
    if not choice.profile.takes_effort:
        raise CommandError(f"{choice.profile.name} cannot be told how long to think, as far as is known.")
    if not typed:
        return CommandReply(
            text=f"{choice.profile.name} thinks with {settings.effort or DEFAULT_EFFORT} effort."
        )
    if typed not in (DEFAULT_EFFORT, *Effort):
        raise CommandError(f"/effort takes {DEFAULT_EFFORT}, {', '.join(Effort)}, not “{typed[:40]}”.")
    changed = msgspec.structs.replace(settings, effort=None if typed == DEFAULT_EFFORT else Effort(typed))
    await context.desk.change(
        context.principal, context.current.id, SessionPatch(settings=write_settings(changed))
    )
    return CommandReply(text=f"From the next turn on, {choice.profile.name} thinks with {typed} effort.")


async def approve(context: CommandContext, arguments: str) -> CommandReply:
    return await _decide(context, arguments, ApprovalState.APPROVED)


async def deny(context: CommandContext, arguments: str) -> CommandReply:
    return await _decide(context, arguments, ApprovalState.DENIED)


async def _decide(context: CommandContext, arguments: str, state: ApprovalState) -> CommandReply:
    name = "approve" if state == ApprovalState.APPROVED else "deny"
    turn = await context.ledger.turn(context.principal, context.current.id)
    pending = await _pending(context, context.current.id, turn)
    typed = arguments.strip()
    if not typed and not pending:
        if turn is not None and turn.state == TurnState.WAITING:
            raise CommandError("The approval has expired: /retry asks again.")
        raise CommandError(f"No approval is waiting.{await _decided_last(context)}")
    if not typed and len(pending) > 1:
        raise CommandError(
            f"Several are waiting: /{name} " + f", /{name} ".join(row.id for row in pending) + "."
        )
    approval = next((row.id for row in pending if row.id == typed), None) if typed else pending[0].id
    if approval is None:
        raise CommandError(await _not_waiting(context, typed))
    await context.ledger.decide(context.principal, approval, state, context.clock.now_ms())
    left = len(pending) - 1
    turn = await context.ledger.turn(context.principal, context.current.id)
    opening = await _opening_of(context, turn) if left == 0 and turn is not None else None
    more = f" {left} more are waiting." if left else ""
    word = "Approved" if state == ApprovalState.APPROVED else "Denied"
    return CommandReply(text=f"{word} {approval}.{more}", opening=opening)


async def _not_waiting(context: CommandContext, typed: str) -> str:
    """Why this approval decides nothing any more."""
    rows = await context.ledger.approvals(context.principal, context.current.id)
    row = next((row for row in rows if row.id == typed), None)
    if row is None:
        return f"There is no approval {typed[:40]} in this session."
    if row.decided_at is not None:
        return f"Approval {row.id} was already {_decision(row)}."
    if row.expires_at <= context.clock.now_ms():
        return f"Approval {row.id} has expired: /retry asks again."
    return f"Approval {row.id} is not waited for any more: its turn has ended."


async def _decided_last(context: CommandContext) -> str:
    rows = await context.ledger.approvals(context.principal, context.current.id)
    last = max((row for row in rows if row.decided_at is not None), key=_decided_at, default=None)
    return "" if last is None else f" The last one, {last.id}, was {_decision(last)}."


def _decided_at(row: ApprovalRow) -> int:
    return row.decided_at or 0


def _decision(row: ApprovalRow) -> str:
    what = "denied" if row.state == ApprovalState.DENIED else "approved"
    return f"{what} by {row.decided_by} at {second(_decided_at(row))} UTC"


async def _opening_of(context: CommandContext, turn: TurnRow) -> Opening | None:
    """How the turn goes on whose last question was answered; None where a living process asked and goes on itself."""
    if turn.state == TurnState.WAITING:
        return GoOn()
    return None if await context.sender.is_busy(turn.session) else Recover()


async def _pending(context: CommandContext, session: SessionId, turn: TurnRow | None) -> list[ApprovalRow]:
    """The approvals that a call of the turn still waits for, here or in a session that works for it.

    Those of a turn that ended, or that ran out, decide nothing any more.
    """
    ledger, principal = context.ledger, context.principal
    if turn is None or not turn.state.is_open:
        return []
    now = context.clock.now_ms()
    planned = {
        c.id for c in await ledger.calls(principal, session, turn.turn) if c.state == CallState.PLANNED
    }
    rows = [
        row
        for row in await ledger.approvals(principal, session)
        if row.state == ApprovalState.PENDING and row.call in planned and row.expires_at > now
    ]
    for side in await ledger.children(principal, session):
        is_ours = side.origin == Origin.SIDE and side.surface != BACKGROUND and side.ended_at is None
        if is_ours and side.created_at >= turn.started_at:
            rows += await _pending(context, side.id, await ledger.turn(principal, side.id))
    return rows


async def temporary(context: CommandContext, arguments: str) -> CommandReply:
    """The conversation itself does it: it knows what it comes back to."""
    no_arguments("temporary", arguments)
    return CommandReply(text="", turns_temporary=True)


async def stop(context: CommandContext, arguments: str) -> CommandReply:
    no_arguments("stop", arguments)
    return CommandReply(text="Stopped." if await context.stop() else "Nothing is running.")


async def processes(context: CommandContext, arguments: str) -> CommandReply:
    no_arguments("ps", arguments)
    listed = context.processes.listed() if context.processes else ()
    lines = [f"{p.number:3} {p.state:10} {p.command}" for p in listed]
    if context.background is not None and context.session is not None:
        lines += [
            f"{s.session} {s.state}: {s.text}" for s in await context.background.listed(context.session.id)
        ]
    return CommandReply(text="\n".join(lines) or "Nothing is running in the background.")


async def kill(context: CommandContext, arguments: str) -> CommandReply:
    if not arguments.strip():
        raise CommandError("/kill takes the number of a process, or the id of a session; see /ps.")
    typed = arguments.strip()
    if context.background is not None and await context.background.stop(context.current.id, typed):
        return CommandReply(text=f"The work in {typed} was ended.")
    number = int(typed) if typed.isascii() and typed.isdigit() and len(typed) <= 9 else None
    if number is None or context.processes is None or not await context.processes.kill(number):
        raise CommandError(f"Nothing called “{typed[:40]}” runs in the background here; see /ps.")
    return CommandReply(text=f"Process {number} was ended.")


async def export(context: CommandContext, arguments: str) -> CommandReply:
    wanted = arguments.strip() or "md"
    if wanted not in EXPORT_FORMATS:
        raise CommandError(f"/export takes {', '.join(EXPORT_FORMATS)}, not “{wanted[:40]}”.")
    if context.export is None:
        raise CommandError("This surface cannot write files; use `clew sessions export`.")
    return CommandReply(text=f"Exported to {await context.export(context.current.id, wanted)}.")


async def delete(context: CommandContext, arguments: str) -> CommandReply:
    """Deleting cannot be taken back, so the person types the session's id."""
    typed = arguments.strip()
    session = context.current.id
    if typed != session:
        raise CommandError(f"This cannot be undone. To delete this session, type: /delete {session}")
    reminders = sum(job.session == session for job in await context.ledger.jobs(context.principal, REMINDER))
    facts = sum(fact.session == session for fact in await context.ledger.facts(context.principal))
    gone = await context.ledger.forget(context.principal, session, context.clock.now_ms())
    kept = f" Branches still hold some of it: {', '.join(gone.kept_for)}." if gone.kept_for else ""
    if reminders:
        kept += f" With it {reminders} reminder{'s' if reminders > 1 else ''} that had been asked for in it."
    if facts:
        kept += f" What was remembered of it ({facts}) is forgotten."
    left = await context.desk.open(context.principal, context.place, cwd=str(context.cwd))
    return CommandReply(
        text=f"Deleted {session}: {gone.messages} messages.{kept}", session=left.row.id, ends_turn=True
    )
