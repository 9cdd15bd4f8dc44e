"""A project's own instructions: AGENTS.md, CLAUDE.md and the like, from the project's root down to where one works."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clew.domain.turn.prefix import Instructions

BYTES_MAX: Final = 64 * 1024


def read_instructions(cwd: Path, names: Sequence[str]) -> tuple[Instructions, ...]:
    """The first of `names` found in each directory from the project's root to `cwd`, outermost first.

    The root is the nearest directory above that holds `.git`; without one only `cwd` is looked at. A file over
    BYTES_MAX is cut, and says so. An unreadable file raises OSError.
    """
    found = []
    for directory in _directories(cwd):
        for name in names:
            path = directory / name
            if path.is_file():
                found.append(Instructions(source=str(path), text=_text(path)))
                break
    return tuple(found)


def _directories(cwd: Path) -> list[Path]:
    above = [cwd, *cwd.parents]
    for i, directory in enumerate(above):
        if (directory / ".git").exists():
            return list(reversed(above[: i + 1]))
    return [cwd]


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(BYTES_MAX + 1)
    text = content[:BYTES_MAX].decode("utf-8", errors="replace")
    return text if len(content) <= BYTES_MAX else f"{text}\n[cut after {BYTES_MAX} bytes]"
