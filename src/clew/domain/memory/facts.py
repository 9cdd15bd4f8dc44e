"""Facts about a person and their work, each with where it was said.

A fact is never changed: what is known better by now is another fact that supersedes it, and a chain of them is one thing
known. Facts are forgotten a whole chain at a time. What is left of a forgotten one is a trace: a salted hash that tells
its words when they come again, and holds none of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Final

import msgspec

from clew.domain.conversation.ids import FactId, MessageId, PrincipalId, SessionId
from clew.domain.conversation.keys import KEY_SHAPES
from clew.domain.conversation.text import clean
from clew.domain.conversation.words import words

TEXT_CHARACTERS_MAX: Final = 500
FACTS_MAX: Final = 500
"""Of one person, or one shared group, superseded ones counted: all of them are looked through for every turn."""
EXTRACT: Final = "extract"
"""The kind of the jobs that look for facts in what was said."""
FILLER: Final = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "be",
        "been",
        "for",
        "has",
        "have",
        "he",
        "her",
        "his",
        "i",
        "in",
        "is",
        "it",
        "its",
        "me",
        "my",
        "of",
        "on",
        "or",
        "our",
        "she",
        "that",
        "the",
        "their",
        "they",
        "this",
        "to",
        "user",
        "users",
        "was",
        "we",
        "were",
        "with",
        "you",
        "your",
    ]
)
"""English words that say nothing of what a fact is about. Other languages have theirs, which then count as words."""
_known_words: Final = lru_cache(maxsize=4_096)(words)
"""Of facts that are kept: each new one is held against all of them."""


class Kind(StrEnum):
    USER = "user"
    """About the person: who they are, what they like and want."""
    WORK = "work"
    """About what they work on."""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """`session` and `message` are where it was said; none for what a person had kept by a command. `said_at` is when."""

    id: FactId
    owner: PrincipalId
    kind: Kind
    text: str
    session: SessionId | None
    message: MessageId | None
    confidence: float
    supersedes: FactId | None
    said_at: int
    created_at: int


class NewFact(msgspec.Struct, frozen=True, kw_only=True):
    """A fact to be kept. `by_person`: they asked for it themselves, so it may be one that was forgotten."""

    kind: Kind
    text: str
    session: SessionId | None = None
    message: MessageId | None = None
    confidence: float = 1.0
    supersedes: FactId | None = None
    said_at: int
    by_person: bool = False


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a forgotten fact. No message up to `upto` brings any fact any more: it was all said before."""

    salt: str
    sha256: str
    upto: MessageId = MessageId(0)

    def is_of(self, text: str) -> bool:
        return trace_of(text, self.salt) == self.sha256


class Unusable(ValueError):
    """This text is no fact; the sentence says why."""


def stated(raw: str) -> str:
    """The text as it is kept: one line. Raises Unusable."""
    text = " ".join(clean(raw.replace("\0", " ")).text.split())
    if len(text) > TEXT_CHARACTERS_MAX:
        raise Unusable(
            f"A fact has at most {TEXT_CHARACTERS_MAX} characters, and this has {len(text):,}: nothing was kept."
        )
    if not words(text):
        raise Unusable("A fact needs words: nothing was kept.")
    if KEY_SHAPES.search(text):
        raise Unusable("That holds what looks like a key, and every request would: nothing was kept.")
    return text


def stem(word: str) -> str:
    """One and many of a thing are the same word; crude, and meant for English."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def telling(text: str) -> frozenset[str]:
    """The words that say what a text is about."""
    return frozenset(stem(word) for word in words(text)) - FILLER


def trace_of(text: str, salt: str) -> str:
    """The same for texts of the same telling words, in whatever order."""
    return hashlib.sha256("\0".join((salt, *sorted(telling(text)))).encode()).hexdigest()


def standing(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    """Those that no other supersedes, oldest first."""
    known = sorted(facts, key=lambda fact: fact.id)
    superseded = {fact.supersedes for fact in known}
    return tuple(fact for fact in known if fact.id not in superseded)


def chain(facts: Iterable[Fact], newest: FactId) -> tuple[Fact, ...]:
    """A fact and all that it stands for by now, newest first."""
    by_id = {fact.id: fact for fact in facts}
    found: list[Fact] = []
    ident: FactId | None = newest
    while ident is not None and ident in by_id:
        found.append(by_id.pop(ident))
        ident = found[-1].supersedes
    return tuple(found)


def admitted(known: Sequence[Fact], traces: Sequence[Trace], new: NewFact) -> NewFact | Fact | None:
    """The fact as it may be kept; the one that says it already; or None when it must not be kept.

    What was said earlier never takes the place of what was said later, in whatever order the two are heard of.
    """
    if not new.by_person:
        if any(new.message is not None and new.message <= trace.upto for trace in traces):
            return None
        if any(trace.is_of(new.text) for trace in traces):
            return None
    said, there = words(new.text), standing(known)
    same = next((fact for fact in there if _known_words(fact.text) == said), None)
    if same is not None:
        return same
    if any(_known_words(fact.text) == said and fact.said_at >= new.said_at for fact in known):
        return None  # something said later took its place
    if new.supersedes is None:
        return new
    newest = next(
        (fact for fact in there if new.supersedes in {link.id for link in chain(known, fact.id)}), None
    )
    if newest is None or newest.said_at > new.said_at:
        return None  # what it was to take the place of is forgotten, or was said later
    return msgspec.structs.replace(new, supersedes=newest.id)
