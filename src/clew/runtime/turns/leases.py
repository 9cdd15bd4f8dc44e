"""Whose is a session's turn, or a job, and does its owner live? Told by locks, and by this process's own clock; never by two clocks."""

from __future__ import annotations

from enum import Enum, auto

import msgspec

from clew.domain.conversation.ids import JobId, OwnerId, SessionId
from clew.runtime.ports.owners import Owners
from clew.runtime.ports.world import Clock


class Holder(Enum):
    NOBODY = auto()
    ME = auto()
    LIVING = auto()
    DEAD = auto()
    """Its lock is free: the operating system says so."""
    SILENT = auto()
    """It has not beaten for a whole lease while this process looked."""


class _Seen(msgspec.Struct, frozen=True):
    owner: OwnerId
    epoch: int
    beat: int
    since: float


class LeaseWatch:
    """Remembers which beat it saw when. One serves a whole process."""

    def __init__(self, owners: Owners, clock: Clock, lease_seconds: float) -> None:
        self._owners = owners
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._seen: dict[SessionId | JobId, _Seen] = {}

    def look(self, session: SessionId | JobId, owner: OwnerId | None, epoch: int, beat: int) -> Holder:
        """A living owner is silent once the same beat was seen for a lease; so nobody is at the first look.

        Beats are counted anew by each claim, which the epoch tells apart.
        """
        if (certain := self._certain(owner)) is not None:
            self._seen.pop(session, None)
            return certain
        assert owner is not None, "nobody is certain"
        now, seen = self._clock.monotonic(), self._seen.get(session)
        if seen is None or (seen.owner, seen.epoch, seen.beat) != (owner, epoch, beat):
            self._seen[session] = _Seen(owner, epoch, beat, now)
            return Holder.LIVING
        return Holder.SILENT if now - seen.since >= self._lease_seconds else Holder.LIVING

    def _certain(self, owner: OwnerId | None) -> Holder | None:
        """What needs no looking twice: None when the owner is another process that has its lock."""
        if owner is None:
            return Holder.NOBODY
        if owner == self._owners.me:
            return Holder.ME
        return Holder.DEAD if self._owners.is_dead(owner) else None
