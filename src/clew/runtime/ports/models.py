"""A model as the runtime sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple, Protocol

from clew.domain.models.answer import ModelEvent
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


class ModelChoice(NamedTuple):
    """A client and what is known of the model it is asked for."""

    client: ModelClient
    profile: ModelProfile


class ModelSource(Protocol):
    """Finds the client for a model's name."""

    async def choose(self, name: str | None) -> ModelChoice:
        """The named model, or the configured one. Raises ModelUnavailable with one sentence."""
        ...
