"""A newer Clew comes while this one runs: it migrates the ledger, or replaces the package. Real processes, real files."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

import clew
from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer
from clew.testing.model_server import Served as Said
from clew.testing.terminal import Key
from tests.acceptance.chatting import LINE, READY, Chat, Server

UPDATED = "Clew was updated while this ran"
RESTART = 75
SOON = {"CLEW__TURN__LEASE_SECONDS": "1"}
"""A turn looks at the ledger three times a second, also when nothing comes from the model."""


def migrated(home: Path, by: int) -> None:
    """The schema number that a newer program would leave, or the old one again."""
    with closing(sqlite3.connect(home / "clew.db")) as db:
        (found,) = db.execute("PRAGMA user_version").fetchone()
        db.execute(f"PRAGMA user_version={found + by}")


def kept(home: Path) -> list[str]:
    """What was accepted from a person: taken into a turn, or waiting for one."""
    with closing(sqlite3.connect(home / "clew.db")) as db:
        taken = db.execute("SELECT text FROM message WHERE role = 'user' ORDER BY id").fetchall()
        waiting = db.execute("SELECT body FROM inbox WHERE state = 'queued' ORDER BY id").fetchall()
    return [text for (text,) in taken] + [msgspec.json.decode(body)["text"] for (body,) in waiting]


def turns(home: Path) -> list[str]:
    with closing(sqlite3.connect(home / "clew.db")) as db:
        return [state for (state,) in db.execute("SELECT state FROM turn ORDER BY turn")]


class Package:
    """A copy of Clew that can be replaced as an installer does it: other files in the same places."""

    def __init__(self, folder: Path) -> None:
        self._site = folder / "site"
        shutil.copytree(Path(clew.__file__).parent, self._place)

    @property
    def _place(self) -> Path:
        return self._site / "clew"

    @property
    def environ(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self._site), "PYTHONDONTWRITEBYTECODE": "1"}

    def replaced(self) -> None:
        """By a version of which no module can be imported: whatever mixes the two breaks."""
        older = self._site / "older"
        self._place.rename(older)
        shutil.copytree(older, self._place, ignore=shutil.ignore_patterns("__pycache__"))
        for module in self._place.rglob("*.py"):
            module.write_text("raise RuntimeError('two versions in one process')\n")

    def put_back(self) -> None:
        shutil.rmtree(self._place)
        (self._site / "older").rename(self._place)


def test_the_ledger_is_migrated_in_mid_turn(chat: Chat, scripted: Server) -> None:
    """The turn ends by itself, open in the ledger as after a crash; what was accepted is there for the other version."""
    scripted.answers(Said(deltas=("half an answer",), stalls=True))
    with chat.opened(scripted, environ=SOON) as person:
        person.sees(READY)
        person.types("precious", Key.ENTER)
        person.sees("half an answer")
        person.types("second", Key.ENTER)
        person.sees("↳ then: second")
        person.types("a draft")
        person.sees(f"{LINE} a draft")
        migrated(chat.home, +1)
        assert person.waits_for_end() == RESTART
        assert person.transcript.count(UPDATED) == 1
        assert "1 message waits" in person.screen
        assert "Not sent: a draft" in person.screen
        assert "Traceback" not in person.transcript
        assert "inside Clew" not in person.transcript
    assert turns(chat.home) == ["running"]
    with chat.opened(scripted, "-c") as older:
        assert older.waits_for_end() == RESTART
        assert "written by a newer Clew" in older.screen
    migrated(chat.home, -1)
    assert kept(chat.home) == ["precious", "second"]
    scripted.answers(Said(text="to the first"), Said(text="to the second"))
    with chat.opened(scripted, "-c") as person:
        person.sees(f"{LINE} precious", "to the first")
    assert kept(chat.home) == ["precious", "second"]


def test_the_ledger_is_migrated_while_nothing_runs(chat: Chat, scripted: Server) -> None:
    """What is said then cannot be kept: it stays on the screen, and the chat says why and ends."""
    scripted.answers(Said(text="an answer"))
    with chat.opened(scripted) as person:
        person.sees(READY)
        person.types("one", Key.ENTER)
        person.sees("an answer", READY)
        migrated(chat.home, +1)
        person.types("two words", Key.ENTER)
        assert person.waits_for_end() == RESTART
        assert person.transcript.count(UPDATED) == 1
        assert "Not sent: two words" in person.screen
    assert scripted.said == [["one"]]


def test_the_package_is_replaced_in_mid_turn(chat: Chat, scripted: Server, tmp_path: Path) -> None:
    """The turn goes on to its end; the message that waits for it is left to the program that is started next."""
    package = Package(tmp_path)
    call = 'CALL_TOOL shell {"command": "echo made | tee made.txt"}'
    with chat.opened(scripted, rows=40, environ=package.environ) as person:
        person.sees(READY)
        person.types(call, Key.ENTER)
        person.sees("Allow it?")
        package.replaced()
        person.types("second", Key.ENTER)
        person.sees("↳ then: second")
        person.types("y", Key.ENTER)
        assert person.waits_for_end() == RESTART
        assert "the tool said: made" in person.transcript
        assert person.transcript.count(UPDATED) == 1
        assert "1 message waits" in person.screen
        assert "two versions" not in person.transcript
    assert (chat.cwd / "made.txt").read_text() == "made\n"
    assert turns(chat.home) == ["done"]
    package.put_back()
    with chat.opened(scripted, "-c", rows=40, environ=package.environ) as person:
        person.sees("↳ then: second", "the tool said: made")
        person.types(Key.ENTER)
        person.sees("echo: second")
    assert scripted.said[-1] == [call, "second"]


def test_the_package_is_replaced_while_nothing_runs(chat: Chat, scripted: Server, tmp_path: Path) -> None:
    """What is said then is kept for the next start, whatever commands and windows were opened before it."""
    package = Package(tmp_path)
    with chat.opened(scripted, environ=package.environ) as person:
        person.sees(READY)
        person.types("one", Key.ENTER)
        person.sees("echo: one", READY)
        package.replaced()
        person.types("/status", Key.ENTER)
        person.sees("scripted-model", READY)
        person.types("two", Key.ENTER)
        assert person.waits_for_end() == RESTART
        assert person.transcript.count(UPDATED) == 1
        assert "1 message waits" in person.screen
        assert "Not sent" not in person.transcript
        assert "two versions" not in person.transcript
    package.put_back()
    with chat.opened(scripted, "-c", environ=package.environ) as person:
        person.sees(f"{LINE} one", "↳ then: two")


def test_nothing_is_imported_from_the_new_package(chat: Chat, scripted: Server, tmp_path: Path) -> None:
    """Not even for what is rare: a misspelt setting, found when the chat comes back from setup."""
    package = Package(tmp_path)
    with chat.opened(scripted, environ=package.environ) as person:
        person.sees(READY)
        person.types("one", Key.ENTER)
        person.sees("echo: one", READY)
        package.replaced()
        (chat.home / "config.toml").write_text("[model]\nnmae = 'x'\n")
        person.types("/setup", Key.ENTER)
        person.sees("Where should the model run?")
        person.types(Key.CTRL_C)
        person.waits_for_end()
        said = person.transcript.rpartition("nmae")[2].replace("\n", "")  # the folder of a test may be long
        assert "model.name" in said
        assert "two versions" not in person.transcript


def test_the_package_is_replaced_during_setup(chat: Chat, scripted: Server, tmp_path: Path) -> None:
    """The chat does not come back with another version's half: it says so and ends."""
    package = Package(tmp_path)
    with chat.opened(scripted, environ=package.environ) as person:
        person.sees(READY)
        person.types("/setup", Key.ENTER)
        person.sees("Where should the model run?")
        package.replaced()
        person.types(Key.CTRL_C)
        assert person.waits_for_end() == RESTART
        assert person.transcript.count(UPDATED) == 1


