"""What memory costs whoever leaves a session: nothing that can be told apart."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest

from clew.adapters.stores.sqlite import open_ledger
from clew.domain.memory.facts import EXTRACT
from clew.testing.world import HandClock, World, command, exchange
from tests.unit.memory.minds import Mind

pytestmark = pytest.mark.anyio
PAIRS = 40


async def test_a_new_session_waits_for_no_memory(tmp_path: Path) -> None:
    """Each /new with memory beside one without, over real files: at most 5 ms between them, and every job was kept."""
    plain = await open_ledger(tmp_path / "plain", HandClock())
    remembering = await open_ledger(tmp_path / "remembering", HandClock())
    without, with_ = Mind(plain).world, Mind(remembering, seed=1).world
    without.services = World(plain, without.model._script).services
    differences = []
    try:
        talks = (without.talk(), with_.talk())
        for _ in range(PAIRS):
            took = []
            for talk in talks:
                await exchange(talk, "I drink tea")
                began = time.perf_counter()
                await command(talk, "/new")
                took.append(time.perf_counter() - began)
            differences.append(took[1] - took[0])
        assert len(await remembering.due_jobs(EXTRACT, None, with_.clock.now_ms())) == PAIRS
        assert await plain.due_jobs(EXTRACT, None, without.clock.now_ms()) == ()
    finally:
        await plain.close()
        await remembering.close()
    assert statistics.median(differences) < 0.005
