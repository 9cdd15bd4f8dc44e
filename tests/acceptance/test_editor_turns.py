"""Prompts of an editor: cancelled in every state, one after the other, side by side, killed, updated under way."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, Script, Served, ServedCall, echo
from tests.acceptance.editing import Editor, Frame, Refused, chosen
from tests.acceptance.test_version_skew import RESTART, UPDATED, Package, migrated

pytestmark = pytest.mark.anyio
NEXT = Served(when="next", text="as if nothing had been")
SHELL = Served(when="go", calls=(ServedCall(name="shell", arguments={"command": "sleep 1000"}),))
ALL_ALLOWED = {"CLEW__APPROVAL__MODE": "all"}


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0)


async def never(method: str, params: Frame) -> Any:
    """Answers nothing, ever."""
    return None


async def dismissed(method: str, params: Frame) -> Any:
    return {"outcome": {"outcome": "cancelled"}}


def is_running(frame: Frame) -> bool:
    return bool(frame.get("params", {}).get("update", {}).get("status") == "in_progress")


def asks(frame: Frame) -> bool:
    return frame.get("method") == "session/request_permission"


Reached = Callable[[Editor, ModelServer, str], Awaitable[object]]
STATES: dict[str, tuple[Served, Reached, dict[str, str]]] = {
    "before anything": (Served(when="go", text="x"), lambda e, s, i: e.until(lambda _: True), {}),
    "before the model": (Served(when="go", silent=True), lambda e, s, i: until(lambda: bool(s.requests)), {}),
    "in the stream": (Served(when="go", deltas=("half",), stalls=True), lambda e, s, i: e.sees(i, "half"), {}),
    "in a tool": (SHELL, lambda e, s, i: e.until(is_running), ALL_ALLOWED),
    "in a question": (SHELL, lambda e, s, i: e.until(asks), {}),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("way", ["session/cancel", "twice", "$/cancel_request"])
async def test_cancelling_ends_in_cancelled(tmp_path: Path, state: str, way: str) -> None:
    """In every state; each announced call has an end, and the next prompt works."""
    step, reached, environ = STATES[state]
    async with ModelServer(Script((step, NEXT), then="last")) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew, asked=never, environ=environ) as editor:
            session = await editor.new()
            answer = await editor.prompting(session, "go")
            await reached(editor, server, session)
            if way == "$/cancel_request":
                await editor.tell("$/cancel_request", requestId=2 + 1)
            else:
                await editor.tell("session/cancel", sessionId=session)
            if way == "twice":
                await editor.tell("session/cancel", sessionId=session)
            assert await editor.result(answer) == {"stopReason": "cancelled"}
            await editor.tell("session/cancel", sessionId=session)
            assert await editor.prompt(session, "next") == "end_turn"
            assert editor.said(session).endswith("as if nothing had been")
            assert announced(editor, session) == ended(editor, session)
            if state == "in a question":
                assert any(frame.get("method") == "$/cancel_request" for frame in editor.frames)


def announced(editor: Editor, session: str) -> set[str]:
    return {u["toolCallId"] for u in editor.updates(session) if u["sessionUpdate"] == "tool_call"}


def ended(editor: Editor, session: str) -> set[str]:
    return {u["toolCallId"] for u in editor.updates(session) if u.get("status") in ("completed", "failed")}


async def test_a_dismissed_question_ends_the_turn(tmp_path: Path) -> None:
    """The editor says that the person closed it: the call does not run, and nothing waits."""
    async with ModelServer(Script((SHELL, NEXT))) as server:
        async with Editor(CommandLine(tmp_path / "home", server.base_url), asked=dismissed) as editor:
            session = await editor.new()
            assert await editor.prompt(session, "go") == "cancelled"
            assert not any(map(is_running, editor.frames))
            assert await editor.prompt(session, "next") == "end_turn"


@pytest.mark.parametrize(
    ("option", "said"), [("no", "refused"), ("session", "made"), ("bogus", "waits for a decision")]
)
async def test_what_the_person_chose_is_what_happens(tmp_path: Path, option: str, said: str) -> None:
    """Refused is refused, once for the session is never asked again, and an answer nobody offered is none."""
    async with ModelServer(echo) as server:
        async with Editor(CommandLine(tmp_path / "home", server.base_url), asked=chosen(option)) as editor:
            session = await editor.new()
            for _ in range(2 if option == "session" else 1):
                assert (
                    await editor.prompt(session, 'go\nCALL_TOOL shell {"command": "echo made"}') == "end_turn"
                )
            assert said in editor.said(session)
            assert sum(map(asks, editor.frames)) == 1


async def test_prompts_have_their_turns_one_after_the_other(tmp_path: Path) -> None:
    """Each is answered under its own request, after its own turn; what waits when it is cancelled is taken back."""
    first = Served(when="first", deltas=("one ", "and a half"), pause_after=1)
    async with ModelServer(Script((first,), then="last")) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew) as editor:
            session = await editor.new()
            answers = [await editor.prompting(session, "first")]
            await editor.sees(session, "one ")
            answers += [await editor.prompting(session, text) for text in ("second", "third")]
            await editor.call("session/list")  # what came before it was taken
            assert not any(answer.done() for answer in answers)
            server.go_on()
            assert [(await editor.result(a))["stopReason"] for a in answers] == ["end_turn"] * 3
            order = [f["id"] for f in editor.frames if f.get("result", {}).get("stopReason")]
            assert order == sorted(order)
    said = [m["content"] for m in msgspec.json.decode(server.requests[-1])["messages"] if m["role"] == "user"]
    assert [str(text if isinstance(text, str) else text[0]["text"]).split("\n")[0] for text in said] == [
        "first", "second", "third",
    ]  # fmt: skip


@pytest.mark.parametrize("way", ["setting", "command"])
async def test_a_prompt_that_joins_is_answered_with_the_turn_it_joined(tmp_path: Path, way: str) -> None:
    """It is in the next request of that turn, after the running tool; neither prompt is answered before the turn's end."""
    os.mkfifo(tmp_path / "gate")
    tool = Served(when="go", calls=(ServedCall(name="shell", arguments={"command": "cat gate"}),))
    async with ModelServer(Script((tool, Served(when="also this", text="both")))) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        environ = {**ALL_ALLOWED, "CLEW__TURN__BUSY": "steer" if way == "setting" else "queue"}
        async with Editor(clew, environ=environ) as editor:
            session = await editor.new()
            first = await editor.prompting(session, "go")
            await editor.until(is_running)
            second = await editor.prompting(session, "also this" if way == "setting" else "/steer also this")
            await editor.call("session/list")
            assert not first.done()
            await asyncio.to_thread((tmp_path / "gate").write_text, "open")
            assert [await editor.result(a) for a in (first, second)] == [{"stopReason": "end_turn"}] * 2
            assert editor.said(session).endswith("both")
    assert len(server.requests) == 2


