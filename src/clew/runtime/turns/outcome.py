"""How a turn came out, for whoever started it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from clew.domain.conversation.ids import ApprovalId, CallId, PrincipalId, SessionId
from clew.domain.conversation.messages import Role, ToolCall
from clew.domain.ledger.commits import AddUsage, UsageState
from clew.domain.ledger.errors import NotFound
from clew.domain.ledger.rows import ApprovalState, CallState, Handle, TurnState
from clew.domain.models.answer import FailureKind, Usage
from clew.domain.turn.machine import Close
from clew.runtime.ports.ledger import Ledger

LIMITS: Final = frozenset({"step_limit", "time_limit", "repeat_limit", FailureKind.CAP, FailureKind.UNPRICED})
STARTS_LOOKED_AT: Final = 100
"""How far back a turn is looked for that another process ended just now."""
STOPPED: Final = "stopped"
"""Why a turn ended that a person stopped."""
CANCELLED: Final = "cancelled"
"""Why a turn ended whose task was cancelled."""


class TurnStatus(StrEnum):
    DONE = "done"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    REFUSED = "refused"
    """A limit, or an approval that nobody was there to give."""


class CallOutcome(msgspec.Struct, frozen=True, kw_only=True):
    id: CallId
    name: str
    state: CallState


class TurnOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """`text` is the final reply, or what there is of it. `error` is (code, sentence)."""

    handle: Handle
    turn: int
    status: TurnStatus
    text: str
    model: str
    usage: Usage
    cost_usd: float | None = None
    """None where no price is known."""
    calls: tuple[CallOutcome, ...] = ()
    error: tuple[str, str] | None = None
    waiting_for: tuple[ApprovalId, ...] = ()
    cause: Exception | None = None
    """The error inside Clew that ended the turn, or kept it from being watched; for --debug."""


class Ending(msgspec.Struct, frozen=True):
    """A turn's status, and its error if it has one."""

    status: TurnStatus
    error: tuple[str, str] | None = None


STOPPED_ELSEWHERE: Final = Ending(TurnStatus.INTERRUPTED)
TAKEN_OVER: Final = Ending(
    TurnStatus.INTERRUPTED,
    ("fenced", "The session was taken over or changed by somebody else; this turn ended there."),
)


def ending_of(closed: Close | None, waiting: tuple[ApprovalId, ...]) -> Ending:
    """How a turn came out that owned its session to the end. `waiting` is empty unless it is parked."""
    if waiting:
        return Ending(TurnStatus.REFUSED, ("approval", f"Waiting for approval {', '.join(waiting)}."))
    if closed is None:
        return Ending(TurnStatus.DONE)
    error = None if closed.error is None else (closed.reason, closed.error)
    if closed.reason in LIMITS:
        return Ending(TurnStatus.REFUSED, error)
    if closed.state == TurnState.INTERRUPTED:
        return Ending(TurnStatus.INTERRUPTED, error)
    return Ending(TurnStatus.FAILED, error or (closed.reason, closed.reason))


_STATUS_OF: Final = {
    TurnState.DONE: TurnStatus.DONE,
    TurnState.FAILED: TurnStatus.FAILED,
    TurnState.WAITING: TurnStatus.REFUSED,
}


async def outcome_of(ledger: Ledger, principal: PrincipalId, session: SessionId, number: int) -> TurnOutcome:
    """A turn of whichever process, as the ledger has it: without what it used, which counts where it ran.

    Raises NotFound. Of a turn that was undone meanwhile the text is empty.
    """
    row, turn = await ledger.session(principal, session), await ledger.turn(principal, session, number)
    if turn is None:
        raise NotFound(f"There is no turn {number} in session {session}.")
    starts = await ledger.turn_starts(principal, session, STARTS_LOOKED_AT, row.handle.head)
    start = next((message.seq for message in starts if message.turn == number), row.handle.head.seq + 1)
    path = await ledger.path(principal, session, row.handle.head, above=start - 1)
    said = [m.text for m in path if m.turn == number and m.role == Role.ASSISTANT and m.text]
    asked = [a.id for a in await ledger.approvals(principal, session) if a.state == ApprovalState.PENDING]
    waiting = tuple(asked) if turn.state == TurnState.WAITING else ()
    return TurnOutcome(
        handle=row.handle,
        turn=number,
        status=_STATUS_OF.get(turn.state, TurnStatus.INTERRUPTED),
        text=said[-1] if said else "",
        model=turn.model or "",
        usage=Usage(),
        calls=tuple(
            CallOutcome(id=call.id, name=call.name, state=call.state)
            for call in await ledger.calls(principal, session, number)
        ),
        error=None if turn.error is None else (turn.end_reason or turn.state, turn.error),
        waiting_for=waiting,
    )


class Tally:
    """Collects what a turn comes to while it runs. Each field is what the ledger already has."""

    def __init__(self) -> None:
        self.text = ""
        self.usage = Usage()
        self.cost_usd: float | None = None
        self.closed: Close | None = None
        self._calls: dict[CallId, CallOutcome] = {}

    @property
    def calls(self) -> tuple[CallOutcome, ...]:
        return tuple(self._calls.values())

    def note(self, call: ToolCall, state: CallState) -> None:
        self._calls[call.id] = CallOutcome(id=call.id, name=call.name, state=state)

    def used(self, rows: Iterable[AddUsage]) -> None:
        """Counts rows that are on disk."""
        for row in rows:
            was = self.usage
            self.usage = Usage(
                input=was.input + row.input,
                output=was.output + row.output,
                cache_read=was.cache_read + row.cache_read,
                cache_write=was.cache_write + row.cache_write,
                estimated=was.estimated or row.state == UsageState.ESTIMATED,
            )
            if row.cost_usd is not None:
                self.cost_usd = (self.cost_usd or 0.0) + row.cost_usd
