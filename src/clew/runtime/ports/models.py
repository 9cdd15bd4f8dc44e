"""A model as the runtime sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import NamedTuple, Protocol

from clew.domain.models.answer import ModelEvent, Usage
from clew.domain.models.request import ModelProfile, ModelRequest


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


class ModelChoice(NamedTuple):
    """A client, what is known of the model it is asked for, and what its calls cost."""

    client: ModelClient
    profile: ModelProfile
    price: Callable[[Usage], Cost | None] = no_price


class ModelSource(Protocol):
    """Finds the client for a model's name."""

    async def choose(self, name: str | None) -> ModelChoice:
        """The named model, or the configured one. Raises ModelUnavailable with one sentence."""
        ...
