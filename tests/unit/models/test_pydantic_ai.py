"""Other providers, through pydantic-ai: what is sent, what comes back, and what is kept in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai import exceptions, messages
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel as PydanticTestModel
from pydantic_ai.usage import RequestUsage

from clew.adapters.models.attempts import Patience
from clew.adapters.models.openai_chat.failures import Server
from clew.adapters.models.pydantic_ai.answers import answer_of
from clew.adapters.models.pydantic_ai.client import PydanticAIClient
from clew.adapters.models.pydantic_ai.failures import asked_seconds, failure_of
from clew.adapters.models.pydantic_ai.requests import messages_of, parameters_of
from clew.adapters.models.redaction import Redactor
from clew.adapters.models.retries import RetryPolicy
from clew.domain.models.answer import (
    Answer,
    AskedCall,
    Failure,
    FailureKind,
    ModelEvent,
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
    RequestMessage,
    TextPart,
    ThinkingPart,
    ToolTurn,
    UserTurn,
)
from clew.runtime.ports.models import ModelUnavailable
from clew.testing.contracts.models import BLOBS, PIXEL, REQUEST
from clew.testing.model_server import ModelServer

KEY = "sk-test-0123456789abcdefghij"
SERVER = Server(host="provider", model="m", redact=Redactor([KEY]))
ONCE = RetryPolicy(attempts_max=1)


def client_of(model: Model, **options: Any) -> PydanticAIClient:
    return PydanticAIClient("function", make_model=lambda name: model, retries=ONCE, **options)


async def events_of(client: PydanticAIClient, request: ModelRequest = REQUEST) -> list[ModelEvent]:
    events = [event async for event in client.stream(request, blobs=BLOBS, key="k")]
    await client.close()
    return events


# -- what is sent -----------------------------------------------------------------------------------------------------


def test_a_request_is_the_same_conversation_in_other_words() -> None:
    first, answer, results, second, last = messages_of(REQUEST, BLOBS)
    assert isinstance(first, messages.ModelRequest)
    assert isinstance(first.parts[0], messages.UserPromptPart)
    assert first.parts[0].content == ["What is in the file?", "<sent/>"]
    assert isinstance(answer, messages.ModelResponse)
    assert [type(part) for part in answer.parts] == [messages.TextPart, messages.ToolCallPart]
    assert isinstance(results, messages.ModelRequest)
    (result,) = results.parts
    assert isinstance(result, messages.ToolReturnPart)
    assert (result.tool_call_id, result.tool_name, result.content) == (
        "call_7",
        "read_file",
        "the thread of Ariadne",
    )
    assert isinstance(second, messages.ModelResponse)
    assert isinstance(last, messages.ModelRequest)
    assert isinstance(last.parts[0], messages.UserPromptPart)
    content = last.parts[0].content
    assert not isinstance(content, str)
    text, image = content
    assert text == "And in this picture?"
    assert isinstance(image, messages.BinaryContent)
    assert (image.data, image.media_type) == (PIXEL, "image/png")


def test_system_prompt_and_tools_go_beside_the_conversation() -> None:
    parameters = parameters_of(REQUEST)
    assert [part.content for part in parameters.instruction_parts or ()] == ["You are Clew."]
    (tool,) = parameters.function_tools
    assert (tool.name, tool.description) == ("read_file", "Reads a file.")
    assert tool.parameters_json_schema == REQUEST.tools[0].parameters


def request_of(*path: RequestMessage) -> ModelRequest:
    return ModelRequest(model="m", system="", tools=(), messages=path)


def sent_back(answer: Answer) -> AssistantTurn:
    """An answer as a later request holds it."""
    return AssistantTurn(
        text=answer.text,
        calls=tuple(CallPart(id=c.provider_id, name=c.name, arguments=c.arguments) for c in answer.calls),
        thinking=tuple(
            ThinkingPart(text=t.text, signature=t.signature) for t in answer.thinking if t.signature
        ),
    )


words = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
marks = st.none() | st.dictionaries(
    st.sampled_from(["thought_signature", "phase"]), words, min_size=1, max_size=2
)
their_parts: st.SearchStrategy[list[Any]] = st.lists(
    st.one_of(
        st.builds(messages.TextPart, words, id=st.none() | words, provider_name=st.just("p"), provider_details=marks),
        st.builds(
            messages.ThinkingPart, words, id=st.none() | words, signature=words, provider_name=st.just("p"),
            provider_details=marks,
        ),
        st.builds(
            messages.ToolCallPart, st.just("read"), st.just('{"p":1}'), words, id=st.none() | words,
            provider_name=st.just("p"), provider_details=marks,
        ),
    ),
    max_size=6,
)  # fmt: skip


def essence(part: Any) -> tuple[Any, ...]:
    """What a provider looks at; an empty id is none."""
    signature = getattr(part, "signature", None) or None
    words = part.args if isinstance(part, messages.ToolCallPart) else part.content
    return (part.part_kind, words, part.id or None, signature, part.provider_details)


@given(their_parts)
def test_an_answer_goes_back_as_the_parts_it_came_in(parts: list[Any]) -> None:
    """Order, marks and borders: providers refuse thinking that comes back in another place or without its mark."""
    response = messages.ModelResponse(parts=parts, provider_name="p", canonical_system="s")
    answer = answer_of(response, model="m", estimate=Usage())
    (back,) = messages_of(request_of(sent_back(answer)), {})
    assert isinstance(back, messages.ModelResponse)
    marked = any(essence(part)[2:] != (None, None, None) for part in parts)
    if marked or any(isinstance(part, messages.ThinkingPart) and part.content for part in parts):
        assert [essence(part) for part in back.parts] == [essence(part) for part in parts]
        assert (back.provider_name, back.canonical_system) == ("p", "s")
    assert "".join(p.content for p in back.parts if isinstance(p, messages.TextPart)) == answer.text


def test_an_answer_that_was_changed_goes_back_without_its_marks() -> None:
    """An interrupted answer has words of ours at its end: what was signed is not what is sent."""
    response = messages.ModelResponse(
        parts=[messages.ThinkingPart("hm", signature="sig", provider_name="p"), messages.TextPart("so")]
    )
    turn = sent_back(answer_of(response, model="m", estimate=Usage()))
    changed = AssistantTurn(text=f"{turn.text}\n[interrupted]", thinking=turn.thinking)
    (back,) = messages_of(request_of(changed), {})
    assert [essence(part) for part in back.parts] == [("text", "so\n[interrupted]", None, None, None)]


@pytest.mark.parametrize("signature", ["reasoning_content", "EqQBCg==", '{"parts": 7}', "{broken"])
def test_thinking_of_another_wire_is_left_out(signature: str) -> None:
    turn = AssistantTurn(text="so", thinking=(ThinkingPart(text="hm", signature=signature),))
    (back,) = messages_of(request_of(turn), {})
    assert [type(part) for part in back.parts] == [messages.TextPart]


def test_images_of_results_stay_with_them() -> None:
    (image,) = [
        p for m in REQUEST.messages if isinstance(m, UserTurn) for p in m.parts if isinstance(p, ImagePart)
    ]
    (request,) = messages_of(request_of(ToolTurn(call="c", name="look", text="seen", images=(image,))), BLOBS)
    (part,) = request.parts
    assert isinstance(part, messages.ToolReturnPart)
    assert isinstance(part.content, list)
    assert part.content[0] == "seen"
    assert isinstance(part.content[1], messages.BinaryContent)


# -- what comes back --------------------------------------------------------------------------------------------------

Streamed = AsyncIterator[str | dict[int, DeltaToolCall] | dict[int, DeltaThinkingPart]]


@pytest.mark.anyio
async def test_a_function_model_is_a_provider_like_any_other() -> None:
    """Thinking, text and a call in fragments, by pydantic-ai's own model for tests; the signature is kept."""
    seen: list[list[messages.ModelMessage]] = []

    async def stream(conversation: list[messages.ModelMessage], info: AgentInfo) -> Streamed:
        seen.append(conversation)
        assert info.instructions == "You are Clew."
        assert [tool.name for tool in info.function_tools] == ["read_file"]
        yield {0: DeltaThinkingPart(content="Six ")}
        yield {0: DeltaThinkingPart(content="sevens.", signature="sig")}
        yield "It "
        yield "is 42."
        yield {1: DeltaToolCall(name="read_file", json_args='{"pa', tool_call_id="c1")}
        yield {1: DeltaToolCall(json_args='th":"a"}')}

    client = client_of(FunctionModel(stream_function=stream))
    *deltas, answer = await events_of(client)
    assert isinstance(answer, Answer)
    assert (answer.text, answer.stop) == ("It is 42.", StopReason.CALLS)
    assert answer.calls == (AskedCall(provider_id="c1", name="read_file", arguments='{"path":"a"}'),)
    assert [delta for delta in deltas if isinstance(delta, ThinkingDelta)] == [
        ThinkingDelta("Six "),
        ThinkingDelta("sevens."),
    ]
    again = ModelRequest(
        model=REQUEST.model,
        system=REQUEST.system,
        tools=REQUEST.tools,
        messages=(*REQUEST.messages, sent_back(answer), ToolTurn(call="c1", name="read_file", text="x")),
    )
    await events_of(client_of(FunctionModel(stream_function=stream)), again)
    (thinking,) = [part for m in seen[1] for part in m.parts if isinstance(part, messages.ThinkingPart)]
    assert (thinking.content, thinking.signature) == ("Six sevens.", "sig")


