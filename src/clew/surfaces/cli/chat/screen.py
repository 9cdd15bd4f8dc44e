"""What the chat shows: a transcript that scrolls away, and above the input line what is still changing.

Rule: everything is printed here, through one display, as whole lines; nothing is printed twice, and nothing that came
from a model, a tool or a file reaches the terminal with control characters in it.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
from rich.cells import cell_len
from rich.text import Text

from clew.domain.conversation.ids import CallId
from clew.domain.conversation.messages import Status
from clew.runtime.ports.people import (
    AttemptVoid,
    CallAnnounced,
    CallEnded,
    CallOutput,
    CallRunning,
    Joined,
    Noticed,
    StepRecorded,
    TextShown,
    ThinkingShown,
    TurnNews,
)
from clew.surfaces.cli.chat.blocks import BlockSplitter, Piece
from clew.surfaces.cli.chat.printable import one_line, printable
from clew.surfaces.cli.chat.results import Results
from clew.surfaces.cli.chat.typesetting import Typesetter

PROMPT: Final = "\u276f "
PERSON_LINES_MAX: Final = 30
"""Lines of what somebody sent that are repeated in the transcript; all of it was sent."""
OUTPUT_TAIL_CHARACTERS: Final = 2_000
THINKING_TAIL_CHARACTERS: Final = 2_000
MARKS: Final = {
    Status.OK: ("✓", "green"),
    Status.REFUSED: ("⊘", "yellow"),
    Status.NOT_RUN: ("⊘", "yellow"),
    Status.INTERRUPTED: ("■", "yellow"),
    Status.UNKNOWN: ("?", "yellow"),
    Status.ERROR: ("✗", "red"),
}


class Display(Protocol):
    """Where the transcript goes."""

    @property
    def columns(self) -> int: ...

    def show(self, text: str) -> None:
        """Prints whole lines above everything that is still changing."""
        ...

    def changed(self) -> None:
        """What is still changing should be drawn again."""
        ...


class ScreenOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The section `terminal` of the settings, and what the terminal does by itself."""

    repeats_lines: bool = True
    """Whether what is sent is shown: not where the terminal leaves it standing."""
    show_thinking: bool = False
    tool_output_lines: int = 10


class RunningCall:
    """A tool call that was announced and has not ended."""

    def __init__(self, line: str) -> None:
        self.line = line
        self.started = False
        self.output = ""


