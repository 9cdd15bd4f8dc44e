"""Processes for torture: forked from one that has imported everything, or started from nothing; killed, and waited for.

A forked process is as real as another: whoever forks has no thread, no event loop, no open ledger and no connection,
and the child becomes a session leader with its own streams, directory and environment before any of that begins.
It saves the 0.3 s of imports, and so `cold` starts are mixed in. Each process holds the only writing end of one pipe
(what its tools start does not): what it tells is read from there, and the end of the pipe is its end.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from clew.testing.crashing import CRASH, TOLD, Told
from clew.testing.crashing import main as crashing_main

DESCRIPTORS_MAX: Final = 4096
READ_BYTES: Final = 1 << 16


class Stuck(Exception):
    """A process neither ended nor said anything in time."""


class Terminal:
    """What a person at a terminal types, and sees: lines at once, and `/quit` when a text has appeared."""

    def __init__(self, lines: Sequence[str], leave_when: str) -> None:
        self._ours, self.theirs = os.openpty()
        self._shown = bytearray()
        self._leave_when: bytes | None = leave_when.encode()
        os.write(self._ours, "".join(f"{line}\n" for line in lines).encode())

    def fileno(self) -> int:
        return self._ours

    def look(self) -> None:
        with suppress(OSError):  # EIO: nobody is at the other end any more
            self._shown += os.read(self._ours, READ_BYTES)
        if self._leave_when is not None and self._leave_when in self._shown:
            self._leave_when = None
            os.write(self._ours, b"/quit\n")

    def read_text(self, encoding: str, errors: str) -> str:
        return self._shown.decode(encoding, errors)

    def close(self) -> None:
        os.close(self._ours)


class Process:
    """One started process. `status` is None until it was waited for; negative for the signal that ended it."""

    def __init__(self, pid: int, pipe: int, what: str, out: Path | Terminal) -> None:
        self.pid = pid
        self.what = what
        self.started = time.monotonic()
        self.kill_at = float("inf")
        self.stands: list[tuple[float, signal.Signals]] = []
        """When it is stopped where it stands, and when it goes on, first things last."""
        self.status: int | None = None
        self._pipe = pipe
        self._out = out
        self._heard = bytearray()

    def fileno(self) -> int:
        return self._pipe

    def kill(self) -> None:
        """This process alone, as the kernel's out-of-memory killer would: what its tools started is not touched."""
        self.kill_at = float("inf")
        os.kill(self.pid, signal.SIGKILL)

    def stand_or_go(self) -> None:
        os.kill(self.pid, self.stands.pop()[1])

    @property
    def next_at(self) -> float:
        """When something is to be done to it."""
        return min(self.kill_at, *(at for at, _ in self.stands[-1:]), float("inf"))

    def hear(self) -> bool:
        """Takes what was told; False once the process has ended."""
        part = os.read(self._pipe, READ_BYTES)
        self._heard += part
        if not part:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._pipe)
            if isinstance(self._out, Terminal):
                self._out.close()
        return bool(part)

    @property
    def terminal(self) -> Terminal | None:
        return self._out if isinstance(self._out, Terminal) else None

    @property
    def lines(self) -> list[bytes]:
        return bytes(self._heard).split(b"\n")[:-1]

    @property
    def told(self) -> list[Told]:
        return [msgspec.json.decode(line, type=Told) for line in self.lines]

    @property
    def was_killed(self) -> bool:
        return self.status == -signal.SIGKILL

    @property
    def ready_seconds(self) -> float | None:
        """From its start to the first thing of its own that was durable."""
        return min((told.at for told in self.told), default=self.started) - self.started or None

    @property
    def printed(self) -> str:
        return self._out.read_text("utf-8", "replace")

    @property
    def json(self) -> dict[str, Any]:
        """The object that it printed last; empty when it did not come to that."""
        for line in reversed(self.printed.splitlines()):
            with suppress(msgspec.DecodeError):
                found: dict[str, Any] = msgspec.json.decode(line)
                return found
        return {}


