"""Runs the embedded model in this process and speaks the OpenAI chat-completions format without HTTP.

The library blocks, so one thread of our own loads the model, generates, and frees it. Its callback hands the chunks
to the event loop through a bounded relay; whoever stops reading stops the generation.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from clew.adapters.models.embedded.catalogue import SMOLLM2
from clew.adapters.models.embedded.errors import EngineClosed, EngineRefused
from clew.adapters.models.embedded.native import LoadedModel, load

Chunk = dict[str, Any]
"""An object `chat.completion.chunk`, as decoded JSON."""

ANSWER_TOKENS_MAX = 256
RELAY_CHUNKS_MAX = 32
SAMPLING = {"temperature": 0.2, "top_p": 0.9, "repeat_penalty": 1.1}
"""The model card's recommendation, and a penalty: without it three of six prompts ended in a loop."""
HONOURED = (
    "messages",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "response_format",
    "stream_options",
)
"""The other fields of a request are dropped: the model cannot use tools, and llama.cpp has fields of its own that are
nobody's business."""


class EmbeddedEngine:
    """One model, loaded at the first request, answering one request at a time; others wait their turn."""

    def __init__(
        self, weights: Path, *, model: str = SMOLLM2.name, context_window: int = SMOLLM2.context_window
    ) -> None:
        self._weights = weights
        self._name = model
        self._context_window = context_window
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="clew-embedded")
        self._loaded: LoadedModel | None = None  # touched by the worker only
        self._turn = asyncio.Lock()
        self._relay: Relay | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        """Answer a chat-completions request body with its chunks; the last holds the usage if `stream_options` asks.

        Always streams, whatever `stream` says; gives at most `ANSWER_TOKENS_MAX` tokens, whatever is asked; ignores
        what is not `HONOURED`, tools among it. Cancelling or closing the iteration ends the generation, within
        0.7 s (a batch of the prompt); leave a loop early under `contextlib.aclosing`, or the next request waits.

        Raises: EngineMissing, EngineLoadFailed, EngineRefused, EngineClosed.
        """
        async with self._turn:
            if self._closed:
                raise EngineClosed("The embedded model has been closed.")
            loop = asyncio.get_running_loop()
            self._relay = relay = Relay(loop)
            work = loop.run_in_executor(self._worker, self._generate, encoded(body), relay.offer)
            work.add_done_callback(relay.end)
            try:
                while (piece := await relay.take()) is not None:
                    chunk = decoded(piece)
                    if chunk is not None:
                        yield chunk
            finally:
                self._relay = None
                relay.stop()
                await asyncio.wait([work])
                failure = work.exception()
            if failure is not None:
                raise failure
            if relay.cut:
                raise EngineClosed("The embedded model was closed while it answered.")

    async def close(self) -> None:
        """End a running answer and free the model. Closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._relay is not None:
            self._relay.stop()
        await asyncio.get_running_loop().run_in_executor(self._worker, self._free)
        self._worker.shutdown(wait=False)

    def _generate(self, prompt: bytes, offer: Callable[[bytes], bool]) -> None:
        if self._loaded is None:
            self._loaded = load(self._weights, alias=self._name, context_window=self._context_window)
        try:
            self._loaded.handle_chat_completions(prompt, offer)
        except (ValueError, RuntimeError) as error:
            raise refusal({"message": str(error)}) from error

    def _free(self) -> None:
        self._loaded = None


class Relay:
    """Carries chunks from the generating thread to the loop, at most `RELAY_CHUNKS_MAX` of them waiting."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = threading.Semaphore(RELAY_CHUNKS_MAX)
        self._stopped = False
        self.cut = False
        """Whether a chunk came that was not wanted any more."""

    def offer(self, chunk: bytes) -> bool:
        """Called in the generating thread: waits for room, and returns whether to stop generating."""
        self._room.acquire()
        if self._stopped:
            self.cut = True
        else:
            self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)
        return self.cut

    def end(self, _: asyncio.Future[None]) -> None:
        """Called in the loop after the last chunk."""
        self._chunks.put_nowait(None)

    def stop(self) -> None:
        """Called in the loop: no chunk is wanted any more."""
        self._stopped = True
        self._room.release()

    async def take(self) -> bytes | None:
        """The next chunk; None after the last."""
        chunk = await self._chunks.get()
        self._room.release()
        return chunk


def encoded(body: Mapping[str, Any]) -> bytes:
    """The request as the library gets it: what we honour, our defaults, and reports during the prompt."""
    asked = {field: body[field] for field in HONOURED if body.get(field) is not None}
    ours = {"max_tokens": answer_tokens(body), "stream": True, "return_progress": True}
    return msgspec.json.encode({**SAMPLING, **asked, **ours})


def answer_tokens(body: Mapping[str, Any]) -> int:
    """How many tokens the answer may have: what is asked, within our bound."""
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    return min(asked, ANSWER_TOKENS_MAX) if isinstance(asked, int) and asked > 0 else ANSWER_TOKENS_MAX


def decoded(piece: bytes) -> Chunk | None:
    """The chunk in what the library said; None for a report about the prompt. Raises: EngineRefused."""
    chunk: Chunk = msgspec.json.decode(piece, type=dict[str, Any])
    if "error" in chunk:
        raise refusal(chunk["error"])
    return None if "prompt_progress" in chunk else chunk


def refusal(error: Mapping[str, Any]) -> EngineRefused:
    """An error of the library, or of the server in it, as ours."""
    return EngineRefused(
        f"The embedded model cannot answer this: {str(error.get('message', 'it gave no reason')).rstrip('.')}.",
        status=int(error.get("code", 400)),
        kind=str(error.get("type", "invalid_request_error")),
    )
