"""A person at a terminal: a program in a pseudo-terminal, and the screen as it stands after every byte.

    with Person(["clew"], environ=..., cwd=...) as person:
        person.sees("Say something")
        person.types("hello", Key.ENTER)
        person.sees("echo: hello")

What is awaited is looked for again whenever something arrives, until a deadline; nobody waits for a fixed time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pexpect
import pyte

SECONDS_MAX: Final = 12.0
_READ_SECONDS: Final = 0.05
_READ_BYTES: Final = 65_536
_SCROLLED_LINES: Final = 10_000


class Key(StrEnum):
    """What keys send."""

    ENTER = "\r"
    ALT_ENTER = "\x1b\r"
    UP = "\x1b[A"
    DOWN = "\x1b[B"
    BACKSPACE = "\x7f"
    CTRL_C = "\x03"
    CTRL_D = "\x04"
    CTRL_J = "\n"


class NotSeen(AssertionError):
    """What was awaited did not come in time; the text holds the screen."""


class _Screen(pyte.HistoryScreen):
    """Becomes lower as terminals do: pyte takes rows off the top, and leaves the cursor where it was."""

    def resize_rows(self, rows: int) -> None:
        """Empty rows below the cursor go first; then the highest scroll away, and the cursor with the others."""
        row = self.cursor.y
        for _ in range(row + 1 - rows):
            self.cursor.y = self.lines - 1
            self.index()
            row -= 1
        for gone in range(rows, self.lines):
            self.buffer.pop(gone, None)
        self.lines, self.cursor.y = rows, row
        self.set_margins()
        self.cursor.y = row
        self.dirty.update(range(rows))


class Person:
    """Runs a program and looks at its screen. Leaving ends the program, with all it started."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        cwd: Path,
        columns: int = 80,
        rows: int = 24,
    ) -> None:
        self._screen = _Screen(columns, rows, history=_SCROLLED_LINES, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)
        # `linux` is what pyte emulates; it cuts lines off at a resize, as that console does.
        self._child = pexpect.spawn(
            command[0],
            list(command[1:]),
            env={"TERM": "linux", **environ},
            cwd=str(cwd),
            dimensions=(rows, columns),
        )
        self._child.delaybeforesend = None
        self.raw = b""
        """Every byte the program printed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child.isalive():
            self._child.kill(signal.SIGKILL)
        self._child.close(force=True)

    # -- what is seen --------------------------------------------------------------------------------------------
    @property
    def screen(self) -> str:
        """What stands on the screen, without empty rows at its end."""
        return "\n".join(row.rstrip() for row in self._screen.display).rstrip()

    @property
    def transcript(self) -> str:
        """Everything that was printed: what scrolled away, and the screen."""
        columns = self._screen.columns
        scrolled = [
            "".join(line[column].data for column in range(columns)).rstrip()
            for line in self._screen.history.top
        ]
        return "\n".join([*scrolled, self.screen])

    def sees(self, *texts: str, seconds: float = SECONDS_MAX) -> None:
        """Waits until all of these stand on the screen."""
        self.wait_until(
            lambda: all(text in self.screen for text in texts), " and ".join(texts), seconds=seconds
        )

    def sees_no_more(self, text: str, seconds: float = SECONDS_MAX) -> None:
        """Waits until this is gone from the screen."""
        self.wait_until(lambda: text not in self.screen, f"no {text}", seconds=seconds)

    def wait_until(self, holds: Callable[[], bool], what: str, seconds: float = SECONDS_MAX) -> None:
        """Reads what the program prints until something holds. Raises NotSeen with the screen."""
        deadline = time.monotonic() + seconds
        while not holds():
            if not self._read() or time.monotonic() > deadline:
                if holds():
                    return
                raise NotSeen(f"not seen: {what}\n{'─' * 20}\n{self.screen}\n{'─' * 20}")

    def waits_for_end(self, seconds: float = SECONDS_MAX) -> int:
        """Waits until the program has ended; its exit code, or the negative number of the signal that ended it."""
        deadline = time.monotonic() + seconds
        while self._read():
            if time.monotonic() > deadline:
                raise NotSeen(f"the program goes on\n{self.screen}")
        self._child.wait()
        status: int | None = self._child.exitstatus
        return status if status is not None else -int(self._child.signalstatus)

    def _read(self) -> bool:
        """Takes in what has come; False when the program has closed its terminal."""
        try:
            read = self._child.read_nonblocking(_READ_BYTES, timeout=_READ_SECONDS)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += read
        self._stream.feed(read)
        return True

    # -- what is done --------------------------------------------------------------------------------------------
    def types(self, *texts: str) -> None:
        """Types texts and keys, one after the other."""
        for text in texts:
            self._child.send(text)

    def pastes(self, text: str) -> None:
        """Pastes as terminals do that mark what was pasted."""
        self._child.send(f"\x1b[200~{text}\x1b[201~")

    def resizes(self, columns: int, rows: int) -> None:
        """Makes the window another size."""
        self._screen.resize(columns=columns)
        self._screen.resize_rows(rows)
        self._child.setwinsize(rows, columns)

    def kills(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends the program a signal."""
        os.kill(self._child.pid, number)
