"""What a stored text may hold: any valid Unicode, NUL included. What is not becomes U+FFFD, and is said.

Lone surrogates cannot be written as UTF-8, so a text that holds one would be lost at the first commit.
"""

from __future__ import annotations

from typing import Final

import msgspec

LINE_CHARACTERS_MAX: Final = 200


class CleanText(msgspec.Struct, frozen=True):
    """A storable text. `original` holds the bytes as they came if anything had to be replaced."""

    text: str
    original: bytes | None = None


def clean(raw: str | bytes) -> CleanText:
    """Makes any input storable. Promises: valid Unicode out, and nothing of the input lost.

    Cleaning the original gives the same text again: a message that waited is stored as one that did not.
    """
    if isinstance(raw, bytes):
        try:
            return CleanText(raw.decode("utf-8"))
        except UnicodeDecodeError:
            return CleanText(_decoded(raw), raw)
    try:
        raw.encode("utf-8")
    except UnicodeEncodeError:
        return CleanText(_whole(raw), raw.encode("utf-8", errors="surrogatepass"))
    return CleanText(raw)


def one_line(text: str, limit: int = LINE_CHARACTERS_MAX) -> str:
    """The start of a text, on one line of at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _decoded(raw: bytes) -> str:
    try:
        return _whole(raw.decode("utf-8", errors="surrogatepass"))
    except UnicodeDecodeError:
        return raw.decode("utf-8", errors="replace")


def _whole(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
