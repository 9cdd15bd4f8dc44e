"""Output of any length in a fixed amount of memory, and always said what was left out."""

from __future__ import annotations

from collections import deque

NOTICE_BYTES = 64
"""Room kept for the sentence that says how much is missing."""


class BoundedOutput:
    """Keeps the beginning and the end of a stream of bytes, `limit` bytes in all, and counts what it dropped.

    With `head_share` 0 it is a ring that keeps the end only.
    """

    def __init__(self, limit: int, *, head_share: float = 0.5) -> None:
        room = max(limit - NOTICE_BYTES, 2)
        self._head_limit = int(room * head_share)
        self._tail_limit = room - self._head_limit
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self.total = 0
        """Bytes ever added."""

    @property
    def left_out(self) -> int:
        """Bytes that were added and are no longer kept."""
        return max(0, self.total - len(self._head) - self._tail_limit)

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        if chunk:
            self._tail.append(chunk)
            self._tail_bytes += len(chunk)
            self._forget()

    def _forget(self) -> None:
        while self._tail_bytes - len(self._tail[0]) >= self._tail_limit:
            self._tail_bytes -= len(self._tail.popleft())

    def text(self) -> str:
        """What is kept, as UTF-8 with anything invalid replaced by U+FFFD and the gap named."""
        tail = b"".join(self._tail)
        if not self.left_out:
            return (bytes(self._head) + tail).decode("utf-8", errors="replace")
        head_text = whole_characters(bytes(self._head))
        tail_text = tail[-self._tail_limit :].lstrip(CONTINUATION_BYTES).decode("utf-8", errors="replace")
        return f"{head_text}{_gap(head_text, self.left_out)}{tail_text}"


CONTINUATION_BYTES = bytes(range(0x80, 0xC0))


def _gap(before: str, count: int) -> str:
    newline = "" if not before or before.endswith("\n") else "\n"
    return f"{newline}[… {count:,} bytes left out …]\n"


def whole_characters(cut: bytes) -> str:
    """The text of bytes that were cut anywhere: a character cut in two is dropped, invalid bytes are replaced."""
    for back in range(1, min(4, len(cut)) + 1):
        lead = cut[-back]
        if lead >= 0xC0:
            length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            if length > back:
                return cut[:-back].decode("utf-8", errors="replace")
        if lead < 0x80 or lead >= 0xC0:
            break
    return cut.decode("utf-8", errors="replace")


def cut_after(text: str, limit: int) -> str:
    """The first `limit` bytes of the text as UTF-8, in whole characters, and never more."""
    data = text.encode("utf-8", errors="replace")
    return text if len(data) <= limit else whole_characters(data[:limit])
