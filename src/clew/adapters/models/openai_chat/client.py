"""The client of any OpenAI-compatible chat-completions server.

What a server does never raises here: an answer, or one sentence why not.
"""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, closing
from functools import partial
from types import MappingProxyType
from typing import Final

import aiohttp
from yarl import URL

from clew import __version__
from clew.adapters.models.attempts import PATIENCE, RETRIES, AttemptFailed, Attempts, Patience
from clew.adapters.models.http import HttpClient
from clew.adapters.models.openai_chat import failures
from clew.adapters.models.openai_chat.address import Address, parse_base_url
from clew.adapters.models.openai_chat.assembly import AnswerAssembly
from clew.adapters.models.openai_chat.catalogue import (
    CatalogueEntry,
    NotACatalogue,
    profile_of,
    read_catalogue,
)
from clew.adapters.models.openai_chat.codec import OutputLimitField, encode_request, estimate_input
from clew.adapters.models.openai_chat.exchange import Exchange, is_success
from clew.adapters.models.redaction import Redactor
from clew.adapters.models.retries import RetryPolicy
from clew.domain.models.answer import ModelEvent
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.runtime.ports.models import ModelUnavailable

CATALOGUE_SECONDS: Final = 300.0
"""How long a server's list of models is believed: what it has loaded may change."""
CATALOGUE_BYTES_MAX: Final = 32 * 1024 * 1024

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class OpenAIChatClient:
    """A `ModelClient` over an HTTP client that the caller made, shares and closes.

    `base_url` may come with or without `/v1`. The key goes out as a bearer token, to this host only, and is shown
    nowhere. `sleep` waits between attempts; `chance` is drawn from [0, 1); `now` is seconds since 1970.

    Raises:
        ValueError: the base URL or the key cannot be used; the text shows neither key nor password.
    """

    def __init__(
        self,
        http: HttpClient,
        base_url: str,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        patience: Patience = PATIENCE,
        retries: RetryPolicy = RETRIES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._address = parse_base_url(base_url)
        self._chat_url = URL(f"{self._address.api}/chat/completions")
        self._headers = _headers(self._address, api_key, headers)
        self._redact = Redactor([api_key, self._address.password, *headers.values()])
        self._patience = patience
        self._attempts = Attempts(retries, sleep=sleep, chance=chance, monotonic=monotonic)
        self._now = now
        self._monotonic = monotonic
        self._known: tuple[CatalogueEntry, ...] = ()
        self._known_until = float("-inf")

    def __repr__(self) -> str:
        return f"<OpenAIChatClient of {self._address.host}>"

    def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncGenerator[ModelEvent, None]:
        body = encode_request(request, blobs, output_limit_field=self._output_limit_field)
        headers = {**self._headers, "idempotency-key": key} if _fits_a_header(key) else self._headers
        return self._attempts.run(partial(self._attempt, request, headers, body))

    async def profile(self, model: str) -> ModelProfile:
        """From the server's list, else the table of families, else the defaults: it never fails."""
        try:
            known = await self._catalogue()
        except ModelUnavailable:
            known = ()
        entry = _entry_of(model, known)
        if entry is None or entry.context_window or not self._address.is_plain_http:
            return profile_of(model, entry)
        return profile_of(model, entry, loaded_window=await self._loaded_window(model))

    async def models(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in await self._catalogue())

    async def close(self) -> None:
        """Nothing to do: the HTTP client belongs to the caller."""

    async def _attempt(
        self, request: ModelRequest, headers: Mapping[str, str], body: bytes
    ) -> AsyncGenerator[ModelEvent, None]:
        server = self._server(request.model)
        assembly = AnswerAssembly(model=request.model, estimate_input=partial(estimate_input, request))
        exchange = Exchange(
            self._http, server=server, patience=self._patience, assembly=assembly, now=self._now
        )
        try:
            async with aclosing(exchange.run(self._chat_url, headers, body)) as deltas:
                async for delta in deltas:
                    yield delta
        except AttemptFailed as failed:
            usage = None if assembly.is_empty else assembly.usage()
            raise failed.after_showing(assembly.text, usage) from failed
        yield assembly.answer()

    async def _catalogue(self) -> tuple[CatalogueEntry, ...]:
        if self._monotonic() >= self._known_until:
            try:
                self._known = read_catalogue(await self._get(f"{self._address.api}/models"))
            except NotACatalogue as wrong:
                raise ModelUnavailable(failures.garbage(self._server(""), str(wrong)).message) from wrong
            self._known_until = self._monotonic() + CATALOGUE_SECONDS
        return self._known

    async def _get(self, url: str) -> bytes:
        """Raises ModelUnavailable with one sentence."""
        server = self._server("")
        body = bytearray()
        try:
            response = await self._http.ask(
                "GET",
                URL(url),
                self._headers,
                connect_seconds=self._patience.connect,
                silent_seconds=self._patience.catalogue,
            )
            with closing(response):
                async for part in response.content.iter_any():
                    body += part
                    if len(body) > CATALOGUE_BYTES_MAX:
                        break
        except aiohttp.ClientError as wrong:
            raise ModelUnavailable(failures.from_exception(server, wrong, started=False).message) from wrong
        if not is_success(response.status):
            raise ModelUnavailable(failures.from_status(server, response.status, bytes(body)).message)
        return bytes(body)

    async def _loaded_window(self, model: str) -> int | None:
        """Local servers load a model with a window of their own and tell it only in their own API.

        Ollama cuts a longer prompt without a word, so a model it has not loaded yet is not believed to have all
        that its family could.
        """
        try:
            running = read_catalogue(await self._get(f"{self._address.root}/api/ps"))
        except (ModelUnavailable, NotACatalogue):
            return await self._window_in_lm_studio(model)
        window = _window_of(model, running)
        return window or min(profile_of(model, None).context_window, ModelProfile(name=model).context_window)

    async def _window_in_lm_studio(self, model: str) -> int | None:
        try:
            return _window_of(model, read_catalogue(await self._get(f"{self._address.root}/api/v0/models")))
        except (ModelUnavailable, NotACatalogue):
            return None

    def _server(self, model: str) -> failures.Server:
        return failures.Server(host=self._address.host, model=model, redact=self._redact)

    @property
    def _output_limit_field(self) -> OutputLimitField:
        """OpenAI's reasoning models refuse the old name, which is the only one most servers know."""
        host = self._address.host.partition(":")[0]
        return "max_completion_tokens" if host.endswith(("openai.com", "azure.com")) else "max_tokens"


def _headers(address: Address, api_key: str | None, extra: Mapping[str, str]) -> Mapping[str, str]:
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream, application/json",
        "accept-encoding": "identity",  # a compressed stream arrives in lumps
        "user-agent": f"clew/{__version__}",
    }
    if api_key := (api_key or "").strip():
        headers["authorization"] = f"Bearer {api_key}"
    elif address.password:
        headers["authorization"] = "Basic " + base64.b64encode(address.password.encode()).decode()
    headers.update((name.lower(), value) for name, value in extra.items())
    if not all(map(_fits_a_header, headers.values())):
        raise ValueError("the API key or a header holds a character that no HTTP header can carry")
    return headers


def _fits_a_header(value: str) -> bool:
    return bool(value) and value.isascii() and value.isprintable()


def _entry_of(model: str, listed: tuple[CatalogueEntry, ...]) -> CatalogueEntry | None:
    """Ollama lists `llama3.1:latest` for what people call `llama3.1`."""
    names = (model, f"{model}:latest")
    return next((entry for entry in listed if entry.name in names), None)


def _window_of(model: str, listed: tuple[CatalogueEntry, ...]) -> int | None:
    entry = _entry_of(model, listed)
    return entry.context_window if entry else None
