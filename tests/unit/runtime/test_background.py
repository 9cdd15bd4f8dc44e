"""Work beside a conversation: its result arrives once, whatever happens, and moves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.conversation.messages import Role
from clew.domain.ledger.commits import Commit, Committed, Receive, Received
from clew.domain.ledger.errors import StoreUnusable
from clew.domain.ledger.rows import InboxState, Origin, TurnState
from clew.domain.tools.spec import Effect, ToolResult
from clew.runtime.background import AT_ONCE_MAX, SURFACE, Background
from clew.runtime.commands import CommandError
from clew.runtime.talk import Talk
from clew.runtime.turns.waiting import EVENT
from clew.testing.scripted_model import Hold, ask, say
from clew.testing.virtual_time import simulate
from clew.testing.world import RecordingTool, World, command, exchange

pytestmark = pytest.mark.anyio


class Told:
    """Hears of results, and lets a test wait for them."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self._news = asyncio.Event()

    def __call__(self, side: SessionId, sentence: str) -> None:
        self.sentences.append(sentence)
        self._news.set()

    async def anything(self) -> None:
        async with asyncio.timeout(10):
            await self._news.wait()
        self._news.clear()


@asynccontextmanager
async def beside(talk: Talk) -> AsyncIterator[Told]:
    """Background work of a talk, ended at the end; nothing of it broke."""
    told, broken = Told(), list[BaseException]()
    work = Background(talk, told=told, broken=broken.append)
    talk.background = work
    try:
        yield told
    finally:
        await work.close()
        assert broken == []


def of(talk: Talk) -> SessionId:
    assert talk.session is not None
    return talk.session


async def catch_up(talk: Talk) -> None:
    assert isinstance(talk.background, Background)
    await talk.background.catch_up(of(talk))


async def events(talk: Talk) -> list[InboxState]:
    rows = await talk.services.ledger.received(LOCAL, of(talk))
    return [row.state for row in rows if row.kind == EVENT]


async def test_the_result_arrives_as_an_event() -> None:
    """The work knows what was said before it; the parent's head stays; the next turn is told, once; usage is its own."""
    world = World(MemoryLedger(), [say("hello"), say("the answer"), say("I see")])
    talk = world.talk()
    await exchange(talk, "hi")
    before = await world.ledger.session(LOCAL, of(talk))
    async with beside(talk) as told:
        said = await command(talk, "/background look it up")
        await told.anything()
    (side,) = await world.ledger.children(LOCAL, of(talk))
    assert side.id in said
    assert (side.origin, side.surface, side.title) == (Origin.SIDE, SURFACE, "look it up")
    assert side.ended_at is not None
    assert [m.text for m in await world.ledger.path(LOCAL, side.id)] == [
        "hi",
        "hello",
        "look it up",
        "the answer",
    ]
    assert (await world.ledger.session(LOCAL, of(talk))).handle == before.handle
    assert (await world.ledger.conversation(talk.place.route_key)) is not None
    assert "has ended: done. the answer" in told.sentences[0]
    assert (await world.ledger.usage(LOCAL, side.id)).calls == 1
    await exchange(talk, "and?")
    path = await world.ledger.path(LOCAL, of(talk))
    assert [m.role for m in path] == [Role.USER, Role.ASSISTANT, Role.EVENT, Role.USER, Role.ASSISTANT]
    assert "the answer" in path[2].text
    assert await events(talk) == [InboxState.CONSUMED]


async def test_a_running_turn_is_told_before_its_next_step() -> None:
    """Without a message of the person's."""
    hold = Hold()

    async def stands(*_: object) -> ToolResult:
        await hold.stand()
        return ToolResult(text="done")

    tool = RecordingTool("slow", answer=stands)
    world = World(MemoryLedger(), [say("hello"), ask("slow"), say("found"), say("I see")], tools=[tool])
    talk = world.talk()
    await exchange(talk, "hi")
    async with beside(talk) as told:
        running = asyncio.create_task(exchange(talk, "go"))
        await hold.reached()
        await command(talk, "/background look it up")
        await told.anything()
        hold.release()
        await running
    (side,) = await world.ledger.children(LOCAL, of(talk))
    assert [m.text for m in await world.ledger.path(LOCAL, side.id)] == ["hi", "hello", "look it up", "found"]
    path = await world.ledger.path(LOCAL, of(talk))
    assert [(m.role, m.step) for m in path[-2:]] == [(Role.EVENT, 2), (Role.ASSISTANT, 2)]


def test_after_a_kill_another_process_finishes_and_delivers_once() -> None:
    """Killed in the middle of the work, and again between the result and the end."""

    async def scenario() -> None:
        ledger, hold = MemoryLedger(), Hold()
        first = World(ledger, [say("hello"), say("so ", hold, "far")])
        talk = first.talk()
        await exchange(talk, "hi")
        work = Background(talk, told=lambda *_: None, broken=lambda _: None)
        talk.background = work
        await command(talk, "/background look it up")
        await hold.reached()
        second = World(ledger, [say("the answer")], owner="second", seed=1)
        second.owners.dead.add("me")
        again = second.talk(talk.session)
        for _ in range(2):
            async with beside(again) as told:
                await catch_up(again)
                if not told.sentences and await events(again) == []:
                    await told.anything()
        (side,) = await ledger.children(LOCAL, of(talk))
        assert [m.text for m in await ledger.path(LOCAL, side.id)][2:] == ["look it up", "the answer"]
        assert await events(again) == [InboxState.QUEUED]
        hold.release()
        await work.close()
        assert await events(again) == [InboxState.QUEUED]

    simulate(1, scenario())