async def test_a_prompt_that_cuts_is_next(tmp_path: Path) -> None:
    """The turn it cut is answered as cancelled, with what it had shown; then its own runs."""
    stalled = Served(when="go", deltas=("half",), stalls=True)
    async with ModelServer(Script((stalled, Served(when="instead", text="the other")))) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew, environ={"CLEW__TURN__BUSY": "interrupt"}) as editor:
            session = await editor.new()
            first = await editor.prompting(session, "go")
            await editor.sees(session, "half")
            second = await editor.prompting(session, "instead")
            assert await editor.result(first) == {"stopReason": "cancelled"}
            assert await editor.result(second) == {"stopReason": "end_turn"}
            shown = [u["content"]["text"] for u in await editor.load(session)]
    assert shown == ["go", "half", "instead", "the other"]


async def test_two_editors_have_one_session(tmp_path: Path) -> None:
    """A prompt of the second waits for the first one's turn; both loads show the same, once."""
    slow = Served(when="go", deltas=("one ", "and a half"), pause_after=1)
    async with ModelServer(Script((slow, NEXT))) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew) as editor, Editor(clew) as other:
            session = await editor.new()
            first = await editor.prompting(session, "go")
            await editor.sees(session, "one ")
            assert [u["content"]["text"] for u in await other.load(session)] == ["go"]
            second = await other.prompting(session, "next")
            await other.call("session/list")
            server.go_on()
            assert await editor.result(first) == {"stopReason": "end_turn"}
            assert await other.result(second) == {"stopReason": "end_turn"}
            assert await editor.load(session) == await other.load(session)
            assert [u["content"]["text"] for u in await editor.load(session)] == [
                "go", "one and a half", "next", "as if nothing had been",
            ]  # fmt: skip


