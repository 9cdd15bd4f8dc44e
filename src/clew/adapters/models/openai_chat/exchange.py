"""One request and its streamed answer: a single attempt, which succeeds or says why not.

Everything a server or a network can do ends here in an `AttemptFailed`. The connection is given back when the stream
was read to its end, and closed in every other case, cancellation included.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Final

import aiohttp
from yarl import URL

from clew.adapters.models.attempts import AttemptFailed, Patience
from clew.adapters.models.http import HttpClient
from clew.adapters.models.openai_chat import failures
from clew.adapters.models.openai_chat.assembly import AnswerAssembly, AnswerDelta
from clew.adapters.models.openai_chat.chunks import Chunk, NotAChunk, WireError, decode_chunk
from clew.adapters.models.openai_chat.watch import Watch
from clew.adapters.models.retries import asked_seconds
from clew.domain.models.answer import Failure
from clew.wire.sse import EventTooLarge, ServerSentEvent, SseDecoder

ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one answer on the wire: a server that never stops is stopped."""
ERROR_BYTES_MAX: Final = 64 * 1024

_DRAIN_SECONDS: Final = 0.05
"""How long the end of a finished stream is waited for, so that its connection can be used again."""
_EVENT_STARTS: Final = (b"data", b":", b"event", b"id", b"retry", b"\xef\xbb\xbf")


class _Events:
    """The events of one body, and what is needed to tell a stream from something else."""

    def __init__(self) -> None:
        self.done = False
        self.count = 0
        self.head = b""
        self._decoder = SseDecoder()

    def feed(self, part: bytes) -> Iterator[ServerSentEvent]:
        self.head = self.head or part[:80]
        for event in self._decoder.feed(part):
            self.count += 1
            yield event


