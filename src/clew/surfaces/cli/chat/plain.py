"""The chat on a terminal that cannot move its cursor (TERM=dumb): lines in, blocks of text out."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Final, TextIO

from clew.surfaces.cli.chat.composer import Entry
from clew.surfaces.cli.chat.loop import ChatLoop
from clew.surfaces.cli.chat.screen import Screen
from clew.surfaces.cli.terminal import FALLBACK

READ_BYTES: Final = 65_536
QUESTION: Final = "Allow it? y once, a always in this session, n no, v shows all of it"


class PlainDisplay:
    """`Display` that prints and never takes anything back."""

    def __init__(self, stdout: TextIO) -> None:
        self._stdout = stdout

    @property
    def columns(self) -> int:
        try:
            return os.get_terminal_size(self._stdout.fileno()).columns or FALLBACK.columns
        except OSError:
            return FALLBACK.columns

    def show(self, text: str) -> None:
        try:
            self._stdout.write(text)
            self._stdout.flush()
        except OSError:
            return  # hung up: the conversation is in the ledger, only its picture ends here

    def changed(self) -> None:
        """Nothing here is ever drawn again."""


class PlainView:
    """Reads lines from the terminal, which edits them itself. `Line` of its loop."""

    def __init__(self, screen: Screen, loop: ChatLoop) -> None:
        self._screen = screen
        self._loop = loop
        self._rest = b""
        self._over = asyncio.Event()
        loop.line = self

    is_empty: Final = True
    text: Final = ""

    def put(self, text: str, *, takes_back: int = 0) -> None:
        """There is no line to put it into."""
        self._screen.notice(f"It was: {text}")

    def set_aside(self) -> None:
        self._screen.notice(QUESTION)

    def bring_back(self) -> None:
        """Nothing was taken away."""

    async def run(self) -> None:
        """Until the person leaves or the terminal is gone."""
        events, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()
        events.add_reader(descriptor, self._read, descriptor)
        events.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            await self._over.wait()
        finally:
            events.remove_signal_handler(signal.SIGINT)
            events.remove_reader(descriptor)

    async def stands(self) -> None:
        """Nothing is drawn here."""

    def exit(self) -> None:
        self._over.set()

    def leave_picker(self) -> None:
        """There is none."""

    def _read(self, descriptor: int) -> None:
        try:
            read = os.read(descriptor, READ_BYTES)
        except OSError:
            read = b""
        *lines, self._rest = (self._rest + read).split(b"\n")
        for line in lines:
            if not self._loop.enter(Entry(text=line.decode("utf-8", "replace"))):
                self._screen.problem("Too many lines wait; this one was not taken.")
        if not read:
            self._over.set()

    def _interrupt(self) -> None:
        if not self._loop.interrupt():
            self._screen.notice("Ctrl-D or /quit leaves.")
