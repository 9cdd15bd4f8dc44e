"""The client of every provider that does not speak the OpenAI chat wire: Anthropic, Google, Bedrock, Mistral …

pydantic-ai speaks to them; what is asked of it is one request, without its agents, retries or tools. It costs 16 to
25 ms of CPU a call where our own wire costs 2, and 1.2 s to import: this module is imported when such a provider is
chosen, and nowhere else is the library imported.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Any, get_args
from urllib.parse import urlsplit

from pydantic_ai import direct
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelMessage, ModelResponse, ModelResponseStreamEvent
from pydantic_ai.models import KnownModelName, Model, StreamedResponse, infer_model, infer_model_profile
from pydantic_ai.providers import Provider, infer_provider_class

from clew.adapters.models.attempts import PATIENCE, RETRIES, AttemptFailed, Attempts, Patience
from clew.adapters.models.openai_chat import failures as wire
from clew.adapters.models.openai_chat.codec import estimate_input
from clew.adapters.models.pydantic_ai.answers import Deltas, answer_of
from clew.adapters.models.pydantic_ai.failures import asked_seconds, failure_of, unusable
from clew.adapters.models.pydantic_ai.requests import messages_of, parameters_of, settings_of
from clew.adapters.models.redaction import Redactor
from clew.adapters.models.retries import RetryPolicy
from clew.adapters.models.table import known_family
from clew.domain.models.answer import ModelEvent, Usage
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.runtime.ports.models import ModelUnavailable


class PydanticAIClient:
    """A `ModelClient` of one provider, by pydantic-ai's name for it (`anthropic`, `google`, `openai-responses` …).

    A model is asked for by its own name, with or without the provider before it (`anthropic:claude-…`). Without an
    `api_key` the provider's package looks for one where it always does; an empty `base_url` is the provider's own.
    `make_model` takes the place of all that, for tests.
    """

    def __init__(
        self,
        provider: str,
        *,
        base_url: str = "",
        api_key: str | None = None,
        patience: Patience = PATIENCE,
        retries: RetryPolicy = RETRIES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
        make_model: Callable[[str], Model] | None = None,
    ) -> None:
        self._provider = provider
        self._base_url = base_url
        self._api_key = api_key
        self._redact = Redactor([api_key])
        self._patience = patience
        self._attempts = Attempts(retries, sleep=sleep, chance=chance, monotonic=monotonic)
        self._make_model = make_model or self._infer
        self._made: dict[str, Model] = {}
        self._providers: dict[str, Provider[Any]] = {}
        self._making = asyncio.Lock()
        self._open = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<PydanticAIClient of {self._provider}>"

    def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncGenerator[ModelEvent, None]:
        """No provider here takes a key for idempotency; `key` is not sent."""
        return self._attempts.run(partial(self._attempt, request, messages_of(request, blobs)))

    async def profile(self, model: str) -> ModelProfile:
        """What pydantic-ai and its price list know of a model, else the table of families, else the defaults."""
        default, family = ModelProfile(name=model), known_family(model)
        try:
            known = infer_model_profile(f"{self._provider}:{self._bare(model)}")
        except ImportError:  # the provider's package is not installed: `stream` says so
            known = {}
        window = known.get("context_window") or (family.context_window if family else None)
        return ModelProfile(
            name=model,
            provider="pydantic-ai",
            context_window=window or default.context_window,
            is_window_known=window is not None,
            takes_images=known.get("supports_image_input", default.takes_images),
            takes_audio=known.get("supports_audio_input", default.takes_audio),
            takes_effort=known.get("supports_thinking", default.takes_effort),
            takes_tools=known.get("supports_tools", default.takes_tools),
        )

    async def models(self) -> tuple[str, ...]:
        """The names pydantic-ai knows; a provider may offer more."""
        prefix = f"{self._provider}:"
        known: tuple[str, ...] = get_args(KnownModelName.__value__)
        names = tuple(name.removeprefix(prefix) for name in known if name.startswith(prefix))
        if not names:
            raise ModelUnavailable(
                f"No list of the models of {self._provider} is known: name the one you want."
            )
        return names

    async def close(self) -> None:
        """Closes the connections of every model that was asked."""
        await self._open.aclose()

    async def _attempt(
        self, request: ModelRequest, messages: list[ModelMessage]
    ) -> AsyncGenerator[ModelEvent, None]:
        host = urlsplit(self._base_url).netloc.rpartition("@")[2] or self._provider
        server = wire.Server(host=host, model=request.model, redact=self._redact)
        deltas = Deltas()
        try:
            async with aclosing(self._answered(server, request, messages, deltas)) as events:
                async for event in events:
                    yield event
        except AttemptFailed as failed:
            usage = None if deltas.is_empty else _estimate(request, deltas)
            raise failed.after_showing(deltas.text, usage) from failed

    async def _answered(
        self, server: wire.Server, request: ModelRequest, messages: list[ModelMessage], deltas: Deltas
    ) -> AsyncGenerator[ModelEvent, None]:
        """One request's deltas and its answer. Raises AttemptFailed for whatever else comes of it."""
        model = await self._model(server, request.model)
        opened = False
        try:
            async with direct.model_request_stream(
                model,
                messages,
                model_settings=settings_of(request, self._patience),
                model_request_parameters=parameters_of(request),
                instrument=False,
            ) as stream:
                opened = True
                async with aclosing(self._in_time(server, stream)) as events:
                    async for event in events:
                        if (delta := deltas.take(event)) is not None:
                            yield delta
                response = stream.get()
        except AttemptFailed:
            raise
        except Exception as wrong:
            raise AttemptFailed(failure_of(server, wrong, started=opened), asked_seconds(wrong)) from wrong
        if model.provider is not None and not _has_ended(
            response
        ):  # models for tests have none, and give no reason
            raise AttemptFailed(wire.cut(server))
        yield answer_of(response, model=request.model, estimate=_estimate(request, deltas))

    async def _in_time(
        self, server: wire.Server, stream: StreamedResponse
    ) -> AsyncGenerator[ModelResponseStreamEvent, None]:
        limit, started = self._patience.first_byte, False
        events = aiter(stream)
        while True:
            try:
                async with asyncio.timeout(limit):
                    event = await anext(events, None)
            except TimeoutError as wrong:
                raise AttemptFailed(wire.silent(server, limit, started=started)) from wrong
            if event is None:
                return
            limit, started = self._patience.between_bytes, True
            yield event

    async def _model(self, server: wire.Server, name: str) -> Model:
        """Made once, and open until we are closed. Raises AttemptFailed when the provider cannot be set up.

        In a thread, because it may import a provider's package: Anthropic's takes a second or more.
        """
        async with self._making:
            if name not in self._made:
                try:
                    model = await asyncio.to_thread(self._make_model, self._bare(name))
                except (UserError, ImportError, ValueError, TypeError) as wrong:
                    raise AttemptFailed(unusable(server, wrong)) from wrong
                self._made[name] = await self._open.enter_async_context(model)
        return self._made[name]

    def _infer(self, name: str) -> Model:
        return infer_model(f"{self._provider}:{name}", provider_factory=self._provider_named)

    def _provider_named(self, name: str) -> Provider[Any]:
        if name not in self._providers:
            made = infer_provider_class(name)
            given = {"api_key": self._api_key, "base_url": self._base_url}
            options = {option: value for option, value in given.items() if value}
            for option in options.keys() - inspect.signature(made).parameters.keys():
                raise ValueError(f"{name} takes no {option}")
            self._providers[name] = made(**options)
        return self._providers[name]

    def _bare(self, model: str) -> str:
        return model.removeprefix(f"{self._provider}:")


def _has_ended(response: ModelResponse) -> bool:
    """Whether the provider gave a reason to stop, be it one that is unknown to the library."""
    return bool(response.finish_reason or (response.provider_details or {}).get("finish_reason"))


def _estimate(request: ModelRequest, deltas: Deltas) -> Usage:
    return Usage(input=estimate_input(request), output=deltas.tokens_estimate, estimated=True)
