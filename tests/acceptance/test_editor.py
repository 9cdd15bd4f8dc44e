"""`clew acp` as an editor uses it: a real process, a real model server, every frame held against the official schema."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, Script, Served, ServedCall
from tests.acceptance.editing import Editor, Refused, call_of, chosen

pytestmark = pytest.mark.anyio
ALL_ALLOWED = {"CLEW__APPROVAL__MODE": "all"}


async def test_a_session_is_the_same_everywhere(clew: CommandLine) -> None:
    """Begun in an editor, it is listed, carried on in the terminal, and loaded again with all of it, once, in order."""
    async with Editor(clew, asked=chosen("once")) as editor:
        session = await editor.new()
        assert await editor.prompt(session, "hello") == "end_turn"
        assert (
            await editor.prompt(session, call_of("shell", command="echo made | tee made.txt")) == "end_turn"
        )
        assert editor.said(session) == "echo: hellothe tool said: made"
        kinds = [u["sessionUpdate"] for u in editor.updates(session)]
        assert kinds[0] == "available_commands_update"
        offered = {each["name"] for each in editor.updates(session)[0]["availableCommands"]}
        assert "memory" in offered
        assert not offered & {"temporary", "background"}, "what an editor would always be refused"
        assert {"tool_call", "tool_call_update", "usage_update", "session_info_update"} <= set(kinds)
        assert await editor.leave() == 0
    assert (clew.cwd / "made.txt").read_text() == "made\n"
    ran = await clew.run("run", "--session", session, "--json", "and here")
    assert (ran.code, ran.json["session"]) == (0, session)
    assert [row["surface"] for row in (await clew.run("sessions", "list", "--json")).json] == ["acp"]
    async with Editor(clew) as editor:
        first = await editor.load(session)
        again = await editor.load(session)
    assert first == again
    shown = [(u["sessionUpdate"], u.get("content", {}).get("text") if u["sessionUpdate"].endswith("chunk") else u["status"])
             for u in first]  # fmt: skip
    assert shown == [
        ("user_message_chunk", "hello"),
        ("agent_message_chunk", "echo: hello"),
        ("user_message_chunk", call_of("shell", command="echo made | tee made.txt")),
        ("tool_call", "pending"),
        ("tool_call_update", "completed"),
        ("agent_message_chunk", "the tool said: made"),
        ("user_message_chunk", "and here"),
        ("agent_message_chunk", "echo: and here"),
    ]


async def test_nothing_that_is_sent_ends_the_process(clew: CommandLine) -> None:
    """Each line gets its error; the next request is answered as if nothing had been."""
    lines = [
        b"[]",
        b"42",
        b"null",
        b"not json",
        b'{"half',
        b"[" * 100_000,
        b"\xff\xfe",
        b"",
        b'{"jsonrpc":"2.0","id":"x"}',
    ]
    async with Editor(clew) as editor:
        session = await editor.new()
        for line in lines:
            await editor.send(line)
        with pytest.raises(Refused) as unknown:
            await editor.call("session/nothing")
        assert unknown.value.code == -32601
        odds: tuple[dict[str, Any], ...] = (
            {},
            {"sessionId": 7, "prompt": []},
            {"sessionId": session, "prompt": "text"},
        )
        for odd in odds:
            with pytest.raises(Refused) as wrong:
                await editor.call("session/prompt", **odd)
            assert wrong.value.code == -32602
        assert await editor.prompt(session, "still here") == "end_turn"
        errors = [f["error"]["code"] for f in editor.frames if "error" in f and f["id"] in (None, "x")]
        assert errors == [-32600, -32600, -32600, -32700, -32700, -32700, -32700, -32600]
        assert await editor.leave() == 0


STRAY = """
import os, signal

def stray(*_):
    print("a library's word", flush=True)
    os.system("echo the word of a program; cat")
    os.write(1, b"a word of C\\n")

