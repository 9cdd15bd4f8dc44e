"""Whole conversations under the fault model: several processes on one disk, in virtual time, from one seed.

A run says, undoes, retries, stops, branches and starts anew at random, with commits that fail, processes that are
killed or paused and models that stream slowly, and checks after every action what docs/fault-model.md says must hold.
Two runs of one seed give the same trace.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import msgspec

from clew.adapters.stores.memory import MemoryLedger
from clew.adapters.stores.memory.state import Disk
from clew.domain.conversation.ids import LOCAL, OwnerId, SessionId
from clew.domain.conversation.messages import Role
from clew.domain.ledger.errors import LedgerError
from clew.domain.models.answer import Answer, AskedCall, Failure, FailureKind, ModelEvent, TextDelta, Usage
from clew.domain.models.request import ModelProfile, ModelRequest, TextPart, UserTurn
from clew.domain.tools.policy import ApprovalMode
from clew.domain.tools.spec import Effect, JsonObject, ToolResult, ToolSpec
from clew.domain.turn.prompt import canonical
from clew.runtime.commands import CommandError
from clew.runtime.compaction import Compactor
from clew.runtime.ports.models import ModelChoice
from clew.runtime.ports.owners import Burial, OwnerLives
from clew.runtime.ports.people import NobodyToAsk, nobody_watches
from clew.runtime.ports.tools import ToolContext
from clew.runtime.sessions import SessionDesk
from clew.runtime.talk import Services, Talk
from clew.runtime.turns import TurnRunner, TurnSettings
from clew.testing.faulty_ledger import FaultyLedger, ProcessDied
from clew.testing.invariants import check
from clew.testing.virtual_time import simulate
from clew.testing.world import TERMINAL, GivenTools, HandClock, SeededChance

ACTIONS = 30
PROCESSES = 3
FAULT_ODDS = 0.03


class Outside(msgspec.Struct):
    """What happened beyond the ledger: effects of tools, requests that models got, words that were accepted."""

    effects: Counter[str]
    accepted: list[str]
    trace: list[str]
    hits: Counter[str]


class SlowModel:
    """Streams with pauses of virtual time; sometimes asks for tools, sometimes fails."""

    def __init__(self, chance: random.Random, outside: Outside) -> None:
        self._chance = chance
        self._outside = outside
        self.requests: list[ModelRequest] = []

    async def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncGenerator[ModelEvent, None]:
        self.requests.append(request)
        await asyncio.sleep(self._chance.choice([0, 0.2, 5]))
        yield TextDelta("some ")
        await asyncio.sleep(self._chance.choice([0, 0.2, 40]))
        roll = self._chance.random()
        if roll < 0.1:
            self._outside.hits["model failed"] += 1
            yield Failure(kind=FailureKind.SERVER, message="down", partial="some ")
        elif roll < 0.4:
            count = self._chance.randint(1, 3)
            calls = tuple(
                AskedCall(provider_id="same", name="mark", arguments=f'{{"n": {n}}}') for n in range(count)
            )
            yield Answer(text="some ", calls=calls, usage=Usage(input=1, output=1))
        else:
            yield Answer(text="some words", usage=Usage(input=1, output=1))

    async def profile(self, model: str) -> ModelProfile:
        return ModelProfile(name=model, provider="scripted")

    async def models(self) -> tuple[str, ...]:
        return ("slow",)

    async def close(self) -> None:
        """Holds nothing."""


class MarkingTool:
    """A tool with a side effect that is counted outside, by the call's idempotency key."""

    spec = ToolSpec(
        name="mark",
        description="Marks.",
        parameters={"type": "object"},
        effect=Effect.EXECUTE,
        safe_to_repeat=False,
    )

    def __init__(self, ledger: FaultyLedger, chance: random.Random, outside: Outside) -> None:
        self._ledger = ledger
        self._chance = chance
        self._outside = outside

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolResult:
        self._ledger.require_life()
        self._outside.effects[context.call] += 1
        await asyncio.sleep(self._chance.choice([0, 0.1, 10]))
        self._ledger.require_life()
        return ToolResult(text="marked")

    def describe(self, arguments: JsonObject) -> str:
        return "mark"


