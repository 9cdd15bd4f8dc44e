"""What a call would do, shown whole before it is allowed: a command to the letter, an edit as the difference it makes.

Rule: what is shown is what would run. Characters that cannot be seen are spelled out, and what does not fit is counted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.text import Text

from clew.runtime.ports.people import Question
from clew.surfaces.cli.chat.printable import exact
from clew.surfaces.cli.chat.typesetting import Typesetter

LINES_MAX: Final = 30
FILE_BYTES_MAX: Final = 1_000_000


def preview(question: Question, cwd: Path, setter: Typesetter, *, whole: bool = False) -> str:
    """Lines for the transcript. With `whole`, none is left out."""
    lines = list(_lines(question, cwd))
    shown = lines if whole or len(lines) <= LINES_MAX else lines[:LINES_MAX]
    text = Text("\n").join(shown)
    if len(shown) < len(lines):
        text.append(f"\n  … {len(lines) - len(shown)} more lines; v shows all of it", style="yellow")
    return setter.text(text)


def _lines(question: Question, cwd: Path) -> Iterator[Text]:
    yield Text(f"? {question.name}", style="bold yellow")
    match _decoded(question.arguments):
        case {"path": str(path), "old_text": str(old), "new_text": str(new), **rest}:
            yield from _named("path", path)
            yield from _named_all(rest)
            yield from _difference(
                *_around(_content(cwd, path), old, new, -1 if rest.get("replace_all") else 1)
            )
        case {"path": str(path), "text": str(text), **rest}:
            yield from _named("path", path)
            yield from _named_all(rest)
            yield from _difference(_content(cwd, path) or "", text)
        case dict(fields):
            yield from _named_all(fields)
        case _:
            yield from _block(question.arguments)


def _decoded(arguments: str) -> Any:
    try:
        return msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        return None


def _named_all(fields: Mapping[Any, Any]) -> Iterator[Text]:
    for name, value in fields.items():
        yield from _named(name, value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _named(name: str, value: str) -> Iterator[Text]:
    if "\n" not in value:
        yield Text.assemble((f"  {exact(name)}: ", "dim"), exact(value))
        return
    yield Text(f"  {exact(name)}:", style="dim")
    yield from _block(value)


def _block(text: str) -> Iterator[Text]:
    for line in exact(text).split("\n"):
        yield Text(f"    {line}")


def _content(cwd: Path, named: str) -> str | None:
    """What stands in the file; None when there is nothing that could be compared."""
    path = cwd / Path(named).expanduser()
    try:
        if not path.is_file() or path.stat().st_size > FILE_BYTES_MAX:
            return None
        return path.read_text("utf-8")
    except (OSError, ValueError):
        return None  # the tool will say what is wrong with it


def _around(content: str | None, old: str, new: str, times: int) -> tuple[str, str]:
    """Both texts, with the lines of the file around them where it holds the old one."""
    return (
        (old, new) if content is None or old not in content else (content, content.replace(old, new, times))
    )


def _split(text: str) -> list[str]:
    return exact(text).splitlines()


def _difference(before: str, after: str) -> Iterator[Text]:
    lines = list(difflib.unified_diff(_split(before), _split(after), n=2, lineterm=""))
    if not lines:
        yield Text("  (no difference)", style="dim")
    for line in lines[2:]:
        yield Text(f"  {line}", style={"+": "green", "-": "red", "@": "cyan"}.get(line[0], ""))
