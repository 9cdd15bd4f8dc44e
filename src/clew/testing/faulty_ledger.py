"""A ledger whose commits fail as the fault model says: refused, or cut off before or after they took effect."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from clew.adapters.stores.memory import MemoryLedger
from clew.adapters.stores.memory.state import Disk, State
from clew.domain.ledger.errors import StoreUnusable

T = TypeVar("T")


class Fault(StrEnum):
    """What can happen to a commit."""

    REFUSED = "refused"
    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"


class ProcessDied(BaseException):
    """The simulated process ended here. Not an `Exception`: no handler of the program may hear it."""


class FaultyLedger(MemoryLedger):
    """One process's ledger over a shared disk. After a kill it lets nothing of that process through."""

    def __init__(self, disk: Disk, chance: random.Random, odds: float, hit: Callable[[Fault], None]) -> None:
        super().__init__(disk)
        self.is_dead = False
        self.odds = odds
        self._chance = chance
        self._hit = hit
        self._awake = asyncio.Event()
        self._awake.set()

    def kill(self) -> None:
        """From now on this process does nothing that anybody could see."""
        self.is_dead = True

    def pause(self) -> None:
        """From now on this process stands still wherever it would touch the disk, as if it were stopped."""
        self._awake.clear()

    def resume(self) -> None:
        """It goes on as if nothing had happened."""
        self._awake.set()

    def require_life(self) -> None:
        """Raises ProcessDied in a process that is dead: called wherever a program would touch the world."""
        if self.is_dead:
            raise ProcessDied

    async def _now(self) -> State:
        await self._awake.wait()
        self.require_life()
        state = await super()._now()
        self.require_life()
        return state

    async def _write(self, work: Callable[[State], T]) -> T:
        await self._awake.wait()
        self.require_life()
        fault = self._chance.choice(list(Fault)) if self._chance.random() < self.odds else None
        if fault is not None:
            self._hit(fault)
        if fault == Fault.REFUSED:
            raise StoreUnusable("The disk is full; nothing was written.")
        if fault == Fault.KILLED_BEFORE:
            self.kill()
        result = await super()._write(work)
        if fault == Fault.KILLED_AFTER:
            self.kill()
        self.require_life()
        return result
