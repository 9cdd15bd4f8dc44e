"""A long conversation of an editor that can do everything, each frame of both sides held against the official schema."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, Served, ServedCall
from tests.acceptance.editing import Editor, Frame, check, update
from tests.acceptance.frame_order import check_order
from tests.acceptance.test_editor_turns import asks, is_running
from tests.acceptance.test_editor_world import Buffers, Terminal, servers

pytestmark = pytest.mark.anyio
CAPABILITIES: Frame = {
    "fs": {"readTextFile": True, "writeTextFile": True},
    "terminal": True,
    "session": {"compaction": {}, "notices": {}},
}
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
PLAN = {"entries": [{"content": "look", "status": "in_progress"}]}
KINDS = {
    "user_message_chunk", "agent_message_chunk", "agent_thought_chunk", "tool_call", "tool_call_update", "plan",
    "usage_update", "session_info_update", "available_commands_update", "current_mode_update", "config_option_update",
    "compaction_update", "notice",
}  # fmt: skip
"""Every update of the stable schema that an agent without elicitation sends, but for chunks of summaries: ours are whole."""


def call(name: str, /, **arguments: object) -> ServedCall:
    return ServedCall(name=name, arguments=arguments)


STEPS = {
    "everything": Served(
        thinking="hm", text="I look.",
        calls=(
            call("plan", **PLAN), call("read", path="note.txt"), call("edit", path="note.txt", old_text="typed", new_text="changed"),
            call("shell", command="echo made"), call("probe__look", name="WHO"), call("nothing_of_this_name"),
        ),
    ),
    "refuse me": Served(calls=(call("shell", command="touch never"),)),
    "run on": Served(calls=(call("shell", command="sleep 1000"),)),
    "stream": Served(deltas=("half",), stalls=True),
    "break": Served(status=400, message="out of order"),
}  # fmt: skip


def answering(body: Any) -> Served:
    if "You write the notes" in str(body["messages"][0]):
        return Served(text="## Goal\nnotes")
    last = body["messages"][-1]
    said = json.dumps(last["content"])
    asked = (
        next((step for words, step in STEPS.items() if f'"{words}' in said), None)
        if last["role"] == "user"
        else None
    )
    return asked or Served(text="so be it. " * 40)


class Desk:
    """An editor with files and terminals, and a person at it who refuses a command that touches."""

    def __init__(self) -> None:
        self._files = Buffers(**{"note.txt": "typed, not saved\n"})
        self._terminal = Terminal()

    async def __call__(self, method: str, params: Frame) -> Any:
        if method == "session/request_permission":
            option = "no" if "touch" in params["toolCall"]["title"] else "once"
            return {"outcome": {"outcome": "selected", "optionId": option}}
        return await (self._files if method.startswith("fs/") else self._terminal)(method, params)


async def test_a_long_conversation(tmp_path: Path) -> None:
    """Every kind of update, every method; loads replay before they answer, every announced call ends, nothing is unasked."""
    (tmp_path / "note.txt").write_text("saved\n")
    async with ModelServer(answering) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew, asked=Desk(), capabilities=CAPABILITIES) as editor:
            session = await editor.new(mcpServers=servers("anna"))
            blocks = [
                {"type": "text", "text": "everything"},
                {"type": "resource_link", "name": "a.py", "uri": "file:///x/a.py"},
                {"type": "resource", "resource": {"uri": "file:///x/b.txt", "text": "inside of b"}},
                {"type": "image", "mimeType": "image/png", "data": PICTURE},
            ]
            await editor.call("session/prompt", sessionId=session, prompt=blocks)
            for words, state in (
                ("run on", is_running),
                ("stream", None),
                ("refuse me", None),
                ("break", None),
            ):
                before = len(editor.frames)
                answer = await editor.prompting(session, words)
                if state is not None:
                    await editor.until(lambda _, n=before: any(map(is_running, editor.frames[n:])))  # type: ignore[misc]
                if words == "stream":
                    await editor.sees(session, "half")
                if words in ("run on", "stream"):
                    await editor.tell("session/cancel", sessionId=session)
                frame = await asyncio.wait_for(answer, 30)
                if words == "break":
                    assert frame["error"]["code"] == -32603
            await editor.call("session/set_mode", sessionId=session, modeId="all")
            await editor.call("session/set_config_option", sessionId=session, configId="mode", value="ask")
            for words in (
                "/title A name",
                "/status",
                "/nonsense",
                "and",
                "so",
                "on",
                "/compress",
                "/undo",
                "/retry",
            ):
                await editor.prompt(session, words)
            fork = await editor.call("session/fork", sessionId=session, cwd=str(tmp_path), mcpServers=[])
            await editor.prompt(fork["sessionId"], "beside")
            await editor.call("session/list", cwd=str(tmp_path))
            await editor.call("session/close", sessionId=session)
            await editor.call("session/resume", sessionId=session, cwd=str(tmp_path), mcpServers=[])
            assert await editor.load(session) == await editor.load(session)
            await editor.call("session/delete", sessionId=fork["sessionId"])
            await editor.leave()
        async with Editor(clew, asked=Desk(), capabilities=CAPABILITIES) as editor_again:
            held = await editor_again.load(session)
            assert held == await editor_again.load(session)
            assert await editor_again.prompt(session, "/expand") == "end_turn"
            await editor_again.leave()
        assert not (tmp_path / "never").exists()
    for log in (editor.log, editor_again.log):
        check_order(log)
        for direction, frame in log:
            if direction == "sent" and "method" in frame and frame["method"] != "session/fork":
                check(frame["params"], frame["method"])
    seen = {
        update(frame)["sessionUpdate"] for frame in editor.frames if frame.get("method") == "session/update"
    }
    assert seen == KINDS
    assert sum(map(asks, editor.frames)) >= 3
    assert "taken back" in editor_again.said(session)
