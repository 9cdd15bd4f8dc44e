"""Shell commands as real processes: what they print, where they are, and that they are gone."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clew.adapters.processes.tree import NO_GROUP, find
from clew.adapters.tools.toolbox import ToolboxOptions
from clew.domain.conversation.messages import Status
from tests.unit.tools.bench import Bench, lives

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(ToolboxOptions(cwd=tmp_path, tool_output_bytes=2000))
    yield bench
    await bench.box.close()


def pids(text: str) -> list[int]:
    """The process ids a command printed as `pid=…`."""
    return [int(word.removeprefix("pid=")) for word in text.split() if word.startswith("pid=")]


# -- output ----------------------------------------------------------------------------------------------------------
async def test_output_and_errors_come_in_the_order_they_were_written(bench: Bench) -> None:
    """One pipe for both, as on a terminal."""
    result = await bench.run("shell", command="echo one; echo two >&2; echo three")
    assert (result.text, result.status) == ("one\ntwo\nthree", Status.OK)
    assert bench.shown == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("true", "[no output]"),
        ("exit 3", "[exit code 3]"),
        ("echo bad; false", "bad\n[exit code 1]"),
        ("kill -9 $$", "[ended by signal 9 (SIGKILL)]"),
        ("no-such-program", "bash: line 1: no-such-program: command not found\n[exit code 127]"),
        ("cat", "[no output]"),
        ("echo $((", "bash: -c: line 1: unexpected EOF while looking for matching `)'\n[exit code 2]"),
    ],
)
async def test_how_it_ended_is_said(bench: Bench, command: str, text: str) -> None:
    """Anything but success is an error; nobody is there to type, so reading input ends at once."""
    result = await bench.run("shell", command=command)
    assert re.sub(r"^/\S*/bash", "bash", result.text) == text
    assert (result.status is Status.OK) == (command in {"true", "cat"})


async def test_the_middle_of_long_output_is_left_out(bench: Bench) -> None:
    """First and last lines are there, the gap is counted, and showing it live is bounded as well."""
    result = await bench.run("shell", command="seq 1 100000")
    assert result.text.startswith("1\n2\n3\n")
    assert result.text.endswith("\n99999\n100000")
    assert "[… 586,959 bytes left out …]" in result.text
    assert len(result.text.encode()) <= 2000
    assert len(bench.shown) <= 2000


async def test_invalid_bytes_are_replaced(bench: Bench) -> None:
    """Also a character that is cut between two writes is shown whole."""
    result = await bench.run("shell", command=r"printf 'a\xffb\n'; printf '\xc3'; printf '\xa9'")
    assert result.text == "a\ufffdb\né"


async def test_keys_of_ours_are_not_shown_to_commands(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command prints goes to the model."""
    monkeypatch.setenv("CLEW_API_KEY", "secret")
    monkeypatch.setenv("OTHER", "visible")
    assert (await bench.run("shell", command="echo $CLEW_API_KEY$OTHER")).text == "visible"


async def test_output_that_cannot_be_shown_is_an_error_not_a_gap(tmp_path: Path) -> None:
    """A surface that fails while it shows output is a bug, and comes to light."""

    class Blind(Bench):
        def _show(self, text: str) -> None:
            raise ZeroDivisionError

    bench = Blind(ToolboxOptions(cwd=tmp_path))
    with pytest.raises(ZeroDivisionError):
        await bench.run("shell", command="echo x")
    await bench.box.close()


# -- where it is -----------------------------------------------------------------------------------------------------
async def test_a_change_of_directory_holds_for_the_next_command(bench: Bench, tmp_path: Path) -> None:
    """And only for the shell: variables and file tools do not move."""
    (tmp_path / "it's here").mkdir()
    result = await bench.run("shell", command='cd "it\'s here" && X=1')
    assert result.text == f"[now in {tmp_path}/it's here]"
    assert (await bench.run("shell", command="echo $X$PWD")).text == f"{tmp_path}/it's here"
    assert bench.tool("shell").describe({"command": "ls"}) == f"run in {tmp_path}/it's here: ls"
    assert (await bench.run("read", path=".")).text == f"{tmp_path}/\nit's here/"


