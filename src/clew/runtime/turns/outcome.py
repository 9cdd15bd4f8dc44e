"""How a turn came out, for whoever started it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from clew.domain.conversation.ids import ApprovalId, CallId
from clew.domain.ledger.rows import CallState, Handle
from clew.domain.models.answer import Usage


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
