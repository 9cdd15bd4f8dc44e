"""How often a turn through the gateway reads and writes, and what for: one commit an answer of the model, two a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.adapters.stores.memory.state import State
from clew.config.settings import HttpSettings, Settings
from clew.domain.ledger.commits import Commit, Committed
from clew.domain.ledger.jobs import REVIEW, TITLE
from clew.surfaces.gateway.channel import open_channel
from clew.surfaces.gateway.gateway import Gateway
from clew.testing.fake_platform import FakeChats, FakePlatform
from clew.testing.faulty_ledger import shape_of
from clew.testing.scripted_model import Step, ask
from clew.testing.virtual_time import simulate
from clew.testing.world import RecordingTool, World

T = TypeVar("T")
READS_MAX = 44
"""Of a turn with two calls. It was 53 when every part looked for itself at what the one before had just seen."""


class Counting(MemoryLedger):
    """Remembers the writes, by name, and counts the reads."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.looks = 0
        """At the state, to read or to write."""

    async def _now(self) -> State:
        self.looks += 1
        return await super()._now()

    async def commit(self, work: Commit) -> Committed:
        self.writes.append(shape_of(work))
        return await super().commit(work)

    async def _write(self, shape: str, work: Callable[[State], T]) -> T:
        if shape != "commit":
            self.writes.append(shape)
        return await super()._write(shape, work)


@pytest.mark.parametrize("edits", [True, False])
def test_a_step_is_one_or_two_commits(edits: bool) -> None:
    """Received, taken; an answer is one commit, a call two; each reply is taken and settled. Nothing else is written, and no
    preview is made of an answer that is whole at once. It reads what each decision needs, and not again and again. What is
    done afterwards is asked for by the same commits."""

    async def run() -> None:
        ledger, chats, tool = Counting(), FakeChats(), RecordingTool("look")
        steps = [Step(deltas=("hello",)), ask("look"), ask("look"), Step(deltas=("done",))]
        world = World(ledger, steps, tools=[tool], follows=frozenset({TITLE, REVIEW}))
        channel = open_channel(
            world.services, Settings(http=HttpSettings(enabled=False)), FakePlatform(chats, edits=edits, preview_seconds=0.25),
            Path("/work"), frozenset({"ann"}),
        )  # fmt: skip
        gateway = Gateway([channel])
        serving = asyncio.create_task(gateway.run())
        await chats.say("ann", "hi")
        await chats.until(lambda: chats.shown("ann") == ["hello"])
        while ledger.writes[-1] != "settle_reply":  # noqa: ASYNC110 - the ledger sets no event
            await asyncio.sleep(0)
        first, looks = len(ledger.writes), ledger.looks
        await chats.say("ann", "look twice")
        await chats.until(lambda: chats.shown("ann") == ["hello", "done"])
        gateway.stop()
        await serving
        assert ledger.writes[:first][-6:] == [
            "receive", "take", "refreeze", "answer", "take_reply", "settle_reply"
        ]  # fmt: skip
        call = ["plan", "start", "result"]
        assert ledger.writes[first:] == [
            "receive", "take", *call, *call, "answer", "take_reply", "settle_reply"
        ]  # fmt: skip
        assert ledger.looks - looks - len(ledger.writes[first:]) <= READS_MAX
        assert sorted(job.kind for job in ledger._disk.state.jobs.values()) == [REVIEW, REVIEW, TITLE]

    simulate(0, run())
