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
REMEMBERING: Final = ("add_job", "take_job", "move_job", "beat_job", "keep_facts", "forget_facts")
WRITES: Final = (*(name for name, _ in SHAPES), *SMALL_WRITES, *REMEMBERING)
ODDS: Final = 0.004
KILLS: Final = (Fault.KILLED_BEFORE, Fault.KILLED_AFTER)
COMMON: Final = (
    "opening",
    "answer",
    "receive",
    "take",
    "refreeze",
    "point",
    "beat",
    "open",
    "start",
    "plan",
    "result",
)
RAREST: Final = ("acknowledge", "go on", "compact", "expand", "event", "park", "reserve")
RARE: Final = (*(name for name in WRITES if name not in (*COMMON, *REMEMBERING)), *RAREST)
REFUSALS: Final = (Fault.BUSY, Fault.DISK_FULL)
PLANNED: Final = 24
PLANNED_COMMON: Final = 5
PLANNED_REFUSED: Final = 5
READ_ODDS: Final = 0.0003
MEETS: Final = 0.8
"""How likely a planned fault is to strike where it fits, so that not always the first one of a run is struck."""


class FaultPlan:
    """One run's."""

    def __init__(self, chance: random.Random, *, remembers: bool) -> None:
        self.odds = ODDS
        self._chance = chance
        self._reads_left = 0
        self._soon: dict[str, Fault] = {}
        self._planned = [(chance.choice(KILLS), name) for name in chance.sample(RARE, PLANNED)]
        self._planned += [(chance.choice(KILLS), chance.choice(COMMON)) for _ in range(PLANNED_COMMON)]
        self._planned += [(chance.choice(REFUSALS), chance.choice(WRITES)) for _ in range(PLANNED_REFUSED)]
        if remembers:
            self._planned += [(kill, name) for kill in KILLS for name in chance.sample(REMEMBERING, 3)]

    def read_soon(self, reads: int) -> None:
        """The read after so many fails."""
        self._reads_left = reads

    def read_fails(self) -> bool:
        self._reads_left -= 1
        return bool(self.odds) and (self._reads_left == 0 or self._chance.random() < READ_ODDS)

    def soon(self, shape: str, fault: Fault) -> None:
        """The next write of this shape meets this fault."""
        self._soon[shape] = fault

    def fault(self, shape: str) -> Fault | None:
        if not self.odds:
            return None
        if shape in self._soon:
            return self._soon.pop(shape)
        for planned in self._planned:
            if planned[1] == shape and self._chance.random() < MEETS:
                self._planned.remove(planned)
                return planned[0]
        return self._chance.choice(list(Fault)) if self._chance.random() < self.odds else None

    def give_back(self, shape: str, fault: Fault) -> None:
        """The ledger itself refused the write: the next of this shape meets the fault."""
        self._planned.append((fault, shape))

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

    def read_fails(self) -> bool:
        fails = self._plan.read_fails()
        if fails:
            self._life.record.fault("a read fails", self._life.name)
        return fails

    def wrote(self, shape: str, work: Commit | None, before: State, after: State) -> None:
        self._life.record.hit(f"write: {shape}")
        self._witness.wrote(self._life.name, work, before, after)
        self._life.meddle(shape)

    def refused(self, shape: str, error: LedgerError, fault: Fault | None) -> None:
        if fault is not None:
            self._plan.give_back(shape, fault)
        self._life.record.hit(f"write: {type(error).__name__}")

    def killed(self, fault: Fault, shape: str) -> None:
        self._life.die(f"{fault}: {shape}")
