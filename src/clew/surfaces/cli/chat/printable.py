"""Text of models, tools and files made safe to print: it may not move the cursor, set colours or turn words around."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_SEQUENCE: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movements
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, DCS and the like: titles, links, the clipboard
    r"|\x1b[ -/]*[0-~]?"
)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_UNUSUAL: Final = re.compile(r"[^\n\t -~]")
_TAB_COLUMNS: Final = 4


def printable(text: str) -> str:
    """The text without terminal sequences; other control characters become visible, lines and tabs stay what they are."""
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    return _CONTROL.sub(_pictured, _SEQUENCE.sub("", text)).expandtabs(_TAB_COLUMNS)


def exact(text: str) -> str:
    """The text as somebody must see it who decides about it: nothing hidden, reordered or without width."""
    return _UNUSUAL.sub(lambda found: _spelled(found[0]), text)


def one_line(text: str, limit: int) -> str:
    """The start of a text, on one line of at most `limit` characters."""
    line = " ".join(printable(text[: limit * 4]).split())
    return line if len(line) <= limit else line[: max(limit - 1, 0)] + "…"


def _pictured(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


def _spelled(character: str) -> str:
    if character.isprintable():
        return character
    if character == "\u200d":
        return character  # joins the parts of one emoji
    if unicodedata.category(character) == "Zs":
        return " " if character == "\u00a0" else f"\\u{ord(character):04x}"
    return f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}"
