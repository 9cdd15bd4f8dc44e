"""Processes that may hold a session's turn."""

from __future__ import annotations

from typing import Protocol

from clew.domain.conversation.ids import OwnerId


class Owners(Protocol):
    """Knows this process's own name, and which others are certainly dead."""

    @property
    def me(self) -> OwnerId: ...

    def is_dead(self, owner: OwnerId) -> bool:
        """True only with proof: the lock that a living owner holds is free. A doubt is not a proof."""
        ...
