"""All agents of this program: what lends them to sessions, from the pool or a process of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final

import msgspec

from clew.adapters.agents.actions import OWN_ACTIONS
from clew.adapters.agents.bridge import Binding, Dispatch, ToolBridge
from clew.adapters.agents.client import Agent, AgentLimits
from clew.adapters.agents.errors import AgentError, AgentUnavailable, PoolClosed, UnknownAgent
from clew.adapters.agents.pool import AgentPool, PoolLimits
from clew.adapters.agents.programs import AgentKey, AgentProgram, find_program
from clew.adapters.agents.prompt import TEXT_CHARACTERS_MAX
from clew.adapters.agents.session import AgentSession, Lent, Means
from clew.adapters.agents.timing import Told
from clew.adapters.processes.groups import StartedGroups
from clew.adapters.processes.uninterrupted import to_the_end
from clew.domain.conversation.ids import SessionId
from clew.domain.models.answer import ModelEvent
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.runtime.ports.models import ModelChoice, ModelUnavailable

SESSIONS_MAX: Final = 64
"""Conversations that agents hold a copy of. Over it the one that was longest unused is let go, and told anew when it goes on."""


class AgentOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`programs` are those of the settings; without `pooled` every session has a process of its own."""

    programs: Mapping[str, AgentProgram] = {}
    pooled: bool = False
    limits: AgentLimits = AgentLimits()
    pool: PoolLimits = PoolLimits()
    characters_max: int = TEXT_CHARACTERS_MAX


class Agents:
    """Models whose name begins with `acp:`. Nothing is started before somebody asks one."""

    def __init__(
        self,
        options: AgentOptions,
        environ: Mapping[str, str],
        groups: StartedGroups,
        *,
        told: Told,
        warn: Callable[[str], None],
    ) -> None:
        """`told` hears where each prompt's time went; `warn` what went wrong and was got around."""
        self._options = options
        self._environ = environ
        self._groups = groups
        self._warn = warn
        self._pool = AgentPool(self._start, options.pool)
        self.bridge = ToolBridge(groups.notes)
        self._sessions: dict[tuple[str, AgentKey], AgentSession] = {}
        self._means = Means(
            lend=self._lend, bind=self._bind, told=told, characters_max=options.characters_max
        )
        self._leaving: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def choice(self, name: str, context_window: int = 0) -> ModelChoice:
        """The model of a name like `acp:gemini/gemini-3.8-flash`; without a slash, what the agent itself is set to.

        It takes `context_window` tokens; 0 for what is known of the agent. Raises ModelUnavailable for one nobody knows.
        """
        agent, _, model = name.removeprefix("acp:").partition("/")
        try:
            program = find_program(agent, self._options.programs)
        except UnknownAgent as error:
            raise ModelUnavailable(str(error)) from error
        window = context_window or program.context_window
        profile = ModelProfile(name=name, provider="agent", context_window=window)

        def within(session: SessionId, cwd: Path) -> ModelChoice:
            one = self._session(session, AgentKey(agent, model, cwd), profile)
            return ModelChoice(one, profile, tools=OWN_ACTIONS, turn_ended=one.turn_ended)

        # Without a session it is asked for a summary or a title: alone, and in a directory that is nobody's.
        nowhere = AgentKey(agent, model, self._groups.notes)
        return ModelChoice(_Alone(self._means, nowhere, profile), profile, within=within)

    async def prewarm(self, name: str, cwd: Path) -> None:
        """Has the pool start the agent that the next turn will ask for. What goes wrong, that turn will say."""
        agent, _, model = name.removeprefix("acp:").partition("/")
        if self._options.pooled:
            try:
                await (await self._pool.get(AgentKey(agent, model, cwd))).give_back()
            except PoolClosed:
                pass  # Clew ended sooner than the agent was there
            except AgentError as error:
                self._warn(f"No agent was started beforehand: {error}")

    def _session(self, session: SessionId, key: AgentKey, profile: ModelProfile) -> AgentSession:
        name = (str(session), key)
        known = self._sessions.pop(name, None) or AgentSession(self._means, session, key, profile)
        self._sessions[name] = known  # the newest last
        for other in list(self._sessions.values())[: max(len(self._sessions) - SESSIONS_MAX, 0)]:
            if not other.is_busy:
                self._let_go(other)
        return known

    def _let_go(self, one: AgentSession) -> None:
        self._sessions = {name: other for name, other in self._sessions.items() if other is not one}
        task = asyncio.ensure_future(one.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _bind(self, dispatch: Dispatch) -> Binding:
        await self.bridge.start()
        return self.bridge.bind(dispatch)

    async def _lend(self, key: AgentKey) -> Lent:
        """From the pool, or where it has none to give, a process of one's own: never half of each."""
        if self._is_closed:
            raise PoolClosed("Clew is about to end: no agent is started any more.")
        if self._options.pooled:
            try:
                lease = await self._pool.get(key)
                return Lent(lease.agent, "pool", lease.give_back)
            except AgentUnavailable as error:
                if error.for_good:
                    raise
                self._warn(f"The pool gave no agent, so this turn starts its own: {error}")
        agent = await self._start(key)
        return Lent(agent, "spawn", agent.close)

    async def _start(self, key: AgentKey) -> Agent:
        program = find_program(key.agent, self._options.programs)
        return await Agent.start(
            program,
            key.model,
            key.cwd,
            environ=self._environ,
            groups=self._groups,
            limits=self._options.limits,
        )

    async def close(self) -> None:
        """Ends every prompt, then the bridge, then every process. Idempotent; finished even when cancelled."""
        await to_the_end(self._close())

    async def _close(self) -> None:
        self._is_closed = True
        for one in list(self._sessions.values()):
            self._let_go(one)
        while self._leaving:
            await asyncio.gather(*self._leaving)
        await self.bridge.close()
        await self._pool.close()


class _Alone:
    """`ModelClient` for what belongs to no session: each call is a conversation of its own, and over with its answer."""

    def __init__(self, means: Means, key: AgentKey, profile: ModelProfile) -> None:
        self._means = means
        self._key = key
        self._profile = profile

    async def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncGenerator[ModelEvent, None]:
        self._key.cwd.mkdir(mode=0o700, parents=True, exist_ok=True)
        one = AgentSession(self._means, key, self._key, self._profile)
        try:
            async with aclosing(one.stream(request, blobs=blobs, key=key)) as events:
                async for event in events:
                    yield event
        finally:
            await one.close()

    async def profile(self, model: str) -> ModelProfile:
        return self._profile

    async def models(self) -> tuple[str, ...]:
        return (self._profile.name,)

    async def close(self) -> None:
        """Holds nothing."""