class SharedOwners:
    """Who is dead is known to all: the operating system's locks say it."""

    def __init__(self, me: str, dead: set[str]) -> None:
        self.me = OwnerId(me)
        self._dead = dead

    def is_dead(self, owner: OwnerId) -> bool:
        return owner in self._dead

    async def bury(self, owner: OwnerId) -> Burial:
        """The tools of a killed process stop with it: there is nothing left to end."""
        if not self.is_dead(owner):
            raise OwnerLives(owner)
        return Burial()


class OneSlowModel:
    def __init__(self, model: SlowModel) -> None:
        self._model = model

    async def choose(self, name: str | None) -> ModelChoice:
        return ModelChoice(self._model, await self._model.profile(name or "slow"))


class Process:
    """One program on the shared disk."""

    def __init__(
        self, number: int, disk: Disk, chance: random.Random, outside: Outside, dead: set[str]
    ) -> None:
        self.name = f"p{number}"
        self._dead = dead
        self.outside = outside
        self.ledger = FaultyLedger(disk, chance, FAULT_ODDS, self._hit)
        self.model = SlowModel(chance, outside)
        clock, tokens = HandClock(), SeededChance(chance.getrandbits(32))
        tool = MarkingTool(self.ledger, chance, outside)
        owners, models = SharedOwners(self.name, dead), OneSlowModel(self.model)
        runner = TurnRunner(
            ledger=self.ledger,
            owners=owners,
            compactor=Compactor(ledger=self.ledger, owners=owners, models=models, clock=clock),
            clock=clock,
            chance=tokens,
            settings=TurnSettings(approval_mode=ApprovalMode.ALL, max_steps=4),
        )
        self.services = Services(
            ledger=self.ledger,
            desk=SessionDesk(self.ledger, clock, tokens),
            runner=runner,
            models=models,
            clock=clock,
            chance=tokens,
            toolmaker=GivenTools([tool]),
            instructions=lambda _: (),
        )

    def _hit(self, fault: str) -> None:
        self.outside.hits[fault] += 1

    def talk(self, session: SessionId | None) -> Talk:
        return Talk(self.services, LOCAL, TERMINAL, Path("/work"), session)

    def die(self) -> None:
        """kill -9: what it was doing stops where it is, and the system frees its locks."""
        self.ledger.kill()
        self._dead.add(self.name)


