"""Completion of commands, of what some of them take, and of `@path`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from clew.domain.tools.policy import ApprovalMode
from clew.runtime.commands import COMMANDS
from clew.runtime.commands.changing import EXPORT_FORMATS

CHOICES_MAX: Final = 60
LOCAL_COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "open": ("/open [n]", "show all of a tool's result"),
    "setup": ("/setup", "choose another provider or model"),
    "quit": ("/quit", "leave the chat (also /exit, Ctrl-D)"),
}
"""What only the terminal knows: usage and summary."""
_ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "mode": tuple(ApprovalMode),
    "export": EXPORT_FORMATS,
    "help": tuple(sorted(command.name for command in COMMANDS)),
}


class ChatCompleter(Completer):
    """Completes the command at the start of the line, its argument, or the path behind an @."""

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        if before.startswith("/") and "\n" not in before:
            yield from _of_command(before[1:])
        else:
            yield from self._of_mention(before)

    def _of_mention(self, before: str) -> Iterator[Completion]:
        start = before.rfind("@")
        if start < 0 or (start and not before[start - 1].isspace()):
            return
        typed = before[start + 1 :]
        quoted = typed.startswith('"')
        if "\n" in typed or (not quoted and any(character.isspace() for character in typed)):
            return
        yield from self._paths(typed.removeprefix('"'), len(typed))

    def _paths(self, typed: str, length: int) -> Iterator[Completion]:
        folder, slash, start = typed.rpartition("/")
        for entry in _entries(self._cwd / Path(folder + slash).expanduser(), start):
            path = f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}"
            text = f'"{path}"' if " " in path and not path.endswith("/") else path
            text = f'"{text}' if " " in path and path.endswith("/") else text
            yield Completion(text, start_position=-length, display=path.removeprefix(folder + slash))


def _entries(folder: Path, start: str) -> list[Path]:
    """What begins like this there; hidden files only when a dot was typed."""
    try:
        entries = [
            entry
            for entry in folder.iterdir()
            if entry.name.lower().startswith(start.lower()) and (start or not entry.name.startswith("."))
        ]
    except OSError:
        return []  # nothing can be listed there, so nothing is offered
    return sorted(entries, key=lambda entry: (not entry.is_dir(), entry.name.lower()))[:CHOICES_MAX]


def _of_command(typed: str) -> Iterator[Completion]:
    name, space, argument = typed.partition(" ")
    if not space:
        known = {command.name: command.summary for command in COMMANDS}
        known |= {local: summary for local, (_, summary) in LOCAL_COMMANDS.items()}
        for command, summary in sorted(known.items()):
            if command.startswith(name.lower()):
                yield Completion(command, start_position=-len(name), display_meta=summary)
        return
    for choice in _ARGUMENTS.get(name, ()):
        if choice.startswith(argument):
            yield Completion(choice, start_position=-len(argument))