@pytest.mark.parametrize(
    "ending", ["", "; exit 4", "; set -eu; false", "; set -o noclobber", "; kill -TERM $$"]
)
async def test_the_directory_is_kept_however_the_command_ends(
    bench: Bench, tmp_path: Path, ending: str
) -> None:
    """A failed command has moved all the same."""
    await bench.run("shell", command=f"cd /usr{ending}")
    assert (await bench.run("shell", command="pwd")).text == "/usr"


async def test_a_directory_that_is_gone_falls_back_to_the_sessions(bench: Bench, tmp_path: Path) -> None:
    """As does a session that was carried on elsewhere."""
    await bench.run("shell", command="mkdir d; cd d")
    (tmp_path / "d").rmdir()
    assert (await bench.run("shell", command="pwd")).text == str(tmp_path)
    await bench.run("shell", command="cd /usr")
    assert (await bench.run_with("shell", {"command": "pwd"}, Path("/tmp"))).text == "/tmp"
    gone = await bench.run_with("shell", {"command": "pwd"}, tmp_path / "nowhere")
    assert (gone.status, gone.text) == (Status.ERROR, f"{tmp_path}/nowhere: No such file or directory.")


async def test_what_cannot_be_run_is_refused(bench: Bench) -> None:
    """In a sentence, without a process."""
    assert (await bench.run("shell", command="a\0b")).text == "A command cannot hold a NUL character."
    assert (await bench.run("shell", command=":" * 300_000)).status is Status.ERROR
    assert "<= 600" in (await bench.run("shell", command=":", timeout_seconds=601)).text


# -- ending ----------------------------------------------------------------------------------------------------------
ESCAPES = {
    "a child": "sleep 1000 & echo $! >escaped",
    "a grandchild whose parent is gone": "(sleep 1000 & echo $! >escaped)",
    "its own session": "setsid sh -c 'echo $$ >escaped; exec sleep 1000' &",
    "its own session, orphaned": "(setsid sh -c 'echo $$ >escaped; exec sleep 1000' &)",
    "deaf to SIGTERM": "(trap '' TERM; echo $BASHPID >escaped; sleep 1000; sleep 1000) &",
    "its own session, without an environment": "env -i setsid sh -c 'echo $$ >escaped; exec sleep 1000' &",
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES.keys())
async def test_cancelling_ends_the_whole_tree(bench: Bench, escape: str) -> None:
    """Within five seconds, whatever the command's children did to get away."""
    command = f"{escape}\nuntil [ -s escaped ]; do :; done; echo pid=$$ pid=$(cat escaped) ready; sleep 1000"
    task = asyncio.create_task(bench.run("shell", command=command))
    await bench.hear("ready\n")
    started_by_it = pids(bench.shown)
    assert [lives(pid) for pid in started_by_it] == [True, True]
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 5
    assert [pid for pid in started_by_it if lives(pid)] == []


async def test_cancelling_again_and_again_does_not_cut_the_ending_short(bench: Bench) -> None:
    """Structured concurrency repeats a cancellation at every await; the processes must go all the same."""
    task = asyncio.create_task(
        bench.run("shell", command="trap '' TERM; echo pid=$$; echo ready; while :; do sleep 1000; done")
    )
    await bench.hear("ready\n")
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    assert not lives(pids(bench.shown)[0])


async def test_at_the_time_limit_everything_is_ended_and_the_output_kept(bench: Bench) -> None:
    """The sentence says what happened."""
    result = await bench.run(
        "shell", command="echo pid=$$; sleep 1000 & echo pid=$!; wait", timeout_seconds=1
    )
    assert result.text.endswith("\n[ended after 1 s: the time limit]")
    assert result.status is Status.ERROR
    assert [pid for pid in pids(result.text) if lives(pid)] == []


