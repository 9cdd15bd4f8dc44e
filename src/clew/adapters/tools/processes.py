"""Background processes of a session: started by the model, watched by us, ended by a person or with the session.

The end of one is told to the session as an event. What it prints goes to a ring of bounded size, so a server may
run for days.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from clew.adapters.tools.arguments import Arguments
from clew.adapters.tools.bounded import BoundedOutput
from clew.adapters.tools.commands import Command, Origin, how_it_ended
from clew.adapters.tools.declared import DeclaredTool, ToolFailed
from clew.domain.conversation.text import one_line
from clew.domain.tools.spec import Effect, ToolResult
from clew.runtime.ports.tools import ToolContext

RUNNING_MAX: Final = 16
REMEMBERED_MAX: Final = 32
"""Ended ones that are still listed."""
LAST_LINES: Final = 10
LAST_CHARS: Final = 2000
WAIT_SECONDS_MAX: Final = 120
CLOSE_SECONDS_MAX: Final = 5.0
"""How long closing waits for a report that is being stored."""
EVENT: Final = "process_ended"

Notify = Callable[[str, str], Awaitable[None]]


class ProcessRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `/ps`. `ended` says how it ended, and is empty while it runs; seconds are of this run."""

    n: int
    pid: int
    command: str
    directory: Path
    seconds: float
    ended: str
    unreported: str = ""
    """Why the session could not be told of its end, if it could not."""

    @property
    def running(self) -> bool:
        return not self.ended


class _Process:
    """A process and the task that watches it."""

    def __init__(self, n: int, typed: str, directory: Path, command: Command, output_bytes: int) -> None:
        self.n = n
        self.typed = typed
        self.directory = directory
        self.command = command
        self.output = BoundedOutput(output_bytes, head_share=0.0)
        self.started = time.monotonic()
        self.seconds: float | None = None
        self.ended = asyncio.Event()
        self.how = ""
        self.asked = ""
        """Who asked for its end."""
        self.unreported = ""

    def row(self) -> ProcessRow:
        return ProcessRow(
            n=self.n,
            pid=self.command.pid,
            command=self.typed,
            directory=self.directory,
            seconds=time.monotonic() - self.started if self.seconds is None else self.seconds,
            ended=self.how,
            unreported=self.unreported,
        )

    async def run(self) -> None:
        """Reads until the end, then makes sure that nothing of it is left."""
        copying = asyncio.create_task(self.command.copy_output(self.output.add))
        try:
            code = await self.command.wait()
        finally:
            await self.command.end()
            await asyncio.wait([copying], timeout=1.0)
            copying.cancel()
            self.command.close()
            await asyncio.wait([copying])
        self.seconds = time.monotonic() - self.started
        self.how = (how_it_ended(code) or "exit code 0") + self.asked
        self.ended.set()

    def sentence(self) -> str:
        """What the session is told: how it ended, and the last it said."""
        last = "\n".join(self.output.text().rstrip("\n").split("\n")[-LAST_LINES:])[-LAST_CHARS:]
        told = f"Background process {self.n} ({one_line(self.typed)}) has ended: {self.how}."
        return f"{told} Its last lines:\n{last}" if last.strip() else f"{told} It printed nothing."


