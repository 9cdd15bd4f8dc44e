"""Agents as the settings have them: started beforehand where they are kept, and not otherwise."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import pytest

from clew.adapters.agents.timing import Breakdown
from clew.bootstrap.agents import AgentsLater
from clew.config.home import Home
from clew.config.settings import AgentSettings, ModelSettings, PoolSettings, Settings
from clew.runtime.metering import Meter
from clew.testing.contracts.agents import Conversation
from tests.unit.tools.bench import started_groups

pytestmark = pytest.mark.anyio


def later(directory: Path, pool: PoolSettings, meter: Meter | None = None) -> AgentsLater:
    pretended = AgentSettings(
        command=sys.executable, args=("-m", "clew.testing.fake_agent", "--log", f"{directory}/agent.log")
    )
    settings = Settings(model=ModelSettings(name="acp:subject"), agents={"subject": pretended}, pool=pool)
    return AgentsLater(
        settings,
        os.environ,
        Home(directory / "home"),
        lambda: started_groups(directory / "owner"),
        meter or Meter(),
    )


def measured(directory: Path) -> list[Breakdown]:
    lines = (directory / "home" / "logs" / "cold-start.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Breakdown) for line in lines]


async def test_the_first_turn_finds_the_agent_that_was_started_beforehand(tmp_path: Path) -> None:
    """One process serves the warming and the turns; what the pool gives costs no start, and that is measured."""
    meter = Meter()
    agents = later(tmp_path, PoolSettings(enabled=True), meter)
    try:
        agents.prewarm(tmp_path)
        for session in ("one", "two"):
            assert (await Conversation(agents, session, tmp_path).say("hello")).strip() == "echo: hello"
    finally:
        await agents.aclose()
        await agents.aclose()
    assert (tmp_path / "agent.log").read_text().count("started") == 1
    first, second = measured(tmp_path)
    assert (first.transport, second.transport) == ("pool", "pool")
    assert second.spawn < first.spawn
    assert 'clew_agent_seconds_count{phase="spawn",transport="pool"} 2' in meter.text()
    own = later(tmp_path, PoolSettings())
    try:
        await Conversation(own, "one", tmp_path).say("hello")
    finally:
        await own.aclose()
    last = measured(tmp_path)[-1]
    assert last.transport == "spawn"
    assert last.spawn > second.spawn


@pytest.mark.parametrize(
    "pool", [PoolSettings(), PoolSettings(enabled=True, prewarm=False)], ids=["off", "cold"]
)
async def test_nothing_is_started_that_is_not_wanted(tmp_path: Path, pool: PoolSettings) -> None:
    """Where agents are not kept, or not warmed, none runs before it is asked."""
    agents = later(tmp_path, pool)
    agents.prewarm(tmp_path)
    await agents.aclose()
    assert not (tmp_path / "agent.log").exists()


async def test_closing_during_a_warming_leaves_nothing(tmp_path: Path) -> None:
    """Clew may end while the agent is still starting."""
    agents = later(tmp_path, PoolSettings(enabled=True))
    agents.prewarm(tmp_path)
    await agents.aclose()
    assert not (tmp_path / "home" / "logs" / "agents.log").exists()
