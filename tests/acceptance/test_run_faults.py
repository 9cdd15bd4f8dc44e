"""`clew run` when something is wrong around it: one object with --json, one sentence without, a code, a usable session."""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, Served

pytestmark = pytest.mark.anyio


def _nothing(home: Path) -> None:
    """Leaves the home as it is."""


def _is_a_file(home: Path) -> None:
    home.write_text("not a directory")


def _config_is_a_directory(home: Path) -> None:
    (home / "config.toml").mkdir(parents=True)


def _config_is_broken(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text("[model\n")


def _ledger_is_garbage(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "clew.db").write_bytes(b"garbage" * 1000)


@pytest.mark.parametrize(
    ("prepare", "arguments", "code", "word"),
    [
        (_is_a_file, ("hi",), 2, "usage"),
        (_config_is_a_directory, ("hi",), 2, "usage"),
        (_config_is_broken, ("hi",), 2, "usage"),
        (_ledger_is_garbage, ("hi",), 1, "store"),
        (_nothing, ("-s", "nowhere", "hi"), 2, "not_found"),
        (_nothing, ("-s", "\udce9", "hi"), 2, "not_found"),
        (_nothing, ("-c", "hi"), 2, "not_found"),
        (_nothing, ("-c", "-s", "x", "hi"), 2, "usage"),
        (_nothing, ("-f", "missing", "hi"), 2, "usage"),
        (_nothing, (" ",), 2, "usage"),
        (_nothing, ("/undo",), 2, "usage"),
        (_nothing, ("/nonsense",), 2, "usage"),
    ],
)
@pytest.mark.parametrize("option", ["--json", "--stream-json"])
async def test_whatever_is_wrong_one_object_is_printed(  # noqa: PLR0917
    clew: CommandLine,
    prepare: Callable[[Path], None],
    arguments: tuple[str, ...],
    code: int,
    word: str,
    option: str,
) -> None:
    """With the code and one sentence; nothing on standard error."""
    prepare(clew.home)
    ran = await clew.run("run", option, *arguments)
    assert (ran.code, ran.json["status"], ran.json["error"]["code"]) == (code, "failed", word), ran
    assert "\n" not in ran.json["error"]["message"].strip()
    assert ran.err == ""


async def test_without_a_model_no_session_is_opened(tmp_path: Path) -> None:
    """The list of sessions does not fill with empty ones."""
    clew = CommandLine(tmp_path / "home")
    assert (await clew.run("run", "--json", "hi")).json["error"]["code"] == "no_model"
    assert (await clew.run("sessions", "list", "--json")).json == []


async def test_a_command_that_fails_names_its_session(clew: CommandLine) -> None:
    """So that a script knows which one it was."""
    session = (await clew.run("run", "--json", "hi")).json["session"]
    failed = await clew.run("run", "--json", "-c", "/undo 99")
    assert failed.json["session"] == session


@pytest.mark.parametrize("reader", ["true", "head -c1"])
@pytest.mark.parametrize("command", ["run hi", "run --stream-json hi", "run --json hi", "sessions list"])
async def test_a_reader_that_leaves_is_no_error_of_ours(clew: CommandLine, command: str, reader: str) -> None:
    """Not a word on standard error; the answer is in the history."""
    await clew.run("run", "before")
    ran = await _shell(
        clew, f"{sys.executable} -m clew {command} | {reader} >/dev/null; echo ${{PIPESTATUS[0]}}"
    )
    assert ran.stdout.strip() in {"0", "1"}
    assert ran.stderr == ""
    if command.startswith("run"):
        assert "echo: hi" in (await clew.run("run", "-c", "/history")).out


@pytest.mark.parametrize(
    ("streams", "code", "words"),
    [
        (">&-", "0", ""),
        ("2>&-", "0", ""),
        ("<&-", "0", ""),
        (">/dev/full", "1", "No space left on device"),
    ],
)
async def test_closed_and_full_streams_end_in_a_code(
    clew: CommandLine, streams: str, code: str, words: str
) -> None:
    """And in a sentence where one can be said."""
    ran = await _shell(clew, f"{sys.executable} -m clew run hi {streams}; echo $? >code")
    assert (clew.cwd / "code").read_text().strip() == code
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Exception" not in ran.stderr


async def _shell(clew: CommandLine, script: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", script],
        cwd=clew.cwd,
        env=clew.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_a_terminal_without_unicode_shows_what_it_can(clew: CommandLine) -> None:
    """Nothing is lost from the history for it."""
    ran = await clew.run("run", "caf\u00e9 \u6570", environ={"PYTHONIOENCODING": "ascii"})
    assert (ran.code, ran.out) == (0, "echo: caf? ?\n")


@pytest.mark.parametrize("room", [0, 4096, 60_000])
async def test_a_disk_without_room_is_one_object_and_leaves_the_session_usable(
    clew: CommandLine, room: int
) -> None:
    """Wherever in the turn it runs out."""
    session = (await clew.run("run", "--json", "hi")).json["session"]
    size = (clew.home / "clew.db").stat().st_size
    limit = size + room

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-B", "-m", "clew", "run", "--json", "-s", session, "-"],
        input=b"word " * 40_000,
        cwd=clew.cwd,
        env=clew.environ,
        capture_output=True,
        check=False,
        preexec_fn=little_room,
    )
    assert ran.returncode == 1, ran
    told = msgspec.json.decode(ran.stdout)
    assert (told["session"], told["status"], told["error"]["code"]) == (session, "failed", "store")
    assert ran.stderr == b""
    again = await clew.run("run", "--json", "-s", session, "after")
    assert again.json["text"] == "echo: after"
    assert (await clew.run("sessions", "show", session)).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_every_polite_signal_records_what_was_shown(tmp_path: Path, number: signal.Signals) -> None:
    """One object, exit code 130, and the turn is ended in the ledger."""
    script = [Served(deltas=("half an answer",), stalls=True)]
    async with ModelServer(script) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        process = await clew.start("run", "--stream-json", "hi")
        assert process.stdout is not None
        await process.stdout.readline()
        process.send_signal(number)
        out, err = await asyncio.wait_for(process.communicate(), 20)
        assert (process.returncode, err) == (130, b"")
        told = msgspec.json.decode(out)
        assert (told["status"], told["text"]) == ("interrupted", "half an answer")
        assert "interrupted" in (await clew.run("run", "-c", "/why")).out


async def test_a_signal_before_the_turn_is_an_object_too(tmp_path: Path, server: ModelServer) -> None:
    """While a server is looked for that does not answer."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        while await reader.read(1000):
            pass  # it listens, and says nothing
        writer.close()
        await writer.wait_closed()
        left.set()

    reached, left = asyncio.Event(), asyncio.Event()
    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    clew = CommandLine(tmp_path / "home", f"http://127.0.0.1:{port}/v1", model="")
    process = await clew.start("run", "--json", "hi")
    await asyncio.wait_for(reached.wait(), 20)
    process.send_signal(signal.SIGTERM)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    await asyncio.wait_for(left.wait(), 20)
    listening.close()
    assert (process.returncode, err) == (130, b"")
    assert msgspec.json.decode(out)["status"] == "interrupted"


async def test_only_what_was_shown_is_taken_back(tmp_path: Path) -> None:
    """An attempt that failed before its first word leaves nothing to disregard."""
    async with ModelServer([Served(status=500, message="down"), Served(text="ok")]) as server:
        ran = await CommandLine(tmp_path / "home", server.base_url).run("run", "hi")
    assert (ran.code, ran.out) == (0, "ok\n")
    assert "Trying again" in ran.err
    assert "disregard" not in ran.err


async def test_a_tree_of_many_retries_is_drawn(clew: CommandLine) -> None:
    """One a branch, however deep they stand in each other."""
    session = (await clew.run("run", "--json", "one")).json["session"]
    await clew.run("run", "-s", session, "/undo")
    await clew.run("run", "-s", session, "two")
    await clew.run("run", "-s", session, "/retry")
    drawn = (await clew.run("sessions", "tree", session)).out
    assert "user: one" in drawn
    assert "user: two" in drawn
    assert drawn.count("head") == 1


async def test_tools_that_are_missing_are_said_beside_the_answer(clew: CommandLine) -> None:
    clew.home.mkdir(mode=0o700)
    (clew.home / "config.toml").write_text('[mcp.notes]\ncommand = "no-such-program"\n')
    ran = await clew.run("run", "hi")
    assert (ran.code, ran.out) == (0, "echo: hi\n")
    assert "notes" in ran.err
    assert "no-such-program" in ran.err