async def test_what_a_command_leaves_running_is_ended_and_said(bench: Bench) -> None:
    """Its output has nobody to go to: a background process is the way to have it."""
    result = await bench.run("shell", command="sleep 1000 & echo pid=$!")
    assert result.text.endswith("\n[what it left running was ended: use background for that]")
    assert result.status is Status.OK
    assert [pid for pid in pids(result.text) if lives(pid)] == []


async def test_a_daemon_lives_until_the_session_is_closed(bench: Bench) -> None:
    """tmux, a build daemon: they left group and output on purpose."""
    command = (
        "(setsid sh -c 'echo $$ >daemon; exec sleep 1000' >/dev/null 2>&1 &); until [ -s daemon ]; do :; done"
    )
    await bench.run("shell", command=command)
    pid = int((await bench.run("shell", command="cat daemon")).text)
    assert lives(pid)
    await bench.box.close()
    assert not lives(pid)


async def test_nothing_of_a_stranger_is_touched(bench: Bench) -> None:
    """A process of somebody else lives on, also one that another session of ours started."""
    other = Bench(bench.options)
    theirs = await other.run("shell", command="sleep 1000", background=True)
    pid = other.box.processes.rows()[0].pid
    assert theirs.status is Status.OK
    await bench.run("shell", command="sleep 1000 & true")
    await bench.box.close()
    assert lives(pid)
    await other.box.close()
    assert not lives(pid)


def test_an_empty_mark_is_nobodys() -> None:
    """It would be everybody's: every process without one would be ended."""
    with pytest.raises(AssertionError):
        find(NO_GROUP, {""})
    assert find(NO_GROUP, {"no such mark"}) == frozenset()
    assert find(NO_GROUP, frozenset()) == frozenset()


async def test_nothing_is_left_after_all_this(bench: Bench) -> None:
    """No descriptor and no process per command."""
    await bench.run("shell", command="true")
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await bench.run("shell", command="echo x")
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    await bench.run("glob", pattern="*")
    assert not [one for one in find({os.getpid()}, frozenset()) if one.parent == os.getpid()]


# -- background ------------------------------------------------------------------------------------------------------
async def test_the_end_of_a_background_process_is_told(bench: Bench, tmp_path: Path) -> None:
    """With its exit code and its last lines, as an event of the session."""
    os.mkfifo(tmp_path / "go")
    result = await bench.run("shell", command="echo begun; cat go; seq 1 20; exit 3", background=True)
    (row,) = bench.box.processes.rows()
    assert result.text.startswith(f"Background process 1 is running (pid {row.pid}).")
    assert (row.running, row.command, row.directory) == (
        True,
        "echo begun; cat go; seq 1 20; exit 3",
        tmp_path,
    )
    await asyncio.to_thread((tmp_path / "go").write_text, "went\n")
    kind, text = await bench.told.get()
    assert kind == "process_ended"
    assert text == (
        "Background process 1 (echo begun; cat go; seq 1 20; exit 3) has ended: exit code 3. Its last lines:\n"
        + "\n".join(map(str, range(11, 21)))
    )
    assert bench.box.processes.rows()[0].ended == "exit code 3"
    looked = await bench.run("process_output", process=1, lines=2)
    assert looked.text == f"[process 1, pid {row.pid}: exit code 3]\n19\n20"


async def test_process_output_waits_for_the_end(bench: Bench, tmp_path: Path) -> None:
    """No longer than it was told to, and no longer than it takes."""
    os.mkfifo(tmp_path / "go")
    await bench.run("shell", command="cat go; echo done", background=True)
    early = await bench.run("process_output", process=1)
    assert ": running for " in early.text
    assert "[no output]" in early.text
    late = asyncio.create_task(bench.run("process_output", process=1, wait_seconds=60))
    await asyncio.to_thread((tmp_path / "go").write_text, "went\n")
    assert (await late).text.endswith(": exit code 0]\nwent\ndone")
    assert (
        await bench.run("process_output", process=2)
    ).text == "There is no background process 2 (known: 1)."


