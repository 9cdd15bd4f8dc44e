"""What a run leaves behind: what was done, how often each thing happened, and what did not hold."""

from __future__ import annotations

import asyncio
from collections import Counter

from clew.domain.conversation.ids import SessionId
from clew.domain.conversation.text import clean


class Record:
    """One run's. `broken` holds a sentence for everything that did not hold, as it was noticed."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.trace: list[str] = []
        self.broken: list[str] = []
        self.sent: dict[str, SessionId | None] = {}
        """Each text that somebody tried to say, as it has to be stored; where it was accepted, once it was."""
        self._words = 0

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

    def new_words(self, form: int) -> str | bytes:
        """Something that nobody said before, in one of the shapes that text comes in."""
        self._words += 1
        plain = f"words-{self._words}-end"
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
