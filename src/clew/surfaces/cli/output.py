"""What `clew run` prints: words for people, or the JSON that scripts rely on."""

from __future__ import annotations

import re
import sys
from typing import Any, Final

import click
import msgspec

from clew.domain.conversation.ids import SessionId
from clew.domain.conversation.text import clean
from clew.domain.models.answer import Usage
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
from clew.runtime.turns import TurnOutcome

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_EVENT_NAMES: dict[type, str] = {
    TextShown: "text",
    ThinkingShown: "thinking",
    AttemptVoid: "attempt_void",
    StepRecorded: "step",
    CallAnnounced: "call",
    CallRunning: "call_running",
    CallOutput: "call_output",
    CallEnded: "call_ended",
    Joined: "joined",
    Noticed: "notice",
}


def shown(text: str) -> str:
    """A text for standard output: as it is in a file or pipe, without control characters on a terminal."""
    return _CONTROL.sub("\ufffd", text) if sys.stdout.isatty() else text


def json_line(value: object) -> str:
    """Compact JSON on one line."""
    return msgspec.json.encode(value).decode()


def run_object(
    *,
    session: SessionId | None = None,
    outcome: TurnOutcome | None = None,
    status: str = "failed",
    text: str = "",
    error: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """The object of `clew run --json`. Its names are extended, never changed."""
    usage = outcome.usage if outcome is not None else Usage()
    failed = outcome.error if outcome is not None else error
    calls = outcome.calls if outcome is not None else ()
    return {
        "session": outcome.handle.session if outcome is not None else session,
        "turn": outcome.turn if outcome is not None else None,
        "status": outcome.status if outcome is not None else status,
        "text": outcome.text if outcome is not None else text,
        "tool_calls": [{"id": call.id, "name": call.name, "state": call.state} for call in calls],
        "usage": {
            "model": outcome.model if outcome is not None else None,
            "input": usage.input,
            "output": usage.output,
            "cost_usd": outcome.cost_usd if outcome is not None else None,
        },
        "error": None if failed is None else {"code": failed[0], "message": failed[1]},
    }


class Printer:
    """The answer on standard output, everything else on standard error."""

    def __init__(self, *, as_json: bool, as_stream: bool) -> None:
        self.is_json = as_json or as_stream
        self.session: SessionId | None = None
        """The session that is talked about, once it is known."""
        self.has_result = False
        """Whether the one object of --json was printed."""
        self._as_stream = as_stream
        self._open_line = False
        self._shown_of_attempt = False

    def watch(self, news: TurnNews) -> None:
        if self._as_stream:
            self._line(json_line({"event": _EVENT_NAMES[type(news)], **msgspec.structs.asdict(news)}))
        elif isinstance(news, Noticed):
            self._notice(news.text)
        elif not self.is_json:
            self._show(news)

    def _show(self, news: TurnNews) -> None:
        match news:
            case TextShown(text):
                self._write(shown(text))
                self._shown_of_attempt = True
            case AttemptVoid():
                void = "; disregard what was shown" if self._shown_of_attempt else ""
                self._shown_of_attempt = False
                self.note(f"{news.reason} Trying again in {news.after_seconds:.0f} s{void}.")
            case StepRecorded():
                self._shown_of_attempt = False
            case CallAnnounced():
                self.note(f"• {shown(news.line)}")
            case CallEnded() if news.status != "ok":
                self.note(f"  {news.status}: {shown(news.text[:200])}")
            case _:
                pass  # of no interest on a plain terminal

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self._open_line = not text.endswith("\n")

    def _end_line(self) -> None:
        if self._open_line:
            self._write("\n")

    def note(self, text: str) -> None:
        """Something beside the answer."""
        if self.is_json:
            return
        self._end_line()
        click.echo(text, err=True)

    def _notice(self, text: str) -> None:
        """What is told once, and never again: beside the one object of --json, too."""
        self._end_line()
        click.echo(text, err=True)

    def _line(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def _object(self, value: dict[str, Any]) -> None:
        self.has_result = True
        self._line(json_line(value))

    def command(self, text: str) -> None:
        """What a command answered."""
        if self.is_json:
            self._object(run_object(session=self.session, status="command", text=text))
        else:
            self._line(shown(text))

    def error(self, code: str, sentence: str, *, status: str = "failed") -> None:
        """The object for something that went wrong outside a turn."""
        self._object(run_object(session=self.session, status=status, error=(code, clean(sentence).text)))

    def outcome(self, outcome: TurnOutcome) -> None:
        """The end of a turn."""
        if self.is_json:
            self._object(run_object(outcome=outcome))
            return
        self._end_line()
        if outcome.error is not None and not outcome.waiting_for:
            click.echo(f"clew: {outcome.error[1]}", err=True)
