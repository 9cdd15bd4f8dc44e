"""Goes on with a turn that a process left in the middle: one commit claims it and settles its calls.

A turn that is too old is only announced; one that ended its process again and again is set aside. Both are said, and end
with the commit that says it, so that the session takes what comes next.
"""

from __future__ import annotations

import msgspec

from clew.domain.conversation.messages import Message
from clew.domain.ledger.commits import AddReply, Append, Commit, MoveCall, Note, SetTurn
from clew.domain.ledger.errors import Busy, HeadMoved, Refused
from clew.domain.ledger.rows import ApprovalState, CallState, OpKind, SessionRow, TurnRow, TurnState
from clew.domain.turn.recovery import (
    Interrupted,
    interrupted,
    recovery_notice,
    recovery_overlay,
    settled_result,
)
from clew.runtime.turns.job import Means, TurnJob
from clew.runtime.turns.opening import TRIES_MAX, OpenedTurn, claimed
from clew.runtime.turns.outbox import NOTICE

STALE = "stale"
SET_ASIDE = "set_aside"


class GivenUp(Refused):
    """The turn was ended instead; the sentence says why, and that is on disk."""


async def open_recovery(means: Means, job: TurnJob) -> OpenedTurn:
    """Claims the newest turn of the session, if it was left open.

    Raises Refused when it was not, Busy when its holder lives, GivenUp when it is not gone on with.
    """
    for _ in range(TRIES_MAX):
        row = await means.ledger.session(job.principal, job.session)
        turn = await means.ledger.turn(job.principal, job.session)
        if turn is None or turn.state != TurnState.RUNNING:
            raise Refused("No turn of this session was left in the middle.")
        claim = await claimed(means, job, row)
        try:
            await _give_up(means, row, turn, claim)
            return await _taken(means, job, row, turn, claim)
        except HeadMoved:
            continue  # somebody was quicker: decided again from what the ledger now says
    raise Busy("This session changes too quickly to go on with its turn.", "")


async def _give_up(means: Means, row: SessionRow, turn: TurnRow, claim: Commit) -> None:
    """Ends a turn that is too old or has crashed too often; returns when it is neither."""
    settings = means.settings
    idle_ms = means.clock.now_ms() - max(turn.started_at, row.last_active_at)
    if turn.crashes >= settings.recovery_max_crashes:
        reason = SET_ASIDE
        sentence = (
            f"Turn {turn.turn} ended its process {turn.crashes + 1} times and was set aside: nothing of it is run again. "
            "Before anything else is said, /retry starts it anew and /undo takes it back."
        )
    elif claim.seen_beat is None and idle_ms > settings.recovery_freshness_seconds * 1000:
        # A holder that is only silent lives, and would go on as well: its turn is as fresh as it is, whatever clocks say.
        reason = STALE
        sentence = (
            f"Clew stopped in the middle of turn {turn.turn}, too long ago to go on with it. "
            "Before anything else is said, /retry runs it again."
        )
    else:
        return
    end = msgspec.structs.replace(
        claim, claim=None, cut=True, cut_reason=reason, release=True, op=Note(kind=OpKind.RECOVER)
    )
    await means.ledger.commit(_telling(end, turn, sentence, f"{reason}:{row.id}:{turn.turn}"))
    raise GivenUp(sentence)


async def _taken(means: Means, job: TurnJob, row: SessionRow, turn: TurnRow, claim: Commit) -> OpenedTurn:
    left = await _left(means, job, row, turn)
    messages = tuple(settled_result(call, state, left.step, "Clew stopped") for call, state in left.settled)
    moves = [(call, state) for call, state in left.settled]
    moves += [(call, CallState.UNKNOWN) for call, state in left.open if state == CallState.STARTED]
    known = {call.id: call.state for call in await means.ledger.calls(job.principal, row.id, turn.turn)}
    work = msgspec.structs.replace(
        claim,
        op=Append(messages=messages, turn=turn.turn, kind=OpKind.RECOVER) if messages else None,
        calls=tuple(MoveCall(id=call.id, to=to) for call, to in moves if known[call.id] != to),
        set_turn=SetTurn(turn=turn.turn, state=TurnState.RUNNING, crashed=row.lease_owner is not None),
    )
    if left.key is not None:
        work = _telling(work, turn, recovery_notice(left), f"{left.key}:{row.id}")
    committed = await means.ledger.commit(work)
    if left.key is None or await means.ledger.has_key(job.principal, row.id, left.key):
        return OpenedTurn(handle=committed.handle, turn=turn.turn, row=row)
    hint = recovery_overlay(left)
    return OpenedTurn(handle=committed.handle, turn=turn.turn, row=row, recovers=left.key, hint=hint)


async def _left(means: Means, job: TurnJob, row: SessionRow, turn: TurnRow) -> Interrupted:
    ledger = means.ledger
    calls = {call.id: call for call in await ledger.calls(job.principal, row.id, turn.turn)}
    approvals = await ledger.approvals(job.principal, row.id)
    asked = {approval.call for approval in approvals if approval.state != ApprovalState.EXPIRED}
    return interrupted(await turn_messages(means, job, row, turn.turn), calls, asked)


async def turn_messages(means: Means, job: TurnJob, row: SessionRow, turn: int) -> list[Message]:
    """The messages of the newest turn, in order; cheap at any length of the session."""
    starts = await means.ledger.turn_starts(job.principal, row.id, 1, row.handle.head)
    above = starts[0].seq - 1 if starts else 0
    path = await means.ledger.path(job.principal, row.id, row.handle.head, above=above)
    return [message for message in path if message.turn == turn]


def _telling(work: Commit, turn: TurnRow, sentence: str, key: str) -> Commit:
    """With a notice for the place the turn came from: told once, however often it is written."""
    if turn.conversation is None:
        return work
    notice = AddReply(
        conversation=turn.conversation, turn=turn.turn, part=0, kind=NOTICE, key=key, body=sentence
    )
    return msgspec.structs.replace(work, replies=(notice,))
