"""What surrounds a session in an editor: its files, terminals, tool servers and directories; plans, sound, how long to think."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, Served, ServedCall, echo
from tests.acceptance.editing import Editor, Frame, Refused, call_of
from tests.acceptance.test_compressing import SMALL, TOLD, answering
from tests.acceptance.test_editor_turns import ALL_ALLOWED, never, until
from tests.unit.tools.bench import lives

pytestmark = pytest.mark.anyio
PROGRAM = str(Path(__file__).parents[1] / "integration" / "mcp_program.py")


class Buffers:
    """An editor's files: what is typed and not saved."""

    def __init__(self, **texts: str) -> None:
        self.texts = texts

    async def __call__(self, method: str, params: Frame) -> Any:
        name = Path(params.get("path", "")).name
        if method == "fs/read_text_file":
            return (
                {"content": self.texts[name]}
                if name in self.texts
                else {"error": {"code": -32002, "message": "no"}}
            )
        if method == "fs/write_text_file":
            self.texts[name] = params["content"]
            return {}
        return {"outcome": {"outcome": "selected", "optionId": "once"}}


async def test_text_is_read_and_written_in_the_editor(tmp_path: Path) -> None:
    """Unsaved words are seen and changed there; nothing is written to the disk behind the editor's back."""
    (tmp_path / "note.txt").write_text("saved\n")
    buffers = Buffers(**{"note.txt": "typed, not saved\n"})
    async with ModelServer(echo) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        capabilities = {"fs": {"readTextFile": True, "writeTextFile": True}}
        async with Editor(clew, asked=buffers, capabilities=capabilities) as editor:
            session = await editor.new()
            await editor.prompt(session, 'go\nCALL_TOOL read {"path": "note.txt"}')
            assert "typed, not saved" in editor.said(session)
            edit = {"path": "note.txt", "old_text": "typed", "new_text": "changed"}
            await editor.prompt(session, f"go\nCALL_TOOL edit {json.dumps(edit)}")
            await editor.prompt(session, 'go\nCALL_TOOL write {"path": "new.txt", "text": "made"}')
            await editor.prompt(session, 'go\nCALL_TOOL read {"path": "absent.txt"}')
            assert "the editor says: no" in editor.said(session)
            diffs = [part for u in editor.updates(session) if u["sessionUpdate"] == "tool_call"
                     for part in u.get("content", ()) if part["type"] == "diff"]  # fmt: skip
    assert buffers.texts == {"note.txt": "changed, not saved\n", "new.txt": "made"}
    assert (tmp_path / "note.txt").read_text() == "saved\n"
    assert not (tmp_path / "new.txt").exists()
    assert diffs[0] == {
        "type": "diff",
        "path": str(tmp_path / "note.txt"),
        "oldText": "typed",
        "newText": "changed",
    }


