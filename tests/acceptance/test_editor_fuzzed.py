"""An editor that sends whatever comes to its mind."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clew.testing.command_line import CommandLine
from tests.acceptance.editing import Editor
from tests.unit.wire.test_jsonrpc import JSON, LINE

pytestmark = pytest.mark.anyio
LINES = 10_000


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
THE_SESSION = "@session@"
"""Stands for the id of the only one there is."""
META = st.sampled_from([{}, {"_meta": {"sessionId": THE_SESSION}}])
ALMOST = st.builds(
    lambda method, params, meta, number: json.dumps(
        {"jsonrpc": "2.0", "id": f"fuzz-{number}", "method": method, "params": {**params, **meta}}
    ).encode(),
    METHODS,
    st.dictionaries(NAMES, JSON, max_size=4),
    META,
    st.integers(0, 10**9),
)
SENT = (LINE | ALMOST).filter(lambda line: b"\n" not in line)


@pytest.mark.timeout(240)
async def test_ten_thousand_lines_of_anything(clew: CommandLine) -> None:
    """Malformed, of the wrong type, nearly right, with the session's id where it says nothing: the process lives,
    answers, and no session was touched."""
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
                await editor.send(line.replace(THE_SESSION.encode(), session.encode()))
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
