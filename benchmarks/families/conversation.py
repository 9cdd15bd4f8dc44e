"""Whole turns through the runtime and the OpenAI wire: what we add to the model's own time, and what idles in memory."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles

import msgspec

from benchmarks.bench import Bench, settle
from benchmarks.measure import interleaved
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_least, at_most
from clew.adapters.models.http import HttpClient
from clew.adapters.models.openai_chat.client import OpenAIChatClient
from clew.domain.models.answer import Answer, ModelEvent, TextDelta, Usage
from clew.domain.models.request import ModelRequest, TextPart, UserTurn
from clew.runtime.ports.models import ModelChoice
from clew.runtime.talk import Talk
from clew.testing.scripted_model import ScriptedModel, say
from clew.testing.world import World, exchange

CHATS = 16
CROWD = 64
TURNS_EACH = 32
"""Enough that a common start, which no real crowd has, is not what is measured: of 8 turns it is a fifth of the time."""
MODEL_SECONDS = 0.2


class OneClient:
    """`ModelSource` with one client behind every name."""

    def __init__(self, choice: ModelChoice) -> None:
        self._choice = choice

    async def choose(self, name: str | None) -> ModelChoice:
        return self._choice


@benchmark("conversation")
async def conversation(bench: Bench) -> AsyncIterator[Row]:
    yield await _overhead(bench)
    yield await _chats(bench)
    yield await _crowd_in_process(bench)
    yield await _crowd_over_http(bench)
    yield await _idle(bench)


@asynccontextmanager
async def model_server(folder: Path, seconds: float) -> AsyncIterator[str]:
    """A scripted server in a process of its own, so that its work is not ours. Yields its base URL."""
    script = folder / "script.json"
    step = {"text": "An answer of a few plain words.", "delay_seconds": seconds}
    script.write_text(json.dumps({"steps": [step], "then": "last"}))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clew.testing.model_server", "--port", "0", "--script", str(script),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        port = json.loads(await process.stdout.readline())["port"]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def http_world(
    bench: Bench, name: str, seconds: float
) -> AsyncIterator[tuple[World, OpenAIChatClient]]:
    """The runtime over a new ledger, with the OpenAI client and a server that answers after so long."""
    async with (
        bench.ledger(name) as ledger,
        model_server(bench.folder(f"{name}-server"), seconds) as url,
        HttpClient() as http,
    ):
        client = OpenAIChatClient(http, url)
        choice = ModelChoice(client, await client.profile("scripted-model"))
        world = World(ledger)
        world.services = msgspec.structs.replace(world.services, models=OneClient(choice))
        yield world, client


async def _overhead(bench: Bench) -> Row:
    """A turn, beside the same model call alone."""
    async with http_world(bench, "overhead", 0.0) as (world, client):
        talk = world.talk()
        request = ModelRequest(
            model="scripted-model", system="s", tools=(), messages=(UserTurn(parts=(TextPart("hello"),)),)
        )

        async def whole(number: int) -> None:
            if number % 20 == 0:
                await talk.command("/new")
            await exchange(talk, f"hello {number}")

        async def alone(_: int) -> None:
            async for _event in client.stream(request, blobs={}, key="k"):
                pass

        settle()
        ours, floor = await interleaved(bench.disk, bench.rounds(200), whole, alone)
    return Row(
        work="a turn without the model's time",
        samples=ours,
        floor=floor,
        claims=(at_most("p50 less the call", (ours.p50 - floor.p50) * 1e3, 6, "ms"),),
        remark="floor: the model call alone, over loopback HTTP",
    )


async def _chats(bench: Bench) -> Row:
    """Sixteen conversations in one process, each answered after 200 ms."""
    async with http_world(bench, "chats", MODEL_SECONDS) as (world, _):
        talks = [world.talk() for _ in range(CHATS)]

        async def chat(number: int) -> None:
            for turn in range(TURNS_EACH):
                await exchange(talks[number], f"hello {number} {turn}")

        await asyncio.gather(*(exchange(talk, "first") for talk in talks))
        settle()
        began = time.perf_counter()
        await asyncio.gather(*(chat(number) for number in range(CHATS)))
        rate = CHATS * TURNS_EACH / (time.perf_counter() - began)
    return Row(
        work="16 chats at once, 200 ms loopback model",
        claims=(at_least("turns", rate, 72, "/s"),),
        remark=f"ideal: {CHATS / MODEL_SECONDS:.0f}/s",
    )


class _SleepingModel(ScriptedModel):
    """Answers after the model's seconds, in this process: all the rest of a turn is ours."""

    async def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncGenerator[ModelEvent, None]:
        await asyncio.sleep(MODEL_SECONDS)
        yield TextDelta("An answer.")
        yield Answer(text="An answer.", usage=Usage(input=10, output=5))


