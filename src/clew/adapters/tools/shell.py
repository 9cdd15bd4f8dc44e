"""The `shell` tool: one command at a time, its output bounded, its directory remembered, its processes ended."""

from __future__ import annotations

import asyncio
import codecs
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from clew.adapters.tools.arguments import Arguments
from clew.adapters.tools.bounded import BoundedOutput
from clew.adapters.tools.commands import DRAIN_SECONDS, Command, Origin, how_it_ended
from clew.adapters.tools.declared import DeclaredTool, ToolFailed
from clew.adapters.tools.processes import BackgroundProcesses
from clew.adapters.tools.terminals import result_of, run_in_terminal
from clew.domain.conversation.messages import Status
from clew.domain.tools.spec import Effect, ToolResult
from clew.runtime.ports.tools import Terminals, ToolContext

SECONDS_DEFAULT: Final = 120
SECONDS_MAX: Final = 600


class ShellArguments(Arguments, frozen=True, kw_only=True):
    command: Annotated[str, Meta(min_length=1, description="Run by bash. No input is available.")]
    timeout_seconds: Annotated[int, Meta(ge=1, le=SECONDS_MAX, description="Time limit.")] = SECONDS_DEFAULT
    background: Annotated[
        bool,
        Meta(description="Start it, do not wait: for servers and anything long. Its end will be reported."),
    ] = False


class ShellState:
    """Where the session's shell is: `cd` holds for the next command, until the session itself moves."""

    def __init__(self, notes: Path) -> None:
        """`notes` is a directory that is removed with this process, even if it is killed."""
        self._root = notes
        self._base: Path | None = None
        self._now = Path()
        self._notes: Path | None = None

    def directory(self, base: Path) -> Path:
        """Where a command runs. `base` is the session's directory; a shell whose directory is gone returns to it."""
        return self._now if base == self._base and self._now.is_dir() else base

    def move(self, base: Path, directory: Path) -> None:
        """The command has left the shell there."""
        self._base, self._now = base, directory

    def new_note(self) -> Path:
        """The name of a file of ours in which one command can say something."""
        if self._notes is None:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._notes = Path(tempfile.mkdtemp(dir=self._root))
        return self._notes / secrets.token_hex(8)

    def close(self) -> None:
        """Removes what the commands said. Idempotent."""
        if self._notes is not None:
            shutil.rmtree(self._notes)
            self._notes = None


class Shell(msgspec.Struct, frozen=True, kw_only=True):
    """What the commands of a session share."""

    state: ShellState
    processes: BackgroundProcesses
    origin: Origin
    output_bytes: int
    terminals: Terminals | None = None


def shell_tool(base: Path, shell: Shell) -> DeclaredTool[ShellArguments]:
    """`base` is the session's directory, for describing."""

    async def perform(arguments: ShellArguments, context: ToolContext) -> ToolResult:
        if "\0" in arguments.command:
            raise ToolFailed("A command cannot hold a NUL character.")
        if arguments.background:
            return await _start(shell, arguments, context)
        return await _run(shell, arguments, context)

    def describe(arguments: ShellArguments) -> str:
        how = "start in the background" if arguments.background else "run"
        return f"{how} in {shell.state.directory(base)}: {arguments.command}"

    return DeclaredTool(
        name="shell",
        description=(
            "Run a shell command. The directory is kept from one call to the next; variables are not. "
            "Long output is shown without its middle."
        ),
        arguments=ShellArguments,
        effect=Effect.EXECUTE,
        safe_to_repeat=False,
        perform=perform,
        describe=describe,
    )


async def _start(shell: Shell, arguments: ShellArguments, context: ToolContext) -> ToolResult:
    directory = shell.state.directory(context.cwd)
    process = await shell.processes.start(arguments.command, directory, context.notify)
    return ToolResult(
        text=f"Background process {process.n} is running (pid {process.pid}). Its end will be reported; until then "
        f"process_output shows what it prints, and `kill -- -{process.pid}` ends it."
    )


