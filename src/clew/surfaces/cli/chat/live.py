"""The part of the chat that is drawn again and again: what grows, what runs, what waits, what is asked.

It stands between the transcript and the input line, as lines with colours, and never takes more rows than it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from rich.text import Text

from clew.surfaces.cli.chat.printable import one_line, printable
from clew.surfaces.cli.chat.screen import RunningCall, Screen

OUTPUT_LINES: Final = 4
"""Of a running tool's output."""
WAITING_SHOWN: Final = 3
THINKING_LINES: Final = 3
_SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
TICKS_A_SECOND: Final = 4


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to draw besides what the screen knows."""

    activity: str = ""
    """What is being waited for; empty when nothing is."""
    seconds: float = 0.0
    """Since it began."""
    waiting: Sequence[str] = ()
    enter: str = ""
    """What a message does that is sent now."""
    """Messages that are sent after this turn."""
    question: str = ""
    editing: str = ""
    """What the text in the input line would do when it is sent."""
    hint: str = ""


class LiveLines:
    """Draws the moment."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def draw(self, moment: Moment, columns: int, rows: int) -> list[str]:
        """At most `rows` lines, each at most `columns` wide."""
        above = self._growing(columns)
        below = [self._set(text, columns) for text in self._below(moment, columns)]
        if below and (above or not self._screen.ends_with_gap):
            below = ["", *below]
        below = below[-rows:] if rows > 0 else []
        room = rows - len(below)
        return [*(above[-room:] if room > 0 else []), *below]

    def _growing(self, columns: int) -> list[str]:
        piece = self._screen.growing
        if piece is None:
            return []
        setter = self._screen.typesetter
        text = setter.piece(piece, columns)
        if piece.language is not None:
            text = setter.set(Text.from_ansi(text), columns)
        lines = text.splitlines()
        gap = lines and piece.spaced and not self._screen.ends_with_gap
        return ["", *lines] if gap else lines

    def _below(self, moment: Moment, columns: int) -> list[Text]:
        lines: list[Text] = []
        if moment.activity:
            lines += self._thinking(columns)
            spinner = _SPINNER[int(moment.seconds * TICKS_A_SECOND) % len(_SPINNER)]
            lines += self._calls(columns, spinner)
            if self._screen.trouble:
                lines.append(Text(self._screen.trouble, style="yellow"))
            if not moment.question:
                lines.append(_activity(moment, spinner, columns))
        lines += _waiting(moment.waiting, columns)
        for sentence, style in (
            (moment.question, "bold yellow"),
            (moment.editing, "yellow"),
            (moment.hint, "dim"),
        ):
            if sentence:
                lines += [Text(line, style=style) for line in sentence.split("\n")]
        return lines

    def _thinking(self, columns: int) -> list[Text]:
        if not (self._screen.options.show_thinking and self._screen.thinking):
            return []
        lines = printable(self._screen.thinking).strip().splitlines()[-THINKING_LINES:]
        return [Text(line[-columns:], style="dim italic") for line in lines]

    def _calls(self, columns: int, spinner: str) -> list[Text]:
        lines: list[Text] = []
        for call in self._screen.calls.values():
            mark = spinner if call.started else "·"
            lines.append(Text(f"{mark} {one_line(call.line, max(columns - 2, 1))}", style="cyan"))
            lines += self._output(call, columns)
        return lines

    def _output(self, call: RunningCall, columns: int) -> list[Text]:
        count = min(OUTPUT_LINES, self._screen.options.tool_output_lines)
        shown = printable(call.output).rstrip().splitlines()[-count:] if count else []
        return [Text(f"  {one_line(line, max(columns - 2, 1))}", style="dim") for line in shown]

    def _set(self, text: Text, columns: int) -> str:
        text.truncate(columns, overflow="ellipsis")
        return self._screen.typesetter.text(text).rstrip("\n")


def _activity(moment: Moment, spinner: str, columns: int) -> Text:
    seconds = f" {int(moment.seconds)} s" if moment.seconds >= 1 else ""
    text = Text(f"{spinner} {moment.activity}{seconds}", style="cyan")
    hint = f"  Ctrl-C stops it{moment.enter and f', Enter {moment.enter}'}"
    if columns >= len(text) + len(hint) + 1:
        text.append(hint, style="dim")
    return text


def _waiting(waiting: Sequence[str], columns: int) -> list[Text]:
    shown = [f"↳ {one_line(text, max(columns - 2, 1))}" for text in waiting[:WAITING_SHOWN]]
    if len(waiting) > WAITING_SHOWN:
        shown.append(f"  and {len(waiting) - WAITING_SHOWN} more")
    return [Text(line, style="dim") for line in shown]