class Exchange:
    """Streams one answer into `assembly`. Made for one attempt."""

    def __init__(
        self,
        http: HttpClient,
        *,
        server: failures.Server,
        patience: Patience,
        assembly: AnswerAssembly,
        now: Callable[[], float],
    ) -> None:
        self._http = http
        self._server = server
        self._patience = patience
        self._assembly = assembly
        self._now = now

    async def run(
        self, url: URL, headers: Mapping[str, str], body: bytes
    ) -> AsyncGenerator[AnswerDelta, None]:
        """Yields what is new to show. Returns when the answer is whole.

        Raises:
            AttemptFailed: the assembly holds what had come until then.
        """
        response = await self._send(url, headers, body)
        try:
            async with aclosing(self._parts(response)) as parts:
                if not await self._is_stream(response, parts):
                    for delta in self._whole(await _all(parts, ANSWER_BYTES_MAX)):
                        yield delta
                    return
                events = _Events()
                async for part in parts:
                    for delta in self._take_part(events, part):
                        yield delta
                    if events.done:
                        await _drain(parts)
                        return
                self._end(events)
        finally:
            response.close()

    async def _send(self, url: URL, headers: Mapping[str, str], body: bytes) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout(self._patience.first_byte):
                return await self._http.ask(
                    "POST", url, headers, body, connect_seconds=self._patience.connect
                )
        except aiohttp.ClientError as wrong:
            raise AttemptFailed(failures.from_exception(self._server, wrong, started=False)) from wrong
        except TimeoutError as wrong:
            silence = failures.silent(self._server, self._patience.first_byte, started=False)
            raise AttemptFailed(silence) from wrong

    async def _parts(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, each part in time. A line that breaks after the answer's end is an end."""
        limit, total = self._patience.first_byte, 0
        stream, watch = aiter(response.content.iter_any()), Watch()
        try:
            while (part := await self._read(watch, stream, limit, total)) is not None:
                total += len(part)
                if total > ANSWER_BYTES_MAX:
                    raise self._garbage(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
                limit = self._patience.between_bytes
                yield part
        finally:
            watch.end()

    async def _read(
        self, watch: Watch, stream: AsyncIterator[bytes], limit: float, total: int
    ) -> bytes | None:
        try:
            return await watch.read(stream, limit)
        except (TimeoutError, aiohttp.ClientError) as wrong:
            if self._assembly.ended:
                return None
            raise AttemptFailed(self._interruption(wrong, limit, total)) from wrong

    def _interruption(self, wrong: Exception, limit: float, total: int) -> Failure:
        if isinstance(wrong, TimeoutError):
            return failures.silent(self._server, limit, started=total > 0)
        return failures.from_exception(self._server, wrong, started=True)

    async def _is_stream(self, response: aiohttp.ClientResponse, parts: AsyncIterator[bytes]) -> bool:
        """Whether events follow, or one JSON object. Raises AttemptFailed for anything else."""
        kind = response.headers.get("content-type", "")
        if not is_success(response.status):
            raise await self._refusal(response, parts)
        if "html" in kind:
            raise self._garbage("a web page")
        return "json" not in kind

    async def _refusal(self, response: aiohttp.ClientResponse, parts: AsyncIterator[bytes]) -> AttemptFailed:
        status = response.status
        if 300 <= status < 400:
            return AttemptFailed(failures.moved(self._server, status, response.headers.get("location", "")))
        body = await _all(parts, ERROR_BYTES_MAX)
        asked = asked_seconds(response.headers, now=self._now())
        return AttemptFailed(failures.from_status(self._server, status, body), asked)

    def _take_part(self, events: _Events, part: bytes) -> Iterator[AnswerDelta]:
        try:
            for event in events.feed(part):
                if event.data.strip() == "[DONE]":
                    events.done = self._assembly.ended = True
                    return
                yield from self._take_event(event)
        except EventTooLarge as wrong:
            raise self._garbage(str(wrong)) from wrong

    def _end(self, events: _Events) -> None:
        """The connection ended without [DONE]: that is an answer only if the server had said why it stopped."""
        if events.head and not events.count and not events.head.startswith(_EVENT_STARTS):
            raise self._garbage(events.head.decode("utf-8", "replace"))
        if not self._assembly.ended:
            raise AttemptFailed(failures.cut(self._server))

    def _take_event(self, event: ServerSentEvent) -> list[AnswerDelta]:
        if event.event == "error" and '"error"' not in event.data:
            words = failures.server_words(event.data.encode())
            trouble = WireError(message=words.message, code=words.codes)
            raise AttemptFailed(failures.from_stream_error(self._server, trouble))
        return self._take(self._decode(event.data)) if event.data.strip() else []

    def _whole(self, body: bytes) -> list[AnswerDelta]:
        """A server that does not stream answers with one JSON object."""
        chunk = self._decode(body)
        deltas = self._take(chunk)
        if not chunk.choices:
            raise self._garbage("JSON without an answer in it")
        self._assembly.ended = True
        return deltas

    def _decode(self, data: str | bytes) -> Chunk:
        try:
            return decode_chunk(data)
        except NotAChunk as wrong:
            raise self._garbage(str(wrong)) from wrong

    def _take(self, chunk: Chunk) -> list[AnswerDelta]:
        deltas = self._assembly.take(chunk)
        if self._assembly.trouble is not None:
            raise AttemptFailed(failures.from_stream_error(self._server, self._assembly.trouble))
        return deltas

    def _garbage(self, what: str) -> AttemptFailed:
        return AttemptFailed(failures.garbage(self._server, what))


def is_success(status: int) -> bool:
    return 200 <= status < 300


async def _all(parts: AsyncIterator[bytes], bytes_max: int) -> bytes:
    """The parts together, cut at the bound."""
    whole = bytearray()
    async for part in parts:
        whole += part
        if len(whole) > bytes_max:
            break
    return bytes(whole[:bytes_max])


async def _drain(parts: AsyncIterator[bytes]) -> None:
    """Reads to the end if that is at hand: a connection read to its end is kept, another is closed."""
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in parts:
                pass
    except TimeoutError:
        return
