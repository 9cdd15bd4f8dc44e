"""Opens the ledger and puts the runtime together over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from clew.adapters.processes.owners import OwnerLocks
from clew.adapters.stores.sqlite import open_ledger
from clew.adapters.system import SystemChance, SystemClock
from clew.adapters.system.instructions import read_instructions
from clew.bootstrap.agents import AgentsLater
from clew.bootstrap.exporting import exporter
from clew.bootstrap.ingredients import Ingredients
from clew.bootstrap.models import Connections, open_models
from clew.config.errors import Problem, SettingsError
from clew.config.home import Home, ensure_home
from clew.config.settings import Settings
from clew.domain.compaction.policy import Shares
from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.commits import Caps
from clew.domain.ledger.jobs import REVIEW, TITLE
from clew.domain.memory.facts import EXTRACT
from clew.domain.tools.policy import ApprovalMode
from clew.runtime.compaction import CompactionSettings, Compactor
from clew.runtime.jobs import Jobs, Perform
from clew.runtime.memory.desk import MemoryDesk
from clew.runtime.metering import Meter
from clew.runtime.model_choice import DetectedModels
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.models import ModelSource, ModelUnavailable
from clew.runtime.ports.tools import Surroundings, Tool
from clew.runtime.ports.world import Chance, Clock
from clew.runtime.sessions import SessionDesk
from clew.runtime.talk import Notify, Services, SessionTools
from clew.runtime.turns import TurnRunner, TurnSettings
from clew.runtime.turns.waiting import BusyMode

if TYPE_CHECKING:
    from clew.runtime.afterwards import Afterwards
    from clew.runtime.memory.extraction import Extraction
    from clew.runtime.reminders import Reminders


class _Shared(NamedTuple):
    """What the services over any ledger of this process share."""

    settings: Settings
    environ: Mapping[str, str]
    home: Home
    is_replaced: Callable[[], bool]
    owners: OwnerLocks
    clock: Clock
    chance: Chance

    def over(
        self,
        ledger: Ledger,
        models: ModelSource,
        caps: Caps,
        remind: Callable[[], Reminders] | None = None,
        memory: MemoryDesk | None = None,
    ) -> Services:
        settings, remembers = self.settings, memory is not None and memory.enabled
        compactor = Compactor(
            ledger=ledger,
            owners=self.owners,
            models=models,
            clock=self.clock,
            settings=compaction_settings(settings, caps, remembers=remembers),
        )
        runner = TurnRunner(
            ledger=ledger,
            owners=self.owners,
            clock=self.clock,
            chance=self.chance,
            settings=turn_settings(settings, caps),
            compactor=compactor,
            remembers=remembers,
        )
        told = memory if remembers else None
        parts = Ingredients(settings, self.environ, self.home, ledger, self.owners.groups, remind, told)
        return Services(
            delegate=_delegating(settings) if settings.delegate.enabled else None,
            ledger=ledger,
            desk=SessionDesk(ledger, self.clock, self.chance, remembers=remembers),
            runner=runner,
            models=models,
            clock=self.clock,
            chance=self.chance,
            toolmaker=_ToolsLater(parts),
            reminders=remind,
            memory=memory,
            instructions=lambda cwd: read_instructions(cwd, settings.instructions.files),
            is_replaced=self.is_replaced,
        )

    def in_memory(self, models: ModelSource) -> Services:
        from clew.adapters.stores.memory import MemoryLedger  # noqa: PLC0415  no start waits for it

        return self.over(MemoryLedger(), models, Caps(usd_per_session=self.settings.limits.usd_per_session))


@asynccontextmanager
async def opened_services(
    settings: Settings, home: Home, environ: Mapping[str, str], is_replaced: Callable[[], bool]
) -> AsyncIterator[Services]:
    """Everything a surface needs, closed in the right order at the end. Raises StoreUnusable, ConfigError."""
    ensure_home(home)
    clock, chance = SystemClock(), SystemChance()
    async with AsyncExitStack() as stack:
        owners = OwnerLocks(home.run, chance.token(8))
        stack.callback(owners.close)
        # Beside the start, not before it: whoever claims a dead owner's turn buries him first anyway.
        sweeping = asyncio.create_task(owners.sweep())
        stack.push_async_callback(asyncio.gather, sweeping)
        ledger = await open_ledger(home.root, clock)
        stack.push_async_callback(ledger.close)
        connections = Connections()
        stack.push_async_callback(connections.aclose)
        meter = Meter()
        agents = AgentsLater(settings, environ, home, lambda: owners.groups, meter)
        models = open_models(settings.model, home, environ, connections, agents)
        stack.push_async_callback(models.close)
        stack.push_async_callback(agents.aclose)
        await _check_summary_model(settings.model.summary_model, models)

        @cache
        def reminders() -> Reminders:
            from clew.bootstrap.reminding import open_reminders  # noqa: PLC0415  no start waits for it

            return open_reminders(settings, environ, SessionDesk(ledger, clock, chance), clock, chance)

        memory = MemoryDesk(ledger, clock, chance, enabled=settings.memory.enabled)
        shared = _Shared(settings, environ, home, is_replaced, owners, clock, chance)
        kept = shared.over(ledger, models, caps_of(settings), reminders, memory)
        kept = msgspec.structs.replace(kept, follows=_followed(settings))
        stack.push_async_callback(kept.runner.compactor.close)
        yield msgspec.structs.replace(
            kept,
            jobs=_jobs(settings, kept),
            prewarm=agents.prewarm,
            meter=meter,
            export=exporter(ledger),
            in_memory=shared.in_memory,
        )


async def _check_summary_model(name: str, models: DetectedModels) -> None:
    try:
        if name:
            await models.check(name)
    except ModelUnavailable as error:
        raise SettingsError(
            Problem(path=("model", "summary_model"), sentence=f"model.summary_model: {error}")
        ) from error


def _followed(settings: Settings) -> frozenset[str]:
    wanted = {TITLE: settings.titles.enabled, REVIEW: settings.review.enabled}
    return frozenset(kind for kind, is_wanted in wanted.items() if is_wanted)


def _delegating(settings: Settings) -> Callable[[Services, SessionTools], Tool]:
    chosen = settings.delegate

    def tool(services: Services, tools: SessionTools) -> Tool:
        from clew.adapters.tools.delegate import delegate_tool  # noqa: PLC0415  as the other tools
        from clew.runtime.delegating import DelegateLimits, delegating  # noqa: PLC0415  needs Services

        limits = DelegateLimits(
            at_once=chosen.at_once,
            per_turn=chosen.per_turn,
            depth=chosen.depth,
            seconds=chosen.seconds,
            usd=chosen.usd,
            model=chosen.model or None,
        )
        return delegating(delegate_tool, limits)(services, tools)

    return tool


def _jobs(settings: Settings, services: Services) -> Jobs:
    """What is switched off is not done, and waits. What a kind is done by is imported for the first of it."""
    model = settings.model.summary_model or None
    ledger, models, clock = services.ledger, services.models, services.clock

    @cache
    def extraction() -> Extraction:
        from clew.runtime.memory.extraction import Extraction  # noqa: PLC0415  no start waits for it

        return Extraction(ledger, models, clock, model=model, caps=caps_of(settings))

    @cache
    def afterwards() -> Afterwards:
        from clew.runtime.afterwards import Afterwards  # noqa: PLC0415  no start waits for it

        return Afterwards(services, model=model)

    every: dict[str, Perform] = {
        TITLE: lambda job: afterwards().title(job),
        REVIEW: lambda job: afterwards().review(job),
        EXTRACT: lambda job: extraction().perform(job),
    }
    remembers = settings.memory.enabled
    on = services.follows | ({EXTRACT} if remembers else set())
    kinds = {kind: perform for kind, perform in every.items() if kind in on}
    before = (lambda: extraction().sweep()) if remembers else None
    lease_seconds = settings.turn.lease_seconds
    return Jobs(ledger, services.runner.owners, clock, kinds, lease_seconds=lease_seconds, before=before)


class _ToolsLater:
    """`Toolmaker` that is imported when a session first needs tools: they take 0.1 s, an HTTP client among them."""

    def __init__(self, parts: Ingredients, surroundings: Surroundings = Surroundings()) -> None:  # noqa: B008 - frozen
        self._parts = parts
        self._surroundings = surroundings

    def within(self, surroundings: Surroundings) -> _ToolsLater:
        return _ToolsLater(self._parts, surroundings)

    async def open(
        self, session: SessionId, principal: PrincipalId, cwd: Path, notify: Notify
    ) -> SessionTools:
        from clew.bootstrap.tools import SettingsToolmaker  # noqa: PLC0415  see above

        made = SettingsToolmaker(self._parts, self._surroundings)
        return await made.open(session, principal, cwd, notify)


def compaction_settings(settings: Settings, caps: Caps, *, remembers: bool) -> CompactionSettings:
    chosen = settings.compaction
    return CompactionSettings(
        enabled=chosen.enabled,
        shares=Shares(trigger=chosen.trigger, target=chosen.target),
        lease_seconds=chosen.lease_seconds,
        cooldown_seconds=chosen.cooldown_seconds,
        summary_model=settings.model.summary_model or None,
        caps=caps,
        remembers=remembers,
    )


def turn_settings(settings: Settings, caps: Caps) -> TurnSettings:
    """The runtime's view of the configuration."""
    return TurnSettings(
        max_steps=settings.turn.max_steps,
        max_seconds=settings.turn.max_seconds,
        max_repeats=settings.turn.max_repeats,
        lease_seconds=settings.turn.lease_seconds,
        busy=BusyMode(settings.turn.busy),
        approval_mode=ApprovalMode(settings.approval.mode),
        approval_expires_seconds=settings.approval.expires_seconds,
        recovery_freshness_seconds=settings.recovery.freshness_seconds,
        recovery_max_crashes=settings.recovery.max_crashes,
        tool_output_bytes=settings.limits.tool_output_bytes,
        caps=caps,
    )


def caps_of(settings: Settings) -> Caps:
    limits = settings.limits
    return Caps(
        usd_per_session=limits.usd_per_session,
        usd_per_user_day=limits.usd_per_user_day,
        usd_per_day=limits.usd_per_day,
    )