def test_words_that_are_not_kept_are_printed(chat: Chat, scripted: Server, tmp_path: Path) -> None:
    """What is sent in a temporary talk after the update waits nowhere: it stays on the screen."""
    package = Package(tmp_path)
    with chat.opened(scripted, environ=package.environ) as person:
        person.sees(READY)
        person.types("/temporary", Key.ENTER)
        person.sees("nothing that is said is kept", READY)
        person.types("one", Key.ENTER)
        person.sees("echo: one", READY)
        package.replaced()
        person.types("two words", Key.ENTER)
        assert person.waits_for_end() == RESTART
        assert "Not sent: two words" in person.transcript
        assert person.transcript.count(UPDATED) == 1
        assert "message waits" not in person.transcript


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer([Said(deltas=("half an answer",), stalls=True)]) as opened:
        yield opened


@pytest.mark.anyio
@pytest.mark.parametrize("option", ["--stream-json", None])
async def test_one_answer_is_cut_off_by_a_migration(
    server: ModelServer, tmp_path: Path, option: str | None
) -> None:
    """`clew run`: one object or one sentence, and the same code."""
    command = CommandLine(tmp_path / "home", server.base_url)
    process = await command.start("run", *([option] if option else []), "precious", environ=SOON)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            await process.stdout.readuntil(b"half an answer")
            await asyncio.to_thread(migrated, command.home, +1)
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
    assert process.returncode == RESTART, (out, err)
    if option:
        last = msgspec.json.decode(out.splitlines()[-1])
        assert (last["status"], last["error"]["code"]) == ("failed", "outdated")
        assert UPDATED in last["error"]["message"]
        assert err == b""
    else:
        assert err.decode().count(UPDATED) == len(err.splitlines()) == 1
    assert turns(command.home) == ["running"]
    again = await command.run("run", "--json", "more")
    assert (again.code, again.json["error"]["code"]) == (RESTART, "outdated")
    await asyncio.to_thread(migrated, command.home, -1)
    shown = await command.run("sessions", "search", "--json", "precious")
    assert [row["snippet"] for row in shown.json], shown
