"""Splits a streamed Markdown text into blocks that are finished and the one that is still growing.

A finished block never changes, so it is rendered once and scrolls away; only the growing one is drawn again.
"""

from __future__ import annotations

import re
from typing import Final

_FENCE: Final = re.compile(r"^ {0,3}(`{3,}|~{3,})")


class BlockSplitter:
    """Feeds on deltas. Promises: the finished blocks and the rest, joined, are the text."""

    def __init__(self) -> None:
        self._rest = ""

    @property
    def growing(self) -> str:
        return self._rest

    def feed(self, delta: str) -> list[str]:
        """The blocks that this delta finished: each ends with a blank line or a closing fence."""
        self._rest += delta
        finished: list[str] = []
        while (end := _end_of_first_block(self._rest)) is not None:
            finished.append(self._rest[:end])
            self._rest = self._rest[end:]
        return finished

    def finish(self) -> str:
        """The last block; the splitter is empty afterwards."""
        rest, self._rest = self._rest, ""
        return rest


def _end_of_first_block(text: str) -> int | None:
    """Where the first block ends for good, or None while more could belong to it."""
    fence = ""
    at = 0
    seen_words = False
    while (newline := text.find("\n", at)) >= 0:
        line, at = text[at:newline], newline + 1
        mark = _FENCE.match(line)
        if fence:
            if mark and mark.group(1).startswith(fence) and not line.strip(" `~"):
                return at
        elif mark:
            fence = mark.group(1)
            seen_words = True
        elif not line.strip() and seen_words:
            return at
        else:
            seen_words = seen_words or bool(line.strip())
    return None