class Terminal:
    """An editor's terminals: real processes, whose output is kept."""

    def __init__(self) -> None:
        self.made: list[Frame] = []
        self.released: list[str] = []
        self._processes: list[asyncio.subprocess.Process] = []

    async def __call__(self, method: str, params: Frame) -> Any:
        match method:
            case "terminal/create":
                self.made.append(params)
                environ = {**os.environ, **{each["name"]: each["value"] for each in params["env"]}}
                started = await asyncio.create_subprocess_exec(
                    params["command"], *params["args"], cwd=params["cwd"], env=environ,
                    stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
                self._processes.append(started)
                return {"terminalId": f"terminal-{len(self._processes) - 1}"}
            case "terminal/wait_for_exit":
                return {"exitCode": max(0, await self._of(params).wait())}
            case "terminal/output":
                process = self._of(params)
                assert process.stdout is not None
                text = (await process.stdout.read()).decode()
                return {"output": text, "truncated": False, "exitStatus": {"exitCode": process.returncode}}
            case "terminal/kill":
                os.killpg(self._of(params).pid, signal.SIGKILL)
                return {}
            case "terminal/release":
                with suppress(ProcessLookupError):  # it has ended
                    os.killpg(self._of(params).pid, signal.SIGKILL)
                self.released.append(params["terminalId"])
                return {}
            case _:
                return {"outcome": {"outcome": "selected", "optionId": "once"}}

    def _of(self, params: Frame) -> asyncio.subprocess.Process:
        return self._processes[int(params["terminalId"].rpartition("-")[2])]


async def test_commands_run_in_the_editors_terminals(tmp_path: Path) -> None:
    """Shown where the call is, kept in the ledger; the directory is kept from one to the next; cancelling ends them."""
    (tmp_path / "inner").mkdir()
    terminal = Terminal()
    async with ModelServer(echo) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew, asked=terminal, capabilities={"terminal": True}) as editor:
            session = await editor.new()
            await editor.prompt(session, call_of("shell", command="cd inner; echo $PAGER; exit 3"))
            assert (
                editor.said(session)
                == f"the tool said: [failed] cat\n[exit code 3]\n[now in {tmp_path}/inner]"
            )
            await editor.prompt(session, call_of("shell", command="touch made"))
            assert (tmp_path / "inner" / "made").exists()
            parts = [
                u["content"]
                for u in editor.updates(session)
                if u["sessionUpdate"] == "tool_call_update" and "content" in u
            ]
            assert parts[0] == parts[1] == [{"type": "terminal", "terminalId": "terminal-0"}]
            answer = await editor.prompting(session, call_of("shell", command="echo $$ > pid; sleep 1000"))
            await until(
                lambda: (
                    (tmp_path / "inner" / "pid").exists() and (tmp_path / "inner" / "pid").read_text() != ""
                )
            )
            await editor.tell("session/cancel", sessionId=session)
            assert await editor.result(answer) == {"stopReason": "cancelled"}
            await until(lambda: not lives(int((tmp_path / "inner" / "pid").read_text())))
            await until(lambda: len(terminal.released) == 3)
            loaded = [u for u in await editor.load(session) if u["sessionUpdate"] == "tool_call_update"]
            assert loaded[0]["rawOutput"]["text"].startswith("cat")
    assert [each["cwd"] for each in terminal.made] == [
        str(tmp_path),
        str(tmp_path / "inner"),
        str(tmp_path / "inner"),
    ]


def servers(who: str, program: str = "") -> list[Frame]:
    arguments = [PROGRAM, *([program] if program else [])]
    return [
        {
            "name": "probe",
            "command": sys.executable,
            "args": arguments,
            "env": [{"name": "WHO", "value": who}],
        }
    ]


async def test_tool_servers_belong_to_their_session(tmp_path: Path) -> None:
    """Two of the same name are two; each ends with its session, and with the editor; one that is broken costs its tools."""
    async with ModelServer(echo) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew, environ=ALL_ALLOWED) as editor:
            sessions = {who: await editor.new(mcpServers=servers(who)) for who in ("anna", "bert")}
            pids = []
            for who, session in sessions.items():
                await editor.prompt(session, 'go\nCALL_TOOL probe__look {"name": "WHO"}')
                assert editor.said(session) == f"the tool said: {who}"
                await editor.prompt(session, "go\nCALL_TOOL probe__pid {}")
                pids.append(int(editor.said(session).rpartition(" ")[2]))
            await editor.call("session/close", sessionId=sessions["anna"])
            assert [lives(pid) for pid in pids] == [False, True]
            absent = {"name": "absent", "command": "/no/such/program", "args": [], "env": []}
            broken = await editor.new(mcpServers=[*servers("carl", "broken"), absent])
            assert await editor.prompt(broken, "hello") == "end_turn"
            problems = editor.said(broken, "agent_thought_chunk")
            assert "the database is missing" in problems
            assert "No such file or directory: /no/such/program" in problems
            async with over_events() as address:
                remote = {"name": "probe", "type": "sse", "url": address, "headers": []}
                there = await editor.new(mcpServers=[remote])
                await editor.prompt(there, 'go\nCALL_TOOL probe__look {"name": "WHO"}')
                assert editor.said(there) == "the tool said: the remote one"
            for wrong in ({"name": "x", "type": "sse", "headers": []}, {"name": "x"}):
                with pytest.raises(Refused):
                    await editor.new(mcpServers=[wrong])
            assert await editor.leave() == 0
        assert [lives(pid) for pid in pids] == [False, False]


