"""What is sent to a session while a `clew run` works in it, and what a crash is told of to a script."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import msgspec
import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, Script, Served, ServedCall

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
ALL_ALLOWED = {"CLEW__APPROVAL__MODE": "all"}
BLOCKING = (ServedCall(name="shell", arguments={"command": "echo runs > began; cat goes_on"}),)


async def begun(clew: CommandLine, *options: str) -> asyncio.subprocess.Process:
    """A `clew run go` whose command runs, and ends once something is written to `goes_on`."""
    for name in ("began", "goes_on"):
        os.mkfifo(clew.cwd / name)
    process = await clew.start("run", *options, "go", environ=ALL_ALLOWED)
    await asyncio.to_thread((clew.cwd / "began").read_text)
    return process


async def test_what_is_queued_behind_a_run_is_sent_when_it_ends(tmp_path: Path) -> None:
    """As it was promised, in order, and beside the run's own answer."""
    script = Script((
        Served(when="go", calls=BLOCKING),
        Served(text="gone"),
        Served(text="one"),
        Served(text="two"),
    ))  # fmt: skip
    async with ModelServer(script) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        holder = await begun(clew)
        for words in ("first", "second"):
            queued = await clew.run("run", "-c", f"/queue {words}")
            assert queued.out == "Queued: it is sent when the running turn has ended.\n", queued
        (tmp_path / "goes_on").write_text("")
        out, err = await asyncio.wait_for(holder.communicate(), 30)
        history = await clew.run("run", "-c", "/history")
    assert (holder.returncode, out.decode()) == (0, "gone\n")
    assert err.decode().endswith(
        "A message that waited came next (done): first\nA message that waited came next (done): second\n"
    )
    said = [line.split(maxsplit=1)[1] for line in history.out.splitlines()]
    assert said[-4:] == ["user: first", "assistant: one", "user: second", "assistant: two"]


async def test_a_run_that_has_to_wait_is_on_disk_first(tmp_path: Path) -> None:
    """Killed while it waits it is accounted for, and answered by whoever goes on; one that is interrupted there is taken back."""
    script = Script((
        Served(when="go", calls=BLOCKING),
        Served(text="gone"),
        Served(text="and that"),
    ))  # fmt: skip
    async with ModelServer(script) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        holder = await begun(clew)
        killed, interrupted = [await clew.start("run", "-c", text) for text in ("meanwhile", "never mind")]
        for process in (killed, interrupted):
            assert process.stderr is not None
            assert b"waiting for its end" in await asyncio.wait_for(process.stderr.readline(), 30)
        killed.kill()
        interrupted.send_signal(signal.SIGINT)
        for process in (killed, interrupted):
            await asyncio.wait_for(process.communicate(), 30)
        assert interrupted.returncode == 130
        why = (await clew.run("run", "-c", "/why")).out
        (tmp_path / "goes_on").write_text("")
        _, err = await asyncio.wait_for(holder.communicate(), 30)
    found = dict(re.findall(r"“(meanwhile|never mind)”, received .*?: (waits|cancelled)", why))
    assert found == {"meanwhile": "waits", "never mind": "cancelled"}, why
    assert err.decode().endswith("A message that waited came next (done): meanwhile\n")


@pytest.mark.parametrize("form", ["--json", "--stream-json"])
async def test_a_script_is_told_of_a_crash_too(tmp_path: Path, form: str) -> None:
    """A notice is told once, so it is told beside the one object, and among the events."""
    script = Script((
        Served(when="go", calls=BLOCKING),
        Served(text="settled"),
        Served(text="the answer"),
    ))  # fmt: skip
    async with ModelServer(script) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        killed = await begun(clew)
        killed.kill()
        await killed.communicate()
        ran = await clew.run("run", "-c", form, "next")
    notice = "Clew stopped in the middle of this turn, and goes on with it (shell: outcome unknown, not run again)."
    lines = [msgspec.json.decode(line) for line in ran.out.splitlines()]
    assert (ran.code, lines[-1]["text"]) == (0, "the answer")
    if form == "--json":
        assert (len(lines), ran.err) == (1, notice + "\n")
    else:
        assert {"event": "notice", "text": notice}.items() <= lines[0].items()