class _Crowd(msgspec.Struct):
    """What came of many sessions talking at once. Times in seconds."""

    rate: float
    turns: list[float]
    lags: list[float]
    cpu_a_turn: float


async def _crowd(talks: Sequence[Talk]) -> _Crowd:
    turns: list[float] = []
    lags: list[float] = []

    async def chat(talk: Talk) -> None:
        for turn in range(TURNS_EACH):
            began = time.perf_counter()
            await exchange(talk, f"hello {turn}")
            turns.append(time.perf_counter() - began)

    async def look() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            lags.append(time.perf_counter() - began - 0.005)

    await asyncio.gather(*(exchange(talk, "first") for talk in talks))
    settle()
    looking = asyncio.create_task(look())
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(chat, talks))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    looking.cancel()
    return _Crowd(rate=len(turns) / seconds, turns=turns, lags=lags, cpu_a_turn=cpu / len(turns))


def _crowd_row(work: str, crowd: _Crowd, least: float) -> Row:
    lag = quantiles(crowd.lags, n=100)[-1]
    return Row(
        work=work,
        claims=(
            at_least("turns", crowd.rate, least, "/s"),
            at_most("loop lag p99", lag * 1e3, 50, "ms"),
            at_most("longest turn, of the median", max(crowd.turns) / median(crowd.turns), 2, "x"),
        ),
        remark=f"ideal: {CROWD / MODEL_SECONDS:.0f}/s; CPU a turn: {crowd.cpu_a_turn * 1e3:.1f} ms",
    )


async def _crowd_in_process(bench: Bench) -> Row:
    """Sixty-four sessions at once, the model in this process."""
    async with bench.ledger("crowd") as ledger:
        world = World(ledger)
        model = _SleepingModel()
        choice = ModelChoice(model, await model.profile("scripted-model"))
        world.services = msgspec.structs.replace(world.services, models=OneClient(choice))
        crowd = await _crowd([world.talk() for _ in range(CROWD)])
    return _crowd_row("64 sessions at once, 200 ms model", crowd, 0.9 * CROWD / MODEL_SECONDS)


async def _crowd_over_http(bench: Bench) -> Row:
    """Sixty-four sessions at once, over loopback HTTP."""
    async with http_world(bench, "crowd-http", MODEL_SECONDS) as (world, _):
        crowd = await _crowd([world.talk() for _ in range(CROWD)])
    return _crowd_row("64 sessions at once, 200 ms loopback model", crowd, 100)


async def _idle(bench: Bench) -> Row:
    """What a conversation costs in memory after its turn, when nobody talks in it."""
    count = bench.rounds(2000)
    async with bench.ledger("idle") as ledger:
        world = World(ledger, lambda _: say("ok"))
        model = world.model
        for number in range(200):
            await _one_turn(world, model, number)
        before = _resident_kb()
        for number in range(count):
            await _one_turn(world, model, number)
        grown = max(_resident_kb() - before, 0.0)
    return Row(
        work="an idle conversation in memory",
        claims=(at_most("each, in kB", grown / count, 2, "x"),),
        remark=f"growth of resident memory over {count} conversations of one turn",
    )


async def _one_turn(world: World, model: ScriptedModel, number: int) -> None:
    await exchange(world.talk(), f"hello {number}")
    model.sent.clear()


def _resident_kb() -> float:
    for line in (
        Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else ()
    ):
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