@pytest.mark.anyio
async def test_pydantic_ais_test_model_answers_too() -> None:
    *deltas, answer = await events_of(
        client_of(PydanticTestModel(call_tools=[], custom_output_text="ready when you are"))
    )
    assert isinstance(answer, Answer)
    assert answer.text == "ready when you are" == "".join(d.text for d in deltas if isinstance(d, TextDelta))
    assert answer.usage.input > 0


def test_what_was_not_counted_is_estimated() -> None:
    response = messages.ModelResponse(parts=[messages.TextPart("x")], usage=RequestUsage())
    estimate = Usage(input=5, output=1, estimated=True)
    assert answer_of(response, model="m", estimate=estimate).usage == estimate


def test_cached_tokens_are_told() -> None:
    usage = RequestUsage(input_tokens=425, output_tokens=30, cache_read_tokens=300, cache_write_tokens=100)
    response = messages.ModelResponse(parts=[], usage=usage, finish_reason="length")
    answer = answer_of(response, model="m", estimate=Usage())
    assert answer.usage == Usage(input=425, output=30, cache_read=300, cache_write=100)
    assert answer.stop is StopReason.LENGTH


# -- failures -----------------------------------------------------------------------------------------------------------


def http(status: int, message: str) -> exceptions.ModelHTTPError:
    return exceptions.ModelHTTPError(status, "m", {"error": {"message": message}})


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (exceptions.ModelContextWindowExceededError("m", "too long"), FailureKind.OVERFLOW),
        (exceptions.ModelAuthenticationError("m", "no"), FailureKind.AUTH),
        (exceptions.ModelQuotaExceededError("m", "pay"), FailureKind.AUTH),
        (exceptions.ModelNotFoundError("m", "who"), FailureKind.UNKNOWN_MODEL),
        (exceptions.ModelRateLimitError("m", "slow"), FailureKind.RATE_LIMITED),
        (exceptions.ModelRequestRejectedError("m", "no"), FailureKind.BAD_REQUEST),
        (exceptions.ModelOverloadedError("m", "busy"), FailureKind.SERVER),
        (exceptions.ModelServerError("m", "oops"), FailureKind.SERVER),
        (exceptions.ModelConnectionError("m", "gone"), FailureKind.NETWORK),
        (exceptions.ModelTimeoutError("m", "late"), FailureKind.NETWORK),
        (exceptions.UnexpectedModelBehavior("what"), FailureKind.GARBAGE),
        (exceptions.ModelAPIError("m", "something"), FailureKind.GARBAGE),
        (http(500, "oops"), FailureKind.SERVER),
        (http(418, "teapot"), FailureKind.BAD_REQUEST),
        (KeyError("choices"), FailureKind.GARBAGE),
    ],
)
def test_the_librarys_errors_have_our_kinds(wrong: Exception, kind: FailureKind) -> None:
    failure = failure_of(SERVER, wrong, started=False)
    assert failure.kind is kind
    assert failure.message.startswith(("provider ", "The conversation is longer than 'm' at provider"))
    assert failure.message.endswith(".")