async def test_a_prompt_of_images_and_files(tmp_path: Path) -> None:
    """A picture reaches the model, a mentioned file stands as a link, its content is attached; loading shows all of it."""
    picture = (
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    blocks = [
        {"type": "text", "text": "look at "},
        {"type": "resource_link", "name": "a.py", "uri": "file:///x/a.py"},
        {"type": "resource", "resource": {"uri": "file:///x/b.txt", "text": "inside of b"}},
        {"type": "image", "mimeType": "image/png", "data": picture},
    ]
    async with ModelServer([Served(text="seen")]) as server:
        async with Editor(CommandLine(tmp_path / "home", server.base_url)) as editor:
            session = await editor.new()
            await editor.call("session/prompt", sessionId=session, prompt=blocks)
            shown = [
                u["content"] for u in await editor.load(session) if u["sessionUpdate"] == "user_message_chunk"
            ]
            for wrong in ([], [{"type": "text", "text": " "}], [{"type": "audio", "mimeType": "audio/wav", "data": ""}],
                          [{"type": "image", "mimeType": "image/png", "data": "!"}]):  # fmt: skip
                with pytest.raises(Refused):
                    await editor.call("session/prompt", sessionId=session, prompt=wrong)
    request = server.requests[0]
    assert b"look at [@a.py](file:///x/a.py)[@b.txt](file:///x/b.txt)" in request
    assert b"inside of b" in request
    assert picture.encode() in request
    assert [block["type"] for block in shown] == ["text", "resource", "image"]
    assert shown[1]["resource"] == {"uri": "file:///x/b.txt", "mimeType": "text/plain", "text": "inside of b"}


@asynccontextmanager
async def over_events() -> AsyncIterator[str]:
    """The test program as a server of the older transport over HTTP, where it listens; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        PROGRAM,
        "0",
        "sse",
        env={**os.environ, "WHO": "the remote one"},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        while b"running on " not in (line := await process.stderr.readline()):
            assert line, "the server did not start"
        address = line.decode().partition("running on ")[2].split()[0]
        draining = asyncio.create_task(process.stderr.read())
        yield f"{address}/sse"
    finally:
        process.kill()
        await process.wait()
    await draining


async def test_a_session_moves_with_its_editor(tmp_path: Path) -> None:
    """Loaded with another directory, its tools and servers work there, and the model is told so, as an event, once."""
    there, beside = tmp_path / "there", tmp_path / "beside"
    there.mkdir()
    beside.mkdir()
    (beside / "AGENTS.md").write_text("Mind the gap.")
    async with ModelServer(echo) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew, environ=ALL_ALLOWED) as editor:
            session = await editor.new(mcpServers=servers("anna"))
            await editor.prompt(session, "hello")
            for wrong in (["relative"], [str(tmp_path / "absent")], [str(tmp_path / "home" / "clew.db")]):
                with pytest.raises(Refused) as refused:
                    await editor.load(session, there, additionalDirectories=wrong)
                assert refused.value.code == -32602
            before = await editor.load(session)
            given = {"mcpServers": servers("anna"), "additionalDirectories": [str(beside)]}
            assert await editor.load(session, there, **given) == before
            for tool, arguments in (("shell", {"command": "pwd"}), ("probe__where", {})):
                await editor.prompt(session, f"go\nCALL_TOOL {tool} {json.dumps(arguments)}")
                assert editor.said(session).endswith(f"the tool said: {there}")
            answer = await editor.prompting(session, call_of("shell", command="sleep 1000"))
            await editor.until(
                lambda frame: '"sleep 1000"' in json.dumps(frame) and "tool_call" in json.dumps(frame)
            )
            with pytest.raises(Refused, match="cancel it to move"):
                await editor.load(session, beside)
            await editor.tell("session/cancel", sessionId=session)
            assert await editor.result(answer) == {"stopReason": "cancelled"}
            listed = await editor.call("session/list", cwd=str(there))
            assert [found["sessionId"] for found in listed["sessions"]] == [session]
            await editor.leave()
    last = msgspec.json.decode(server.requests[-1])["messages"]
    events = [
        m["content"] for m in last if m["role"] == "user" and '<event kind="moved"' in str(m["content"])
    ]
    assert len(events) == 1
    assert f"works in {there} from here on; before, it was {tmp_path}" in events[0]
    assert "Mind the gap." in last[0]["content"]
    assert str(beside) in last[0]["content"]


async def test_killed_while_a_command_runs_in_the_editors_terminal(tmp_path: Path) -> None:
    """The command, which is the editor's, is ended by the next start; its outcome is said unknown, and it is not repeated."""
    terminal = Terminal()
    async with ModelServer(echo) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew, asked=terminal, capabilities={"terminal": True}) as editor:
            session = await editor.new()
            await editor.prompting(session, call_of("shell", command="echo $$ >> pids; sleep 1000"))
            await until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text() != "")
            os.killpg(editor.process.pid, signal.SIGKILL)
            await editor.process.wait()
        async with Editor(clew, asked=never) as editor:
            calls = [
                u["status"] for u in await editor.load(session) if u["sessionUpdate"].startswith("tool_call")
            ]
            assert calls == ["pending", "failed"]
            await editor.sees(session, "[outcome unknown]")
            assert await editor.prompt(session, "next") == "end_turn"
            [pid] = (tmp_path / "pids").read_text().split()
            await until(lambda: not lives(int(pid)))


