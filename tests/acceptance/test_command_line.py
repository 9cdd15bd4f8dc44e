"""`clew run` as scripts use it: real processes, a real server, exit codes and JSON that are promises."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, Served, ServedCall

pytestmark = pytest.mark.anyio


def bodies(server: ModelServer) -> list[Any]:
    """The requests the server was sent."""
    return [msgspec.json.decode(body) for body in server.requests]


def said(body: Any) -> list[str]:
    """The first words of each message of a request, without the system prompt."""
    return [_first(message["content"]) for message in body["messages"] if message["role"] != "system"]


def _first(content: Any) -> str:
    return content if isinstance(content, str) else str(content[0]["text"])


async def test_a_message_is_answered_and_the_next_one_goes_on(clew: CommandLine, server: ModelServer) -> None:
    """The second request holds the whole history, the first one's messages as its prefix."""
    first = await clew.run("run", "hi")
    assert first.code == 0
    assert first.out.startswith("echo: hi")
    second = await clew.run("run", "--continue", "and?", "--json")
    assert second.code == 0
    assert second.json["status"] == "done"
    assert second.json["usage"]["output"] > 0
    before, after = bodies(server)
    assert after["messages"][: len(before["messages"])] == before["messages"]
    assert said(after)[0] == "hi"
    assert said(after)[2] == "and?"


async def test_what_was_undone_is_in_no_later_request_whatever_is_killed(
    clew: CommandLine, server: ModelServer
) -> None:
    """The answer "undone" is given after the commit, so a kill right behind it changes nothing."""
    session = (await clew.run("run", "--json", "keep")).json["session"]
    await clew.run("run", "--session", session, "regret")
    process = await clew.start("run", "--session", session, "/undo")
    assert process.stdout is not None
    assert b"Undone" in await process.stdout.readline()
    process.kill()
    await process.wait()
    await clew.run("run", "--session", session, "next")
    assert said(bodies(server)[-1])[::2] == ["keep", "next"]


async def test_redo_brings_it_back(clew: CommandLine, server: ModelServer) -> None:
    """As long as nothing else was said."""
    session = (await clew.run("run", "--json", "one")).json["session"]
    await clew.run("run", "-s", session, "two")
    await clew.run("run", "-s", session, "/undo")
    assert (await clew.run("run", "-s", session, "/redo")).code == 0
    await clew.run("run", "-s", session, "three")
    assert said(bodies(server)[-1])[::2] == ["one", "two", "three"]


async def test_retry_sends_the_last_message_once_with_its_attachment(
    clew: CommandLine, server: ModelServer
) -> None:
    """The same request again."""
    note = clew.cwd / "note.txt"
    note.write_text("attached words")
    session = (await clew.run("run", "--json", "--file", str(note), "look")).json["session"]
    retried = await clew.run("run", "-s", session, "/retry")
    assert retried.code == 0
    first, second = bodies(server)
    assert first["messages"] == second["messages"]
    assert "attached words" in str(second["messages"])


async def test_standard_input_is_a_message(clew: CommandLine, server: ModelServer) -> None:
    """Its last line break is not part of it; invalid bytes are said."""
    assert (await clew.run("run", stdin=b"from a pipe\n")).out.startswith("echo: from a pipe")
    odd = await clew.run("run", "-", stdin=b"caf\xe9 \x00")
    assert odd.code == 0
    assert "not valid UTF-8" in odd.err
    assert said(bodies(server)[-1]) == ["caf\ufffd \x00"]


async def test_a_call_nobody_can_approve_waits_and_names_the_command(clew: CommandLine) -> None:
    """Exit code 3; that command then lets the turn go on."""
    waiting = await clew.run(
        "run", "--json", 'please\nCALL_TOOL shell {"command": "echo approved-$((40+2))"}'
    )
    assert waiting.code == 3, waiting
    assert waiting.json["status"] == "refused"
    plain = await clew.run("run", "-s", waiting.json["session"], "/why")
    assert "waits for /approve" in plain.out
    done = await clew.run("run", "-s", waiting.json["session"], "/approve")
    assert done.code == 0
    assert "approved-42" in done.out


@pytest.mark.parametrize(
    ("served", "words", "code"),
    [
        (Served(status=401, message="no"), "key", 1),
        (Served(status=404, message="no such model"), "model", 1),
        (Served(status=400, message="maximum context length is 10 tokens"), "", 1),
    ],
)
async def test_a_failure_is_one_sentence_and_the_session_goes_on(
    tmp_path: Path, served: Served, words: str, code: int
) -> None:
    """Said, recorded, and the next message works."""
    async with ModelServer([served, Served(text="fine")]) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        failed = await clew.run("run", "--json", "hello")
        assert failed.code == code, failed
        assert words in failed.json["error"]["message"]
        assert "sk-test-key" not in failed.out + failed.err
        shown = await clew.run("run", "-s", failed.json["session"], "/why")
        assert "failed" in shown.out
        assert (await clew.run("run", "-s", failed.json["session"], "/retry")).out == "fine\n"


