"""Memory as a tool asks for it."""

from __future__ import annotations

from typing import Protocol

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.memory.facts import Kind


class Remembers(Protocol):
    """Keeps, finds and forgets facts. Each answers in words; `Refused`, `NotFound` and `HeadMoved` are one sentence."""

    async def note(
        self, who: PrincipalId, session: SessionId, text: str, kind: Kind, replaces: int = 0
    ) -> str:
        """Keeps what was said in this turn, in place of the fact with the number `replaces` unless that is 0."""
        ...

    async def found(self, who: PrincipalId, typed: str) -> str:
        """A line for each that the words are about, the best first; all of them for no words."""
        ...

    async def forget(self, who: PrincipalId, typed: str) -> str:
        """By its number, or by words that only one has."""
        ...
