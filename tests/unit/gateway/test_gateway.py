"""The whole gateway over a platform in memory, in virtual time and in an order that a seed picks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from clew.adapters.stores.memory import Disk, MemoryLedger
from clew.config.settings import GatewaySettings, Settings
from clew.domain.conversation.ids import PrincipalId
from clew.domain.conversation.messages import Role
from clew.domain.models.request import ModelRequest, UserTurn
from clew.domain.routing.routes import ChatKind, Route
from clew.runtime.delivery import EVER, POLL_SECONDS, POSSIBLY_REPEATED
from clew.runtime.ports.platforms import Incoming, MaybeSent, NotSent, take_in_order
from clew.runtime.ports.tools import Tool
from clew.surfaces.gateway.channel import open_channel
from clew.surfaces.gateway.gateway import Gateway
from clew.testing.fake_platform import FakeChats, FakePlatform
from clew.testing.scripted_model import Hold, Step
from clew.testing.virtual_time import Program, simulate
from clew.testing.world import HandClock, World

PEOPLE = ("ann", "ben")
START_MS = 1_790_000_000_000


class LoopClock(HandClock):
    """The wall clock of virtual time."""

    off_ms = 0

    def now_ms(self) -> int:
        return START_MS + self.off_ms + int(asyncio.get_running_loop().time() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def answer(request: ModelRequest) -> Step:
    last = [turn for turn in request.messages if isinstance(turn, UserTurn)][-1]
    said = "".join(getattr(part, "text", "") for part in last.parts).split("<sent")[0].strip()
    return Step(deltas=("re: ", said))


def process(
    disk: Disk,
    chats: FakeChats,
    owner: str,
    dead: tuple[str, ...] = (),
    *,
    script: Callable[[ModelRequest], Step] = answer,
    gateway: GatewaySettings | None = None,
    takes_key: bool = False,
    allow: tuple[str, ...] = PEOPLE,
    tools: Sequence[Tool] = (),
) -> tuple[World, Gateway]:
    world = World(MemoryLedger(disk), script, owner=owner, clock=LoopClock(), seed=len(dead), tools=tools)
    world.owners.dead |= set(dead)
    settings = Settings(gateway=gateway or GatewaySettings(drain_seconds=5))
    platform = FakePlatform(chats, takes_key=takes_key)
    channel = open_channel(world.services, settings, platform, Path("/work"), frozenset(allow))
    return world, Gateway([channel])


async def first_reply_is(world: World, state: str | None) -> None:
    """Returns when the first reply that is not settled is in this state; None for when there is none."""
    wanted = [] if state is None else [state]
    while [row.state for row in await world.ledger.undelivered("fake", EVER)][:1] != wanted:  # noqa: ASYNC110 - the ledger sets no event
        await asyncio.sleep(POLL_SECONDS)  # of virtual time


async def said(world: World, person: str) -> list[str]:
    """What the person's session holds of their words."""
    who = PrincipalId(f"fake:{person}")
    (row,) = await world.ledger.sessions(who)
    return [m.text for m in await world.ledger.path(who, row.id) if m.role == Role.USER]


@pytest.mark.parametrize("seed", range(3))
def test_a_long_penalty_delays_nobody_else(seed: int) -> None:
    """Told to leave one chat alone for 97 minutes, it does, and answers the other within a second of before."""

    async def run() -> None:
        chats = FakeChats()
        _, gateway = process(Disk(), chats, "one")
        serving = asyncio.create_task(gateway.run())
        loop = asyncio.get_running_loop()
        chats.failing.append(NotSent("Too Many Requests", 97 * 60))
        await chats.say("ann", "a")
        await chats.until(lambda: not chats.failing)
        since = loop.time()
        await chats.say("ben", "b")
        await chats.until(lambda: chats.shown("ben") == ["re: b"])
        assert loop.time() - since < 1
        assert chats.shown("ann") == []
        await chats.until(lambda: chats.shown("ann") == ["re: a"])
        assert 97 * 60 <= loop.time() - since < 97 * 60 + 10
        gateway.stop()
        await serving

    simulate(seed, run())


def test_killed_while_a_preview_is_sent_the_answer_beside_it_is_marked() -> None:
    """Nobody knows the id of the preview, so that it cannot be changed: no second one is sent, and the answer says what it is."""

    async def run() -> None:
        disk, chats = Disk(), FakeChats()
        held = [Hold(), Hold()]
        _, first = process(disk, chats, "one", script=lambda _: Step(deltas=("re: a", held[0])))
        program = Program()
        program.start(first.run())
        chats.answer_seconds = 60
        await chats.say("ann", "a")
        await chats.until(lambda: chats.shown("ann") == ["re: a"])
        program.kill()
        chats.answer_seconds = 0
        _, second = process(disk, chats, "two", ("one",), script=lambda _: Step(deltas=("re: a", held[1])))
        serving = asyncio.create_task(second.run())
        await held[1].reached()
        for _ in range(200):
            await asyncio.sleep(0)  # a preview would be sent now
        assert chats.shown("ann") == ["re: a"]
        held[1].release()
        await chats.until(lambda: len(chats.shown("ann")) > 1)
        assert chats.shown("ann") == ["re: a", f"{POSSIBLY_REPEATED}re: a"]
        second.stop()
        await serving

    simulate(0, run())


