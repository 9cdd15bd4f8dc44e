"""A platform that fails, in whatever way, is begun anew alone, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from clew.adapters.stores.memory import Disk, MemoryLedger
from clew.config.settings import GatewaySettings, Settings
from clew.domain.conversation.ids import PrincipalId
from clew.runtime.delivery import POSSIBLY_REPEATED
from clew.runtime.ports.endpoints import Asked
from clew.surfaces.gateway.channel import open_channel
from clew.surfaces.gateway.gateway import Gateway
from clew.testing.fake_platform import FakeChats, FakePlatform
from clew.testing.virtual_time import simulate
from clew.testing.world import World
from tests.unit.gateway.test_gateway import LoopClock, answer

MARKER = "marzipan"
BEGUN_ANEW_SECONDS = 120
LOOK_SECONDS = 1
"""Of virtual time, as every wait here."""


class BreakingLedger(MemoryLedger):
    """Knows nobody, with an error nobody expected, as often as it is told."""

    breaks = 0

    async def identified(self, platform: str, external_id: str) -> PrincipalId | None:
        if self.breaks:
            self.breaks -= 1
            raise KeyError(MARKER)
        return await super().identified(platform, external_id)


class Two:
    """A gateway with two platforms, and ann on both."""

    def __init__(self) -> None:
        self.ledger = BreakingLedger(Disk())
        self.world = World(self.ledger, answer, owner="one", clock=LoopClock(), seed=0)
        self.bad, self.good = FakeChats("bad"), FakeChats("good")
        self.meter = self.world.services.meter
        settings = Settings(gateway=GatewaySettings(drain_seconds=5))
        self.gateway = Gateway([
            open_channel(self.world.services, settings, FakePlatform(chats), Path("/work"), frozenset({"ann"}))
            for chats in (self.bad, self.good)
        ])  # fmt: skip
        self.said = 0

    async def answers(self, chats: FakeChats) -> float:
        """Ann says something; returns how many seconds it takes until it is answered."""
        self.said += 1
        text, since = f"{MARKER} {self.said}", asyncio.get_running_loop().time()
        await chats.say("ann", text)
        await chats.until(lambda: any(shown.endswith(f"re: {text}") for shown in chats.shown("ann")))
        return asyncio.get_running_loop().time() - since

    async def health(self) -> tuple[int, list[str]]:
        answered = await self.gateway.health.endpoints[0].answer(Asked(headers={}, body=b""))
        reasons: list[str] = msgspec.json.decode(answered.body)["reasons"]
        return answered.status, reasons

    async def turns(self, status: int) -> list[str]:
        """Returns the reasons when health has this status."""
        while True:
            found, reasons = await self.health()
            if found == status:
                return reasons
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def serving() -> AsyncIterator[Two]:
    two = Two()
    running = asyncio.create_task(two.gateway.run())
    with capture_logs() as log:
        await two.answers(two.good)
        await two.answers(two.bad)
        assert await two.health() == (200, [])
        yield two
    assert MARKER not in str(log)
    assert not running.done()
    two.gateway.stop()
    await running


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "happens",
    [
        lambda chats: chats.breaks.extend(KeyError(MARKER) for _ in range(3)),
        lambda chats: setattr(chats, "is_silent", True),
    ],
    ids=["an error nobody expected", "silence"],
)
def test_a_dead_channel_is_begun_anew_alone(seed: int, happens: Callable[[FakeChats], None]) -> None:
    """It serves again within two minutes; the other one is as quick as ever; it is counted, and no log line has a word."""

    async def run() -> None:
        async with serving() as two:
            happens(two.bad)
            late = asyncio.create_task(two.answers(two.bad))
            begun = 'clew_channel_restarts_total{platform="bad",part="receive"}'
            while begun not in two.meter.text():
                assert await two.answers(two.good) < 1
                await asyncio.sleep(LOOK_SECONDS)
            two.bad.is_silent = False
            assert await late < BEGUN_ANEW_SECONDS
            assert await two.answers(two.bad) < 1
            assert await two.health() == (200, [])
            assert 'platform="good"' not in "".join(
                x for x in two.meter.text().splitlines() if "restarts" in x
            )

    simulate(seed, run())


def test_silence_is_not_healthy() -> None:
    """Where a platform does not come back, health says so, and names it alone."""

    async def run() -> None:
        async with serving() as two:
            two.bad.is_silent = True
            reasons = await two.turns(503)
            assert all(reason.startswith("bad ") for reason in reasons)
            assert await two.answers(two.good) < 1
            two.bad.is_silent = False
            await two.turns(200)
            assert await two.answers(two.bad) < 1

    simulate(0, run())


def test_a_revoked_token_stops_its_platform_alone() -> None:
    """It is said once, health names it, and the other one serves on; nothing is tried with that token again."""

    async def run() -> None:
        async with serving() as two:
            two.bad.refuses = "This token was revoked."
            await two.bad.say("ann", "anybody there?")
            assert await two.turns(503) == ["bad refused us"]
            await asyncio.sleep(10 * BEGUN_ANEW_SECONDS)
            assert await two.answers(two.good) < 1
            assert "restarts" not in two.meter.text()

    simulate(0, run())


def test_a_message_that_breaks_us_is_given_up_and_those_after_it_are_taken() -> None:
    """Three tries, then the person is told, and what was said next is answered."""

    async def run() -> None:
        async with serving() as two:
            two.ledger.breaks = 3
            await two.bad.say("ann", "poison")
            await two.bad.until(lambda: two.bad.unconfirmed == 0)
            assert two.ledger.breaks == 0
            assert "not taken" in two.bad.shown("ann")[-1]
            assert await two.answers(two.bad) < 1

    simulate(0, run())


def test_a_reply_that_breaks_its_platform_holds_up_nobody() -> None:
    """An adapter's own error is an unknown outcome of that message: said again with a mark, then given up; the rest goes out."""

    async def run() -> None:
        async with serving() as two:
            two.bad.failing.extend(KeyError(MARKER) for _ in range(2))
            await two.bad.say("ann", "first")
            await two.bad.until(lambda: not two.bad.failing)
            assert await two.answers(two.bad) < 10
            assert two.bad.shown("ann")[-1] == "re: marzipan 3"
            assert not any(text == f"{POSSIBLY_REPEATED}re: first" for text in two.bad.shown("ann"))
            assert "restarts" not in two.meter.text()

    simulate(0, run())
