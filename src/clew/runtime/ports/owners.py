"""Processes that may hold a session's turn."""

from __future__ import annotations

from typing import Protocol

import msgspec

from clew.domain.conversation.ids import OwnerId


class OwnerLives(Exception):
    """That process is not known to be dead: nothing of it may be touched."""


class Burial(msgspec.Struct, frozen=True, kw_only=True):
    """What a dead process had left running: how many processes were ended, and how many would not end in time."""

    ended: int = 0
    left: int = 0


class Owners(Protocol):
    """Knows this process's own name, and which others are certainly dead."""

    @property
    def me(self) -> OwnerId: ...

    def is_dead(self, owner: OwnerId) -> bool:
        """True only with proof: the lock that a living owner holds is free. A doubt is not a proof. Once dead, dead."""
        ...

    async def bury(self, owner: OwnerId) -> Burial:
        """Ends every process that the tools of a dead owner left behind, at once and without asking them.

        When it returns with nothing `left`, none of them runs and none will: whoever carries on the owner's turn
        calls this first. Takes 5 s at most. Idempotent, and safe beside another burier, in this process or not (both
        may count the same process); cancelled, it may be called again.

        Not promised: processes in another container's PID namespace, and, where there is no /proc, those that left
        their group or whose group's first process has ended.

        Raises: OwnerLives.
        """
        ...
