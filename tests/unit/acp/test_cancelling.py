"""A prompt of an editor that is cancelled while its turn begins."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import LOCAL
from clew.domain.models.request import ModelRequest
from clew.surfaces.acp.content import Said
from clew.surfaces.acp.editor import Editor
from clew.surfaces.acp.session import EditorSession, place_of
from clew.testing.scripted_model import Hold, Step, say
from clew.testing.world import World
from clew.wire.peer import Peer

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def nothing() -> None:
    """Nothing has to be ready, nothing waits to be sent."""


async def refused(method: str, params: msgspec.Raw) -> object:
    raise AssertionError(method)


def deaf(*_: object) -> None:
    pass


@pytest.mark.parametrize("ticks", range(1, 80))
async def test_a_cancel_at_any_moment_ends_the_prompt(ticks: int) -> None:
    """Between any two steps from its arrival to the model's first words: cancelled, and the next prompt works."""
    hold = Hold()

    def answer(request: ModelRequest) -> Step:
        return say("half", hold) if "next" not in str(request.messages[-1]) else say("fine")

    world = World(MemoryLedger(), answer)
    number = world.services.desk.new_id()
    left = await world.services.desk.open(LOCAL, place_of(number), cwd="/work", session=number)
    editor = Editor(Peer(deaf, serve=refused, heard=deaf, broke=deaf), nothing)
    session = EditorSession(number, world.services, left.row, Path("/work"), editor)
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
