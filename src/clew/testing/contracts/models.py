"""What every client of a model promises, whoever the provider is.

Subclass `ModelClientContract`, give it a `provider` fixture, and pytest runs the suite. A provider takes a script (the
steps of `clew.testing.scripted_model`) and lends a client that will meet it: a `void` attempt is one that failed after
streaming and was repeated; a `Hold` is never released and means a provider that goes silent there.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Final, NamedTuple, Protocol

import pytest

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
from clew.domain.models.request import (
    AssistantTurn,
    CallPart,
    ImagePart,
    ModelRequest,
    TextPart,
    ToolDeclaration,
    ToolTurn,
    UserTurn,
)
from clew.runtime.ports.models import ModelClient
from clew.testing.scripted_model import Hold, Step, ask, fail, say

MODEL: Final = "scripted-model"
PIXEL: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d4944415478da63fcffff3f0300"
    "05fe02fea72d99e60000000049454e44ae426082"
)
PIXEL_SHA256: Final = hashlib.sha256(PIXEL).hexdigest()

REQUEST: Final = ModelRequest(
    model=MODEL,
    system="You are Clew.",
    tools=(
        ToolDeclaration(
            name="read_file",
            description="Reads a file.",
            parameters={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        ),
    ),
    messages=(
        UserTurn(parts=(TextPart("What is in the file?"), TextPart("<sent/>"))),
        AssistantTurn(
            text="I look.", calls=(CallPart(id="call_7", name="read_file", arguments='{"path":"a.txt"}'),)
        ),
        ToolTurn(call="call_7", name="read_file", text="the thread of Ariadne"),
        AssistantTurn(text="A thread."),
        UserTurn(parts=(TextPart("And in this picture?"), ImagePart(PIXEL_SHA256, "image/png"))),
    ),
)
BLOBS: Final = {PIXEL_SHA256: PIXEL}
NOT_A_PROVIDERS: Final = frozenset({FailureKind.NETWORK, FailureKind.CAP, FailureKind.UNPRICED})
FAILURES: Final = tuple(kind for kind in FailureKind if kind not in NOT_A_PROVIDERS)


class Subject(NamedTuple):
    """A client under test, and what its provider can tell of it."""

    client: ModelClient
    requests: Callable[[], Sequence[object]]
    """What the provider was sent, in a form that can be compared."""
    left: Callable[[], Awaitable[None]]
    """Returns once the provider knows that a client is not listening any more."""


class Provider(Protocol):
    """Sets up a client whose provider answers a script. What it holds is released when the context ends."""

    def __call__(self, script: Sequence[Step]) -> AbstractAsyncContextManager[Subject]: ...


async def answer_of(subject: Subject, request: ModelRequest = REQUEST) -> list[ModelEvent]:
    return [event async for event in subject.client.stream(request, blobs=BLOBS, key="step-1")]


def text_of(events: Iterable[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


class ModelClientContract:
    """The suite. Each test's docstring is a promise of the port."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def provider(self) -> Provider:
        """To be given by the subclass."""
        raise NotImplementedError

    async def test_the_deltas_are_the_answer(self, provider: Provider) -> None:
        """A stream is deltas and then exactly one answer, which holds what the deltas said."""
        async with provider([say("Ariadne gave ", "him ", "a clew.")]) as subject:
            *deltas, last = await answer_of(subject)
        assert isinstance(last, Answer)
        assert all(isinstance(delta, TextDelta) for delta in deltas)
        assert last.text == text_of(deltas) == "Ariadne gave him a clew."
        assert last.stop is StopReason.END
        assert last.calls == ()

    async def test_no_character_is_changed(self, provider: Provider) -> None:
        """Any Unicode comes through, NUL and line separators included."""
        text = 'naïve 日本語 🧵\u2028 \x00 \r\n\t" \\ </s> data: [DONE]\n\n'
        async with provider([say(text, "e\u0301", "null")]) as subject:
            *_, last = await answer_of(subject)
        assert isinstance(last, Answer)
        assert last.text == text + "e\u0301" + "null"

    async def test_an_empty_answer_is_an_answer(self, provider: Provider) -> None:
        """A model that says nothing and ends has answered; what to make of it is not the client's to decide."""
        async with provider([say()]) as subject:
            *_, last = await answer_of(subject)
        assert isinstance(last, Answer)
        assert last.text == ""

    async def test_calls_come_whole_and_in_order(self, provider: Provider) -> None:
        """Names, ids and arguments are the model's; the call deltas of an index join to its arguments."""
        calls = (
            AskedCall(provider_id="call_a", name="read_file", arguments='{"path":"täglich.txt"}'),
            AskedCall(provider_id="call_b", name="read_file", arguments='{"path":"b.txt"}'),
        )
        async with provider([Step(text="Both.", calls=calls)]) as subject:
            *deltas, last = await answer_of(subject)
        assert isinstance(last, Answer)
        assert last.calls == calls
        assert last.text == "Both."
        assert last.stop is StopReason.CALLS
        shown = [delta for delta in deltas if isinstance(delta, CallDelta)]
        for index, call in enumerate(calls):
            mine = [delta for delta in shown if delta.index == index]
            assert {delta.name for delta in mine} == {call.name}
            assert "".join(delta.arguments for delta in mine) == call.arguments

    async def test_arguments_are_passed_on_as_the_model_wrote_them(self, provider: Provider) -> None:
        """Broken JSON and unknown tools are answers too: the runtime tells the model, the client does not judge."""
        async with provider([ask("no_such_tool", '{"path": "a.txt', provider_id="call_1")]) as subject:
            *_, last = await answer_of(subject)
        assert isinstance(last, Answer)
        assert last.calls == (
            AskedCall(provider_id="call_1", name="no_such_tool", arguments='{"path": "a.txt'),
        )

    async def test_thinking_is_kept_apart_from_the_text(self, provider: Provider) -> None:
        """Thinking is streamed as such, and the answer keeps it with the model it belongs to."""
        async with provider([say("42", thinking="Six times seven.")]) as subject:
            *deltas, last = await answer_of(subject)
        assert isinstance(last, Answer)
        assert last.text == "42"
        thought = "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta))
        assert thought == "".join(part.text for part in last.thinking) == "Six times seven."
        assert {part.model for part in last.thinking} == {MODEL}

    async def test_what_the_provider_counted_is_told(self, provider: Provider) -> None:
        async with provider([Step(text="x", usage=Usage(input=321, output=12))]) as subject:
            *_, last = await answer_of(subject)
        assert isinstance(last, Answer)
        assert (last.usage.input, last.usage.output, last.usage.estimated) == (321, 12, False)

    @pytest.mark.parametrize("stop", [StopReason.LENGTH, StopReason.FILTERED])
    async def test_why_the_model_stopped_is_told(self, provider: Provider, stop: StopReason) -> None:
        async with provider([Step(text="and so", stop=stop)]) as subject:
            *_, last = await answer_of(subject)
        assert isinstance(last, Answer)
        assert last.stop is stop

    @pytest.mark.parametrize("kind", FAILURES)
    async def test_a_failure_is_the_last_event_and_never_raised(
        self, provider: Provider, kind: FailureKind
    ) -> None:
        """Whatever the provider does ends in one failure of its kind, with a sentence for a person."""
        async with provider([fail(kind)]) as subject:
            *before, last = await answer_of(subject)
        assert isinstance(last, Failure)
        assert last.kind is kind
        assert last.message.endswith(".")
        assert len(last.message) < 1000
        assert not any(isinstance(event, Answer | Failure) for event in before)

    async def test_what_was_shown_of_a_cut_answer_is_told(self, provider: Provider) -> None:
        """`partial` is the text of the last attempt, so that it can be kept as what the person saw."""
        async with provider([fail(FailureKind.CUT, "cut.", "The thread ", "bre")]) as subject:
            *_, last = await answer_of(subject)
        assert isinstance(last, Failure)
        assert last.kind is FailureKind.CUT
        assert last.partial == "The thread bre"

    async def test_a_repeated_attempt_starts_from_nothing(self, provider: Provider) -> None:
        """`Retrying` voids what was streamed: the answer holds what came after it, and nothing from before."""
        async with provider([Step(void=("Once upon",), deltas=("Once ", "again."))]) as subject:
            events = await answer_of(subject)
        at = next(n for n, event in enumerate(events) if isinstance(event, Retrying))
        assert text_of(events[:at]) == "Once upon"
        assert isinstance(events[-1], Answer)
        assert events[-1].text == text_of(events[at:]) == "Once again."

    async def test_a_stream_that_is_closed_is_closed_at_the_provider(self, provider: Provider) -> None:
        """Nobody pays for words that nobody reads."""
        async with provider([say("I could go ", Hold())]) as subject:
            events = subject.client.stream(REQUEST, blobs=BLOBS, key="a")
            assert isinstance(events, AsyncGenerator)
            async with aclosing(events):
                assert await anext(events) == TextDelta("I could go ")
            await subject.left()

    async def test_a_cancelled_step_is_closed_at_the_provider(self, provider: Provider) -> None:
        """Cancelling the task that waits for the model ends its call; the client stays usable."""
        async with provider([say("I could go ", Hold()), say("Yes?")]) as subject:
            streaming = asyncio.Event()

            async def listen() -> None:
                async for _ in subject.client.stream(REQUEST, blobs=BLOBS, key="a"):
                    streaming.set()

            task = asyncio.create_task(listen())
            await streaming.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await subject.left()
            *_, last = await answer_of(subject)
        assert isinstance(last, Answer)
        assert last.text == "Yes?"

    async def test_streams_at_once_do_not_mix(self, provider: Provider) -> None:
        """Each of several answers under way holds one step's words."""
        words = [f"{letter * 20} " for letter in "abcdefgh"]
        async with provider([say(*[word] * 10) for word in words]) as subject:
            all_events = await asyncio.gather(*(answer_of(subject) for _ in words))
        texts = sorted(text_of(events) for events in all_events)
        assert texts == sorted(word * 10 for word in words)

    async def test_the_same_request_is_sent_the_same_way(self, provider: Provider) -> None:
        """Prompt caches and our prefix rule live on requests that do not change by themselves."""
        async with provider([say("a"), say("b")]) as subject:
            await answer_of(subject)
            await answer_of(subject)
            first, second = subject.requests()
        assert first == second

    async def test_a_missing_image_is_the_callers_mistake(self, provider: Provider) -> None:
        """A request whose image has no bytes is not sent without it."""
        async with provider([say("a")]) as subject:
            with pytest.raises(KeyError):
                [event async for event in subject.client.stream(REQUEST, blobs={}, key="k")]
            assert len(subject.requests()) == 0

    async def test_a_model_has_a_profile_and_the_provider_a_list(self, provider: Provider) -> None:
        async with provider([]) as subject:
            assert await subject.client.models()
            profile = await subject.client.profile(MODEL)
        assert profile.name == MODEL
        assert profile.context_window >= 1024

    async def test_closing_twice_does_no_harm(self, provider: Provider) -> None:
        async with provider([say("a")]) as subject:
            await answer_of(subject)
            await subject.client.close()
            await subject.client.close()
