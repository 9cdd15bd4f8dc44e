"""Editors that are not ours, unmodified; and one that sends whatever comes to its mind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import acp
import pytest
from acp import schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, echo
from tests.acceptance.editing import Editor
from tests.unit.wire.test_jsonrpc import JSON, LINE

pytestmark = pytest.mark.anyio
LINES = 10_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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


METHODS = st.sampled_from([
    "initialize", "authenticate", "session/list", "session/load", "session/resume", "session/prompt", "session/delete",
    "session/close", "session/set_mode", "session/set_config_option", "session/cancel", "$/cancel_request", "logout", "_x",
])  # fmt: skip
NAMES = st.sampled_from(
    [
        "sessionId",
        "cwd",
        "mcpServers",
        "prompt",
        "modeId",
        "configId",
        "value",
        "cursor",
        "_meta",
        "requestId",
    ]
)
ALMOST = st.builds(
    lambda method, params, number: json.dumps(
        {"jsonrpc": "2.0", "id": f"fuzz-{number}", "method": method, "params": params}
    ).encode(),
    METHODS,
    st.dictionaries(NAMES, JSON, max_size=4),
    st.integers(0, 10**9),
)
SENT = (LINE | ALMOST).filter(lambda line: b"\n" not in line)


@pytest.mark.timeout(240)
async def test_ten_thousand_lines_of_anything(clew: CommandLine) -> None:
    """Malformed, of the wrong type, nearly right: the process lives, answers, and no session was touched."""
    lines: list[bytes] = []

    @settings(max_examples=LINES // 20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(SENT, min_size=20, max_size=20))
    def collect(some: list[bytes]) -> None:
        lines.extend(some)

    collect()
    assert len(lines) >= LINES
    async with Editor(clew) as editor:
        session = await editor.new()
        await editor.prompt(session, "before")
        for start in range(0, len(lines), 500):
            for line in lines[start : start + 500]:
                await editor.send(line)
            await editor.call("session/list")  # what came before it was read
        assert await editor.prompt(session, "after") == "end_turn"
        said = [u["content"]["text"] for u in await editor.load(session)]
        listed = (await editor.call("session/list"))["sessions"]
        codes = {f["error"]["code"] for f in editor.frames if "error" in f}
        assert await editor.leave() == 0
    assert said == ["before", "echo: before", "after", "echo: after"]
    assert [found["sessionId"] for found in listed] == [session]
    assert codes <= {-32700, -32600, -32601, -32602, -32002, -32800}
    assert {-32700, -32600, -32601, -32602} <= codes
