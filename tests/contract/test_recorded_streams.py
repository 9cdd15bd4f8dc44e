"""What real servers send, and what must come of it.

Each file under `recorded/` is a stream in the shape of one server, its source named in its first lines (which are SSE
comments). They are read through the whole client, and once more in pieces of every size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clew.adapters.models.http import HttpClient
from clew.adapters.models.openai_chat.assembly import AnswerAssembly
from clew.adapters.models.openai_chat.chunks import decode_chunk
from clew.adapters.models.openai_chat.client import OpenAIChatClient
from clew.adapters.models.retries import RetryPolicy
from clew.domain.conversation.messages import Thinking
from clew.domain.models.answer import (
    Answer,
    AskedCall,
    CallDelta,
    Failure,
    FailureKind,
    ModelEvent,
    StopReason,
    TextDelta,
    ThinkingDelta,
    Usage,
)
from clew.domain.models.request import ModelRequest, TextPart, UserTurn
from clew.testing.model_server import ModelServer, Served
from clew.wire.sse import SseDecoder

FOLDER: Final = Path(__file__).parent / "recorded"
REQUEST: Final = ModelRequest(
    model="m", system="", tools=(), messages=(UserTurn(parts=(TextPart("hello"),)),)
)


def thought(text: str, field: str | None) -> tuple[Thinking, ...]:
    return (Thinking(text=text, signature=field, model="m"),)


def call(provider_id: str, name: str, arguments: str) -> AskedCall:
    return AskedCall(provider_id=provider_id, name=name, arguments=arguments)


EXPECTED: Final = {
    "openai_text": Answer(
        text="A clew is a ball of thread.",
        usage=Usage(input=2041, output=9, cache_read=1920),
        model="gpt-4.1-2025-04-14",
    ),
    "openai_calls": Answer(
        text="",
        calls=(
            call("call_1EYWDzueHEp8OsB8", "multiply", '{"a": 1231, "b": 2331}'),
            call("call_p5Kz0bVQ8tYwXr2L", "multiply", '{"a": 2, "b": 3}'),
        ),
        stop=StopReason.CALLS,
        usage=Usage(input=87, output=52),
        model="gpt-4.1-2025-04-14",
    ),
    "ollama_thinking": Answer(
        text="Hello!",
        thinking=thought("The user greets.", "reasoning"),
        usage=Usage(input=68, output=21),
        model="gpt-oss:20b",
    ),
    "ollama_calls": Answer(
        text="",
        calls=(
            call("call_lbcjwr0u", "run_command", '{"command":"ls -a"}'),
            call("call_9m2kx1qe", "run_command", '{"command":"pwd"}'),
        ),
        stop=StopReason.CALLS,
        usage=Usage(input=169, output=30),
        model="gpt-oss:20b",
    ),
    "ollama_0_1": Answer(
        text=" Hello there",
        calls=(call("call_ejieksiz", "function_1", '{"a":10,"b":11}'),),
        stop=StopReason.CALLS,
        usage=Usage(input=2, output=13, estimated=True),
        model="mistral:latest",
    ),
    "llamacpp_thinking": Answer(
        text="Thread.",
        thinking=thought("One word", "reasoning_content"),
        usage=Usage(input=17, output=9),
        model="gemma-4-31B-it-UD-Q6_K_XL.gguf",
    ),
    "llamacpp_calls": Answer(
        text="",
        calls=(call("Jr7NCM3pSi0mYtOa", "get_current_weather", '{"location":"Naxos"}'),),
        stop=StopReason.CALLS,
        usage=Usage(input=312, output=22),
        model="gemma-4-31B-it-UD-Q6_K_XL.gguf",
    ),
    "llamacpp_before_13800": Answer(
        text="",
        calls=(call("", "get_current_weather", '{"location":"Naxos"}'),),
        stop=StopReason.CALLS,
        usage=Usage(input=312, output=22),
        model="gemma-4-31B-it-UD-Q6_K_XL.gguf",
    ),
    "vllm_calls": Answer(
        text="",
        thinking=thought("I must look.", "reasoning_content"),
        calls=(call("chatcmpl-tool-ca99dda515524c628de00fe2bf7a76c0", "run_command", '{"command": "ls"}'),),
        stop=StopReason.CALLS,
        usage=Usage(input=192, output=127),
        model="qwen-14b",
    ),
    "vllm_index_0": Answer(
        text="",
        calls=(
            call("chatcmpl-tool-c9ZCzB9b9NikK5kjPBXpFG", "lookup", '{"word": "clew"}'),
            call("chatcmpl-tool-HfzZPEVfQgvgpSJccb8Vr8", "lookup", '{"word": "maze"}'),
        ),
        stop=StopReason.CALLS,
        usage=Usage(input=192, output=23),
        model="qwen-14b",
    ),
    "sglang_index_0": Answer(
        text="",
        calls=(call("0", "lookup", '{"word": "clew"}'), call("1", "lookup", '{"word": "maze"}')),
        stop=StopReason.CALLS,
        usage=Usage(input=50, output=40),
        model="qwen-14b",
    ),
    "lmstudio_calls": Answer(
        text="",
        thinking=thought("A search, then.", "reasoning"),
        calls=(
            call("931693397", "search_web", '{"query":"Ariadne"}'),
            call("204816312", "get_current_time", "{}"),
        ),
        stop=StopReason.CALLS,
        usage=Usage(input=293, output=44),
        model="qwen3-30b-a3b-128k",
    ),
    "openrouter_thinking": Answer(
        text="42",
        thinking=thought("Six sevens.", "reasoning"),
        usage=Usage(input=1313, output=16, cache_read=1200, cache_write=64),
        model="z-ai/glm-4.5",
    ),
    "mistral_thinking": Answer(
        text="It is so.",
        thinking=thought("Let me see.", None),
        usage=Usage(input=11, output=20),
        model="magistral-medium-2509",
    ),
    "gemini_without_finish": Answer(
        text="Theseus went in.", usage=Usage(input=30, output=6), model="gemini-3-flash"
    ),
    "openai_error": Failure(
        kind=FailureKind.SERVER,
        message="failed (in its answer: The server had an error while processing your request. Sorry about that!).",
        partial="The question",
        usage=Usage(input=2, output=4, estimated=True),
    ),
    "openrouter_error": Failure(
        kind=FailureKind.SERVER,
        message="failed (in its answer: Provider disconnected unexpectedly).",
        partial="Once upon",
        usage=Usage(input=2, output=3, estimated=True),
    ),
}


def test_every_recorded_stream_is_expected_to_be_something() -> None:
    assert {path.stem for path in FOLDER.glob("*.sse")} == set(EXPECTED)


async def through_the_client(raw: str) -> list[ModelEvent]:
    async with ModelServer([Served(raw=raw)]) as server, HttpClient() as http:
        client = OpenAIChatClient(http, server.base_url, retries=RetryPolicy(attempts_max=1))
        return [event async for event in client.stream(REQUEST, blobs={}, key="")]


@pytest.mark.anyio
@pytest.mark.parametrize("name", sorted(EXPECTED))
async def test_the_client_makes_of_it_what_the_model_meant(name: str) -> None:
    """Text, thinking, calls, figures and errors of each server come out the same way."""
    *deltas, last = await through_the_client((FOLDER / f"{name}.sse").read_bytes().decode())
    expected = EXPECTED[name]
    if isinstance(last, Failure) and isinstance(expected, Failure):
        assert last.message.partition(" ")[2] == expected.message, "after the server's address"
        assert (last.kind, last.partial, last.usage) == (expected.kind, expected.partial, expected.usage)
        return
    assert last == expected
    assert isinstance(last, Answer)
    assert "".join(d.text for d in deltas if isinstance(d, TextDelta)) == last.text
    assert "".join(d.text for d in deltas if isinstance(d, ThinkingDelta)) == "".join(
        t.text for t in last.thinking
    )
    for index, asked in enumerate(last.calls):
        fragments = [d.arguments for d in deltas if isinstance(d, CallDelta) and d.index == index]
        assert "".join(fragments) == asked.arguments


@given(st.sampled_from(sorted(EXPECTED)), st.lists(st.integers(1, 700), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_how_the_network_cuts_it_makes_no_difference(name: str, sizes: list[int]) -> None:
    """The same answer, whatever the pieces."""
    stream = (FOLDER / f"{name}.sse").read_bytes()
    cut: list[bytes] = []
    at = 0
    while at < len(stream):
        size = sizes[len(cut) % len(sizes)]
        cut.append(stream[at : at + size])
        at += size
    assert assembled(cut) == assembled([stream])


def assembled(parts: list[bytes]) -> Answer:
    decoder, assembly = SseDecoder(), AnswerAssembly(model="m", estimate_input=lambda: 2)
    for part in parts:
        for event in decoder.feed(part):
            if event.data != "[DONE]":
                assembly.take(decode_chunk(event.data))
    return assembly.answer()