class Screen:
    """Shows one conversation."""

    def __init__(self, display: Display, typesetter: Typesetter, options: ScreenOptions) -> None:
        self.typesetter = typesetter
        self.options = options
        self.results = Results()
        self.calls: dict[CallId, RunningCall] = {}
        self.previewed: set[CallId] = set()
        """Calls that somebody was shown before they ran."""
        self.thinking = ""
        self.trouble = ""
        """Why the model is asked once more; empty when it is not."""
        self._display = display
        self._blocks = BlockSplitter()
        self._shown_of_step = False
        self._thought = ""
        self._last_was_call = False
        self.ends_with_gap = True
        """Whether the transcript ends with an empty line."""

    @property
    def columns(self) -> int:
        return self._display.columns

    @property
    def growing(self) -> Piece | None:
        return self._blocks.growing()

    # -- sentences -----------------------------------------------------------------------------------------------
    def person(self, text: str, files: tuple[str, ...] = ()) -> None:
        """What somebody sent."""
        if not self.options.repeats_lines:
            self.gap()
            return
        lines = printable(text).split("\n")
        shown = lines if len(lines) <= PERSON_LINES_MAX else lines[:PERSON_LINES_MAX]
        words = Text(PROMPT + "\n  ".join(shown), style="bold")
        if len(shown) < len(lines):
            words.append(f"\n  … {len(lines) - len(shown)} more lines", style="not bold dim")
        for file in files:
            words.append(f"\n  attached {printable(file)}", style="not bold dim")
        self._paragraph(words)

    def entered(self, line: str) -> None:
        """A command, as it was typed."""
        if self.options.repeats_lines:
            self._paragraph(Text(f"{PROMPT}{one_line(line, 200)}", style="dim"))

    def notice(self, text: str) -> None:
        self._sentence(Text(printable(text), style="dim"))

    def problem(self, text: str) -> None:
        self._sentence(Text(printable(text), style="red"))

    def reply(self, text: str) -> None:
        """What a command answered: as it is, aligned columns and all, where they fit."""
        shown = Text(printable(text))
        if text and max(cell_len(line) for line in shown.plain.split("\n")) > self.columns:
            self._sentence(shown)
        elif text:
            self._line(shown)

    def text(self, text: Text) -> None:
        self._line(text)

    def raw(self, text: str) -> None:
        """Lines that were typeset already."""
        self._show(text)

    def gap(self) -> None:
        """An empty line, unless there is one."""
        if not self.ends_with_gap:
            self._show("\n")
            self.ends_with_gap = True

    def markdown(self, text: str) -> None:
        """A whole reply of earlier."""
        blocks = BlockSplitter()
        for piece in (*blocks.feed(text), *blocks.finish()):
            self._piece(piece)

    # -- a turn --------------------------------------------------------------------------------------------------
    def watch(self, news: TurnNews) -> None:
        match news:
            case TextShown(text):
                self._text(text)
            case ThinkingShown(text):
                self.thinking = (self.thinking + text)[-THINKING_TAIL_CHARACTERS:]
                if self.options.show_thinking:
                    self._thought += text
            case AttemptVoid():
                self._void(news)
            case StepRecorded():
                self._end_of_step()
            case CallAnnounced():
                self.calls[news.call] = RunningCall(news.line)
            case CallRunning(call):
                if call in self.calls:
                    self.calls[call].started = True
            case CallOutput(call, text):
                if call in self.calls:
                    known = self.calls[call]
                    known.output = (known.output + text)[-OUTPUT_TAIL_CHARACTERS:]
            case CallEnded():
                self._call_ended(news)
            case Joined():
                self.person(news.text, news.files)
            case Noticed(text):
                self.notice(text)
        self._display.changed()

    def end(self) -> None:
        """The turn is over: what was still growing is final."""
        self._end_of_step()
        self.calls.clear()
        self.previewed.clear()
        self.gap()
        self._display.changed()

    def _text(self, text: str) -> None:
        self.trouble = ""
        self._tell_thought()
        self._shown_of_step = True
        for piece in self._blocks.feed(text):
            self._piece(piece)

    def _tell_thought(self) -> None:
        thought, self._thought, self.thinking = self._thought.strip(), "", ""
        if thought:
            self._paragraph(Text(printable(thought), style="dim italic"))

    def _void(self, news: AttemptVoid) -> None:
        self._blocks = BlockSplitter()
        self._thought = self.thinking = ""
        self.trouble = f"{news.reason} Trying again in {news.after_seconds:.0f} s."
        if self._shown_of_step:
            self.problem(f"{news.reason} What was shown of this answer is void; trying again.")
        self._shown_of_step = False

    def _end_of_step(self) -> None:
        self.trouble = ""
        self._tell_thought()
        for piece in self._blocks.finish():
            self._piece(piece)
        self._shown_of_step = False

    def _call_ended(self, news: CallEnded) -> None:
        call = self.calls.pop(news.call, None)
        line = call.line if call else "a call"
        self.call(line, news.status, news.text, news.diff, was_shown=news.call in self.previewed)

    def call(self, line: str, status: Status, text: str, diff: str, *, was_shown: bool = False) -> None:
        """A call that ended, on one line that `/open` opens by its number.

        Below it an edit's diff, unless what it would do was shown when it was asked about, and an error's words.
        """
        result = self.results.add(line, text, diff)
        mark, style = MARKS[status]
        told = Text(f"{mark} ", style=style)
        told.append(f"[{result.number}] ", style="dim")
        told.append(one_line(line, max(self.columns - told.cell_len, 10)), style="bold")
        came = _outcome(text, max(self.columns - 4, 10))
        fits = told.cell_len + len(came) + 3 <= self.columns
        told.append((" · " if fits else "\n    ") + came, style="dim")
        if not self._last_was_call:
            self.gap()
        self._line(told)
        if diff and not was_shown:
            self._show(self.typesetter.diff(_changes(diff), lines_max=self.options.tool_output_lines))
        elif status == Status.ERROR and "\n" in text.strip():
            self._show(self._tail(text))
        self._last_was_call = True

    def open_result(self, number: int | None) -> None:
        """Prints a tool's whole result; the last one without a number."""
        result = self.results.get(number)
        if result is None:
            known = self.results.numbers
            if known is None:
                self.notice("No tool has returned anything in this chat yet.")
            else:
                self.problem(f"There is no result {number}, only {known[0]} to {known[1]}.")
            return
        self._line(Text(f"[{result.number}] {printable(result.line)}", style="bold"))
        if result.diff:
            self._show(self.typesetter.diff(result.diff))
        self._line(Text(printable(result.text)))

    # -- pieces --------------------------------------------------------------------------------------------------
    def _piece(self, piece: Piece) -> None:
        text = self.typesetter.piece(piece, self.columns)
        if not text:
            return
        if piece.spaced:
            self.gap()
        self._show(text)

    def _paragraph(self, text: Text) -> None:
        self.gap()
        self._line(text)
        self.gap()

    def _sentence(self, text: Text) -> None:
        self._show(self.typesetter.set(text, self.columns))

    def _line(self, text: Text) -> None:
        self._show(self.typesetter.text(text))

    def _show(self, text: str) -> None:
        self._last_was_call = False
        self.ends_with_gap = False
        self._display.show(text)

    def _tail(self, text: str) -> str:
        lines = printable(text).strip().splitlines()[-self.options.tool_output_lines :]
        return self.typesetter.text(Text("\n").join(Text(f"  {line}", style="dim") for line in lines))


def _changes(diff: str) -> str:
    """A diff without the lines that name the file: the line above it does."""
    lines = diff.splitlines()
    return "\n".join(lines[2:] if lines[0].startswith("--- ") else lines)


def _outcome(text: str, limit: int) -> str:
    lines = text.strip().splitlines()
    if not lines:
        return "nothing"
    more = f" (+{len(lines) - 1} lines)" if len(lines) > 1 else ""
    return one_line(lines[0], max(limit - len(more), 10)) + more
