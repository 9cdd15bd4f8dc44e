"""What scrolls above the input line: replies as Markdown, tool calls as one line each, notices."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.markdown import Markdown
from rich.syntax import Syntax
from rich.text import Text

from clew.domain.conversation.ids import CallId
from clew.domain.conversation.messages import Status
from clew.runtime.ports.people import (
    AttemptVoid,
    CallAnnounced,
    CallEnded,
    CallOutput,
    CallRunning,
    Noticed,
    StepRecorded,
    TextShown,
    ThinkingShown,
    TurnNews,
)
from clew.surfaces.cli.chat.blocks import BlockSplitter

RESULT_LINES = 6
KEPT_RESULTS = 50
GROWING_LINES_MAX = 12


class Screen:
    """Shows one conversation. `changed` is called when the growing part should be drawn again."""

    def __init__(self, console: Console, changed: Callable[[], None]) -> None:
        self._console = console
        self._changed = changed
        self._blocks = BlockSplitter()
        self._shown_of_step = ""
        self._lines: dict[CallId, str] = {}
        self._results: list[tuple[str, str]] = []
        self.activity = ""
        self.input_tokens = 0
        self.output_tokens = 0

    @property
    def growing(self) -> str:
        """The end of the block that is still growing, for the area above the input line."""
        lines = self._blocks.growing.splitlines()
        return "\n".join(lines[-GROWING_LINES_MAX:])

    def person(self, text: str) -> None:
        """What was sent, as it stands in the history."""
        self._console.print(Text(f"❯ {text}", style="bold cyan"))

    def notice(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    def problem(self, text: str) -> None:
        self._console.print(Text(text, style="red"))

    def reply(self, text: str) -> None:
        """What a command answered: as it is, aligned columns and all."""
        self._console.print(Text(text))

    def watch(self, news: TurnNews) -> None:
        match news:
            case TextShown(text):
                self._text(text)
            case ThinkingShown():
                self.activity = "thinking"
            case AttemptVoid():
                self._void(news)
            case StepRecorded():
                self._recorded(news)
            case CallAnnounced():
                self._lines[news.call] = news.line
            case CallRunning(call):
                self.activity = self._lines.get(call, "a tool")
            case CallOutput(call, text):
                self.activity = f"{self._lines.get(call, 'a tool')}: {_last_line(text)}"
            case CallEnded():
                self._ended(news)
            case Noticed(text):
                self.notice(text)
        self._changed()

    def end(self) -> None:
        """The turn is over: what was still growing is final."""
        self._print_block(self._blocks.finish())
        self.activity = ""
        self._changed()

    def open_result(self, number: int | None) -> None:
        """Prints a tool's whole result; the last one without a number."""
        if not self._results:
            self.notice("No tool has run in this chat yet.")
            return
        index = len(self._results) if number is None else number
        if not 1 <= index <= len(self._results):
            self.problem(f"There are results 1 to {len(self._results)}.")
            return
        line, text = self._results[index - 1]
        self.notice(f"[{index}] {line}")
        self._console.print(Text(text))

    def _text(self, text: str) -> None:
        self.activity = ""
        self._shown_of_step += text
        for block in self._blocks.feed(text):
            self._print_block(block)

    def _void(self, news: AttemptVoid) -> None:
        self._blocks.finish()
        if self._shown_of_step:
            self.notice("(what was shown of this answer is void)")
        self._shown_of_step = ""
        self.problem(f"{news.reason} Trying again in {news.after_seconds:.0f} s.")

    def _recorded(self, news: StepRecorded) -> None:
        self._print_block(self._blocks.finish())
        self._shown_of_step = ""
        self.input_tokens = news.usage.input
        self.output_tokens += news.usage.output

    def _ended(self, news: CallEnded) -> None:
        line = self._lines.pop(news.call, str(news.call))
        self._results.append((line, news.text))
        del self._results[:-KEPT_RESULTS]
        mark = {Status.OK: "✓", Status.REFUSED: "⊘"}.get(news.status, "✗")
        first = _first_line(news.text)
        style = "green" if news.status == Status.OK else "yellow"
        self._console.print(Text(f"{mark} {line}", style=style), Text(f"  {first}", style="dim"), sep="\n")
        if news.diff:
            self._console.print(Syntax(news.diff, "diff", background_color="default", word_wrap=True))
        self.activity = ""

    def _print_block(self, block: str) -> None:
        if block.strip():
            self._console.print(Markdown(block.rstrip("\n")))
            if block.endswith("\n"):
                self._console.print()


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    if not lines:
        return "(nothing)"
    more = f"  (+{len(lines) - 1} lines, /open shows all)" if len(lines) > 1 else ""
    return lines[0][:120] + more


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:80] if lines else ""