def test_what_breaks_after_the_first_word_was_cut() -> None:
    failure = failure_of(SERVER, exceptions.ModelConnectionError("m", "gone"), started=True)
    assert failure.kind is FailureKind.CUT


def test_a_sentence_has_the_providers_words_and_no_key() -> None:
    failure = failure_of(SERVER, http(401, f"invalid key {KEY}"), started=False)
    assert "invalid key [redacted]" in failure.message
    assert "status_code" not in failure.message


def test_a_pause_the_provider_asks_for_is_passed_on() -> None:
    assert asked_seconds(exceptions.ModelRateLimitError("m", "slow", retry_after=7.0)) == 7.0
    assert asked_seconds(ValueError()) is None


def raising(wrong: Exception, *words: str) -> FunctionModel:
    async def stream(conversation: list[messages.ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        for word in words:
            yield word
        raise wrong

    return FunctionModel(stream_function=stream)


@pytest.mark.anyio
async def test_even_a_bug_in_a_package_is_a_failure_and_keeps_what_was_shown() -> None:
    """Packages of a dozen providers read what was sent; what they stumble over must not end a turn without a word."""
    *_, failure = await events_of(
        client_of(raising(AttributeError("'NoneType' has no 'choices'"), "half ", "an"))
    )
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.GARBAGE
    assert failure.partial == "half an"
    assert failure.usage is not None
    assert failure.usage.estimated


@pytest.mark.anyio
async def test_a_provider_that_goes_silent_is_left() -> None:
    closed: list[bool] = []

    async def stream(conversation: list[messages.ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        try:
            yield "well"
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    client = client_of(FunctionModel(stream_function=stream), patience=Patience(between_bytes=0.05))
    *_, failure = await events_of(client)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.partial, closed) == (FailureKind.CUT, "well", [True])


# -- setting up -------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_missing_key_is_named_as_the_variable_it_would_be_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    (failure,) = await events_of(PydanticAIClient("anthropic"))
    assert failure == Failure(
        kind=FailureKind.AUTH, message="anthropic needs an API key: set ANTHROPIC_API_KEY."
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PydanticAIClient("nobody"), "nobody cannot be used"),
        (
            lambda: PydanticAIClient("deepseek", base_url="http://x", api_key=KEY),
            "deepseek takes no base_url",
        ),
    ],
)
async def test_a_provider_that_cannot_be_set_up_says_so(
    make: Callable[[], PydanticAIClient], words: str
) -> None:
    (failure,) = await events_of(make())
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.BAD_REQUEST
    assert words in failure.message


@pytest.mark.anyio
async def test_the_key_that_was_given_is_used_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the environment has another one, and where the server quotes it."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment-0123456789")
    async with ModelServer([], api_key="another") as server:
        client = PydanticAIClient("openai-chat", base_url=server.base_url, api_key=KEY)
        (failure,) = await events_of(client)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.AUTH
    assert KEY not in failure.message + repr(client)
    assert f"127.0.0.1:{server_port(failure)}" in failure.message