async def test_a_turn_that_is_stopped_in_the_terminal(tmp_path: Path) -> None:
    """The editor's prompt is answered as cancelled, and what was shown is kept."""
    async with ModelServer(Script((Served(when="go", deltas=("half",), stalls=True), NEXT))) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew) as editor:
            session = await editor.new()
            answer = await editor.prompting(session, "go")
            await editor.sees(session, "half")
            assert "Stopped" in (await clew.run("run", "-s", session, "/stop")).out
            assert await editor.result(answer) == {"stopReason": "cancelled"}
            assert await editor.prompt(session, "next") == "end_turn"


async def test_a_question_nobody_answers_ends_in_time(tmp_path: Path) -> None:
    """The turn gives up waiting when the question expires, says what waits, and the next prompt works."""
    async with ModelServer(Script((SHELL, NEXT))) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew, asked=never, environ={"CLEW__APPROVAL__EXPIRES_SECONDS": "1"}) as editor:
            session = await editor.new()
            assert await editor.prompt(session, "go") == "end_turn"
            assert "waits for a decision" in editor.said(session)
            assert await editor.prompt(session, "next") == "end_turn"


async def test_without_a_model_it_says_what_to_do(tmp_path: Path) -> None:
    """An error that editors know how to show; the setup is offered to those that can run it; nothing was stored."""
    clew = CommandLine(tmp_path / "home")
    async with Editor(clew, capabilities={"auth": {"terminal": True}}) as editor:
        hello = await editor.hello()
        assert [(m["type"], m["args"]) for m in hello["authMethods"]] == [("terminal", ["--setup"])]
        session = await editor.new()
        with pytest.raises(Refused) as refused:
            await editor.prompt(session, "hello")
        assert refused.value.code == -32000
        assert "clew setup" in str(refused.value)
        assert await editor.load(session) == []
    assert (await clew.run("acp", stdin=b"")).code == 0


def test_a_file_is_no_editor(tmp_path: Path) -> None:
    """Nor is nobody: a sentence, not a traceback; nothing is written."""
    clew = CommandLine(tmp_path / "home")
    command = [sys.executable, "-m", "clew", "acp"]
    with Path(os.devnull).open("rb") as nothing, (tmp_path / "out").open("wb") as out:
        for written in (out, subprocess.PIPE):
            ran = subprocess.run(
                command,
                env=clew.environ,
                stdin=nothing,
                stdout=written,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
            assert (ran.returncode, ran.stdout or b"") == (1, b"")
            assert b"speaks through pipes" in ran.stderr
            assert b"inside Clew" not in ran.stderr


async def test_a_session_is_closed_or_deleted_while_it_works(tmp_path: Path) -> None:
    """The prompt ends as cancelled first; a closed one can be loaded again, a deleted one is gone."""
    async with ModelServer(lambda _: Served(deltas=("half",), stalls=True)) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew) as editor:
            session = await editor.new()
            for method in ("session/close", "session/delete"):
                answer = await editor.prompting(session, "go")
                await until(lambda: len(server.requests) > 0 and server.open > 0)
                await editor.call(method, sessionId=session)
                assert await editor.result(answer) == {"stopReason": "cancelled"}
                if method == "session/close":
                    assert len(await editor.load(session)) >= 1
            with pytest.raises(Refused):
                await editor.load(session)


