"""A whole Clew for tests: real runtime, real or in-memory ledger, a scripted model, tools that only record."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from clew.adapters.tools.delegate import delegate_tool
from clew.domain.conversation.ids import ID_ALPHABET, LOCAL, OwnerId, PrincipalId, SessionId
from clew.domain.ledger.jobs import REVIEW, TITLE
from clew.domain.memory.facts import EXTRACT
from clew.domain.models.answer import Usage
from clew.domain.models.request import ModelProfile
from clew.domain.tools.policy import ApprovalMode
from clew.domain.tools.spec import Effect, JsonObject, ToolResult, ToolSpec
from clew.domain.turn.prefix import Instructions
from clew.runtime.afterwards import Afterwards
from clew.runtime.commands.values import Processes
from clew.runtime.compaction import CompactionSettings, Compactor
from clew.runtime.delegating import DelegateLimits, delegating
from clew.runtime.jobs import Jobs
from clew.runtime.memory.desk import MemoryDesk
from clew.runtime.memory.extraction import Extraction
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.models import Cost, ModelChoice, no_price
from clew.runtime.ports.owners import Burial, OwnerLives
from clew.runtime.ports.people import Approver, Consent, NobodyToAsk, Question, TurnNews, nobody_watches
from clew.runtime.ports.tools import Surroundings, Tool, ToolContext
from clew.runtime.reminders import Reminders
from clew.runtime.sessions import Place, SessionDesk
from clew.runtime.talk import Notify, Services, Talk
from clew.runtime.turns import NewFile, TurnOutcome, TurnRunner, TurnSettings
from clew.testing.scripted_model import Script, ScriptedModel

TERMINAL = Place(route_key="terminal:test", surface="terminal")


class HandClock:
    """Time that moves when a test says so. Starts in 2026, one millisecond a reading."""

    def __init__(self, now_ms: int = 1_790_000_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        self._now_ms += 1
        return self._now_ms

    def monotonic(self) -> float:
        return self._now_ms / 1000

    def advance(self, seconds: float) -> None:
        """Moves the wall clock; negative jumps back."""
        self._now_ms += int(seconds * 1000)


class StandingClock(HandClock):
    """It moves when a test says so, and only then."""

    def now_ms(self) -> int:
        return self._now_ms


class SeededChance:
    """Tokens drawn from a seed: the same world twice."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def token(self, length: int) -> str:
        return "".join(self._random.choice(ID_ALPHABET) for _ in range(length))


class NamedOwners:
    """Owners whose death a test declares."""

    def __init__(self, me: str = "me") -> None:
        self.me = OwnerId(me)
        self.dead: set[str] = set()
        self.buried: list[OwnerId] = []

    def is_dead(self, owner: OwnerId) -> bool:
        return owner in self.dead

    async def bury(self, owner: OwnerId) -> Burial:
        if not self.is_dead(owner):
            raise OwnerLives(owner)
        self.buried.append(owner)
        return Burial()


class OneModel:
    """`ModelSource` with a single client, and a single price, behind every name."""

    def __init__(self, client: ScriptedModel, price: Callable[[Usage], Cost | None] = no_price) -> None:
        self.client = client
        self.price = price

    async def choose(self, name: str | None) -> ModelChoice:
        return ModelChoice(self.client, await self.client.profile(name or "scripted-model"), self.price)


class RecordingTool:
    """A tool that counts its runs outside the ledger and answers as it is told."""

    def __init__(
        self,
        name: str,
        *,
        effect: Effect = Effect.READ,
        safe_to_repeat: bool = False,
        answer: Callable[[JsonObject, ToolContext], Awaitable[ToolResult]] | None = None,
    ) -> None:
        self.spec = ToolSpec(
            name=name,
            description=f"The tool {name}.",
            parameters={"type": "object", "properties": {}},
            effect=effect,
            safe_to_repeat=safe_to_repeat,
        )
        self.ran: list[tuple[str, JsonObject]] = []
        self._answer = answer

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolResult:
        self.ran.append((context.call, arguments))
        if self._answer is not None:
            return await self._answer(arguments, context)
        return ToolResult(text=f"{self.spec.name} done")

    def describe(self, arguments: JsonObject) -> str:
        return f"{self.spec.name} {msgspec.json.encode(arguments).decode()}"


