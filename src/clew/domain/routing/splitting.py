"""Cuts a long text into messages that a platform takes, between paragraphs, lines or words, in that order.

A block of code stays whole where it fits into one message; a longer one is closed at the end of a message and opened again
in the next. Nothing but white space at a cut is dropped. Python's strings are code points, so no surrogate pair is cut.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import msgspec


class Units(StrEnum):
    CHARACTERS = "characters"
    UTF16 = "utf16"
    BYTES = "bytes"


class TextLimit(msgspec.Struct, frozen=True, kw_only=True):
    """How much one message holds. At least `LIMIT_MIN`."""

    most: int
    units: Units = Units.CHARACTERS

    def size(self, text: str) -> int:
        match self.units:
            case Units.CHARACTERS:
                return len(text)
            case Units.UTF16:
                return len(text.encode("utf-16-le", "surrogatepass")) // 2
            case Units.BYTES:
                return len(text.encode("utf-8", "surrogatepass"))

    def fits(self, text: str) -> bool:
        return self.size(text) <= self.most

    def prefix(self, text: str, room: int) -> int:
        """How many characters of the text take at most `room` units; at least one."""
        taken = 0
        for count, character in enumerate(text):
            taken += self.size(character)
            if taken > room:
                return max(count, 1)
        return len(text)


LIMIT_MIN: Final = 40
_FENCE: Final = re.compile(r" {0,3}(`{3,8}|~{3,8})([^`\n]{0,30})$")
_CLOSING_MAX: Final = 9
"""A line break and the longest fence."""


class _Boundary(msgspec.Struct, frozen=True):
    """A place between two lines, and the fence that is open there, if one is."""

    at: int
    fence: str | None
    is_paragraph: bool


def split(text: str, limit: TextLimit) -> tuple[str, ...]:
    """The parts, in order; none is empty or larger than the limit. A text of white space alone has none."""
    parts: list[str] = []
    rest, fence = text.strip("\n"), None
    while rest.strip():
        head = "" if fence is None else f"{fence}\n"
        if limit.fits(head + rest):
            parts.append(head + rest)
            break
        room = limit.most - limit.size(head) - _CLOSING_MAX
        at, fence = _cut(rest, limit.prefix(rest, room), fence, limit)
        taken, rest = rest[:at].rstrip("\n"), rest[at:]
        if fence is None:
            taken, rest = taken.rstrip(), rest.lstrip("\n")
        if taken.strip():
            parts.append(head + taken + ("" if fence is None else f"\n{_mark(fence)}"))
    return tuple(parts)


def _cut(rest: str, window: int, fence: str | None, limit: TextLimit) -> tuple[int, str | None]:
    """Where to cut within the first `window` characters, and the fence that is open there."""
    bounds = _boundaries(rest, window, fence)
    outside = [b for b in bounds if b.fence is None]
    paragraphs = [b for b in outside if b.is_paragraph and b.at >= window // 2]
    if paragraphs:
        return paragraphs[-1].at, None
    if outside and (outside[-1].at >= window // 2 or _block_fits(rest, outside[-1].at, limit)):
        return outside[-1].at, None
    if bounds:
        return bounds[-1].at, bounds[-1].fence
    space = rest.rfind(" ", 1, window)
    return (space + 1 if space > window // 2 else window), fence


def _boundaries(rest: str, window: int, fence: str | None) -> list[_Boundary]:
    found: list[_Boundary] = []
    start = 0
    while (end := rest.find("\n", start, window)) >= 0:
        line = rest[start:end]
        fence = _after(line, fence)
        start = end + 1
        found.append(_Boundary(start, fence, not line.strip()))
    return [b for b in found if rest[: b.at].strip()]


def _block_fits(rest: str, at: int, limit: TextLimit) -> bool:
    """Whether a block of code begins here that fits into one message."""
    opening, _, body = rest[at:].partition("\n")
    fence = _after(opening, None)
    if fence is None:
        return False
    block = opening
    for line in body.split("\n"):
        block += f"\n{line}"
        if not limit.fits(block):
            return False
        if _after(line, fence) is None:
            return True
    return True


def _after(line: str, fence: str | None) -> str | None:
    """The fence that is open after a line: the line that opened it."""
    found = _FENCE.match(line.rstrip())
    if found is None:
        return fence
    if fence is None:
        return found.group().strip()
    closes = found.group(1).startswith(_mark(fence)) and not found.group(2).strip()
    return None if closes else fence


def _mark(fence: str) -> str:
    return fence[: len(fence) - len(fence.lstrip(fence[0]))]
