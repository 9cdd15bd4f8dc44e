"""The terminal's output: what belongs together is written at once, and a terminal that is gone stops nothing."""

from __future__ import annotations

import os
import select
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, TextIO

from prompt_toolkit.data_structures import Size
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output

# Terminals that know this mode show what stands between the two at once; the others ignore it.
_BEGIN: Final = "\x1b[?2026h"
_END: Final = "\x1b[?2026l"
_INPUT: Final = 0
_LOCAL: Final = 3
"""Where a terminal's input and local modes stand in what `tcgetattr` gives."""
FALLBACK: Final = Size(rows=24, columns=80)


class SteadyOutput(Vt100_Output):
    """Between `hold` and `release` nothing is sent, so that nothing half-drawn is ever seen."""

    def __init__(self, stdout: TextIO, environ: Mapping[str, str]) -> None:
        colours = None if uses_colours(environ) else ColorDepth.DEPTH_1_BIT
        super().__init__(
            stdout, self._measure, term=environ.get("TERM"), default_color_depth=colours, enable_cpr=False
        )
        self._held = False
        self.is_gone = False
        """Whether the terminal was closed under us."""

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        """Sends what was held."""
        self._held = False
        if self._buffer and not self.is_gone:
            self._buffer = [_BEGIN, *self._buffer, _END]
        self.flush()

    def flush(self) -> None:
        if self._held:
            return
        if self.is_gone:
            self._buffer.clear()
            return
        try:
            super().flush()
        except OSError:
            self.is_gone = True  # hung up: the conversation is in the ledger, only its picture ends here

    def _measure(self) -> Size:
        try:
            size = os.get_terminal_size(self.stdout.fileno())
        except OSError:
            return FALLBACK
        return Size(rows=size.lines or FALLBACK.rows, columns=size.columns or FALLBACK.columns)


@contextmanager
def quiet_terminal() -> Iterator[None]:
    """What is typed before the input line is there does not appear above it, and its Enter stays an Enter."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    quiet = termios.tcgetattr(descriptor)
    quiet[_INPUT] &= ~termios.ICRNL
    quiet[_LOCAL] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def has_typed_ahead() -> bool:
    """Whether a whole line was typed before anybody read."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def uses_colours(environ: Mapping[str, str]) -> bool:
    """As no-color.org asks: any text in NO_COLOR means none."""
    return not environ.get("NO_COLOR")


def is_dumb(environ: Mapping[str, str]) -> bool:
    """Whether the terminal cannot move its cursor."""
    return environ.get("TERM", "dumb").lower() in ("dumb", "unknown", "")


def rewraps_lines(environ: Mapping[str, str]) -> bool:
    """Whether the terminal breaks its lines anew when it becomes narrower; the few that do not cut them off."""
    if environ.get("TMUX"):
        return True
    return not (environ.get("XTERM_VERSION") or environ.get("TERM", "").startswith(("linux", "screen", "vt")))
