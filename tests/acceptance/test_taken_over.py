"""A process that was stopped for longer than its lease, and one that its own tool killed: others finish their turns."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clew.testing.command_line import CommandLine
from clew.testing.crashing import CLOCK, set_jump
from clew.testing.model_server import ModelServer, Served, ServedCall

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
LEASE = {"CLEW__TURN__LEASE_SECONDS": "1"}
HOUR_MS = 3_600_000


def said(home: Path) -> list[tuple[str, str, str]]:
    """(role, status, text) of every message, oldest first."""
    with sqlite3.connect(home / "clew.db") as db:
        return list(db.execute("SELECT role, status, text FROM message ORDER BY id"))


def end(process: asyncio.subprocess.Process) -> None:
    """A stopped process would outlive a test that failed."""
    if process.returncode is None:
        process.kill()


@pytest.fixture
def ended() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("jump_ms", [0, HOUR_MS, -HOUR_MS])
async def test_who_was_stopped_past_its_lease_publishes_nothing_more(
    tmp_path: Path, ended: ExitStack, jump_ms: int
) -> None:
    """Another process finishes the turn; the first says why it does not, whatever the wall clocks did meanwhile."""
    clock = tmp_path / "clock"
    set_jump(clock, 0)
    script = [
        Served(deltas=("first words", " and too late"), pause_after=1),
        Served(text="finished by the second"),
        Served(text="the answer to the next"),
    ]
    async with ModelServer(script) as server:
        clew = CommandLine(tmp_path / "home", server.base_url, module="clew.testing.crashing")
        clew.environ |= LEASE | {CLOCK: str(clock)}
        first = await clew.start("run", "--stream-json", "hi")
        ended.callback(end, first)
        assert first.stdout is not None
        shown = msgspec.json.decode(await first.stdout.readline())
        assert (shown["event"], shown["text"]) == ("text", "first words")
        os.kill(first.pid, signal.SIGSTOP)
        second = await clew.start("run", "--continue", "next")
        ended.callback(end, second)
        assert second.stderr is not None
        assert (
            b"waiting for its end" in await second.stderr.readline()
        )  # it has seen a beat, and counts from there
        set_jump(clock, jump_ms)
        answered, _ = await asyncio.wait_for(second.communicate(), 20)
        assert (second.returncode, answered) == (0, b"the answer to the next\n")
        server.go_on()
        os.kill(first.pid, signal.SIGCONT)
        out, err = await asyncio.wait_for(first.communicate(), 20)
    last: dict[str, Any] = msgspec.json.decode(out.splitlines()[-1])
    assert b"too late" not in out
    assert (first.returncode, last["status"], last["error"]["code"]) == (130, "interrupted", "fenced"), last
    assert last["error"]["message"]
    assert err == b""
    assert said(clew.home) == [
        ("user", "ok", "hi"),
        ("assistant", "ok", "finished by the second"),
        ("user", "ok", "next"),
        ("assistant", "ok", "the answer to the next"),
    ]


async def test_a_command_that_kills_clew_is_not_run_again_and_its_turn_is_set_aside(tmp_path: Path) -> None:
    """The model asks for it anew in each recovery; after three tries nobody goes on with the turn."""
    effects = tmp_path / "effects"

    def answer(body: Any) -> Served:
        last = body["messages"][-1]
        if "deadly" not in msgspec.json.encode(body["messages"]).decode() or "next" in str(last["content"]):
            return Served(text="answered")
        asked.append(len(asked))
        command = f"echo {len(asked)} >> {effects}; kill -9 $PPID; sleep 60"
        return Served(calls=(ServedCall(name="shell", arguments={"command": command}),))

    asked: list[int] = []
    async with ModelServer(answer) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        clew.environ |= {"CLEW__APPROVAL__MODE": "all"}
        ran = await clew.run("run", "a deadly request")
        codes = [ran.code]
        while codes[-1] == -signal.SIGKILL:
            ran = await clew.run("run", "--continue", f"next {len(codes)}")
            codes.append(ran.code)
    assert codes == [-signal.SIGKILL] * 4 + [0]
    assert "set aside" in ran.err
    assert ran.out == "answered\n"
    ran_commands = effects.read_text().split()
    assert len(ran_commands) == len(set(ran_commands)) == len(asked)
