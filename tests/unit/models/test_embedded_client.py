"""The demo model behind the port: what it is sent, and what comes of the engine's errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from clew.adapters.models.embedded.client import EmbeddedClient
from clew.adapters.models.embedded.errors import EngineClosed, EngineError, EngineMissing, EngineRefused
from clew.domain.models.answer import Answer, Failure, FailureKind, ModelEvent, StopReason, TextDelta, Usage
from clew.domain.models.request import ModelRequest, TextPart, ToolDeclaration, UserTurn

pytestmark = pytest.mark.anyio


class ScriptedEngine:
    """Gives these chunks, then raises or ends."""

    def __init__(self, chunks: Sequence[dict[str, Any]], error: EngineError | None = None) -> None:
        self.bodies: list[Mapping[str, Any]] = []
        self.closed = 0
        self.left = False
        self._chunks = chunks
        self._error = error

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        self.bodies.append(body)
        try:
            for chunk in self._chunks:
                yield chunk
            if self._error is not None:
                raise self._error
        finally:
            self.left = True

    async def close(self) -> None:
        self.closed += 1


def chunk(content: str | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}], **fields}


WORDS = (chunk("Hel"), chunk("lo"))
END = chunk(None, "stop", usage={"prompt_tokens": 30, "completion_tokens": 2}, model="smollm2")
TOOL = ToolDeclaration(name="read", description="Reads.", parameters={"type": "object"})
REQUEST = ModelRequest(
    model="smollm2",
    system="You are brief.\n\n" + "And here follow pages of instructions. " * 100,
    tools=(TOOL,),
    messages=(UserTurn(parts=(TextPart("hi"),)),),
)


async def events_of(engine: ScriptedEngine) -> list[ModelEvent]:
    return [event async for event in EmbeddedClient(engine).stream(REQUEST, blobs={}, key="k")]


async def test_its_words_come_as_from_any_other_model() -> None:
    *deltas, last = await events_of(ScriptedEngine([*WORDS, END]))
    assert deltas == [TextDelta("Hel"), TextDelta("lo")]
    assert last == Answer(text="Hello", stop=StopReason.END, usage=Usage(input=30, output=2), model="smollm2")


async def test_it_is_sent_no_tools_and_only_the_beginning_of_a_long_prompt() -> None:
    engine = ScriptedEngine([END])
    await events_of(engine)
    (body,) = engine.bodies
    assert "tools" not in body
    assert body["messages"] == [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "hi"},
    ]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EngineRefused("Too long.", status=400, kind="exceed_context_size_error"), FailureKind.OVERFLOW),
        (EngineRefused("No.", status=400, kind="invalid_request_error"), FailureKind.BAD_REQUEST),
        (EngineMissing("It is not installed."), FailureKind.SERVER),
        (EngineClosed("It was closed."), FailureKind.SERVER),
    ],
)
async def test_an_error_of_the_engine_is_a_failure_in_its_words(
    error: EngineError, kind: FailureKind
) -> None:
    """A prompt that is too long must be told apart: the runtime compacts on it."""
    *_, last = await events_of(ScriptedEngine(WORDS, error))
    assert last == Failure(kind=kind, message=str(error), partial="Hello")


async def test_words_without_an_end_are_a_cut() -> None:
    *_, last = await events_of(ScriptedEngine(WORDS))
    assert isinstance(last, Failure)
    assert (last.kind, last.partial) == (FailureKind.CUT, "Hello")


async def test_closing_the_stream_stops_the_engine() -> None:
    engine = ScriptedEngine([*WORDS, END])
    async with aclosing(EmbeddedClient(engine).stream(REQUEST, blobs={}, key="k")) as events:
        await anext(events)
    assert engine.left


async def test_everyone_is_told_that_it_is_a_demo() -> None:
    engine = ScriptedEngine([])
    client = EmbeddedClient(engine)
    profile = await client.profile("smollm2")
    assert profile.is_demo
    assert (profile.takes_tools, profile.takes_images, profile.shows_context) == (False, False, False)
    assert profile.context_window == 2048
    assert await client.models() == ("smollm2",)
    await client.close()
    assert engine.closed == 1
