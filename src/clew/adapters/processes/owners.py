"""Proof of death: a living process holds an operating system lock on `run/<owner>.lock`, and the system frees it.

The lock is taken before the file gets its name, so a lock file that is free proves that its owner ended, however it
ended. A file that is gone was removed by its owner at its end, or by somebody who had buried it; a file that cannot be
opened proves nothing. Names are never used twice.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from clew.adapters.processes.groups import (
    Record,
    StartedGroups,
    notes_of,
    read_records,
    realm,
    records_of,
    remove_notes,
    remove_records,
)
from clew.adapters.processes.tree import Killed, find, has_proc, kill_all, own_marks, started
from clew.domain.conversation.ids import OwnerId
from clew.runtime.ports.owners import Burial, OwnerLives

SWEPT_MAX: Final = 10_000
"""Dead owners looked at by one sweep; the next goes on."""
BURY_SECONDS_MAX: Final = 2.0
"""After this no new attempt is made against processes that are born while their siblings are killed."""
_RETRY_SECONDS: Final = 0.02


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep came to: `owners` whose files are gone now, and what had been left running."""

    owners: int
    burial: Burial


class OwnerLocks:
    """`Owners` over lock files. Keep it for the life of the process: closing it is dying."""

    def __init__(self, run_dir: Path, token: str) -> None:
        """`token` tells this process from others that had its number."""
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._dir = run_dir
        self._me = OwnerId(f"{os.getpid()}-{token}")
        self._file = _locked(self._path(self._me))
        self.groups = StartedGroups(run_dir, self._me)
        """What the tools of this process start goes on record here."""

    @property
    def me(self) -> OwnerId:
        return self._me

    def is_dead(self, owner: OwnerId) -> bool:
        return owner != self._me and has_ended(self._dir, owner)

    async def bury(self, owner: OwnerId) -> Burial:
        if not self.is_dead(owner):
            raise OwnerLives(owner)
        return await self._bury([owner])

    async def _bury(self, dead: Sequence[OwnerId]) -> Burial:
        """Several at once cost one look at all processes, not one each."""
        burial = Burial()
        deadline = time.monotonic() + BURY_SECONDS_MAX
        graves = [owner for owner in dead if records_of(self._dir, owner).is_dir()]
        while graves:
            records = {owner: read_records(records_of(self._dir, owner)) for owner in graves}
            killed = await _kill(records)
            burial = Burial(ended=burial.ended + killed.ended, left=killed.left)
            if killed.left:
                return burial  # what is on record stays there for the next burier
            # One that is born meanwhile keeps its directory from being removed, and is looked for again.
            graves = [o for o in graves if not remove_records(records_of(self._dir, o), records[o])]
            if graves and time.monotonic() >= deadline:
                return msgspec.structs.replace(burial, left=len(graves))
            if graves:
                await asyncio.sleep(_RETRY_SECONDS)
        for owner in dead:
            remove_notes(notes_of(self._dir, owner))
            self._path(owner).unlink(missing_ok=True)
        return burial

    async def sweep(self) -> Sweep:
        """Buries the dead that nobody asked for, and removes what stands for them in the directory.

        Looks at SWEPT_MAX owners at most, in a thread; waits on the event loop.
        """
        removed, left_something = await asyncio.to_thread(self._look_for_dead)
        burial = await self._bury(left_something)
        return Sweep(owners=removed + len(left_something), burial=burial)

    def _look_for_dead(self) -> tuple[int, list[OwnerId]]:
        """Removes those that started nothing; returns how many these were, and the others.

        A file that has not got its name yet may belong to somebody who is just being born: he will notice, and try
        again. Those who started us are left to others: we are what they left behind.
        """
        with os.scandir(self._dir) as entries:
            found = {entry.name.rpartition(".")[::2] for entry in islice(entries, SWEPT_MAX)}
        removed, left_something, spared = 0, list[OwnerId](), {self._me, *own_marks()}
        for name in sorted({name for name, kind in found if kind in {"lock", "groups", "notes"}} - spared):
            owner = OwnerId(name)
            if not self.is_dead(owner):
                continue
            if records_of(self._dir, owner).is_dir():
                left_something.append(owner)
            else:
                remove_notes(notes_of(self._dir, owner))
                self._path(owner).unlink(missing_ok=True)
                removed += 1
        for name in [name for name, kind in found if kind == "unnamed"]:
            if _is_free(path := self._dir / f"{name}.unnamed"):
                path.unlink(missing_ok=True)
        return removed, left_something

    def close(self) -> None:
        """Gives up every claim this process could have. Idempotent.

        If its tools left something running, that stays on record for whoever sweeps.
        """
        if self._file >= 0:
            self.groups.close()
            self._path(self._me).unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def _path(self, owner: OwnerId) -> Path:
        return self._dir / f"{owner}.lock"


def _locked(path: Path) -> int:
    """A lock file with its lock held from the first moment it can be seen under its name."""
    unnamed = path.with_suffix(".unnamed")
    while True:
        file = os.open(unnamed, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            unnamed.rename(path)
        except FileNotFoundError:  # swept between its making and its locking
            os.close(file)
        except BaseException:
            os.close(file)
            raise
        else:
            return file


def has_ended(run_dir: Path, owner: OwnerId) -> bool:
    """Whether this owner certainly lives no more."""
    return _is_free(run_dir / f"{owner}.lock")


def _is_free(path: Path) -> bool:
    """Whether nobody holds the lock of this file; True if there is no such file. Observers do not disturb each other."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


async def _kill(records: Mapping[OwnerId, Sequence[Record]]) -> Killed:
    """Ends what these owners started: what is on record and still the same, and what carries their marks."""
    here = realm()
    known = [one for several in records.values() for one in several if one.realm == here]
    marks = frozenset(records) if has_proc() else frozenset()
    by_leader = {one.leader for one in known if started(one.leader) == one.started}
    by_member = {one.group for one in find(frozenset(), marks)} & {one.leader for one in known}
    return await kill_all(by_leader | by_member, marks)
