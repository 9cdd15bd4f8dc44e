"""Chats through the whole gateway: received, answered, delivered; and what a turn costs where many chats are known."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from benchmarks.bench import Bench, settle
from benchmarks.families.conversation import CHATS, MODEL_SECONDS, TURNS_EACH, http_world
from benchmarks.measure import interleaved
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_least, at_most
from clew.config.settings import HttpSettings, Settings
from clew.surfaces.gateway.channel import open_channel
from clew.surfaces.gateway.gateway import Gateway
from clew.testing.fake_platform import FakeChats, FakePlatform
from clew.testing.scripted_model import say
from clew.testing.world import World

KNOWN_CHATS = 1_000


@benchmark("gateway")
async def gateway(bench: Bench) -> AsyncIterator[Row]:
    yield await _chats(bench)
    yield await _known(bench)


@asynccontextmanager
async def _served(world: World) -> AsyncIterator[FakeChats]:
    """A gateway over a platform in memory, where everybody may talk. It logs as `clew serve` does, and nobody reads it."""
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(io.StringIO()),
    )
    chats = FakeChats()
    people = frozenset(f"person{number}" for number in range(KNOWN_CHATS))
    settings = Settings(http=HttpSettings(enabled=False))
    platform = FakePlatform(chats, preview_seconds=0.25)  # as it is on every real one
    channel = open_channel(world.services, settings, platform, Path.cwd(), people)
    gateway = Gateway([channel])
    serving = asyncio.create_task(gateway.run())
    try:
        yield chats
    finally:
        gateway.stop()
        await serving


async def _exchange(chats: FakeChats, person: str) -> None:
    """Says something and waits for the answer."""
    before = len(chats.shown(person))
    await chats.say(person, f"hello {before}")
    await chats.until(lambda: len(chats.shown(person)) > before)


async def _chats(bench: Bench) -> Row:
    """Sixteen people at once, each answered after 200 ms."""
    async with http_world(bench, "gateway-chats", MODEL_SECONDS) as (world, _), _served(world) as chats:

        async def chat(number: int) -> None:
            for _ in range(TURNS_EACH):
                await _exchange(chats, f"person{number}")

        await asyncio.gather(*(_exchange(chats, f"person{number}") for number in range(CHATS)))
        settle()
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*map(chat, range(CHATS)))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        turns = CHATS * TURNS_EACH
    return Row(
        work="16 chats through the gateway, 200 ms loopback model",
        claims=(at_least("turns", turns / seconds, 72, "/s"),),
        remark=f"ideal: {CHATS / MODEL_SECONDS:.0f}/s; CPU a turn: {cpu / turns * 1e3:.1f} ms",
    )


async def _known(bench: Bench) -> Row:
    """The same chat in two gateways, one of which knows a thousand."""
    async with bench.ledger("gateway-one") as alone, bench.ledger("gateway-many") as known:
        worlds = [World(ledger, lambda _: say("An answer.")) for ledger in (alone, known)]
        async with _served(worlds[0]) as one, _served(worlds[1]) as many:
            for first in range(1, KNOWN_CHATS, 50):
                people = range(first, min(first + 50, KNOWN_CHATS))
                await asyncio.gather(*(_exchange(many, f"person{number}") for number in people))

            async def with_one(_: int) -> None:
                await _exchange(one, "person0")

            async def with_many(_: int) -> None:
                await _exchange(many, "person0")

            settle()
            ours, crowded = await interleaved(bench.disk, bench.rounds(300), with_one, with_many)
    return Row(
        work=f"a turn through the gateway, {KNOWN_CHATS:,} chats known",
        samples=crowded,
        floor=ours,
        claims=(at_most("p50 against one chat", crowded.p50 / ours.p50, 1.1, "x"),),
        remark="floor: the same where one chat is known",
    )