async def test_a_plan_is_the_editors_plan(tmp_path: Path) -> None:
    """Each call of it replaces the plan that the editor shows, live and loaded; the terminal shows it as a list."""
    plans = [
        [{"content": "look", "status": "in_progress"}, {"content": "mend", "priority": "high"}],
        [
            {"content": "look", "status": "completed"},
            {"content": "mend", "status": "completed", "priority": "high"},
        ],
    ]
    steps = [Served(calls=(ServedCall(name="plan", arguments={"entries": entries}),)) for entries in plans]
    wrong = Served(calls=(ServedCall(name="plan", arguments={"entries": [{"content": ""}]}),))
    async with ModelServer([*steps, wrong, Served(text="done")]) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew) as editor:
            session = await editor.new()
            assert await editor.prompt(session, "go") == "end_turn"
            live = [
                u
                for u in editor.updates(session)
                if u["sessionUpdate"] in ("plan", "tool_call", "tool_call_update")
            ]
            assert [u["sessionUpdate"] for u in live] == [
                "plan",
                "plan",
                *["tool_call"],
                *["tool_call_update"] * 2,
            ]
            assert live[1]["entries"] == [
                {"content": "look", "priority": "medium", "status": "completed"},
                {"content": "mend", "priority": "high", "status": "completed"},
            ]
            await editor.load(session)
            loaded = [u for u in editor.updates(session) if u["sessionUpdate"] == "plan"]
            assert loaded == [*live[:2], *live[:2]]
    assert "[x] look\n[x] mend" in msgspec.json.decode(server.requests[-1])["messages"][-3]["content"]