async def test_kill_ends_a_process_and_what_it_started(bench: Bench, tmp_path: Path) -> None:
    """The session is told who wanted it."""
    os.mkfifo(tmp_path / "ready")
    await bench.run("shell", command="setsid sleep 1000 & echo pid=$!; echo >ready; wait", background=True)
    await asyncio.to_thread((tmp_path / "ready").read_text)
    row = await bench.box.processes.kill(1)
    assert row.ended == "ended by signal 15 (SIGTERM), by /kill"
    assert "ended by signal 15 (SIGTERM), by /kill" in (await bench.told.get())[1]
    assert [pid for pid in [row.pid, *pids(bench.box.processes.output(1, 9))] if lives(pid)] == []
    assert (await bench.box.processes.kill(1)).ended == row.ended


async def test_what_a_background_process_leaves_behind_ends_with_it(bench: Bench) -> None:
    """Its number in the list is the only handle anybody has."""
    command = "setsid sh -c 'echo pid=$$; echo ready; exec sleep 1000' & sleep 1000 & echo pid=$!"
    await bench.run("shell", command=f"{command}; until [ -d /proc/$! ]; do :; done", background=True)
    await bench.told.get()
    left = pids(bench.box.processes.output(1, 9))
    assert left
    assert [pid for pid in left if lives(pid)] == []


async def test_output_of_a_background_process_is_a_ring(bench: Bench) -> None:
    """A server may talk for days."""
    await bench.run("shell", command="seq 1 200000", background=True)
    await bench.told.get()
    text = (await bench.run("process_output", process=1, lines=2000)).text
    assert text.endswith("\n199999\n200000")
    assert "\n1\n2\n3\n" not in text
    assert len(text) < 2200


async def test_only_so_many_run_at_once(bench: Bench) -> None:
    """The limit is said; an ended one makes room."""
    for _ in range(16):
        assert (await bench.run("shell", command="sleep 1000", background=True)).status is Status.OK
    refused = await bench.run("shell", command="sleep 1000", background=True)
    assert refused.text == "16 background processes run already: end one first."
    await bench.box.processes.kill(3)
    assert (await bench.run("shell", command="true", background=True)).status is Status.OK


async def test_closing_ends_everything_and_tells_nobody(bench: Bench) -> None:
    """It may be called twice, and nothing starts afterwards."""
    await bench.run("shell", command="trap '' TERM; sleep 1000; sleep 1000", background=True)
    await bench.run("shell", command="sleep 1000", background=True)
    running = [row.pid for row in bench.box.processes.rows()]
    await bench.box.close()
    await bench.box.close()
    assert [pid for pid in running if lives(pid)] == []
    assert bench.told.empty()
    late = await bench.run("shell", command="true", background=True)
    assert late.text == "The session is closing: nothing is started any more."


async def test_an_event_that_cannot_be_stored_is_not_lost_from_sight(tmp_path: Path) -> None:
    """The list of processes says why the session was not told."""

    class Deaf(Bench):
        async def _tell(self, kind: str, text: str) -> None:
            raise OSError("disk full")

    bench = Deaf(ToolboxOptions(cwd=tmp_path))
    await bench.run("shell", command="true", background=True)
    row = await bench.box.processes.wait(1, 60)
    while not row.unreported:
        await asyncio.sleep(0)
        (row,) = bench.box.processes.rows()
    assert row.unreported == "OSError: disk full"
    await bench.box.close()


async def test_an_interrupt_at_the_terminal_does_not_reach_commands(bench: Bench) -> None:
    """Ctrl-C is for us to decide about: commands are in a session of their own."""
    result = await bench.run("shell", command="ps -o sid= -p $$; echo $$")
    sid, pid = result.text.split()
    assert sid == pid
    assert os.getsid(0) != int(sid)
    assert signal.getsignal(signal.SIGINT) is not None
