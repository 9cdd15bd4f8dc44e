"""Cuts a streamed Markdown text into pieces that are finished and the one that still grows.

A finished piece never changes, so it is printed once and scrolls away; only the growing one is drawn again. So that no
piece grows without end, lists are cut between items, code between lines, and a very long paragraph where it has to be.
Every character is looked at once, however small the deltas are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

import msgspec

PROSE_CHARACTERS_MAX: Final = 8_000
CODE_LINES: Final = 8
"""So many whole lines of code are a piece."""
LINE_CHARACTERS_MAX: Final = 8_000
CONTEXT_LINES: Final = 40
"""Lines of code before a piece that its highlighting may depend on."""

_FENCE: Final = re.compile(r"^ {0,3}(`{3,}|~{3,})([^`]*)$")
_INNER_FENCE: Final = re.compile(r"^\s*(`{3,}|~{3,})")
_ITEM: Final = re.compile(r"^( *)(?:[-*+]|\d{1,9}[.)])( +(?=\S)|$)")
_INTERRUPTING: Final = re.compile(r"^ {0,3}(?:[-*+]|1[.)]) +\S")
_HEADING: Final = re.compile(r"^ {0,3}#{1,6}(?:\s|$)")


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a reply. All sources, joined, are the reply."""

    text: str
    """Markdown; of code, only the code."""
    source: str
    spaced: bool
    """Whether an empty line belongs before it."""
    language: str | None = None
    """None for Markdown; of code, what its fence named, or nothing."""
    context: str = ""
    """The code before this piece of the same block."""


class _Mode(Enum):
    PROSE = auto()
    LIST = auto()
    CODE = auto()


class BlockSplitter:
    """Feeds on deltas."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._mode = _Mode.PROSE
        self._partial: list[str] = []
        """The line that has not ended, as it came."""
        self._partial_length = 0
        self._before = ""
        """What belongs to the growing piece and is not shown: empty lines, the fence."""
        self._lines: list[str] = []
        self._length = 0
        self._spaced = True
        self._fence = ""
        self._language = ""
        self._context: list[str] = []
        self._item_width = 0

    # -- in and out ----------------------------------------------------------------------------------------------
    def feed(self, delta: str) -> list[Piece]:
        """The pieces that this delta finished."""
        finished: list[Piece] = []
        *whole, rest = delta.split("\n")
        for part in whole:
            self._partial.append(part)
            finished += self._line(self._take_partial() + "\n")
        if rest:
            self._partial.append(rest)
            self._partial_length += len(rest)
            if self._partial_length > LINE_CHARACTERS_MAX:
                finished += self._endless_line()
        return finished

    def growing(self) -> Piece | None:
        """The piece as it stands now, for showing; None when there is nothing to show."""
        lines = [*self._lines, "".join(self._partial)]
        return self._piece(lines) if any(lines) else None

    def finish(self) -> list[Piece]:
        """What is left; the splitter is new afterwards."""
        finished = self._line(self._take_partial()) if self._partial else []
        finished += self._cut()
        if self._before:  # empty lines, or the mark that closed the code
            finished.append(self._piece(()))
        self._reset()
        return finished

    # -- lines ---------------------------------------------------------------------------------------------------
    def _line(self, line: str) -> list[Piece]:
        bare = line.rstrip("\r\n")
        match self._mode:
            case _Mode.CODE:
                return self._code_line(line, bare)
            case _Mode.LIST:
                return self._list_line(line, bare)
            case _Mode.PROSE:
                return self._prose_line(line, bare)

    def _prose_line(self, line: str, bare: str) -> list[Piece]:
        if not bare.strip():
            finished = self._cut()
            self._before += line
            self._spaced = True
            return finished
        if fence := _FENCE.match(bare):
            return self._open_fence(line, fence)
        if _HEADING.match(bare):
            return self._cut() + self._add(line) + self._cut()
        if (_INTERRUPTING if self._lines else _ITEM).match(bare):
            return self._item(line, bare)
        return self._add(line)

    def _list_line(self, line: str, bare: str) -> list[Piece]:
        if self._fence:  # one inside an item: all of it belongs there
            if _closes(bare, self._fence):
                self._fence = ""
            return self._add(line)
        if not bare.strip():
            return self._add(line)
        item = _ITEM.match(bare)
        if item and len(item[1]) < self._item_width:
            return self._item(line, bare)
        after_gap = not self._lines[-1].strip() if self._lines else False
        goes_on = not (after_gap or _HEADING.match(bare) or _FENCE.match(bare))
        if bare[0].isspace() or goes_on:
            inner = _INNER_FENCE.match(bare)
            self._fence = inner[1] if inner else ""
            return self._add(line)
        finished = self._cut()
        self._mode = _Mode.PROSE
        return finished + self._prose_line(line, bare)

    def _item(self, line: str, bare: str) -> list[Piece]:
        finished = self._cut()
        item = _ITEM.match(bare)
        self._mode, self._item_width = _Mode.LIST, len(item[0]) if item else 2
        return finished + self._add(line)

    def _open_fence(self, line: str, fence: re.Match[str]) -> list[Piece]:
        finished = self._cut()
        self._mode, self._fence, self._context = _Mode.CODE, fence[1], []
        self._language = (fence[2].split() or [""])[0].strip("{}.")
        self._before += line
        self._spaced = True
        return finished

    def _code_line(self, line: str, bare: str) -> list[Piece]:
        if not _closes(bare, self._fence):
            self._lines.append(line)
            return self._cut() if len(self._lines) >= CODE_LINES else []
        finished = self._cut()
        self._mode, self._fence = _Mode.PROSE, ""
        self._before += line
        self._spaced = True
        return finished

    def _endless_line(self) -> list[Piece]:
        """A line that does not end is cut at its last space, or where it is."""
        line = self._take_partial()
        at = line.rfind(" ") + 1 or len(line)
        self._lines.append(line[:at])
        finished = self._cut()
        if line[at:]:
            self._partial, self._partial_length = [line[at:]], len(line) - at
        return finished

    # -- pieces --------------------------------------------------------------------------------------------------
    def _take_partial(self) -> str:
        line, self._partial, self._partial_length = "".join(self._partial), [], 0
        return line

    def _add(self, line: str) -> list[Piece]:
        self._lines.append(line)
        self._length += len(line)
        return self._cut() if self._length > PROSE_CHARACTERS_MAX else []

    def _cut(self) -> list[Piece]:
        if not self._lines:
            return []
        piece = self._piece(self._lines)
        if self._mode == _Mode.CODE:
            self._context = [*self._context, *self._lines][-CONTEXT_LINES:]
        self._spaced = self._mode != _Mode.CODE and not self._lines[-1].strip()
        self._before, self._lines, self._length = "", [], 0
        return [piece]

    def _piece(self, lines: Sequence[str]) -> Piece:
        text = "".join(lines)
        code = self._mode == _Mode.CODE
        return Piece(
            text=text,
            source=self._before + text,
            spaced=self._spaced,
            language=self._language if code else None,
            context="".join(self._context) if code else "",
        )


def _closes(bare: str, fence: str) -> bool:
    stripped = bare.strip()
    return stripped.startswith(fence) and not stripped.strip(fence[0])
