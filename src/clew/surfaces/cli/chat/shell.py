"""`!command`: a command of the person's own, beside the conversation. Neither it nor its output is stored."""

from __future__ import annotations

import asyncio
import codecs
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

from clew.surfaces.cli.chat.screen import Screen

OUTPUT_BYTES_MAX: Final = 1_000_000
CHUNK_BYTES: Final = 8192


class ShellCommand:
    """One command in the working directory, whose lines are shown as they come."""

    def __init__(self, command: str, cwd: Path, screen: Screen) -> None:
        self.command = command.strip()
        self._cwd = cwd
        self._screen = screen
        self._process: asyncio.subprocess.Process | None = None
        self._stopped = False

    async def run(self) -> None:
        """Returns when it has ended. Cancelled, it ends the command's whole group first."""
        if not self.command:
            self._screen.notice("!command runs a command in your shell.")
            return
        self._process = await asyncio.create_subprocess_shell(
            self.command,
            cwd=self._cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if self._stopped:
                self.stop()
            await self._show_output(self._process)
            code = await self._process.wait()
        finally:
            self._end()
        if code:
            self._screen.notice(f"ended by signal {-code}" if code < 0 else f"exit code {code}")

    def stop(self) -> None:
        """Ends the command, as Ctrl-C does in a shell."""
        self._stopped = True
        self._signal(signal.SIGINT)

    async def _show_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None, "it was started with a pipe"
        decoder, rest, size = codecs.getincrementaldecoder("utf-8")("replace"), "", 0
        while chunk := await process.stdout.read(CHUNK_BYTES):
            size += len(chunk)
            if size > OUTPUT_BYTES_MAX:
                continue  # read to the end, so that the command is not blocked
            *lines, rest = (rest + decoder.decode(chunk)).split("\n")
            if lines:
                self._screen.reply("\n".join(lines))
        if rest:
            self._screen.reply(rest)
        if size > OUTPUT_BYTES_MAX:
            self._screen.notice(f"(cut after {OUTPUT_BYTES_MAX} of {size} bytes)")

    def _end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):  # it ended just now
                os.killpg(self._process.pid, number)