class Simulation:
    """One run."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._disk = Disk()
        self._dead: set[str] = set()
        self._started = 0
        self.outside = Outside(effects=Counter(), accepted=[], trace=[], hits=Counter())
        self._running: list[asyncio.Task[None]] = []
        self._sessions: list[SessionId] = []
        self._said = 0

    async def run(self) -> tuple[str, ...]:
        """The trace: what was done and what came of it."""
        processes = [self._start() for _ in range(PROCESSES)]
        session = await self._first_session()
        self._sessions.append(session)
        for _ in range(ACTIONS):
            index = self._chance.randrange(PROCESSES)
            if processes[index].ledger.is_dead:
                processes[index].die()
                processes[index] = self._start()
            act = asyncio.create_task(self._act(processes[index]))
            self._running.append(act)
            await asyncio.sleep(self._chance.choice([0, 0.05, 1, 60]))
            await self._check()
        await self._settle(processes)
        return tuple(self.outside.trace)

    def _start(self) -> Process:
        self._started += 1
        return Process(self._started, self._disk, self._chance, self.outside, self._dead)

    async def _first_session(self) -> SessionId:
        careful = self._start()
        careful.ledger.odds = 0
        return await careful.talk(None).ensure_session()

    async def _act(self, process: Process) -> None:
        session = self._chance.choice(self._sessions)
        action = self._chance.choice(
            ["say"] * 6 + ["/undo", "/redo", "/retry", "/stop", "/branch", "/new", "kill", "/undo 2"]
        )
        talk = process.talk(session)
        try:
            await self._do(process, talk, action)
            outcome = "ok"
        except (LedgerError, CommandError) as error:
            outcome = type(error).__name__
        except ProcessDied:
            process.die()
            outcome = "died"
        self.outside.hits[f"{action.split()[0]}: {outcome}"] += 1
        self.outside.trace.append(
            f"{asyncio.get_running_loop().time():.2f} {process.name} {action} {outcome}"
        )
        if talk.session is not None and talk.session not in self._sessions and outcome == "ok":
            self._sessions.append(talk.session)

    async def _do(self, process: Process, talk: Talk, action: str) -> None:
        if action == "kill":
            process.die()
            return
        if action == "say":
            self._said += 1
            words = f"words-{self._said}-words"
            turn = await talk.say(words, nobody_watches, NobodyToAsk())
            self.outside.accepted.append(words)
            await turn.finish()
            return
        reply = await talk.command(action)
        if reply.opening is not None:
            await (await talk.begin(reply.opening, nobody_watches, NobodyToAsk())).finish()

    # -- what must hold ------------------------------------------------------------------------------------------
    async def _check(self) -> None:
        """On the state as it is at this moment, whatever goes on meanwhile."""
        frozen = Disk()
        frozen.state = self._disk.state
        reader = MemoryLedger(frozen)
        for session in tuple(self._sessions):
            await check(reader, LOCAL, session)
        twice = {call: n for call, n in self.outside.effects.items() if n > 1}
        assert not twice, f"run more than once: {twice}"

    async def _settle(self, processes: list[Process]) -> None:
        """Everybody ends; then every session still takes a message, and no accepted word is missing."""
        await asyncio.gather(*self._running)
        for process in processes:
            process.die()
        await self._check()
        last = self._start()
        last.ledger.odds = 0
        for session in self._sessions:
            turn = await last.talk(session).say("are you there?", nobody_watches, NobodyToAsk())
            await turn.finish()
            await self._check_request(last, session)
        await self._check_words(last)

    async def _check_request(self, process: Process, session: SessionId) -> None:
        """The request held what stands on the path, in order, and nothing else that a person ever said."""
        path = await process.ledger.path(LOCAL, session)
        said = [m.text for m in path if m.role == Role.USER]
        asked = process.model.requests[-1]
        sent = [
            m.parts[0].text
            for m in asked.messages
            if isinstance(m, UserTurn) and isinstance(m.parts[0], TextPart)
        ]
        assert sent == said, (sent, said)
        first = process.model.requests[0]
        assert canonical(first.messages)

    async def _check_words(self, process: Process) -> None:
        everything = set()
        for session in self._sessions:
            for branch in await process.ledger.branches(LOCAL, session):
                for message in await process.ledger.segment(LOCAL, session, branch.id):
                    everything.add(message.text)
        missing = [words for words in self.outside.accepted if words not in everything]
        assert not missing, f"accepted and lost: {missing}"


def run_seed(seed: int) -> tuple[tuple[str, ...], Counter[str]]:
    """Runs one seed. Returns its trace and what it hit; raises AssertionError when something does not hold."""
    simulation = Simulation(seed)
    trace = simulate(seed, simulation.run(), ending=(ProcessDied,))
    return trace, simulation.outside.hits


def main() -> int:
    """`python -m clew.testing.simulation --seeds N [--first SEED]`: runs seeds and prints how often each thing happened."""
    parser = argparse.ArgumentParser(description="Random conversations under the fault model.")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    hits: Counter[str] = Counter()
    failed = 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        try:
            hits += run_seed(seed)[1]
        except AssertionError as error:
            failed += 1
            sys.stdout.write(f"seed {seed}: {error}\n")
    for name, count in sorted(hits.items()):
        sys.stdout.write(f"{count:8} {name}\n")
    sys.stdout.write(f"{arguments.seeds - failed} passed, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