async def test_broken_calls_are_answered_and_the_turn_ends_well(tmp_path: Path) -> None:
    """Broken JSON, an unknown tool, the same id every time."""
    script = [
        Served(calls=(ServedCall(name="read", arguments='{"path": ', id="x"),)),
        Served(calls=(ServedCall(name="no_such_tool", id="x"),)),
        Served(text="done"),
    ]
    async with ModelServer(script) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        ran = await clew.run("run", "--json", "go")
        assert ran.code == 0, ran
        assert ran.json["text"] == "done"
        assert len({call["id"] for call in ran.json["tool_calls"]}) == 2


async def test_interrupting_keeps_what_was_shown(tmp_path: Path) -> None:
    """Exit code 130; the next request says that the reply was cut."""
    script = [Served(deltas=("half an answer",), stalls=True), Served(text="ok")]
    async with ModelServer(script) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        process = await clew.start("run", "hi")
        assert process.stdout is not None
        await process.stdout.readexactly(len("half an answer"))
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 20) == 130
        again = await clew.run("run", "-c", "--json", "next")
        assert again.json["text"] == "ok"
        assert "half an answer" in str(bodies(server)[-1])


async def test_kill_nine_in_mid_turn_leaves_a_usable_session(tmp_path: Path) -> None:
    """The person's message is there, and answered by the next process before its own."""
    script = [Served(deltas=("never finished",), stalls=True), Served(text="late"), Served(text="ok")]
    async with ModelServer(script) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        process = await clew.start("run", "precious words")
        assert process.stdout is not None
        await process.stdout.readexactly(5)
        process.kill()
        await process.wait()
        again = await clew.run("run", "-c", "--json", "still there?")
        assert again.json["text"] == "ok"
        assert "late" in str(bodies(server)[-1])
        assert said(bodies(server)[-1]) == ["precious words", "late", "still there?"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "-s", "nowhere", "hi"), 2, "no session"),
        (("run", "-c", "hi"), 2, "no session to continue"),
        (("run", "-c", "-s", "x", "hi"), 2, "either"),
        (("run", "   "), 2, "empty"),
        (("run", "--file", "missing.txt", "hi"), 2, "not a file"),
        (("run", "/undo"), 2, "no session yet"),
        (("run", "/nonsense"), 2, "no command"),
        (("sessions", "show", "abc"), 2, "no session"),
        (("sessions", "tree"), 2, "no sessions"),
        (("sessions", "delete", "abc", "--yes"), 2, "no session"),
        (("config", "set", "turn.max_step", "3"), 2, "turn.max_steps"),
    ],
)
async def test_a_mistake_is_one_sentence_and_a_code(
    clew: CommandLine, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """No traceback, nothing on standard output."""
    ran = await clew.run(*arguments)
    assert ran.code == code, ran
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


async def test_ten_megabytes_are_one_message(clew: CommandLine, server: ModelServer) -> None:
    """Stored and sent whole, to a model whose window holds it."""
    big = b"word " * 2_000_000
    roomy = {"CLEW__MODEL__CONTEXT_WINDOW": "20000000"}
    ran = await clew.run("run", "--json", "-", stdin=big, environ=roomy)
    assert ran.code == 0
    assert said(bodies(server)[-1])[0] == big.decode()


async def test_events_come_one_a_line(clew: CommandLine) -> None:
    """The last line is the object of --json."""
    ran = await clew.run("run", "--stream-json", "hi")
    lines = [msgspec.json.decode(line) for line in ran.out.splitlines()]
    assert lines[0]["event"] == "text"
    assert lines[-1]["status"] == "done"


async def test_sessions_are_listed_searched_and_drawn(clew: CommandLine) -> None:
    """With the columns other programs rely on."""
    session = (await clew.run("run", "--json", "find the needle")).json["session"]
    (row,) = (await clew.run("sessions", "list", "--json")).json
    assert row["id"] == session
    assert {
        "parent_id",
        "origin",
        "live",
        "title",
        "surface",
        "owner",
        "model",
        "created_at",
        "last_active_at",
    } <= set(row)
    hits = (await clew.run("sessions", "search", "--json", "needle")).json
    assert hits[0]["id"] == session
    assert "needle" in hits[0]["snippet"]
    await clew.run("run", "-s", session, "/undo")
    assert "tip" in (await clew.run("sessions", "tree", session)).out


async def test_reminders_are_kept_listed_and_taken_back(clew: CommandLine) -> None:
    """By /remind in one process, and `clew reminders` in others; a wrong number is one sentence and code 2. A reminder
    opens no session beside the one in which something was said."""
    clew.environ |= {"CLEW__REMINDERS__TIMEZONE": "Europe/Berlin"}
    session = (await clew.run("run", "--json", "hi")).json["session"]
    kept = await clew.run("run", "/remind in 2h tea")
    assert (kept.code, "“tea”" in kept.out, "(Europe/Berlin, UTC+0" in kept.out) == (0, True, True)
    (row,) = (await clew.run("reminders", "--json")).json
    assert (row["text"], row["timezone"], row["every"]) == ("tea", "Europe/Berlin", None)
    assert row["session"] == session
    assert "“tea”" in (await clew.run("reminders")).out
    number = str(row["number"])
    assert (await clew.run("reminders", "cancel", number)).code == 0
    again = await clew.run("reminders", "cancel", number)
    assert again.code == 2
    assert f"There is no reminder {number}" in again.err
    assert (await clew.run("reminders", "--json")).json == []