class GivenTools:
    """`SessionTools` and `Toolmaker` over a fixed list of tools."""

    processes: Processes | None = None
    problems: Sequence[str] = ()

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = tools

    async def open(self, session: SessionId, principal: PrincipalId, cwd: Path, notify: Notify) -> GivenTools:
        return self

    def within(self, surroundings: Surroundings) -> GivenTools:
        return self

    def tools(self) -> Sequence[Tool]:
        return self._tools

    def beside(self) -> GivenTools:
        return self

    async def close(self) -> None:
        """Holds nothing."""


class Answers:
    """An approver that gives the same answer every time, and remembers what it was asked."""

    def __init__(self, consent: Consent | None) -> None:
        self.asked: list[Question] = []
        self._consent = consent

    async def ask(self, question: Question) -> Consent | None:
        self.asked.append(question)
        return self._consent


class World:
    """Services over a ledger and a script; talks of any principal over them."""

    def __init__(
        self,
        ledger: Ledger,
        script: Script = (),
        *,
        tools: Sequence[Tool] = (),
        mode: ApprovalMode = ApprovalMode.ASK,
        settings: TurnSettings | None = None,
        compaction: CompactionSettings | None = None,
        profile: ModelProfile | None = None,
        owner: str = "me",
        seed: int = 0,
        price: Callable[[Usage], Cost | None] = no_price,
        clock: HandClock | None = None,
        delegate: DelegateLimits | None = None,
        follows: frozenset[str] = frozenset(),
        remembers: bool = False,
    ) -> None:
        self.model = ScriptedModel(script, profile=profile)
        self.clock = clock or HandClock()
        self.owners = NamedOwners(owner)
        models = OneModel(self.model, price)
        compaction = msgspec.structs.replace(compaction or CompactionSettings(), remembers=remembers)
        self.compactor = Compactor(
            ledger=ledger, owners=self.owners, models=models, clock=self.clock, settings=compaction
        )
        self.instructions: list[Instructions] = []
        chance = SeededChance(seed)
        chosen = settings or TurnSettings(approval_mode=mode)
        desk = SessionDesk(ledger, self.clock, chance, remembers=remembers)
        self.memory = MemoryDesk(ledger, self.clock, chance, enabled=remembers)
        self.zones: dict[PrincipalId, str] = {}
        """Time zones of people; UTC for whoever has none."""
        self.reminders = Reminders(desk, self.clock, chance, lambda who: self.zones.get(who, "UTC"))
        self.services = Services(
            ledger=ledger,
            desk=desk,
            reminders=lambda: self.reminders,
            memory=self.memory,
            runner=TurnRunner(
                ledger=ledger,
                owners=self.owners,
                clock=self.clock,
                chance=chance,
                settings=chosen,
                compactor=self.compactor,
                remembers=remembers,
            ),
            models=models,
            clock=self.clock,
            chance=chance,
            toolmaker=GivenTools(tools),
            instructions=lambda _: tuple(self.instructions),
            delegate=None if delegate is None else delegating(delegate_tool, delegate),
            follows=follows,
        )
        extraction = Extraction(ledger, models, self.clock, model=None, caps=chosen.caps)
        after = Afterwards(self.services, model=None)
        kinds = {TITLE: after.title, REVIEW: after.review, EXTRACT: extraction.perform}
        before = extraction.sweep if remembers else None
        lease_seconds = chosen.lease_seconds
        self.jobs = Jobs(ledger, self.owners, self.clock, kinds, lease_seconds=lease_seconds, before=before)

    @property
    def ledger(self) -> Ledger:
        return self.services.ledger

    def talk(self, session: SessionId | None = None, principal: PrincipalId = LOCAL) -> Talk:
        return Talk(self.services, principal, TERMINAL, Path("/work"), session)


async def exchange(
    talk: Talk,
    text: str | bytes,
    *,
    files: Sequence[NewFile] = (),
    approver: Approver | None = None,
    news: list[TurnNews] | None = None,
) -> TurnOutcome:
    """Says something and waits for the end of the turn."""
    watch = nobody_watches if news is None else news.append
    turn = await talk.say(text, watch, approver or NobodyToAsk(), files)
    return await turn.finish()


async def command(talk: Talk, text: str) -> str:
    """Does a command, and the turn it asks for; returns what it said."""
    reply = await talk.command(text)
    if reply.opening is not None:
        turn = await talk.begin(reply.opening, nobody_watches, NobodyToAsk())
        await turn.finish()
    return reply.text
