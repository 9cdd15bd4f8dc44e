"""One simulated process: the real runtime, put together over a shared disk, and everything that can befall it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import msgspec

from clew.adapters.stores.memory.state import Disk
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.ledger.commits import Caps
from clew.domain.tools.policy import ApprovalMode
from clew.domain.turn.prefix import Instructions
from clew.runtime.compaction import CompactionSettings, Compactor
from clew.runtime.recovery import Recovery
from clew.runtime.sessions import Place, SessionDesk
from clew.runtime.talk import Services, Talk
from clew.runtime.turns import TurnRunner, TurnSettings
from clew.testing.faulty_ledger import FaultyLedger
from clew.testing.simulation.faults import FaultPlan, ProcessWriting
from clew.testing.simulation.models import ErraticModel, OneErraticModel
from clew.testing.simulation.people import Person, Told, Watcher
from clew.testing.simulation.process_life import JumpingClock, Life, OwnersByLock
from clew.testing.simulation.record import Record
from clew.testing.simulation.requests import Requests
from clew.testing.simulation.themes import Theme
from clew.testing.simulation.tools import Effects, all_tools
from clew.testing.simulation.witness import Witness
from clew.testing.virtual_time import Program
from clew.testing.world import GivenTools, SeededChance

LedgerMaker = Callable[[Disk, Program, ProcessWriting], FaultyLedger]
CWD = Path("/work")
SETTINGS = TurnSettings(
    max_steps=4,
    max_repeats=4,
    max_seconds=100,
    lease_seconds=30,
    approval_mode=ApprovalMode.ALL,
    approval_expires_seconds=1800,
    recovery_freshness_seconds=3600,
    recovery_max_crashes=3,
)
COMPACTION = CompactionSettings(lease_seconds=20, call_seconds=60)


class Shared(msgspec.Struct, frozen=True):
    """What all processes of a run share: the disk, chance, and everybody who looks on."""

    disk: Disk
    chance: random.Random
    record: Record
    witness: Witness
    requests: Requests
    effects: Effects
    told: Told
    plan: FaultPlan
    theme: Theme
    dead: set[str]
    ledger: LedgerMaker


class Process:
    """One program on the shared disk."""

    def __init__(self, number: int, shared: Shared, caps: Caps | None = None) -> None:
        chance = shared.chance
        self.shared = shared
        self.life = Life(f"p{number}", shared.record, shared.dead, leaves_proof=chance.random() < 0.8)
        self.clock = JumpingClock(chance.uniform(0, 1_000_000))
        self.place = Place(route_key=f"terminal:{self.name}", surface="terminal")
        self.person = Person(self.life, chance)
        self.instructions: list[Instructions] = []
        writing = ProcessWriting(self.life, shared.plan, shared.witness)
        self.ledger = shared.ledger(shared.disk, self.life.program, writing)
        self.model = ErraticModel(chance, self.life, shared.requests, shared.theme)
        self._talks: list[Talk] = []
        tokens = SeededChance(chance.getrandbits(64))
        mode = ApprovalMode.ASK if chance.random() < shared.theme.asks else ApprovalMode.ALL
        owners, models = OwnersByLock(self.name, shared.dead), OneErraticModel(self.model)
        self.services = Services(
            ledger=self.ledger,
            desk=SessionDesk(self.ledger, self.clock, tokens),
            runner=TurnRunner(
                ledger=self.ledger,
                owners=owners,
                compactor=Compactor(
                    ledger=self.ledger, owners=owners, models=models, clock=self.clock, settings=COMPACTION
                ),
                clock=self.clock,
                chance=tokens,
                settings=msgspec.structs.replace(
                    SETTINGS,
                    max_steps=chance.choice([2, 5]),
                    max_repeats=chance.choice([2, 8]),
                    approval_mode=mode,
                    caps=caps or shared.theme.caps,
                ),
            ),
            models=models,
            clock=self.clock,
            chance=tokens,
            toolmaker=GivenTools(all_tools(shared.effects, self.life, chance)),
            instructions=lambda _: tuple(self.instructions),
        )
        self.recovery = Recovery(self.services, self.place, shared.told.noticed)

    @property
    def name(self) -> str:
        return self.life.name

    def talk(self, session: SessionId | None) -> Talk:
        """A conversation that stands in this session: each has one turn under way, and several stand here at once."""
        self._talks.append(Talk(self.services, LOCAL, self.place, CWD, session))
        return self._talks[-1]

    def watcher(self, session: SessionId) -> Watcher:
        return Watcher(self.life, self.shared.witness, self.shared.told, session)

    def stop_turns(self) -> bool:
        """As if somebody had pressed the key; False when no turn runs here."""
        running = [talk.running for talk in self._talks if talk.running and not talk.running.has_ended]
        for turn in running:
            turn.stop("stopped")
        return bool(running)

    def calm(self) -> None:
        """Nothing befalls it any more: what is left on the disk is all there is to cope with."""
        self.life.is_spared = True
        self.model.is_calm = True
        self.person.is_here = False
        self.shared.plan.calm()
