"""One simulated process: the real runtime, put together over a shared disk, and everything that can befall it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import msgspec

from clew.adapters.stores.memory.state import Disk
from clew.adapters.tools.delegate import delegate_tool
from clew.adapters.tools.memory import memory_tool
from clew.domain.conversation.ids import LOCAL, PrincipalId, SessionId
from clew.domain.ledger.commits import Caps
from clew.domain.ledger.jobs import REVIEW, TITLE
from clew.domain.memory.facts import EXTRACT
from clew.domain.tools.policy import ApprovalMode
from clew.domain.turn.prefix import Instructions
from clew.runtime.afterwards import Afterwards
from clew.runtime.background import Background
from clew.runtime.compaction import CompactionSettings, Compactor
from clew.runtime.delegating import DelegateLimits, delegating
from clew.runtime.jobs import Jobs
from clew.runtime.memory.desk import MemoryDesk
from clew.runtime.memory.extraction import Extraction
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
SURFACE = "terminal"
DELEGATES = DelegateLimits(at_once=2, per_turn=4, depth=2, seconds=60)
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
        self.place = Place(route_key=f"terminal:{self.name}", surface=SURFACE)
        self.person = Person(self.life, chance)
        self.instructions: list[Instructions] = []
        writing = ProcessWriting(self.life, shared.plan, shared.witness)
        self.ledger = shared.ledger(shared.disk, self.life.program, writing)
        self.model = ErraticModel(chance, self.life, shared.requests, shared.theme)
        self._talks: list[Talk] = []
        tokens = SeededChance(chance.getrandbits(64))
        mode = ApprovalMode.ASK if chance.random() < shared.theme.asks else ApprovalMode.ALL
        owners, models = OwnersByLock(self.name, shared.dead), OneErraticModel(self.model)
        caps, remembers = caps or shared.theme.caps, shared.theme.remembers
        memory = MemoryDesk(self.ledger, self.clock, tokens, enabled=remembers)
        tools = (
            *all_tools(shared.effects, self.life, chance),
            *((memory_tool(memory),) if remembers else ()),
        )
        self.services = Services(
            ledger=self.ledger,
            desk=SessionDesk(self.ledger, self.clock, tokens, remembers=remembers),
            runner=TurnRunner(
                ledger=self.ledger,
                owners=owners,
                compactor=Compactor(
                    ledger=self.ledger,
                    owners=owners,
                    models=models,
                    clock=self.clock,
                    settings=msgspec.structs.replace(COMPACTION, caps=caps, remembers=remembers),
                ),
                clock=self.clock,
                chance=tokens,
                settings=msgspec.structs.replace(
                    SETTINGS,
                    max_steps=chance.choice([2, 5]),
                    max_repeats=chance.choice([2, 8]),
                    approval_mode=mode,
                    caps=caps,
                ),
                remembers=remembers,
            ),
            models=models,
            clock=self.clock,
            chance=tokens,
            toolmaker=GivenTools(tools),
            instructions=lambda _: tuple(self.instructions),
            memory=memory if remembers else None,
            delegate=delegating(delegate_tool, DELEGATES) if shared.theme.beside else None,
            follows=frozenset(chance.choice([(TITLE,), (TITLE, REVIEW)]))
            if shared.theme.beside
            else frozenset(),
        )
        extraction = Extraction(self.ledger, models, self.clock, model=None, caps=caps)
        after = Afterwards(self.services, model=None)
        kinds = {TITLE: after.title, REVIEW: after.review, EXTRACT: extraction.perform}
        before, lease_seconds = extraction.sweep if remembers else None, SETTINGS.lease_seconds
        self.jobs = Jobs(self.ledger, owners, self.clock, kinds, lease_seconds=lease_seconds, before=before)
        self.recovery = Recovery(self.services, self.place, shared.told.noticed)

    @property
    def name(self) -> str:
        return self.life.name

    def talk(self, session: SessionId | None) -> Talk:
        """A conversation that stands in this session: each has one turn under way, and several stand here at once."""
        row = self.shared.disk.state.sessions.get(session or SessionId(""))
        return self.talk_of(LOCAL if row is None else row.owner, session)

    def talk_of(self, who: PrincipalId, session: SessionId | None = None) -> Talk:
        """Each person talks in a place of their own."""
        place = Place(route_key=f"{self.place.route_key}:{who}", surface=SURFACE)
        talk = Talk(self.services, who, place, CWD, session)
        self._talks.append(talk)
        if self.shared.theme.beside:
            talk.titled = lambda: None
            talk.background = Background(talk, told=lambda side, text: None, broken=self._broken)
        return talk

    def _broken(self, error: BaseException) -> None:
        self.shared.record.require(False, f"work beside a session raised {error!r}")

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
