"""The agent that is pretended keeps what `clew.testing.contracts.agents` asks of every agent."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clew.adapters.agents.agents import AgentOptions, Agents
from clew.adapters.agents.programs import AgentProgram
from clew.testing.contracts.agents import AgentContract
from tests.unit.tools.bench import started_groups

FAKE = AgentProgram(name="subject", command=sys.executable, args=("-m", "clew.testing.fake_agent"))


@pytest.mark.parametrize("pooled", [True, False], ids=["pool", "spawn"], scope="class")
class TestFakeAgent(AgentContract):
    @pytest.fixture
    async def agents(self, tmp_path: Path, pooled: bool) -> AsyncIterator[Agents]:
        directory = tmp_path / "owner"
        agents = Agents(
            AgentOptions(programs={"subject": FAKE}, pooled=pooled),
            os.environ,
            started_groups(directory),
            told=lambda _: None,
            warn=pytest.fail,
        )
        yield agents
        await agents.close()
