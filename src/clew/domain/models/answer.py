"""What comes back from a model. A stream never throws: it ends in a stop reason, and errors are one of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from clew.domain.conversation.messages import Thinking


class StopReason(StrEnum):
    END = "end"
    CALLS = "calls"
    LENGTH = "length"
    FILTERED = "filtered"


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts as the provider reported them; `estimated` when it did not."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    estimated: bool = False


class TextDelta(msgspec.Struct, frozen=True):
    text: str


class ThinkingDelta(msgspec.Struct, frozen=True):
    text: str


class CallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A call came into view or grew; `name` is known from the first delta of an index on."""

    index: int
    name: str
    arguments: str


class Retrying(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt failed and another follows. What was streamed of this attempt is void."""

    attempt: int
    after_seconds: float
    reason: str
    failure: Failure | None = None
    """What became of it, with what it used, where that is known."""


class AskedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call as the provider worded it; our id is given when it is recorded."""

    provider_id: str
    name: str
    arguments: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of a successful step."""

    text: str
    calls: tuple[AskedCall, ...] = ()
    thinking: tuple[Thinking, ...] = ()
    stop: StopReason = StopReason.END
    usage: Usage = Usage()
    model: str = ""
    """As the server named it."""


class FailureKind(StrEnum):
    AUTH = "auth"
    UNKNOWN_MODEL = "unknown_model"
    BAD_REQUEST = "bad_request"
    OVERFLOW = "overflow"
    RATE_LIMITED = "rate_limited"
    SERVER = "server"
    NETWORK = "network"
    CUT = "cut"
    GARBAGE = "garbage"
    CAP = "cap"
    """Never sent: it could pass a cap of spending."""
    UNPRICED = "unpriced"
    """Never sent: there is a cap, and no price to hold against it."""


_MAY_COST: Final = frozenset({FailureKind.NETWORK, FailureKind.CUT, FailureKind.GARBAGE})


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The step failed for good. `message` is one sentence for a person and holds no secret.

    `partial` is what had been shown of the last attempt. `was_sent` is false when the provider cannot have seen the
    request, because nobody took the connection.
    """

    kind: FailureKind
    message: str
    partial: str = ""
    usage: Usage | None = None
    was_sent: bool = True

    @property
    def may_have_cost(self) -> bool:
        """Whether the provider may charge for the attempt: it does not for what it refused, nor for an error of its own."""
        return self.usage is not None or (self.was_sent and self.kind in _MAY_COST)


ModelEvent = TextDelta | ThinkingDelta | CallDelta | Retrying | Answer | Failure
"""A stream is any number of deltas and retries, then exactly one Answer or Failure, last."""
