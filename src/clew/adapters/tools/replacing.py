"""Exact replacement in a text, and the sentence that helps when the text is not there.

Models write `\\n`; a file may say `\\r\\n`. Where it says so everywhere, both texts are taken to mean that.
"""

from __future__ import annotations

import difflib
from typing import Final

from clew.adapters.tools.declared import ToolFailed

NEAREST_LINES_MAX: Final = 10_000
"""Only so many lines are searched for the nearest one: comparing takes about 50 µs a line."""
PLACES_SHOWN: Final = 10


def replaced(text: str, old: str, new: str, *, everywhere: bool) -> str:
    """The text with `new` for `old`. Raises ToolFailed if that is nowhere, or in several places when one was meant."""
    if _only_crlf(text) or (old not in text and _crlf(old) in text):
        old, new = _crlf(old), _crlf(new)
    if old == new:
        raise ToolFailed("old_text and new_text are the same: nothing would change.")
    count = text.count(old)
    if not count:
        raise ToolFailed(f"old_text is not in the file. {nearest(text, old)}")
    if count > 1 and not everywhere:
        raise ToolFailed(
            f"old_text stands in the file {count} times ({_places(text, old)}): "
            "add lines around it until it is the only one, or set replace_all."
        )
    return text.replace(old, new)


def _only_crlf(text: str) -> bool:
    return "\r\n" in text and text.count("\n") == text.count("\r\n")


def _crlf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\n", "\r\n")


def _places(text: str, old: str) -> str:
    """The lines on which the first few occurrences begin."""
    lines: list[str] = []
    at = text.find(old)
    while at >= 0 and len(lines) < PLACES_SHOWN:
        lines.append(str(text.count("\n", 0, at) + 1))
        at = text.find(old, at + len(old))
    return f"lines {', '.join(lines)}" + (" …" if at >= 0 else "")


def nearest(text: str, old: str) -> str:
    """A sentence about the line most like the first one that was looked for."""
    wanted = next((line.strip() for line in old.splitlines() if line.strip()), "")
    lines = text.split("\n")[:NEAREST_LINES_MAX]
    stripped = [line.strip() for line in lines]
    if not wanted:
        return "It holds only white space."
    if wanted in stripped:
        at = stripped.index(wanted)
        return (
            f"Its first line is like line {at + 1}, {_shown(lines[at])!r}: "
            "compare white space there and the lines that follow."
        )
    for line in difflib.get_close_matches(wanted, stripped, n=1, cutoff=0.6):
        at = stripped.index(line)
        return f"The nearest line is line {at + 1}: {_shown(lines[at])!r}."
    return "No line is like its first one: read the file again."


def _shown(line: str) -> str:
    return line.encode("utf-8", "replace").decode()[:200]