async def _run(shell: Shell, arguments: ShellArguments, context: ToolContext) -> ToolResult:
    before = shell.state.directory(context.cwd)
    note = shell.state.new_note()
    script = _telling_directory(arguments.command, note)
    if shell.terminals is not None:
        end = await run_in_terminal(
            shell.terminals, script, before, shell.origin, context,
            seconds_max=arguments.timeout_seconds, output_bytes=shell.output_bytes,
        )  # fmt: skip
        return result_of(end, arguments.timeout_seconds, _moved(shell, context, before, note))
    command = await Command.start(script, before, shell.origin)
    output = BoundedOutput(shell.output_bytes)
    sink = _sink(output, context.progress, shell.output_bytes)
    ending = await _attend(command, sink, arguments.timeout_seconds)
    return _result(output, ending, moved=_moved(shell, context, before, note))


def _moved(shell: Shell, context: ToolContext, before: Path, note: Path) -> Path | None:
    """Where the command has left the shell, if that is somewhere else."""
    after = _read_note(note) or before
    shell.state.move(context.cwd, after)
    return after if after != before else None


def _telling_directory(command: str, note: Path) -> str:
    """The command, made to say at its end where it is; on one line with it, so that its line numbers are right."""
    tell = f"command pwd -P > {shlex.quote(str(note))}"
    return f"trap {shlex.quote(tell)} EXIT; {command}"


def _read_note(note: Path) -> Path | None:
    """Where the shell was at its end; None if it could not say."""
    try:
        said = note.read_text("utf-8", errors="surrogateescape").removesuffix("\n")
        note.unlink()
    except FileNotFoundError:
        return None
    return Path(said) if said else None


def _sink(output: BoundedOutput, progress: Callable[[str], None], limit: int) -> Callable[[bytes], None]:
    """Keeps output and shows it as it comes: whole characters, and no more than a result may hold."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(chunk: bytes) -> None:
        if output.total < limit:
            progress(decoder.decode(chunk[: limit - output.total]))
        output.add(chunk)

    return take


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a command came to its end, as notes for the model. `ok` when there is nothing to note but remarks."""

    ok: bool
    notes: tuple[str, ...]


async def _attend(command: Command, sink: Callable[[bytes], None], seconds: int) -> Ending:
    """Waits for the end, within the limit. Whatever happens, its processes are gone afterwards, but for daemons."""
    copying = asyncio.create_task(command.copy_output(sink))
    try:
        async with asyncio.timeout(seconds):
            code = await command.wait()
        left = await _still_open(copying)
        if not left:
            copying.result()  # raises what kept the output from being taken
        return _ended(code, await _sweep(command, copying) if left else ())
    except TimeoutError:
        gone = await command.end()
        await _still_open(copying)
        return Ending(ok=False, notes=(f"ended after {seconds} s: the time limit", *_not_gone(gone)))
    except asyncio.CancelledError:
        await command.end()
        raise
    finally:
        command.close()
        copying.cancel()
        await asyncio.wait([copying])


async def _still_open(copying: asyncio.Task[None]) -> bool:
    """Whether somebody may write yet, a moment after the command's end."""
    _, running = await asyncio.wait([copying], timeout=DRAIN_SECONDS)
    return bool(running)


async def _sweep(command: Command, copying: asyncio.Task[None]) -> tuple[str, ...]:
    """Ends what the command left behind, holding its output."""
    gone = await command.end_group()
    if await _still_open(copying):
        return ("a process it started runs on; its output is no longer read", *_not_gone(gone))
    return ("what it left running was ended: use background for that", *_not_gone(gone))


def _not_gone(gone: bool) -> tuple[str, ...]:
    return () if gone else ("some of its processes could not be ended",)


def _ended(code: int, notes: tuple[str, ...]) -> Ending:
    how = how_it_ended(code)
    return Ending(ok=not code, notes=(how, *notes) if how else notes)


def _result(output: BoundedOutput, ending: Ending, *, moved: Path | None) -> ToolResult:
    text = output.text().rstrip("\n")
    notes = (*ending.notes, f"now in {moved}") if moved else ending.notes
    said = [text] if text else [] if notes else ["[no output]"]
    return ToolResult(
        text="\n".join([*said, *(f"[{note}]" for note in notes)]),
        status=Status.OK if ending.ok else Status.ERROR,
    )