async def test_cancelling_takes_back_what_waits(tmp_path: Path) -> None:
    """All prompts are answered, and the one that waited never runs, also not after a restart."""
    stalled = Served(when="first", deltas=("half",), stalls=True)
    async with ModelServer(Script((stalled, NEXT), then="last")) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew) as editor:
            session = await editor.new()
            first = await editor.prompting(session, "first")
            await editor.sees(session, "half")
            second = await editor.prompting(session, "unwanted words")
            await editor.call("session/list")
            await editor.tell("session/cancel", sessionId=session)
            for answer in (first, second):
                assert await editor.result(answer) == {"stopReason": "cancelled"}
            await editor.leave()
        async with Editor(clew) as editor:
            shown = [u["content"]["text"] for u in await editor.load(session)]
            assert shown == ["first", "half"]
            assert await editor.prompt(session, "next") == "end_turn"
    assert b"unwanted" not in b"".join(server.requests)


async def test_twenty_sessions_at_once_stay_apart(tmp_path: Path) -> None:
    """Each hears its own words only."""
    async with ModelServer(echo) as server:
        async with Editor(CommandLine(tmp_path / "home", server.base_url)) as editor:
            sessions = [await editor.new() for _ in range(20)]
            answers = [await editor.prompting(session, f"marker {session}") for session in sessions]
            for answer in answers:
                assert await editor.result(answer) == {"stopReason": "end_turn"}
            for session in sessions:
                assert editor.said(session) == f"echo: marker {session}"


async def test_commands_are_durable(tmp_path: Path) -> None:
    """/undo, /retry and /new over the editor hold in the next process, loaded under the id that the editor knows."""
    async with ModelServer(echo) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew) as editor:
            session = await editor.new()
            for text in ("keep", "regret", "/undo", "again", "/retry"):
                assert await editor.prompt(session, text) == "end_turn"
            await editor.prompt(session, "/title A name")
            assert {"sessionUpdate": "session_info_update", "title": "A name"} in editor.updates(session)
            await editor.prompt(session, "/nonsense")
            assert "There is no command /nonsense" in editor.said(session)
            await editor.leave()
        async with Editor(clew) as editor:
            shown = [u["content"]["text"] for u in await editor.load(session)]
            assert shown == ["keep", "echo: keep", "again", "echo: again"]
            assert await editor.prompt(session, "/new") == "end_turn"
            assert await editor.prompt(session, "afresh") == "end_turn"
            await editor.leave()
        async with Editor(clew) as editor:
            assert [u["content"]["text"] for u in await editor.load(session)] == ["afresh", "echo: afresh"]
            [listed] = [
                s for s in (await editor.call("session/list"))["sessions"] if s["sessionId"] == session
            ]
            assert listed["title"] == "afresh"
        assert "keep" in (await clew.run("sessions", "show", session)).out


