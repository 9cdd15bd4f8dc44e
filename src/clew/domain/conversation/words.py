"""The words of a text: one meaning for whatever is looked for, and whatever store looks.

Words stay as they are; runs of Chinese, Japanese and Korean become overlapping pairs of characters, so that a word
of two characters is found inside any text.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_CJK: Final = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]+")
_WORD: Final = re.compile(r"[^\W_]+")


def _pairs(match: re.Match[str]) -> str:
    run = match.group()
    if len(run) == 1:
        return f" {run} "
    return " " + " ".join(run[i : i + 2] for i in range(len(run) - 1)) + " "


def pretokenised(text: str) -> str:
    """The text as an index that splits at non-letters should see it."""
    spaced = text.replace("\0", " ").replace("_", " ")
    return spaced if spaced.isascii() else _CJK.sub(_pairs, spaced)


def fold(word: str) -> str:
    """Lower case without accents, as FTS5's `unicode61 remove_diacritics 2` compares words."""
    if word.isascii():
        return word.lower()
    bare = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if not unicodedata.combining(c))
    return unicodedata.normalize(
        "NFC", bare
    )  # Hangul syllables, which were taken apart into letters, are whole again


def words(text: str) -> tuple[str, ...]:
    """The folded words of a text, in order."""
    return tuple(fold(word) for word in _WORD.findall(pretokenised(text)))