async def test_how_long_to_think_is_a_setting_of_the_session(tmp_path: Path) -> None:
    """Offered where the model can be told; set in the editor or by /effort; kept, and sent with each request."""
    async with ModelServer(echo, models=("gpt-oss-20b", "scripted-model")) as server:
        clew = CommandLine(tmp_path / "home", server.base_url, model="gpt-oss-20b")

        def sent() -> Any:
            return msgspec.json.decode(server.requests[-1]).get("reasoning_effort")

        def value(found: Frame) -> str | None:
            return next(
                (o["currentValue"] for o in found["configOptions"] if o.get("category") == "thought_level"),
                None,
            )

        async def told(editor: Editor, wanted: str | None) -> None:
            """Waits until the last that the editor was told is this."""

            def newest(_: Frame) -> bool:
                shown = [u for u in editor.updates(session) if u["sessionUpdate"] == "config_option_update"]
                return bool(shown) and value(shown[-1]) == wanted

            await editor.until(newest)

        async with Editor(clew) as editor:
            session = await editor.new()
            await told(editor, "default")
            await editor.prompt(session, "one")
            assert sent() is None
            choice = {"sessionId": session, "configId": "effort"}
            assert value(await editor.call("session/set_config_option", **choice, value="high")) == "high"
            await editor.prompt(session, "two")
            assert sent() == "high"
            await editor.prompt(session, "/effort low")
            await told(editor, "low")
            with pytest.raises(Refused):
                await editor.call("session/set_config_option", **choice, value="bogus")
            await editor.leave()
        async with Editor(clew) as editor:
            await editor.load(session)
            await told(editor, "low")
            await editor.prompt(session, "three")
            assert sent() == "low"
            found = await editor.call(
                "session/set_config_option", sessionId=session, configId="model", value="scripted-model"
            )
            assert value(found) is None
            await editor.prompt(session, "four")
            assert sent() is None
            with pytest.raises(Refused, match="cannot be told how long to think"):
                await editor.call("session/set_config_option", **choice, value="low")


async def test_sound_reaches_a_model_that_hears(tmp_path: Path) -> None:
    """It is sent, kept and shown again; a model that hears nothing is not sent it, and the person is told."""
    sound = {"type": "audio", "mimeType": "audio/wav", "data": "UklGRg=="}
    async with ModelServer(
        [Served(text="heard")], models=("gpt-4o-audio-preview", "scripted-model")
    ) as server:
        clew = CommandLine(tmp_path / "home", server.base_url, model="gpt-4o-audio-preview")
        async with Editor(clew) as editor:
            session = await editor.new()
            await editor.call("session/prompt", sessionId=session, prompt=[sound])
            assert editor.said(session) == "heard"
            assert (await editor.load(session))[0]["content"] == sound
            await editor.prompt(session, "/model scripted-model")
            for wrong in (sound, {**sound, "data": "!"}, {**sound, "mimeType": "text/plain"}):
                with pytest.raises(Refused) as refused:
                    await editor.call("session/prompt", sessionId=session, prompt=[wrong])
                assert refused.value.code == -32602
            assert (
                len([u for u in await editor.load(session) if u["sessionUpdate"] == "user_message_chunk"])
                == 1
            )
    [request] = server.requests
    assert {
        "type": "input_audio",
        "input_audio": {"data": "UklGRg==", "format": "wav"},
    } in msgspec.json.decode(request)["messages"][-1]["content"]


async def test_compactions_are_shown_as_such(tmp_path: Path) -> None:
    """To an editor that knows them, by their id, with the summary; to another one as a line beside the answer."""

    def shown(editor: Editor) -> list[Frame]:
        return [u for u in editor.updates(session) if u["sessionUpdate"] == "compaction_update"]

    async with ModelServer(answering) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        capable: Frame = {"session": {"compaction": {}}}
        async with Editor(clew, environ=SMALL, capabilities=capable) as editor:
            session = await editor.new()
            while not shown(editor):
                assert len(server.requests) < 30
                assert await editor.prompt(session, TOLD) == "end_turn"
            first, whole = shown(editor)[0], shown(editor)[-1]
            assert first == {
                "sessionUpdate": "compaction_update",
                "compactionId": whole["compactionId"],
                "status": "completed",
            }
            assert "planted notes" in whole["summary"][0]["text"]
            count = len(shown(editor))
            await editor.prompt(session, "/expand")
            assert len(shown(editor)) == count
            await editor.prompt(session, "/compress")
            assert shown(editor)[-1]["compactionId"] != whole["compactionId"]
        async with Editor(clew, environ=SMALL) as editor:
            await editor.load(session)
            while "Summarised" not in editor.said(session, "agent_thought_chunk"):
                assert len(server.requests) < 60
                await editor.prompt(session, TOLD)
            assert shown(editor) == []