signal.signal(signal.SIGUSR1, stray)
"""


async def test_what_is_printed_in_the_process_is_no_frame(clew: CommandLine) -> None:
    """By a library, a program it starts, or code in C: it goes to standard error, and takes nothing from the editor."""
    (clew.cwd / "sitecustomize.py").write_text(STRAY)
    async with Editor(clew, environ={"PYTHONPATH": str(clew.cwd)}) as editor:
        session = await editor.new()
        os.kill(editor.process.pid, signal.SIGUSR1)
        assert editor.process.stderr is not None
        printed = [await asyncio.wait_for(editor.process.stderr.readline(), 30) for _ in range(3)]
        assert printed == [b"a library's word\n", b"the word of a program\n", b"a word of C\n"]
        assert await editor.prompt(session, "still here") == "end_turn"
        assert await editor.leave() == 0


async def test_meta_decides_nothing(clew: CommandLine) -> None:
    """A prompt runs in the session its parameters name, whatever `_meta` says."""
    async with Editor(clew) as editor:
        mine, other = await editor.new(), await editor.new()
        meta = {"sessionId": other, "session_id": other}
        text = [{"type": "text", "text": "where", "_meta": meta}]
        await editor.call("session/prompt", sessionId=mine, prompt=text, _meta=meta)
        assert editor.said(mine) == "echo: where"
        assert editor.said(other) == ""


@pytest.mark.parametrize("cwd", ["relative", "/nowhere/at/all", ""])
async def test_a_session_needs_a_directory(clew: CommandLine, cwd: str) -> None:
    """A wrong one is an error of the parameters, and no session is left of it."""
    async with Editor(clew) as editor:
        await editor.hello()
        with pytest.raises(Refused) as wrong:
            await editor.call("session/new", cwd=cwd, mcpServers=[])
        assert wrong.value.code == -32602
        assert (await editor.call("session/list"))["sessions"] == []


async def test_ids_nobody_knows_are_errors(clew: CommandLine) -> None:
    """Nothing is opened, guessed or answered in their place; what is gone already can be deleted again."""
    where = {"cwd": str(clew.cwd), "mcpServers": []}
    async with Editor(clew) as editor:
        session = await editor.new()
        nowhere: list[tuple[str, dict[str, Any]]] = [
            ("session/load", where),
            ("session/resume", where),
            ("session/fork", where),
            ("session/prompt", {"prompt": [{"type": "text", "text": "x"}]}),
            ("session/close", {}),
            ("session/delete", {}),
            ("session/set_mode", {"modeId": "all"}),
        ]
        for method, more in nowhere:
            with pytest.raises(Refused) as unknown:
                await editor.call(method, sessionId="nobody", **more)
            assert unknown.value.code == -32002
        bogus: list[tuple[str, dict[str, Any]]] = [
            ("session/set_mode", {"sessionId": session, "modeId": "bogus"}),
            ("session/set_config_option", {"sessionId": session, "configId": "bogus", "value": "x"}),
            ("authenticate", {"methodId": "bogus"}),
        ]
        for method, parameters in bogus:
            with pytest.raises(Refused) as wrong:
                await editor.call(method, **parameters)
            assert wrong.value.code == -32602
        for _ in range(2):
            assert await editor.call("session/delete", sessionId=session) == {}
        with pytest.raises(Refused):
            await editor.load(session)
        elsewhere = (await clew.run("run", "--json", "hello")).json["session"]
        for _ in range(2):
            assert await editor.call("session/delete", sessionId=elsewhere) == {}


async def test_checking_shows_what_an_editor_would_see(clew: CommandLine) -> None:
    """A whole conversation, whose session is gone afterwards; without an answer it fails, and says why."""
    ran = await clew.run("acp", "--check")
    assert ran.code == 0
    for seen in ("-> initialize", "-> session/new", '"agent_message_chunk"', '"stopReason":"end_turn"'):
        assert seen in ran.out
    assert (await clew.run("sessions", "list", "--json")).json == []
    async with ModelServer(lambda _: Served(status=400, message="out of order")) as broken:
        ran = await clew.run("acp", "--check", environ={"CLEW_BASE_URL": broken.base_url})
    assert ran.code == 1
    assert "<- error -32603" in ran.out
    assert "out of order" in ran.out


async def test_kill_in_mid_prompt_and_load(tmp_path: Path) -> None:
    """Up to the last committed step all is there, once, in order; the turn goes on, and the killed call is said unknown."""
    steps = (
        Served(when="go", text="first", calls=(ServedCall(name="shell", arguments={"command": "echo one >> ran.txt"}),)),
        Served(when="", text="second", calls=(ServedCall(name="shell", arguments={"command": "echo two >> ran.txt; sleep 1000"}),)),
        Served(text="went on"),
    )  # fmt: skip
    async with ModelServer(Script(steps, then="last")) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew, environ=ALL_ALLOWED) as editor:
            session = await editor.new()
            await editor.prompting(session, "go")
            await editor.until(
                lambda f: _status(f) == "in_progress" and f["params"]["update"]["toolCallId"].endswith("-2-0")
            )
            os.killpg(editor.process.pid, signal.SIGKILL)
            await editor.process.wait()
        async with Editor(clew, environ=ALL_ALLOWED) as editor:
            before = await editor.load(session)
            texts = [u["content"]["text"] for u in before if u["sessionUpdate"].endswith("message_chunk")]
            assert texts == ["go", "first", "second"]
            calls = [
                (u["sessionUpdate"], u["status"]) for u in before if u["sessionUpdate"].startswith("tool")
            ]
            assert calls == [("tool_call", "pending"), ("tool_call_update", "completed"),
                             ("tool_call", "pending"), ("tool_call_update", "failed")]  # fmt: skip
            assert "whether it took effect is not known" in str(before[-1])
            await editor.sees(session, "went on")
            assert await editor.prompt(session, "next") == "end_turn"
            await editor.leave()
    assert (tmp_path / "ran.txt").read_text() in ("one\n", "one\ntwo\n")


def _status(frame: dict[str, object]) -> object:
    params = frame.get("params")
    update = params.get("update", {}) if isinstance(params, dict) else {}
    return update.get("status") if isinstance(update, dict) else None