@pytest.mark.parametrize("shows_more", [True, False])
def test_where_the_platform_takes_keys_no_preview_is_in_doubt(shows_more: bool) -> None:
    """Killed while it sent one, the answer takes its place all the same: there is one message, without a mark."""

    async def run() -> None:
        disk, chats, held = Disk(), FakeChats(), Hold()

        def script(_: ModelRequest) -> Step:
            return Step(deltas=("re: ", held, "a"))

        _, first = process(disk, chats, "one", script=script, takes_key=True)
        program = Program()
        program.start(first.run())
        chats.answer_seconds = 60
        await chats.say("ann", "a")
        await chats.until(lambda: chats.shown("ann") != [])
        program.kill()
        chats.answer_seconds = 0
        again = script if shows_more else lambda _: Step(deltas=("re: a",))
        held = Hold()
        _, second = process(disk, chats, "two", ("one",), script=again, takes_key=True)
        serving = asyncio.create_task(second.run())
        if shows_more:
            await held.reached()
            held.release()
        await chats.until(lambda: chats.shown("ann") == ["re: a"])
        second.stop()
        await serving
        assert chats.shown("ann") == ["re: a"]

    simulate(0, run())


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_taken_behind_what_was_not(seed: int) -> None:
    """Where the first message of Ann's is not taken, her second is not either, in whatever order things happen: both come again."""
    taken: list[str] = []

    async def take(incoming: Incoming) -> None:
        await asyncio.sleep(0)
        if incoming.key == "a1":
            raise NotSent("The disk is full.")
        taken.append(incoming.key)

    def message(key: str, chat: str) -> Incoming:
        where = Route(platform="fake", account="bot", chat=chat)
        return Incoming(key=key, chat=where, kind=ChatKind.DM, sender=chat, text=key)

    async def run() -> None:
        sent = [message("a1", "ann"), message("b1", "ben"), message("a2", "ann"), message("b2", "ben")]
        with pytest.raises(NotSent):
            await take_in_order(take, sent)
        for _ in range(20):
            await asyncio.sleep(0)
        assert taken == ["b1", "b2"]

    simulate(seed, run())


@pytest.mark.parametrize("seed", range(60))
def test_killed_again_and_again_everything_is_answered(seed: int) -> None:
    """Messages come once or three times, sends fail or are in doubt, processes are killed at any step: each message is stored
    once, in order, and answered, or given up after two doubts; an answer without a mark is there once at most, and none more than three times."""

    async def run() -> None:
        chance = random.Random(seed)
        disk, chats = Disk(), FakeChats()
        sent: dict[str, list[str]] = {person: [] for person in PEOPLE}

        async def talk() -> None:
            for n in range(4):
                for person in PEOPLE:
                    sent[person].append(f"{person} {n}")
                    await chats.say(person, sent[person][-1], times=chance.choice((1, 3)))
                    await asyncio.sleep(chance.choice((0, 0.01, 1)))
                if chance.random() < 0.3:
                    chats.failing.append(
                        chance.choice((NotSent("no network"), NotSent("slowly", 3), MaybeSent("?")))
                    )
                chats.answer_lost = chance.random() < 0.2
                chats.answer_seconds = chance.choice((0, 0.2))

        talking = asyncio.create_task(talk())
        dead: tuple[str, ...] = ()
        for number in range(chance.randrange(4)):
            _, gateway = process(disk, chats, f"p{number}", dead)
            program = Program()
            program.start(gateway.run())
            await asyncio.sleep(chance.choice((0.0, chance.uniform(0, 3))))
            for _ in range(chance.randrange(120)):
                await asyncio.sleep(0)  # into the middle of what happens at one moment
            program.kill()
            dead = (*dead, f"p{number}")
        await talking
        chats.failing.clear()
        world, gateway = process(disk, chats, "last", dead)
        serving = asyncio.create_task(gateway.run())
        await asyncio.sleep(chance.uniform(3000, 4000))  # of virtual time
        gateway.stop()
        await serving
        assert chats.unconfirmed == 0
        for person in PEOPLE:
            assert await said(world, person) == sent[person]
            shown = chats.shown(person)
            missing = [text for text in sent[person] if not answered(chats, person, text)]
            assert len(missing) <= await given_up(world, person), shown
            for text in sent[person]:
                assert shown.count(f"re: {text}") <= 1, shown
                assert sum(text in one for one in shown) <= 3, shown
            places = [[i for i, one in enumerate(shown) if text in one][:1] for text in sent[person]]
            first = [place for found in places for place in found]
            assert first == sorted(first), shown

    simulate(seed, run())


async def given_up(world: World, person: str) -> int:
    """Answers that were twice in doubt."""
    who = PrincipalId(f"fake:{person}")
    (row,) = await world.ledger.sessions(who)
    replies = await world.ledger.replies(who, row.id, 100)
    return sum(reply.state == "failed" and reply.kind == "reply" for reply in replies)


def answered(chats: FakeChats, person: str, text: str) -> bool:
    """Whether the whole answer is there, with a mark or without."""
    shown = chats.shown(person)
    return f"re: {text}" in shown or f"{POSSIBLY_REPEATED}re: {text}" in shown
