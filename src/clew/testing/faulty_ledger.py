"""A ledger whose commits fail as the fault model says: refused, or cut off before or after they took effect.

Each write is known by its shape (`clew.testing.crash_points`), so that faults can be dealt by it. A witness sees the
state before and after every write that took effect, at the moment it does.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, Protocol, TypeVar

from clew.adapters.stores.memory import MemoryLedger
from clew.adapters.stores.memory.commit import commit
from clew.adapters.stores.memory.state import Disk, State
from clew.domain.ledger.commits import Commit, Committed
from clew.domain.ledger.errors import LedgerError, StoreUnusable
from clew.testing.crash_points import SHAPES
from clew.testing.virtual_time import Program

T = TypeVar("T")


class Fault(StrEnum):
    """What can happen to a write."""

    BUSY = "refused, busy"
    DISK_FULL = "refused, disk full"
    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"


_REFUSALS: Final = {
    Fault.BUSY: "The ledger is locked by another program; nothing was written. Try again.",
    Fault.DISK_FULL: "The disk is full; nothing was written.",
}


class ProcessDied(BaseException):
    """The simulated process ended here. Not an `Exception`: no handler of the program may hear it."""


class Writing(Protocol):
    """What is asked before a write, and told after it."""

    def fault(self, shape: str) -> Fault | None: ...

    def read_fails(self) -> bool: ...

    def wrote(self, shape: str, work: Commit | None, before: State, after: State) -> None: ...

    def refused(self, shape: str, error: LedgerError, fault: Fault | None) -> None: ...

    def killed(self, fault: Fault, shape: str) -> None: ...


class FaultyLedger(MemoryLedger):
    """One process's ledger over a shared disk. A process that is dead gets nothing through."""

    def __init__(self, disk: Disk, program: Program, writing: Writing) -> None:
        super().__init__(disk)
        self._program = program
        self._writing = writing

    def require_life(self) -> None:
        """Raises ProcessDied in a process that is dead: called wherever a program would touch the world."""
        if self._program.is_dead:
            raise ProcessDied

    async def commit(self, work: Commit) -> Committed:
        return await self._written(shape_of(work), lambda state: commit(state, work), work)

    async def _now(self) -> State:
        self.require_life()
        state = await super()._now()
        self.require_life()
        if self._writing.read_fails():
            raise StoreUnusable("The ledger cannot be read just now.")
        return state

    async def _write(self, shape: str, work: Callable[[State], T]) -> T:
        return await self._written(shape, work)

    async def _written(self, shape: str, work: Callable[[State], T], said: Commit | None = None) -> T:
        self.require_life()
        fault = self._writing.fault(shape)
        if fault in _REFUSALS:
            raise StoreUnusable(_REFUSALS[fault])

        def witnessed(draft: State) -> T:
            before = self._disk.state
            if fault == Fault.KILLED_BEFORE:
                self._writing.killed(fault, shape)
                raise ProcessDied
            try:
                result = work(draft)
            except LedgerError as error:
                self._writing.refused(shape, error, fault)
                raise
            self._writing.wrote(shape, said, before, draft)
            return result

        result = await super()._write(shape, witnessed)
        if fault == Fault.KILLED_AFTER:
            self._writing.killed(fault, shape)
            raise ProcessDied
        return result


def shape_of(work: Commit) -> str:
    """The name of a commit."""
    return next((name for name, fits in SHAPES if fits(work)), "other")
