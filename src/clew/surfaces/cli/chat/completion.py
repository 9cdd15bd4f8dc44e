"""Completion of commands and of `@path`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from clew.runtime.commands import COMMANDS

CHOICES_MAX = 60
LOCAL_COMMANDS = {"open": "show a tool's whole result: /open [n]", "quit": "leave the chat"}


class ChatCompleter(Completer):
    """Completes the command at the start of the line, or the path behind an @."""

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        word = before.rsplit(None, 1)[-1] if before and not before[-1].isspace() else ""
        if before.startswith("/") and " " not in before:
            yield from _commands(before[1:])
        elif word.startswith("@"):
            yield from self._paths(word[1:])

    def _paths(self, typed: str) -> Iterable[Completion]:
        folder, _, start = typed.rpartition("/")
        base = (self._cwd / Path(folder + "/").expanduser()) if folder or typed.startswith("/") else self._cwd
        try:
            entries = sorted(base.iterdir(), key=lambda path: path.name.lower())
        except OSError:
            return  # nothing can be listed there, so nothing is offered
        shown = [
            e for e in entries if e.name.lower().startswith(start.lower()) and (start or e.name[0] != ".")
        ]
        for entry in shown[:CHOICES_MAX]:
            name = entry.name + ("/" if entry.is_dir() else "")
            yield Completion(name, start_position=-len(start))


def _commands(typed: str) -> Iterable[Completion]:
    known = {command.name: command.summary for command in COMMANDS} | LOCAL_COMMANDS
    for name, summary in sorted(known.items()):
        if name.startswith(typed.lower()):
            yield Completion(name, start_position=-len(typed), display_meta=summary)
