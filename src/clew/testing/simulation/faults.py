"""Which write meets which fault: a few at random, and each shape of write in its turn, so that the rare ones are met too."""

from __future__ import annotations

import random
from typing import Final

from clew.adapters.stores.memory.state import State
from clew.domain.ledger.commits import Commit
from clew.domain.ledger.errors import LedgerError
from clew.testing.crash_points import SHAPES
from clew.testing.faulty_ledger import Fault
from clew.testing.simulation.process_life import Life
from clew.testing.simulation.witness import Witness

SMALL_WRITES: Final = ("open", "receive", "decide", "settle_reply", "point", "beat", "forget")
WRITES: Final = (*(name for name, _ in SHAPES), *SMALL_WRITES)
ODDS: Final = 0.004
PLANNED: Final = 10
MEETS: Final = 0.5
"""How likely a planned fault is to strike where it fits, so that not always the first one of a run is struck."""


class FaultPlan:
    """One run's."""

    def __init__(self, chance: random.Random) -> None:
        self.odds = ODDS
        self._chance = chance
        self._planned = [(chance.choice(list(Fault)), chance.choice(WRITES)) for _ in range(PLANNED)]

    def fault(self, shape: str) -> Fault | None:
        for planned in self._planned:
            if planned[1] == shape and self.odds and self._chance.random() < MEETS:
                self._planned.remove(planned)
                return planned[0]
        return self._chance.choice(list(Fault)) if self._chance.random() < self.odds else None

    def calm(self) -> None:
        """From now on every write succeeds."""
        self.odds = 0.0


class ProcessWriting:
    """Between one process's ledger and the plan, the record and the witness."""

    def __init__(self, life: Life, plan: FaultPlan, witness: Witness) -> None:
        self._life = life
        self._plan = plan
        self._witness = witness

    def fault(self, shape: str) -> Fault | None:
        fault = self._plan.fault(shape)
        if fault in (Fault.BUSY, Fault.DISK_FULL):
            self._life.record.fault(f"{fault}: {shape}", self._life.name)
            self._life.record.hit(f"fault: {fault}")
        return fault

    def wrote(self, shape: str, work: Commit | None, before: State, after: State) -> None:
        self._life.record.hit(f"write: {shape}")
        self._witness.wrote(self._life.name, work, before, after)

    def refused(self, shape: str, error: LedgerError) -> None:
        self._life.record.hit(f"write: {type(error).__name__}")

    def killed(self, fault: Fault, shape: str) -> None:
        self._life.die(f"{fault}: {shape}")
