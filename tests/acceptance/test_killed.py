"""`clew` killed at its work: what its tools had started does not outlive the next start."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, Script, Served, ServedCall
from tests.unit.tools.bench import lives

pytestmark = pytest.mark.anyio

ALL_ALLOWED = {"CLEW__APPROVAL__MODE": "all"}


@pytest.mark.parametrize("background", [False, True])
async def test_the_command_of_a_killed_clew_is_gone_after_the_next_start(
    tmp_path: Path, background: bool
) -> None:
    """With its whole group and what left the group, and so are the files that stood for them."""
    os.mkfifo(tmp_path / "pids")
    command = "setsid sleep 1000 & sleep 1000 & echo $$ $! > pids; wait"
    step = Served(
        when="go",
        calls=(ServedCall(name="shell", arguments={"command": command, "background": background}),),
    )
    stalled = Served(when="Background process", text="started", stalls=True)
    script = Script((step, stalled, Served(text="still here")))
    async with ModelServer(script) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        killed = await clew.start("run", "go", environ=ALL_ALLOWED)
        pids = [int(pid) for pid in (await asyncio.to_thread((tmp_path / "pids").read_text)).split()]
        killed.kill()
        await killed.communicate()
        assert [lives(pid) for pid in pids] == [True, True]
        ran = await clew.run("run", "and now?")
    assert ran.code == 0, ran
    left = [pid for pid in pids if lives(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    assert [name for name in os.listdir(clew.home / "run") if name.endswith((".lock", ".groups"))] == []