class Processes:
    """Starts processes in one directory and leaves none behind."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = dict(environ)
        self._living: list[Process] = []
        self._count = 0

    def clew(
        self, *arguments: str, crash: str = "", environ: Mapping[str, str] | None = None, cold: bool = False
    ) -> Process:
        """`clew ARGUMENTS` that ends at a crash point, or where it ends by itself."""
        variables = {**self._environ, **(environ or {})} | ({CRASH: crash} if crash else {})
        what = f"clew {' '.join(arguments)}" + (f" [{crash}]" if crash else "") + (" (cold)" if cold else "")
        if cold:
            return self._start(what, lambda told, out: _spawn(self._folder, arguments, variables, told, out))
        return self.fork(what, self._becoming(arguments, variables))

    def chat(
        self,
        lines: Sequence[str],
        *arguments: str,
        leave_when: str,
        crash: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> Process:
        """`clew ARGUMENTS` at a terminal of its own, where these lines are typed."""
        variables = {**self._environ, **(environ or {}), "TERM": "dumb"} | ({CRASH: crash} if crash else {})
        what = f"clew {' '.join(arguments)} << {' | '.join(lines)}" + (f" [{crash}]" if crash else "")
        terminal = Terminal(lines, leave_when)
        body = self._becoming(arguments, variables)
        try:
            return self._start(what, lambda told, _: _fork(body, told, terminal.theirs), terminal)
        finally:
            os.close(terminal.theirs)

    def _becoming(self, arguments: Sequence[str], variables: Mapping[str, str]) -> Callable[[int], int]:
        def become(told: int) -> int:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            faulthandler.enable()
            os.chdir(self._folder)
            os.environ.clear()
            os.environ.update(variables, **{TOLD: str(told)})
            return crashing_main(list(arguments))

        return become

    def fork(self, what: str, body: Callable[[int], int]) -> Process:
        """A child that runs `body` with the descriptor to tell on, and ends with the code it returns."""
        return self._start(what, lambda told, out: _fork(body, told, out))

    def _start(
        self, what: str, start: Callable[[int, Path], int], terminal: Terminal | None = None
    ) -> Process:
        self._count += 1
        out = self._folder / f"printed-{os.getpid()}-{self._count}"
        reading, writing = os.pipe()
        try:
            process = Process(start(writing, out), reading, what, terminal or out)
        finally:
            os.close(writing)
        self._living.append(process)
        return process

    def wait(self, processes: Sequence[Process], seconds: float) -> None:
        """Until all have ended; kills those whose time has come. Raises Stuck."""
        deadline = time.monotonic() + seconds
        while waiting := [process for process in processes if process.status is None]:
            now = time.monotonic()
            if now >= deadline:
                raise Stuck(f"after {seconds:g} s: {'; '.join(map(self._where, waiting))}")
            for process in waiting:
                if process.kill_at <= now:
                    process.kill()
                elif process.next_at <= now:
                    process.stand_or_go()
            until = min([deadline, *(process.next_at for process in waiting)])
            heard: list[Process | Terminal] = [one.terminal for one in waiting if one.terminal is not None]
            for ready in select.select([*heard, *waiting], [], [], max(until - now, 0))[0]:
                if isinstance(ready, Terminal):
                    ready.look()
                elif not ready.hear():
                    self._living.remove(ready)

    def _where(self, process: Process) -> str:
        """Ends a process that is stuck; it says on which lines it was."""
        os.kill(process.pid, signal.SIGABRT)
        while process.hear():
            pass  # until its end
        self._living.remove(process)
        return f"{process.what}: {process.printed[-4000:]}"

    def listen(self, process: Process, seconds: float) -> bytes:
        """The first line that it tells. Raises Stuck."""
        while not process.lines:
            if not select.select([process], [], [], seconds)[0] or not process.hear():
                raise Stuck(process.what)
        return process.lines[0]

    def close(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends what still runs. Idempotent."""
        for process in self._living:
            os.kill(process.pid, number)
        for process in self._living:
            while process.hear():
                pass  # what it told no longer matters
        self._living.clear()


def _fork(body: Callable[[int], int], told: int, out: Path | int) -> int:
    """`out` is a file for what it prints, or the terminal that it sits at."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        gc.freeze()  # nothing of the parent's is finalised here: its descriptors have other meanings now
        _take_streams(out)
        os.closerange(3, told)
        os.closerange(told + 1, DESCRIPTORS_MAX)
        code = body(told)
    except BaseException:  # noqa: BLE001 - the end of the process: nothing of the parent's may run in it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _take_streams(out: Path | int) -> None:
    if isinstance(out, int):
        typed = printed = out
    else:
        typed = os.open(os.devnull, os.O_RDONLY)
        printed = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((typed, 0), (printed, 1), (printed, 2)):
        os.dup2(source, target)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - all three for the life of the process
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, "utf-8", closefd=False)  # noqa: SIM115


def _spawn(folder: Path, arguments: Sequence[str], environ: Mapping[str, str], told: int, out: Path) -> int:
    with out.open("wb") as printed:
        started = subprocess.Popen(
            [sys.executable, "-m", "clew.testing.crashing", *arguments],
            stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, pass_fds=(told,),
            cwd=folder, env={**environ, TOLD: str(told)}, start_new_session=True,
        )  # fmt: skip
    started.returncode = 0  # waited for by `Process`, like the forked ones
    return started.pid
