"""Search queries: one meaning, whatever store answers.

Every string is a valid query: quotes make a phrase, a leading minus excludes, a trailing star after three characters
makes a prefix, and anything else that is typed is looked for.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from clew.domain.conversation.words import fold, words

_TERM: Final = re.compile(r'(-?)"([^"]*)"|(\S+)')
PREFIX_CHARS_MIN: Final = 3


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """Words that must stand next to each other, in this order."""

    words: tuple[str, ...]
    prefix: bool = False
    """Whether the last word may go on."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """All of `terms` and none of `without`. No terms: nothing was asked for, so nothing is found."""

    terms: tuple[Term, ...]
    without: tuple[Term, ...] = ()


def parse(typed: str) -> Query:
    """Reads what a person typed. Never fails."""
    terms: list[Term] = []
    without: list[Term] = []
    for match in _TERM.finditer(typed):
        minus, phrase, chunk = match.groups()
        prefix = False
        if chunk is not None:
            minus = "-" if chunk.startswith("-") and len(chunk) > 1 else ""
            chunk = chunk.removeprefix("-") if minus else chunk
            prefix = chunk.endswith("*")
        found = words(phrase if chunk is None else chunk)
        if found:
            long_enough = len(found[-1]) >= PREFIX_CHARS_MIN
            (without if minus else terms).append(Term(words=found, prefix=prefix and long_enough))
    return Query(terms=tuple(terms), without=tuple(without))


def matches(query: Query, text_words: tuple[str, ...]) -> bool:
    """Whether a text with these words answers the query: what an index must agree with."""
    return (
        bool(query.terms)
        and all(_occurs(term, text_words) for term in query.terms)
        and not any(_occurs(term, text_words) for term in query.without)
    )


def _occurs(term: Term, text_words: tuple[str, ...]) -> bool:
    size = len(term.words)
    body, last = term.words[:-1], term.words[-1]
    for i in range(len(text_words) - size + 1):
        end = text_words[i + size - 1]
        if (end == last or (term.prefix and end.startswith(last))) and text_words[i : i + size - 1] == body:
            return True
    return False


def snippet(text: str, query: Query, width: int = 160) -> str:
    """A stretch of the text around the first word that was asked for, on one line."""
    flat = " ".join(text.split())
    start = max(0, _place(flat, query) - width // 4)
    cut = flat[start : start + width]
    return ("…" if start else "") + cut + ("…" if start + width < len(flat) else "")


def _place(flat: str, query: Query) -> int:
    """Where the first term that occurs begins. Without accents a text is looked at only if it has to be: folding it takes
    longer than finding it."""
    lowered = flat.lower()
    folded: str | None = lowered if flat.isascii() else None
    for term in query.terms:
        at = lowered.find(term.words[0])
        if at < 0 and folded is None:
            bare = fold(flat)
            folded = bare if len(bare) == len(flat) else lowered
        if at < 0 and folded is not None:
            at = folded.find(term.words[0])
        if at >= 0:
            return at
    return 0
