"""Reminders as a tool asks for them."""

from __future__ import annotations

from typing import Final, Protocol

from clew.domain.conversation.ids import PrincipalId, SessionId

KIND: Final = "reminder"
"""The kind of their jobs."""


class Scheduler(Protocol):
    """Keeps, lists and cancels what is to be said later. Each answers in a sentence; `Refused` and `NotFound` are one too."""

    async def ask(self, who: PrincipalId, session: SessionId, phrase: str, key: str) -> str:
        """Keeps a reminder for the place that the session's turn came from; the same key is kept once. `phrase` is when, and
        then what."""
        ...

    async def listed(self, who: PrincipalId) -> str:
        """One line each, the next first."""
        ...

    async def cancel(self, who: PrincipalId, number: int) -> str: ...