async def test_modes_models_and_directories_are_kept(tmp_path: Path) -> None:
    """What was set holds in the next process; a list can be asked for one directory, page by page."""
    (tmp_path / "elsewhere").mkdir()
    async with ModelServer(echo, models=("scripted-model", "other-model")) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew) as editor:
            session = await editor.new()
            await editor.call("session/set_mode", sessionId=session, modeId="accept-edits")
            found = await editor.call(
                "session/set_config_option", sessionId=session, configId="model", value="other-model"
            )
            values = {option["id"]: option["currentValue"] for option in found["configOptions"]}
            assert values == {"mode": "accept-edits", "model": "other-model"}
            kinds = [u["sessionUpdate"] for u in editor.updates(session)]
            assert "current_mode_update" in kinds
            await editor.prompt(session, "hi")
            fork = (await editor.call("session/fork", sessionId=session, cwd=str(clew.cwd), mcpServers=[]))[
                "sessionId"
            ]
            await editor.leave()
        assert msgspec.json.decode(server.requests[-1])["model"] == "other-model"
        async with Editor(clew) as editor:
            await editor.hello()
            resumed = await editor.call("session/resume", sessionId=session, cwd=str(tmp_path / "elsewhere"))
            assert resumed["modes"]["currentModeId"] == "accept-edits"
            assert editor.said(session) == ""
            assert [u["content"]["text"] for u in await editor.load(fork)] == ["hi", "echo: hi"]
            there = await editor.call("session/list", cwd=str(tmp_path / "elsewhere"))
            assert [s["sessionId"] for s in there["sessions"]] == [session]
            for _ in range(55):
                await editor.new()
            first = await editor.call("session/list")
            second = await editor.call("session/list", cursor=first["nextCursor"])
            ids = [s["sessionId"] for page in (first, second) for s in page["sessions"]]
            assert len(ids) == len(set(ids)) == 57
            with pytest.raises(Refused):
                await editor.call("session/list", cursor="bogus")


async def test_the_editor_leaves_in_mid_turn(tmp_path: Path) -> None:
    """What had been shown is kept, and said to be cut off; the process ends by itself."""
    async with ModelServer([Served(deltas=("half",), stalls=True)]) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew) as editor:
            session = await editor.new()
            await editor.prompting(session, "go")
            await editor.sees(session, "half")
            assert await editor.leave() == 0
        await server.was_abandoned()
        async with Editor(clew) as editor:
            assert [u["content"]["text"] for u in await editor.load(session)] == ["go", "half"]


async def test_sigterm_ends_it_like_leaving(tmp_path: Path) -> None:
    """The turn's end is on disk."""
    async with ModelServer([Served(deltas=("half",), stalls=True)]) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew) as editor:
            session = await editor.new()
            await editor.prompting(session, "go")
            await editor.sees(session, "half")
            editor.process.send_signal(signal.SIGTERM)
            await editor.process.wait()
        assert (await clew.run("run", "-s", session, "/why")).out.count("half") <= 1
        async with Editor(clew) as editor:
            assert [u["content"]["text"] for u in await editor.load(session)] == ["go", "half"]


async def test_the_package_is_replaced_while_it_runs(tmp_path: Path) -> None:
    """The next prompt is refused with the reason and not kept, so that sending it again is not doubling it; code 75."""
    package = Package(tmp_path)
    async with ModelServer(echo) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew, environ=package.environ) as editor:
            session = await editor.new()
            assert await editor.prompt(session, "one") == "end_turn"
            await asyncio.to_thread(package.replaced)
            with pytest.raises(Refused, match=UPDATED):
                await editor.prompt(session, "two")
            assert await editor.process.wait() == RESTART
        await asyncio.to_thread(package.put_back)
        async with Editor(clew, environ=package.environ) as editor:
            assert [u["content"]["text"] for u in await editor.load(session)] == ["one", "echo: one"]
            assert await editor.prompt(session, "two") == "end_turn"
            assert editor.said(session).count("echo: two") == 1


async def test_the_ledger_is_migrated_in_mid_turn(tmp_path: Path) -> None:
    """The prompt is answered with the reason, and the process ends with code 75."""
    async with ModelServer([Served(deltas=("half",), stalls=True)]) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew, environ={"CLEW__TURN__LEASE_SECONDS": "1"}) as editor:
            session = await editor.new()
            answer = await editor.prompting(session, "go")
            await editor.sees(session, "half")
            await asyncio.to_thread(migrated, clew.home, +1)
            with pytest.raises(Refused, match=r"newer Clew|updated"):
                await editor.result(answer)
            assert await editor.process.wait() == RESTART
