"""How a simulated process lives and ends, and what time it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from clew.domain.conversation.ids import OwnerId
from clew.runtime.ports.owners import Burial, OwnerLives
from clew.testing.faulty_ledger import ProcessDied
from clew.testing.simulation.record import Record
from clew.testing.virtual_time import Program

BEGAN_MS: Final = 1_790_000_000_000


class Life:
    """One process. Whether the system can prove a death differs: a lock file may be on a disk that is gone."""

    def __init__(self, name: str, record: Record, dead: set[str], *, leaves_proof: bool) -> None:
        self.name = name
        self.record = record
        self.program = Program()
        self.is_spared = False
        self.meddle: Callable[[str], None] = lambda _: None
        """Told of each moment in which it matters what else happens just then."""
        self._dead = dead
        self._leaves_proof = leaves_proof

    @property
    def is_over(self) -> bool:
        return self.program.is_dead

    def die(self, how: str) -> None:
        """kill -9: it takes no further step, and the system frees its locks."""
        if self.is_over:
            return
        self.record.fault(how, self.name)
        self.program.kill()
        if self._leaves_proof:
            self._dead.add(self.name)
        else:
            self.record.fault("a death that nothing proves", self.name)

    def end(self, how: str) -> None:
        """The same from inside: whoever calls comes no further, unless this process is spared."""
        if self.is_spared:
            return
        self.die(how)
        raise ProcessDied


class OwnersByLock:
    """Who is dead, as far as the operating system says it."""

    def __init__(self, me: str, dead: set[str]) -> None:
        self.me = OwnerId(me)
        self._dead = dead

    def is_dead(self, owner: OwnerId) -> bool:
        return owner in self._dead

    async def bury(self, owner: OwnerId) -> Burial:
        if not self.is_dead(owner):
            raise OwnerLives(owner)
        return Burial()


class JumpingClock:
    """One process's clocks: wall time that is set forth and back, and seconds since it does not matter when."""

    def __init__(self, booted_seconds: float) -> None:
        self._booted = booted_seconds
        self._jumped_ms = 0

    def now_ms(self) -> int:
        return BEGAN_MS + int(asyncio.get_running_loop().time() * 1000) + self._jumped_ms

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() + self._booted

    def jump(self, seconds: float) -> None:
        """Moves the wall clock alone."""
        self._jumped_ms += int(seconds * 1000)
