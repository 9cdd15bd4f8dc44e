"""What changed in a text file, as people read it."""

from __future__ import annotations

import difflib
from pathlib import Path

DIFF_LINES_MAX = 20_000
"""Longer texts are not compared: the comparison takes quadratic time at worst."""
DIFF_BYTES_MAX = 100_000


def unified_diff(before: str | None, after: str, path: Path) -> str:
    """A unified diff; `before` is None for a new file. Too large to compare or to show is said in its place."""
    old = _lines(before or "")
    new = _lines(after)
    if len(old) + len(new) > DIFF_LINES_MAX:
        return f"[no diff: {len(old):,} and {len(new):,} lines are too many to compare]\n"
    source = "/dev/null" if before is None else f"a{path}"
    diff = "".join(map(_ended, difflib.unified_diff(old, new, source, f"b{path}", n=3)))
    if len(diff) > DIFF_BYTES_MAX:
        return f"{diff[:DIFF_BYTES_MAX]}\n[… {len(diff) - DIFF_BYTES_MAX:,} characters of diff left out]\n"
    return diff


def _lines(text: str) -> list[str]:
    """Lines with their ends; only a newline ends one, so that a form feed in a source file does not."""
    printable = text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")
    *ended, rest = printable.split("\n")
    return [f"{line}\n" for line in ended] + ([rest] if rest else [])


def _ended(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def count_changes(diff: str) -> tuple[int, int]:
    """Lines added and lines removed."""
    body = diff.split("\n")[2:]
    return sum(line.startswith("+") for line in body), sum(line.startswith("-") for line in body)
