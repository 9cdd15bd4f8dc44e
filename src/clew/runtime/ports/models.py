"""A model as the runtime sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from clew.domain.conversation.ids import SessionId
from clew.domain.models.answer import ModelEvent, Usage
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.runtime.ports.tools import Tool


class ModelClient(Protocol):
    """Speaks to one provider.

    `stream` never raises for anything the provider does: a stream is deltas, then exactly one `Answer` or `Failure`.
    Cancelling the iteration closes the connection. Retries are the client's own and are said as `Retrying`.
    """

    def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncIterator[ModelEvent]:
        """`blobs` holds the bytes of every image the request names; `key` names this step for idempotency."""
        ...

    async def profile(self, model: str) -> ModelProfile:
        """What is known of a model without a paid call."""
        ...

    async def models(self) -> tuple[str, ...]:
        """The names the provider offers. Raises ModelUnavailable with one sentence."""
        ...

    async def close(self) -> None: ...


class ModelUnavailable(Exception):
    """The provider cannot be asked; the sentence says why and what to do."""


class Cost(NamedTuple):
    """Dollars, and where the price stands."""

    usd: float
    source: str


def no_price(_: Usage) -> Cost | None:
    """The price of a model that has none."""
    return None


async def nothing_to_end() -> None:
    """The end of a turn for a model that does nothing between its calls."""


class ModelChoice(NamedTuple):
    """A client, what is known of the model it is asked for, and what its calls cost."""

    client: ModelClient
    profile: ModelProfile
    price: Callable[[Usage], Cost | None] = no_price
    tools: Sequence[Tool] = ()
    """What the model does by itself, as tools: so that it is asked about and recorded like the others."""
    within: Callable[[SessionId, Path], ModelChoice] | None = None
    """For a model that holds a conversation itself: the same for one session, in one directory."""
    turn_ended: Callable[[], Awaitable[None]] = nothing_to_end
    """Ends what the model may still do for a turn that is over. Bounded; raises nothing."""


class ModelSource(Protocol):
    """Finds the client for a model's name."""

    async def choose(self, name: str | None) -> ModelChoice:
        """The named model, or the configured one. Raises ModelUnavailable with one sentence."""
        ...