async def test_no_more_than_a_few_at_once() -> None:
    """The next is refused in a sentence, and nothing of it is opened."""
    holds = [Hold() for _ in range(AT_ONCE_MAX)]
    world = World(MemoryLedger(), [say("hello"), *(say("x", hold) for hold in holds)])
    talk = world.talk()
    await exchange(talk, "hi")
    async with beside(talk):
        for n in range(AT_ONCE_MAX):
            await command(talk, f"/background {n}")
            await holds[n].reached()
        with pytest.raises(CommandError, match="are not done yet: this one was not taken"):
            await command(talk, "/background one more")
        children = await world.ledger.children(LOCAL, of(talk))
        assert len(children) == AT_ONCE_MAX
        listed = await command(talk, "/ps")
        assert listed.split("\n") == [f"{row.id} running: {n}" for n, row in enumerate(children)]
        assert await command(talk, f"/kill {children[0].id}") == f"The work in {children[0].id} was ended."


async def test_bad_input_is_one_sentence() -> None:
    """Nothing to do, nowhere to do it, nowhere to come back to."""
    talk = World(MemoryLedger(), [say("hello")]).talk()
    with pytest.raises(CommandError, match="There is no session yet"):
        await command(talk, "/background x")
    await exchange(talk, "hi")
    with pytest.raises(CommandError, match="takes the message to send"):
        await command(talk, "/background")
    with pytest.raises(CommandError, match="needs a chat that stays"):
        await command(talk, "/background x")


async def test_a_call_that_needs_a_yes_waits_and_is_said() -> None:
    """It waits in its own session; the parent is told once where."""
    change = RecordingTool("change", effect=Effect.EDIT)
    world = World(MemoryLedger(), [say("hello"), ask("change"), say("changed")], tools=[change])
    talk = world.talk()
    await exchange(talk, "hi")
    async with beside(talk) as told:
        await command(talk, "/background change it")
        await told.anything()
    (side,) = await world.ledger.children(LOCAL, of(talk))
    assert f"waits for an approval: /resume {side.id}" in told.sentences[0]
    assert side.ended_at is None
    elsewhere = world.talk(side.id)
    await command(elsewhere, "/approve")
    async with beside(talk) as told:
        await catch_up(talk)
        await told.anything()
    assert "has ended: done. changed" in told.sentences[0]
    assert len(await events(talk)) == 2


async def test_what_is_stopped_while_its_question_is_told_has_a_result_all_the_same() -> None:
    telling, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MemoryLedger):
        async def receive(self, item: Receive) -> Received:
            if item.kind == EVENT:
                telling.set()
                await go_on.wait()
            return await super().receive(item)

    change = RecordingTool("change", effect=Effect.EDIT)
    world = World(Slow(), [say("hello"), ask("change")], tools=[change])
    talk = world.talk()
    await exchange(talk, "hi")
    async with beside(talk) as told, asyncio.timeout(10):
        await command(talk, "/background change it")
        await telling.wait()
        (side,) = await world.ledger.children(LOCAL, of(talk))
        assert isinstance(talk.background, Background)
        stopping = asyncio.create_task(talk.background.stop(of(talk), side.id))
        while (turn := await world.ledger.turn(LOCAL, side.id)) and turn.state == TurnState.WAITING:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0)
        go_on.set()
        assert await stopping
        while len(told.sentences) < 2:
            await told.anything()
    assert "has ended: interrupted" in told.sentences[1]


async def test_a_crash_between_the_result_and_the_end_delivers_nothing_twice() -> None:
    """The result was received, and that it was is not on the side session yet."""

    ended = asyncio.Event()

    class Breaks(MemoryLedger):
        broke = False

        async def commit(self, work: Commit) -> Committed:
            ends = work.patch is not None and bool(work.patch.ended_at)
            if ends and not self.broke:
                self.broke = True
                raise StoreUnusable("The disk is full.")
            committed = await super().commit(work)
            if ends:
                ended.set()
            return committed

    world = World(Breaks(), [say("hello"), say("the answer")])
    talk = world.talk()
    await exchange(talk, "hi")
    async with beside(talk) as told:
        await command(talk, "/background look it up")
        await told.anything()
    assert "The disk is full" in told.sentences[0]
    (side,) = await world.ledger.children(LOCAL, of(talk))
    assert side.ended_at is None
    async with beside(talk) as told:
        await catch_up(talk)
        async with asyncio.timeout(10):
            await ended.wait()
    assert told.sentences == []
    assert await events(talk) == [InboxState.QUEUED]
