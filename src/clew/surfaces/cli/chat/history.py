"""What was typed before: messages from the ledger, `!commands` from a file of their own.

Rule: the ledger is the only place where messages are kept, so that a deleted one is nowhere else either. Commands with
a slash are remembered while the chat runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from prompt_toolkit.history import History

from clew.domain.conversation.ids import PrincipalId
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.world import Clock

SESSIONS_MAX: Final = 20
MESSAGES_OF_SESSION_MAX: Final = 50
LINES_MAX: Final = 500
FILE_MODE: Final = 0o600


class Typed(msgspec.Struct, frozen=True, order=True):
    at: int
    text: str


_decode: Final = msgspec.json.Decoder(Typed).decode


class ShellLines:
    """The file of `!commands`: one a line, readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Typed]:
        """The newest lines. A line that cannot be read (a crash cut it) is left out."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        typed = [entry for line in lines if (entry := _entry(line)) is not None]
        if len(lines) > 2 * LINES_MAX:
            self._write(typed[-LINES_MAX:], os.O_TRUNC)
        return typed[-LINES_MAX:]

    def add(self, entry: Typed) -> None:
        self._write([entry], os.O_APPEND)

    def _write(self, entries: Iterable[Typed], how: int) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, FILE_MODE)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, FILE_MODE)
            file.write(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))


def _entry(line: bytes) -> Typed | None:
    try:
        return _decode(line)
    except msgspec.DecodeError:
        return None


class ChatHistory(History):
    """For the input line: Ctrl-P and Ctrl-N go through it, Ctrl-R searches it."""

    def __init__(self, past: Sequence[Typed], lines: ShellLines, clock: Clock) -> None:
        super().__init__()
        self._past = sorted({entry.text: entry for entry in sorted(past)}.values())
        self._lines = lines
        self._clock = clock

    def load_history_strings(self) -> Iterable[str]:
        return [entry.text for entry in reversed(self._past)]

    def store_string(self, string: str) -> None:
        if string.startswith("!"):
            self._lines.add(Typed(self._clock.now_ms(), string))


async def said_before(ledger: Ledger, principal: PrincipalId) -> list[Typed]:
    """What somebody sent in their newest sessions."""
    typed: list[Typed] = []
    for row in await ledger.sessions(principal, limit=SESSIONS_MAX):
        starts = await ledger.turn_starts(principal, row.id, MESSAGES_OF_SESSION_MAX)
        typed += [Typed(message.created_at, message.text) for message in starts]
    return typed
