"""What a run leaves behind: what was done, how often each thing happened, and what did not hold."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Final

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.text import clean

TOKEN: Final = re.compile(r"(?:words|fact|task)-\w+-end")
"""What tells of each text whose it is: words that a person said, a fact, a task for a subagent."""


class Record:
    """One run's. `broken` holds a sentence for everything that did not hold, as it was noticed."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.trace: list[str] = []
        self.broken: list[str] = []
        self.sent: dict[str, SessionId | None] = {}
        """Each text that somebody tried to say, as it has to be stored; where it was accepted, once it was."""
        self.owners: dict[str, PrincipalId] = {}
        """Of each token, whose it is: nobody else's requests may hold it."""
        self._made = 0

    def hit(self, name: str) -> None:
        self.hits[name] += 1

    def note(self, line: str) -> None:
        """Adds to the trace, with the time."""
        self.trace.append(f"{asyncio.get_running_loop().time():.2f} {line}")

    def fault(self, name: str, process: str) -> None:
        self.hit(f"fault: {name}")
        self.note(f"{process} -- {name}")

    def require(self, holds: bool, sentence: str) -> None:
        """Remembered, not raised: whoever is in the middle of a commit must not hear of it."""
        if not holds:
            self.note(f"BROKEN {sentence}")
            self.broken.append(sentence)

    def new_token(self, kind: str, owner: PrincipalId) -> str:
        """One that nobody saw before."""
        self._made += 1
        return self.owns(f"{kind}-{self._made}-end", owner)

    def owns(self, token: str, owner: PrincipalId) -> str:
        self.owners[token] = owner
        return token

    def new_words(self, form: int, owner: PrincipalId) -> str | bytes:
        """Something that nobody said before, in one of the shapes that text comes in."""
        plain = self.new_token("words", owner)
        forms: tuple[str | bytes, ...] = (
            plain,
            plain,
            f"{plain} “é” 漢字 🧵\n\n  it's <b>50%</b> of C:\\x\t",
            f"{plain} \0 and \ud800 alone",
            f"{plain} {'and so on ' * 40}",
            plain.encode() + b" \xff\xfe bytes",
        )
        words = forms[form % len(forms)]
        self.sent[clean(words).text] = None
        return words

    def accepted(self, words: str | bytes, session: SessionId) -> None:
        self.sent[clean(words).text] = session
