"""An agent's process: a group of its own, on record before it runs, its pipes read as they fill.

Whatever it writes to standard error is read and thrown away but for the last words; so it never blocks there.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from clew.adapters.agents.errors import AgentUnavailable
from clew.adapters.processes.groups import StartedGroups
from clew.adapters.processes.tree import end_tree
from clew.adapters.processes.uninterrupted import to_the_end

LAST_WORDS_BYTES: Final = 4096
LAST_WORDS_SECONDS: Final = 1.0
"""For its pipes to end after it did; they do at once, unless somebody else holds them."""
UNREAD_BYTES_MAX: Final = 64 * 1024 * 1024
"""What may wait for an agent that does not read; past it the agent is given up."""
_READ_BYTES: Final = 1 << 16


class AgentProcess:
    """Made by `start`. `ended` is told once, when nothing more will come of it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        mark: str,
        groups: StartedGroups,
        received: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        self._process = process
        self._mark = mark
        self._groups = groups
        self._received = received
        self._ended = ended
        self._words = bytearray()
        self._reading = [asyncio.create_task(self._read()), asyncio.create_task(self._read_words())]

    @classmethod
    async def start(
        cls,
        command: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        groups: StartedGroups,
        *,
        received: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> AgentProcess:
        """Starts it with these arguments and this environment, unchanged but for our mark. Raises AgentUnavailable."""
        found = shutil.which(command, path=environment.get("PATH", os.defpath))
        if found is None:
            raise AgentUnavailable(f"the program {command} is not there", for_good=True)
        mark = secrets.token_hex(8)
        try:
            process = await cls._spawned(
                groups.recorded([found, *arguments]), cwd, {**environment, **groups.variables(mark)}
            )
        except OSError as error:
            sentence = f"{command} cannot be started in {cwd}: {error.strerror}"
            raise AgentUnavailable(sentence, for_good=True) from error
        return cls(process, mark, groups, received, ended)

    @staticmethod
    async def _spawned(
        command: Sequence[str], cwd: Path, environment: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def resident_mb(self) -> int:
        """Of its first process; 0 where that cannot be known."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1])
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    def last_words(self) -> str:
        """The last line it wrote to standard error; empty when there is none."""
        lines = self._words.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip()[:500] if lines else ""

    def write(self, data: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        if stdin.transport.is_closing():
            return
        stdin.write(data)
        if stdin.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            stdin.transport.abort()
            self._ended()

    async def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            while data := await stdout.read(_READ_BYTES):
                self._received(data)
                await asyncio.sleep(0)  # what was received is heard before more is read
        finally:
            self._ended()

    async def _read_words(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        while data := await stderr.read(_READ_BYTES):
            self._words += data
            del self._words[:-LAST_WORDS_BYTES]

    async def close(self) -> None:
        """Ends everything it started, by SIGTERM and then by SIGKILL. Idempotent; finished even when cancelled."""
        await to_the_end(self._close())

    async def _close(self) -> None:
        await end_tree(self.pid, self._mark)
        await asyncio.wait(self._reading, timeout=LAST_WORDS_SECONDS)  # what it wrote before it ended
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        await self._process.wait()
        # A pipe that a stranger inherited would stay open; asyncio has no other way to let go of it.
        self._process._transport.close()  # type: ignore[attr-defined]
        self._groups.forget(self.pid)