class BackgroundProcesses:
    """Everything that runs beside the talk of one session. `close` ends it all; nothing can be started after."""

    def __init__(self, origin: Origin, output_bytes: int) -> None:
        self._origin = origin
        self._output_bytes = output_bytes
        self._processes: dict[int, _Process] = {}
        self._watching: set[asyncio.Task[None]] = set()
        self._last = 0
        self._closed = False

    async def start(self, typed: str, directory: Path, notify: Notify) -> ProcessRow:
        """Starts a command. Raises ToolFailed when too many run, OSError when it cannot be started."""
        self._refuse_if_closed()
        if sum(not process.how for process in self._processes.values()) >= RUNNING_MAX:
            raise ToolFailed(f"{RUNNING_MAX} background processes run already: end one first.")
        command = await Command.start(typed, directory, self._origin)
        try:
            self._refuse_if_closed()
        except ToolFailed:
            await command.end()
            command.close()
            raise
        return self._watched(typed, directory, command, notify).row()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ToolFailed("The session is closing: nothing is started any more.")

    def _watched(self, typed: str, directory: Path, command: Command, notify: Notify) -> _Process:
        self._last += 1
        process = _Process(self._last, typed, directory, command, self._output_bytes)
        self._processes[process.n] = process
        task = asyncio.create_task(self._watch(process, notify))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
        return process

    async def _watch(self, process: _Process, notify: Notify) -> None:
        await process.run()
        self._forget()
        if self._closed:
            return  # the session is over: there is nobody to tell
        try:
            await notify(EVENT, process.sentence())
        except Exception as error:  # noqa: BLE001 - the supervisor of this process: what failed is recorded
            process.unreported = f"{type(error).__name__}: {error}"

    def _forget(self) -> None:
        ended = [process.n for process in self._processes.values() if process.how]
        for n in ended[: max(0, len(ended) - REMEMBERED_MAX)]:
            del self._processes[n]

    def rows(self) -> tuple[ProcessRow, ...]:
        """All that run and the last that ended, in the order they were started."""
        return tuple(process.row() for process in self._processes.values())

    def output(self, n: int, lines: int) -> str:
        """The last lines of what a process printed. Raises ToolFailed for a number that names none."""
        text = self._find(n).output.text().rstrip("\n")
        return "\n".join(text.split("\n")[-lines:])

    async def wait(self, n: int, seconds: float) -> ProcessRow:
        """How it is after at most that long. Raises ToolFailed for a number that names none."""
        process = self._find(n)
        if seconds and not process.how:
            try:
                async with asyncio.timeout(seconds):
                    await process.ended.wait()
            except TimeoutError:
                pass  # it still runs, and the row says so
        return process.row()

    async def kill(self, n: int) -> ProcessRow:
        """Ends a process and what it started. Raises ToolFailed for a number that names none."""
        process = self._find(n)
        if not process.how:
            process.asked = ", by /kill"
            await process.command.end()
            await process.ended.wait()
        return process.row()

    def _find(self, n: int) -> _Process:
        if n not in self._processes:
            numbers = ", ".join(map(str, self._processes)) or "there is none"
            raise ToolFailed(f"There is no background process {n} (known: {numbers}).")
        return self._processes[n]

    async def close(self) -> None:
        """Ends them all, without telling the session. Idempotent."""
        self._closed = True
        running = [process for process in self._processes.values() if not process.how]
        await asyncio.gather(*(process.command.end() for process in running))
        if self._watching:
            _, late = await asyncio.wait(self._watching, timeout=CLOSE_SECONDS_MAX)
            for task in late:
                task.cancel()


class OutputArguments(Arguments, frozen=True, kw_only=True):
    process: Annotated[int, Meta(ge=1, description="Number of the background process.")]
    lines: Annotated[int, Meta(ge=1, le=2000, description="How many of the last lines.")] = 100
    wait_seconds: Annotated[
        int, Meta(ge=0, le=WAIT_SECONDS_MAX, description="Wait this long for its end before looking.")
    ] = 0


def process_output_tool(processes: BackgroundProcesses) -> DeclaredTool[OutputArguments]:
    async def perform(arguments: OutputArguments, context: ToolContext) -> ToolResult:
        row = await processes.wait(arguments.process, arguments.wait_seconds)
        state = row.ended or f"running for {row.seconds:.0f} s"
        text = processes.output(arguments.process, arguments.lines)
        return ToolResult(text=f"[process {row.n}, pid {row.pid}: {state}]\n{text or '[no output]'}")

    return DeclaredTool(
        name="process_output",
        description="Show whether a background process still runs, and the last lines it printed.",
        arguments=OutputArguments,
        effect=Effect.READ,
        safe_to_repeat=True,
        perform=perform,
        describe=lambda arguments: f"look at background process {arguments.process}",
    )
