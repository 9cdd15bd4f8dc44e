"""How a turn came out, for whoever started it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from clew.domain.conversation.ids import ApprovalId, CallId
from clew.domain.conversation.messages import ToolCall
from clew.domain.ledger.commits import AddUsage, UsageState
from clew.domain.ledger.rows import CallState, Handle, TurnState
from clew.domain.models.answer import FailureKind, Usage
from clew.domain.turn.machine import Close

LIMITS: Final = frozenset({"step_limit", "time_limit", "repeat_limit", FailureKind.CAP, FailureKind.UNPRICED})
STOPPED: Final = "stopped"
"""Why a turn ended that a person stopped."""


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