def server_port(failure: Failure) -> str:
    return failure.message.partition("127.0.0.1:")[2].partition(" ")[0]


@pytest.mark.anyio
async def test_a_model_may_be_named_with_its_provider() -> None:
    asked: list[str] = []

    def make(name: str) -> Model:
        asked.append(name)
        return PydanticTestModel(custom_output_text="x", call_tools=[])

    client = PydanticAIClient("anthropic", make_model=make)
    for name in ("claude-x", "anthropic:claude-x"):
        request = ModelRequest(model=name, system="", tools=(), messages=(UserTurn(parts=(TextPart("hi"),)),))
        [event async for event in client.stream(request, blobs={}, key="")]
    await client.close()
    assert asked == ["claude-x", "claude-x"]


@pytest.mark.anyio
async def test_profiles_and_names_come_from_the_library() -> None:
    client = PydanticAIClient("anthropic", api_key=KEY)
    profile = await client.profile("anthropic:claude-haiku-4-5")
    assert (profile.name, profile.provider) == ("anthropic:claude-haiku-4-5", "pydantic-ai")
    assert profile.context_window == 200_000
    names = await client.models()
    assert names
    assert all(":" not in name for name in names)
    assert (await PydanticAIClient("nobody").profile("x")).context_window == 32_768
    with pytest.raises(ModelUnavailable):
        await PydanticAIClient("nobody").models()
