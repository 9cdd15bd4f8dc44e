"""Prompts of an editor that end before their turn has begun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import LOCAL
from clew.domain.ledger.rows import InboxState
from clew.domain.models.request import ModelRequest
from clew.surfaces.acp.content import Said
from clew.surfaces.acp.editor import Editor
from clew.surfaces.acp.session import EditorSession, place_of
from clew.testing.scripted_model import Hold, Step, say
from clew.testing.world import World
from clew.wire.peer import Peer

pytestmark = pytest.mark.anyio


async def nothing() -> None:
    """Nothing has to be ready, nothing waits to be sent."""


async def refused(method: str, params: msgspec.Raw) -> object:
    raise AssertionError(method)


def deaf(*_: object) -> None:
    pass


async def opened(world: World, write: Callable[[bytes], None] = deaf) -> EditorSession:
    number = world.services.desk.new_id()
    left = await world.services.desk.open(LOCAL, place_of(number), cwd="/work", session=number)
    editor = Editor(Peer(write, serve=refused, heard=deaf, broke=deaf), nothing)
    return EditorSession(number, world.services, left.row, Path("/work"), editor)


@pytest.mark.parametrize("ticks", range(1, 80))
async def test_a_cancel_at_any_moment_ends_the_prompt(ticks: int) -> None:
    """Between any two steps from its arrival to the model's first words: cancelled, and the next prompt works."""
    hold = Hold()

    def answer(request: ModelRequest) -> Step:
        return say("half", hold) if "next" not in str(request.messages[-1]) else say("fine")

    world = World(MemoryLedger(), answer)
    session = await opened(world)
    prompting = asyncio.create_task(session.prompt(Said("go", ()), nothing))
    for _ in range(ticks):
        await asyncio.sleep(0)
    session.cancel()
    ended, _ = await asyncio.wait(
        [prompting], timeout=10
    )  # a timeout that cancels would do what is asked for here
    assert ended
    assert prompting.result() == "cancelled"
    assert await session.prompt(Said("next", ()), nothing) == "end_turn"
    await session.close()
    assert world.model.open_streams == 0


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_what_waits_is_taken_back_where_it_waits(is_cancelled: bool) -> None:
    """The thread moved to another session meanwhile: nobody would answer it there, and somebody might in the old one."""
    hold = Hold()
    world = World(MemoryLedger(), [say("half", hold)])
    session = await opened(world)
    number = await session.talk.ensure_session()
    running = asyncio.create_task(session.prompt(Said("go", ()), nothing))
    await hold.reached()
    waiting = asyncio.create_task(session.prompt(Said("then", ()), nothing))
    while not await world.ledger.queued(LOCAL, number):  # noqa: ASYNC110 - a step of the loop at a time
        await asyncio.sleep(0)
    assert await session.prompt(Said("/branch", ()), nothing) == "end_turn"
    assert await session.talk.ensure_session() != number
    if is_cancelled:
        session.cancel()
    hold.release()
    ended, _ = await asyncio.wait([running, waiting], timeout=10)
    assert ended == {running, waiting}
    assert (running.result(), waiting.result()) == ("cancelled" if is_cancelled else "end_turn", "cancelled")
    assert [row.state for row in await world.ledger.received(LOCAL, number, 10)][-1] == InboxState.CANCELLED
    await session.close()


async def test_a_command_ends_the_turn_without_a_word_of_somebody_else() -> None:
    """Who typed `/new` while their turn ran knows that they did: it ends as cancelled, and nothing is said of others."""
    hold, shown = Hold(), list[bytes]()
    world = World(MemoryLedger(), [say("half", hold)])
    session = await opened(world, shown.append)
    running = asyncio.create_task(session.prompt(Said("go", ()), nothing))
    await hold.reached()
    assert await session.prompt(Said("/new", ()), nothing) == "end_turn"
    ended, _ = await asyncio.wait([running], timeout=10)
    assert ended
    assert running.result() == "cancelled"
    assert b"New session" in b"".join(shown)
    assert b"somebody else" not in b"".join(shown)
    await session.close()
