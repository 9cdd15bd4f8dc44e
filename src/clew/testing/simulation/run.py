"""One run: processes that start and end, people who do things to them, and a look at everything after each step."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from clew.adapters.stores.memory import MemoryLedger
from clew.adapters.stores.memory.state import Disk
from clew.domain.conversation.ids import LOCAL, PrincipalId, SessionId
from clew.domain.ledger.commits import Caps
from clew.domain.ledger.errors import Busy, LedgerError
from clew.domain.ledger.rows import Origin, SessionRow
from clew.runtime.background import Background
from clew.runtime.jobs import ATTEMPTS_MAX
from clew.runtime.sending import POLL_SECONDS
from clew.runtime.turns import TurnStatus
from clew.testing.faulty_ledger import FaultyLedger, ProcessDied
from clew.testing.invariants import check, check_hidden
from clew.testing.simulation.actions import ACTIONS, Act
from clew.testing.simulation.faults import REFUSALS, FaultPlan
from clew.testing.simulation.machines import observed_machines
from clew.testing.simulation.people import Told
from clew.testing.simulation.process import SETTINGS, LedgerMaker, Process, Shared
from clew.testing.simulation.record import Record
from clew.testing.simulation.requests import Requests
from clew.testing.simulation.themes import THEMES, Theme
from clew.testing.simulation.tools import Effects
from clew.testing.simulation.witness import Witness
from clew.testing.virtual_time import simulate

OTHER: Final = PrincipalId("somebody-else")
STEPS: Final = 140
PROCESSES: Final = 3
STOPS: Final = MappingProxyType(
    {
        "park": 0.5,
        "decide": 0.4,
        "nobody answers": 0.15,
        "close": 0.15,
        "start": 0.06,
        "a tool ends": 0.15,
        "the model ends, Failure": 0.3,
    }
)
DECISIONS: Final = MappingProxyType({"a question is asked": 0.3, "park": 0.6})
"""How likely somebody decides what was asked, in another process."""
STOPS_ODDS: Final = 0.02
"""How likely the person presses stop at just this moment."""
PAUSES_ODDS: Final = 0.01
RIVALS: Final = ("stop", "stop", "say", "undo", "new", "delete")
RIVALS_ODDS: Final = 0.01
LATELY: Final = 2
"""Sessions that something is done to: the newest ones, so that much happens to each."""
PATIENCE_SECONDS: Final = 600.0
TRACE_SHOWN: Final = 40
LOOKS_MAX: Final = 3
"""At a session whose holder may live: the first sees a beat, the second that it is still the same."""


class Run(msgspec.Struct, frozen=True):
    """What came of a seed. `broken` names what did not hold, if anything."""

    seed: int
    trace: tuple[str, ...]
    hits: Counter[str]
    broken: str | None

    def told(self) -> str:
        """The failure for people: the seed that replays it, and how it came to that."""
        steps = "\n".join(f"    {line}" for line in self.trace[-TRACE_SHOWN:])
        return f"seed {self.seed}: {self.broken}\n{steps}\n"


def run_seed(seed: int, ledger: LedgerMaker = FaultyLedger, theme: str | None = None) -> Run:
    """Runs one seed. The same seed gives the same run; another ledger is for showing that a broken one is noticed, soon
    where the run has the theme of what is broken."""
    simulation = Simulation(seed, ledger, [each for each in THEMES if theme in (None, each.name)])
    record = simulation.shared.record
    broken: str | None = None
    with observed_machines(record):
        try:
            simulate(seed, simulation.run(), ending=(ProcessDied,))
        except AssertionError as error:
            broken = str(error)
    return Run(seed, simulation.trace, simulation.hits, broken)


class Simulation:
    """`trace` and `hits` are those of the run proper: what its end clears away is not counted."""

    def __init__(self, seed: int, ledger: LedgerMaker, themes: Sequence[Theme]) -> None:
        disk, chance, record, dead = Disk(), random.Random(seed), Record(), set[str]()
        witness, theme = Witness(disk, record), chance.choice(themes)
        self.shared = Shared(
            disk, chance, record, witness, Requests(witness), Effects(witness), Told(witness), FaultPlan(chance, remembers=theme.remembers), theme, dead, ledger
        )  # fmt: skip
        self.trace: tuple[str, ...] = ()
        self.hits: Counter[str] = Counter()
        self._started = 0
        self._processes: list[Process] = []
        self._acting: list[tuple[Process, asyncio.Task[None]]] = []
        self._checked: dict[SessionId, SessionRow] = {}
        self._people = (LOCAL, OTHER) if theme.remembers or theme.beside else (LOCAL,)

    async def run(self) -> None:
        try:
            await self._live()
        finally:
            record = self.shared.record
            self.trace, self.hits = tuple(record.trace), Counter(record.hits)

    async def _live(self) -> None:
        self._processes = [self._start() for _ in range(PROCESSES)]
        await self._begin()
        for _ in range(STEPS):
            self._step()
            await asyncio.sleep(self.shared.chance.choice([0, 0, 0.05, 1, 20, 60]))
            await self._check()
        await self._settle()

    def _start(self, caps: Caps | None = None) -> Process:
        self._started += 1
        process = Process(self._started, self.shared, caps)
        process.life.meddle = lambda moment: self._meddle(process, moment)
        if len(self._people) > 1 and caps is None:
            process.life.program.start(process.jobs.run())
        return process

    async def _begin(self) -> None:
        """Everybody has a session before anything goes wrong."""
        odds, self.shared.plan.odds = self.shared.plan.odds, 0.0
        first = self._start()
        await first.ledger.add_principal(OTHER, "somebody else", "user")
        for who in self._people:
            await first.talk_of(who).ensure_session()
        self.shared.plan.odds = odds
        first.life.program.kill()

    # -- steps ---------------------------------------------------------------------------------------------------
    def _step(self) -> None:
        shared, chance = self.shared, self.shared.chance
        self._replace_the_dead()
        process, other = chance.sample(self._processes, 2)
        roll = chance.random()
        if roll < shared.theme.kills:
            process.life.die("killed at a random instant")
        elif roll < 0.12:
            self._pause(process, chance.choice([1.0, 45.0, 100.0, 400.0]))
        elif roll < 0.14:
            seconds = chance.choice([3600.0, -3600.0])
            self.shared.record.fault(f"the wall clock jumps by {seconds:+.0f} s", process.name)
            process.clock.jump(seconds)
        elif roll < 0.15:
            self._cancel(process)
        else:
            self._act(shared.theme.action(chance), process, other)

    def _replace_the_dead(self) -> None:
        for index, process in enumerate(self._processes):
            if process.life.is_over:
                self._processes[index] = fresh = self._start()
                if self.shared.chance.random() < 0.5:
                    self._act("recover", fresh, fresh)

    def _act(self, name: str, process: Process, other: Process) -> None:
        who = self.shared.chance.choice(self._people)
        session = self.shared.chance.choice(self._talked_in(who)[-LATELY:] or [None])
        if session is None:
            name, session = "begin", SessionId("")
        task = process.life.program.start(self._acted(name, process, other, session))
        self._acting.append((process, task))

    async def _acted(self, name: str, process: Process, other: Process, session: SessionId) -> None:
        """Does it, and records what came of it; a process that dies of it records nothing more."""
        self.shared.record.note(f"{process.name} {name} {session}")
        try:
            if name == "begin":
                await process.talk_of(self.shared.chance.choice(self._people)).ensure_session()
                outcome = "ok"
            else:
                act = Act(process, other, session)
                await ACTIONS[name](act)
                outcome = act.outcome
        except LedgerError as error:
            outcome = type(error).__name__
        except BaseExceptionGroup as several:
            outcome = type(several.exceptions[0]).__name__
            if not isinstance(several.exceptions[0], LedgerError):
                raise
        except asyncio.CancelledError:
            outcome = "cancelled"
        self.shared.record.hit(f"action: {name}: {outcome}")
        self.shared.record.note(f"{process.name} {name} {session}: {outcome}")

    def _pause(self, process: Process, seconds: float) -> None:
        shared = self.shared
        holds = any(shared.witness.holds(process.name, session) for session in self._living())
        shared.record.fault(
            "a holder is paused past its lease"
            if holds and seconds > SETTINGS.lease_seconds
            else "a process is paused",
            process.name,
        )
        process.life.program.pause()
        asyncio.get_running_loop().call_later(seconds, process.life.program.resume)

    def _cancel(self, process: Process) -> None:
        """Its surface closes: what it waits for is cancelled."""
        for owner, task in self._acting:
            if owner is process and not task.done():
                self.shared.record.fault("what waits for a turn is cancelled", process.name)
                task.cancel()
                return

    def _meddle(self, process: Process, moment: str) -> None:
        """Something else happens at this very moment."""
        shared, chance = self.shared, self.shared.chance
        if process.life.is_spared or not shared.plan.odds:
            return
        others = [other for other in self._processes if other is not process and other.life.program.runs]
        if moment in ("claim", "go on") and chance.random() < 0.3:
            if chance.random() < 0.5:
                shared.plan.read_soon(chance.randint(1, 10))
            elif others:
                self._act("delete", others[0], process)
        elif chance.random() < STOPS.get(moment, STOPS_ODDS):
            shared.record.fault("a stop in the last instant", process.name)
            if process.stop_turns() and chance.random() < 0.7:
                process.stop_turns()
                shared.plan.soon(chance.choice(["result", "result", "close"]), chance.choice(REFUSALS))
            elif others:
                self._act("stop", others[0], process)
        elif others and chance.random() < DECISIONS.get(moment, 0.0):
            self._act(chance.choice(["approve", "approve", "deny"]), others[0], process)
        elif chance.random() < PAUSES_ODDS:
            self._pause(process, chance.choice([45.0, 100.0, 400.0]))
        elif others and chance.random() < RIVALS_ODDS:
            shared.record.fault("somebody else comes in between", process.name)
            self._act(chance.choice(RIVALS), others[0], process)

    def _talked_in(self, who: PrincipalId) -> list[SessionId]:
        rows = self.shared.disk.state.sessions
        return [s for s in self._living() if rows[s].owner == who and rows[s].origin != Origin.SIDE]

    def _living(self) -> list[SessionId]:
        state = self.shared.disk.state
        return [session for session in state.sessions if session not in state.purged]

    # -- what must hold ------------------------------------------------------------------------------------------
    async def _check(self) -> None:
        """On the state as it is at this moment, whatever goes on meanwhile. Raises AssertionError."""
        state = self.shared.disk.state
        frozen = Disk()
        frozen.state = state
        reader = MemoryLedger(frozen)
        for session in self._living():
            row = state.sessions[session]
            if self._checked.get(session) is not row:
                await check(reader, row.owner, session)
                self._checked[session] = row
        self.shared.witness.check_words()
        caps = self.shared.theme.caps
        self.shared.witness.beside.check_caps(state, caps.usd_per_session, caps.usd_per_day)
        self._raise_errors()
        broken = self.shared.record.broken
        if broken:
            raise AssertionError(broken[0])

    def _raise_errors(self) -> None:
        """What an action raised that is no answer of the program's."""
        still: list[tuple[Process, asyncio.Task[None]]] = []
        for process, task in self._acting:
            if not task.done():
                still.append((process, task))
                continue
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, ProcessDied):
                raise AssertionError(f"{process.name} raised {error!r}") from error
        self._acting = still

    # -- the end -------------------------------------------------------------------------------------------------
    async def _settle(self) -> None:
        """All processes end; then every session goes on with what was left, takes what waits, and one more message."""
        await asyncio.sleep(PATIENCE_SECONDS)
        await self._check()
        for process in self._processes:
            process.life.program.resume()
            process.life.die("ended")
        last = self._start(Caps())
        last.calm()
        for session in (each for who in self._people for each in self._talked_in(who)):
            await self._use(last, session)
            await self._check()
        await self._work_off(last)
        state = self.shared.disk.state
        self.shared.witness.remembered.check_prompts(state)
        self.shared.witness.beside.check_ended(state)
        for session in self._living():
            owner = state.sessions[session].owner
            await check_hidden(last.ledger, LOCAL if owner == OTHER else OTHER, session)
        for row in state.inbox.values():
            waits = row.state == "queued" and row.session not in state.purged and row.kind == "message"
            self.shared.record.require(not waits, f"message {row.id} still waits")
        await self._check()

    async def _work_off(self, last: Process) -> None:
        """What waits for later is done: the last attempt at it is made hours after the first."""
        for _ in range(ATTEMPTS_MAX):
            await last.jobs.look()
            await last.jobs.settled()
            waiting = [job.next_at for job in self.shared.disk.state.jobs.values() if job.state == "queued"]
            if not waiting:
                return
            await asyncio.sleep(max(SETTINGS.lease_seconds + 1, (max(waiting) - last.clock.now_ms()) / 1000))

    async def _use(self, process: Process, session: SessionId) -> None:
        talk = process.talk(session)
        watch = process.watcher(session)
        for _ in range(LOOKS_MAX):
            try:
                await talk.recover(watch, process.person)
                break
            except Busy:
                await asyncio.sleep(SETTINGS.lease_seconds + 1)
        while (waits := await talk.next_queued()) is not None:
            turn = await talk.begin(waits, watch, process.person)
            await turn.finish()
        if isinstance(background := talk.background, Background):
            await background.catch_up(session)
            while left := await background.listed(session):
                for each in left:
                    if each.state != "running":  # it waits for a yes that nobody gives
                        await background.stop(session, each.session)
                await asyncio.sleep(POLL_SECONDS)
        words = self.shared.record.new_words(0, talk.principal)
        turn = await talk.say(words, watch, process.person)
        outcome = await turn.finish()
        self.shared.record.accepted(words, session)
        assert outcome.status == TurnStatus.DONE, f"session {session} is not usable: {outcome}"
