"""What the engine does around the model: none of these tests loads one."""

import asyncio
import subprocess
import sys

import msgspec
import pytest

from clew.adapters.models.embedded.engine import ANSWER_TOKENS_MAX, RELAY_CHUNKS_MAX, Relay, decoded, encoded
from clew.adapters.models.embedded.errors import EngineRefused

pytestmark = pytest.mark.anyio
SAY_HI = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({}, ANSWER_TOKENS_MAX),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 1_000_000}, ANSWER_TOKENS_MAX),
        ({"max_tokens": -1}, ANSWER_TOKENS_MAX),
        ({"max_tokens": None}, ANSWER_TOKENS_MAX),
    ],
)
def test_an_answer_is_bounded_whatever_is_asked(asked: dict[str, object], given: int) -> None:
    """-1 and absence mean "endless" to llama.cpp, never to us."""
    assert msgspec.json.decode(encoded({**SAY_HI, **asked}))["max_tokens"] == given


def test_what_a_request_says_goes_before_our_defaults() -> None:
    """Sampling defaults apply where the request is silent or null."""
    sent = msgspec.json.decode(encoded({**SAY_HI, "temperature": 0, "top_p": None}))
    assert (sent["temperature"], sent["top_p"], sent["repeat_penalty"]) == (0, 0.9, 1.1)


def test_fields_that_are_not_honoured_do_not_reach_the_library() -> None:
    """Tools, and knobs that only llama.cpp knows, are dropped; the answer always streams."""
    sent = msgspec.json.decode(
        encoded({**SAY_HI, "tools": [{}], "id_slot": 3, "stream": False, "model": "x"})
    )
    assert not {"tools", "id_slot", "model"} & set(sent)
    assert sent["stream"] is True


def test_an_error_of_the_library_becomes_ours() -> None:
    """Status and kind survive, and the text is a sentence."""
    with pytest.raises(EngineRefused, match=r"^The embedded model cannot answer this: too long\.$") as caught:
        decoded(b'{"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}')
    assert (caught.value.status, caught.value.kind) == (400, "exceed_context_size_error")


async def test_whoever_stops_reading_stops_the_generating_thread() -> None:
    """The thread gets ahead by no more than the bound, waits, and is told to stop."""
    loop = asyncio.get_running_loop()
    relay, full = Relay(loop), asyncio.Event()

    def generate() -> int:
        offered = 0
        while not relay.offer(b"chunk"):
            offered += 1
            if offered == RELAY_CHUNKS_MAX + 1:
                loop.call_soon_threadsafe(full.set)
        return offered

    thread = asyncio.create_task(asyncio.to_thread(generate))
    assert await relay.take() == b"chunk"
    await full.wait()
    relay.stop()
    assert await thread == RELAY_CHUNKS_MAX + 1
    assert relay.cut


async def test_chunks_arrive_in_order_and_then_the_end() -> None:
    """More chunks than the relay holds come through whole."""
    loop = asyncio.get_running_loop()
    relay, sent = Relay(loop), [b"%d" % n for n in range(5 * RELAY_CHUNKS_MAX)]

    def generate() -> None:
        for chunk in sent:
            relay.offer(chunk)

    loop.run_in_executor(None, generate).add_done_callback(relay.end)
    got = []
    while (chunk := await relay.take()) is not None:
        got.append(chunk)
    assert (got, relay.cut) == (sent, False)


def test_a_missing_library_is_said_with_the_command_that_installs_it() -> None:
    """Without the extra, the first request says what to install; importing the engine needs nothing."""
    program = """
import asyncio, pathlib, sys
sys.modules["xllamacpp"] = None  # the import fails, as where it is not installed
from clew.adapters.models.embedded.engine import EmbeddedEngine
from clew.adapters.models.embedded.errors import EngineMissing

async def ask():
    async with EmbeddedEngine(pathlib.Path("none.gguf")) as engine:
        try:
            await anext(engine.stream({"messages": []}))
        except EngineMissing as error:
            print(error)

asyncio.run(ask())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "`pip install clew[local]`" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
