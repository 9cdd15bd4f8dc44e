"""One shell command: started in a process group of its own, its output read from one pipe, ended as a whole."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from clew.adapters.processes.groups import StartedGroups
from clew.adapters.processes.tree import end_tree
from clew.adapters.processes.uninterrupted import to_the_end

DRAIN_SECONDS: Final = 0.5
"""After a command's end, how long its output may take to end as well."""
READ_BYTES: Final = 1 << 16

QUIET: Final = {
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
    "PAGER": "cat",
    "TERM": "dumb",
}
"""Nobody can press a key: no pager, no prompt, no cursor movements."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What all commands of a session share. `mark` is unique to it: every process is found again by it."""

    mark: str
    groups: StartedGroups
    hidden_variables: frozenset[str] = frozenset()
    """Variables that hold our own keys, which no command needs."""

    def variables(self, mark: str) -> dict[str, str]:
        """The environment of a command that has a mark of its own, too."""
        kept = {name: value for name, value in os.environ.items() if name not in self.hidden_variables}
        return {**kept, **QUIET, **self.groups.variables(self.mark, mark)}


class Command:
    """A running command. Whoever started it calls `close`, and `end` before that unless it ended by itself."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        output: asyncio.StreamReader,
        pipe: asyncio.ReadTransport,
        mark: str,
        groups: StartedGroups,
    ) -> None:
        self._process = process
        self._output = output
        self._pipe = pipe
        self._mark = mark
        self._groups = groups

    @classmethod
    async def start(cls, script: str, directory: Path, origin: Origin) -> Command:
        """Runs a script with bash, or sh where there is none. Raises OSError if it cannot be started."""
        mark = secrets.token_hex(8)
        reading, writing = os.pipe()
        try:
            output, pipe = await _reader(reading)
            try:
                process = await _spawn(script, directory, origin, mark, writing)
            except BaseException:
                pipe.close()
                raise
        finally:
            os.close(writing)
        return cls(process, output, pipe, mark, origin.groups)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def copy_output(self, sink: Callable[[bytes], None]) -> None:
        """Hands on output until nobody can write any more: that may be later than the command's end."""
        while chunk := await self._output.read(READ_BYTES):
            sink(chunk)

    async def wait(self) -> int:
        """The exit code, negative for a signal. Does not wait for the end of the output."""
        return await self._process.wait()

    async def end(self) -> bool:
        """Ends it and everything it started; True when nothing is left. Finishes even when cancelled."""
        return await to_the_end(end_tree(self.pid, self._mark))

    async def end_group(self) -> bool:
        """Ends what it left behind in its own group; what made itself a daemon stays."""
        return await to_the_end(end_tree(self.pid, None))

    def close(self) -> None:
        """Stops reading. Idempotent."""
        self._pipe.close()
        self._groups.forget(self.pid)


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    output = asyncio.StreamReader(limit=READ_BYTES)
    file = os.fdopen(descriptor, "rb", buffering=0)
    try:
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), file
        )
    except BaseException:
        file.close()
        raise
    return output, pipe


async def _spawn(
    script: str, directory: Path, origin: Origin, mark: str, output: int
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *origin.groups.recorded([shutil.which("bash") or "/bin/sh", "-c", script]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=directory,
        env=origin.variables(mark),
        start_new_session=True,
    )


def how_it_ended(code: int) -> str:
    """An exit code in words; empty for success."""
    if code >= 0:
        return f"exit code {code}" if code else ""
    try:
        return f"ended by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"ended by signal {-code}"
