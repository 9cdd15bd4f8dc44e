"""A model that says what a test tells it to, when the test tells it to.

`ScriptedModel` keeps every promise of the `ModelClient` port and none of a model. Nothing in it waits for time: a
`Hold` in a step's deltas stops the stream there until the test releases it, so that a test decides what has
happened and what has not when something else happens.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from clew.domain.conversation.messages import Thinking
from clew.domain.models.answer import (
    Answer,
    AskedCall,
    CallDelta,
    Failure,
    FailureKind,
    ModelEvent,
    Retrying,
    StopReason,
    TextDelta,
    ThinkingDelta,
    Usage,
)
from clew.domain.models.request import ImagePart, ModelProfile, ModelRequest, ToolTurn, UserTurn

SCRIPTED: Final = "scripted-model"
"""The one name it offers, unless told otherwise."""


class Hold:
    """A point at which a stream stops. The test waits until it is `reached`, and lets it go on with `release`."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._released = asyncio.Event()

    async def reached(self) -> None:
        """Returns once a stream stands here."""
        await self._reached.wait()

    def release(self) -> None:
        self._released.set()

    async def stand(self) -> None:
        """What the model does here."""
        self._reached.set()
        await self._released.wait()


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `deltas` are streamed one by one; `text` is a delta before them. With `failure` it ends so.

    `void` is an attempt that streams these deltas and is then taken back, before the rest of the step.
    """

    text: str = ""
    deltas: tuple[str | Hold, ...] = ()
    thinking: str = ""
    calls: tuple[AskedCall, ...] = ()
    failure: Failure | None = None
    void: tuple[str, ...] | None = None
    stop: StopReason | None = None
    usage: Usage = Usage(input=10, output=5)


def say(*deltas: str | Hold, thinking: str = "") -> Step:
    """A step that answers with text."""
    return Step(deltas=deltas, thinking=thinking)


def ask(name: str, arguments: str = "{}", *, provider_id: str = "", text: str = "") -> Step:
    """A step that asks for one tool call. `arguments` is the model's own JSON text, valid or not."""
    return Step(text=text, calls=(AskedCall(provider_id=provider_id, name=name, arguments=arguments),))


def fail(kind: FailureKind, message: str = "The scripted model failed as told.", *deltas: str | Hold) -> Step:
    """A step that fails, after streaming the deltas."""
    return Step(deltas=deltas, failure=Failure(kind=kind, message=message))


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the model got it; of the blobs, their hashes and sizes."""

    request: ModelRequest
    key: str
    blobs: Mapping[str, int]


class ScriptExhausted(AssertionError):
    """The program asked the model more often than the test foresaw."""


Script = Sequence[Step] | Callable[[ModelRequest], Step]


class ScriptedModel:
    """Answers request n with step n, or with what a function makes of the request.

    `sent` records every request, in order. `open_streams` counts those begun and neither finished nor closed.
    """

    def __init__(
        self, script: Script = (), *, profile: ModelProfile | None = None, names: Iterable[str] = ()
    ) -> None:
        self.sent: list[Sent] = []
        self.open_streams = 0
        self._script = script
        self._profile = profile or ModelProfile(name=SCRIPTED, provider="scripted")
        self._names = tuple(names) or (self._profile.name,)

    async def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncGenerator[ModelEvent, None]:
        """Raises ScriptExhausted when the script has no step for this request, KeyError for a missing blob."""
        _require_blobs(request, blobs)
        self.sent.append(
            Sent(request=request, key=key, blobs={name: len(data) for name, data in blobs.items()})
        )
        step = self._step(request)
        self.open_streams += 1
        try:
            async with aclosing(_events(step, request.model)) as events:
                async for event in events:
                    yield event
        finally:
            self.open_streams -= 1

    async def profile(self, model: str) -> ModelProfile:
        return msgspec.structs.replace(self._profile, name=model)

    async def models(self) -> tuple[str, ...]:
        return self._names

    async def close(self) -> None:
        """Holds nothing."""

    def _step(self, request: ModelRequest) -> Step:
        if callable(self._script):
            return self._script(request)
        if len(self.sent) > len(self._script):
            raise ScriptExhausted(f"request {len(self.sent)}, and the script has {len(self._script)} steps")
        return self._script[len(self.sent) - 1]


async def _events(step: Step, model: str) -> AsyncGenerator[ModelEvent, None]:
    if step.void is not None:
        for taken_back in step.void:
            yield TextDelta(taken_back)
        yield Retrying(attempt=1, after_seconds=0.0, reason="The scripted model takes an attempt back.")
    if step.thinking:
        yield ThinkingDelta(step.thinking)
    said = ""
    deltas: tuple[str | Hold, ...] = (step.text, *step.deltas) if step.text else step.deltas
    for delta in deltas:
        if isinstance(delta, Hold):
            await delta.stand()
        else:
            said += delta
            yield TextDelta(delta)
    if step.failure is not None:
        yield msgspec.structs.replace(step.failure, partial=said)
        return
    for index, call in enumerate(step.calls):
        yield CallDelta(index=index, name=call.name, arguments=call.arguments)
    yield _answer(step, said, model)


def _answer(step: Step, said: str, model: str) -> Answer:
    thinking = (Thinking(text=step.thinking, signature="scripted", model=model),) if step.thinking else ()
    return Answer(
        text=said,
        calls=step.calls,
        thinking=thinking,
        stop=step.stop or (StopReason.CALLS if step.calls else StopReason.END),
        usage=step.usage,
        model=model,
    )


def _require_blobs(request: ModelRequest, blobs: Mapping[str, bytes]) -> None:
    """A real client needs the bytes of every image: so does this one, or a test would pass where a turn fails."""
    for image in _images(request):
        if hashlib.sha256(blobs[image.sha256]).hexdigest() != image.sha256:
            raise ValueError(f"the bytes given for image {image.sha256} are others")


def _images(request: ModelRequest) -> Iterator[ImagePart]:
    for message in request.messages:
        if isinstance(message, UserTurn):
            yield from (part for part in message.parts if isinstance(part, ImagePart))
        elif isinstance(message, ToolTurn):
            yield from message.images
