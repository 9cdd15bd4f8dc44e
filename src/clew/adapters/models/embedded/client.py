"""The embedded demo model as a `ModelClient`: the OpenAI codec without the wire.

A model of 135 million parameters cannot use tools, sees no images and loses its way in a long prompt, so a request is
cut to what it can do; the profile says so beforehand, and every surface says that it is a demo.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from clew.adapters.models.embedded.catalogue import SMOLLM2
from clew.adapters.models.embedded.errors import EngineError, EngineRefused
from clew.adapters.models.openai_chat.assembly import AnswerAssembly
from clew.adapters.models.openai_chat.chunks import Chunk
from clew.adapters.models.openai_chat.codec import encode_request, estimate_input
from clew.adapters.models.openai_chat.failures import kind_of_status
from clew.domain.models.answer import Failure, FailureKind, ModelEvent
from clew.domain.models.request import ModelProfile, ModelRequest

CONTEXT_WINDOW: Final = 2048
"""In tokens; less than the engine holds, because at some 100 tokens a second nobody waits for a longer prompt."""
SYSTEM_CHARACTERS_MAX: Final = 400


class Engine(Protocol):
    """What runs the model: `EmbeddedEngine`."""

    def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]: ...

    async def close(self) -> None: ...


class EmbeddedClient:
    """Speaks to one engine, and closes it when it is closed itself."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncGenerator[ModelEvent, None]:
        """There are no retries: what fails here fails again."""
        small = msgspec.structs.replace(request, system=_short(request.system), tools=())
        body = msgspec.json.decode(encode_request(small, blobs), type=dict[str, Any])
        assembly = AnswerAssembly(model=request.model, estimate_input=partial(estimate_input, small))
        try:
            async with aclosing(self._engine.stream(body)) as chunks:
                async for chunk in chunks:
                    for delta in assembly.take(msgspec.convert(chunk, Chunk)):
                        yield delta
        except EngineError as wrong:
            yield _failure(wrong, assembly)
            return
        yield assembly.answer() if assembly.ended else _cut(assembly)

    async def profile(self, model: str) -> ModelProfile:
        return ModelProfile(
            name=model,
            provider="embedded",
            context_window=CONTEXT_WINDOW,
            is_window_known=True,
            takes_images=False,
            takes_tools=False,
            shows_context=False,
            is_demo=True,
        )

    async def models(self) -> tuple[str, ...]:
        return (SMOLLM2.name,)

    async def close(self) -> None:
        """Ends a running answer and frees the model."""
        await self._engine.close()


def _short(system: str) -> str:
    """Its first paragraph: a session begun with a real model may carry pages of instructions."""
    return (
        system
        if len(system) <= SYSTEM_CHARACTERS_MAX
        else system.partition("\n\n")[0][:SYSTEM_CHARACTERS_MAX]
    )


def _failure(wrong: EngineError, assembly: AnswerAssembly) -> Failure:
    kind = FailureKind.SERVER
    if isinstance(wrong, EngineRefused):
        kind = kind_of_status(wrong.status, f"{wrong.kind} {wrong}")
    return Failure(kind=kind, message=str(wrong), partial=assembly.text)


def _cut(assembly: AnswerAssembly) -> Failure:
    message = "The embedded model stopped before its answer was complete."
    return Failure(kind=FailureKind.CUT, message=message, partial=assembly.text)
