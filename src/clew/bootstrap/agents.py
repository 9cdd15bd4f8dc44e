"""Other people's agents as models: made of the settings, imported and started when somebody first asks one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from clew.adapters.processes.groups import StartedGroups
from clew.config.home import Home
from clew.config.settings import AgentSettings, Settings
from clew.runtime.metering import Meter
from clew.runtime.ports.models import ModelChoice

if TYPE_CHECKING:
    from clew.adapters.agents.agents import Agents
    from clew.adapters.agents.programs import AgentProgram

OUR_KEYS: Final = frozenset({"CLEW_API_KEY", "CLEW_DATABASE_URL"})
"""Variables of our environment that agents do not get to see. Their own keys they need."""


class AgentsLater:
    """Agents that are not there until the first is asked for. `groups` is asked when one is made."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        home: Home,
        groups: Callable[[], StartedGroups],
        meter: Meter,
    ) -> None:
        self._settings = settings
        self._environ = {name: text for name, text in environ.items() if name not in OUR_KEYS}
        self._home = home
        self._groups = groups
        self._meter = meter
        self._agents: Agents | None = None
        self._warming: asyncio.Future[None] | None = None

    def choice(self, name: str) -> ModelChoice:
        """Raises ModelUnavailable."""
        model = self._settings.model
        return self._made().choice(name, model.context_window if name == model.name else 0)

    def prewarm(self, cwd: Path) -> None:
        """Has the agent started that the settings name, if it is one and is kept. What goes wrong the first turn says."""
        name, pool = self._settings.model.name, self._settings.pool
        if pool.enabled and pool.prewarm and name.startswith("acp:"):
            self._warming = asyncio.ensure_future(self._made().prewarm(name, cwd))

    def _made(self) -> Agents:
        from clew.adapters.agents.agents import AgentOptions, Agents  # noqa: PLC0415  the protocol's types
        from clew.adapters.agents.pool import PoolLimits  # noqa: PLC0415  the same
        from clew.bootstrap.cold_start import ColdStartLog  # noqa: PLC0415  the same

        if self._agents is None:
            log = ColdStartLog(self._home.logs, self._meter)
            pool = self._settings.pool
            self._agents = Agents(
                AgentOptions(
                    programs={name: _program(name, own) for name, own in self._settings.agents.items()},
                    pooled=pool.enabled,
                    pool=PoolLimits(recycle_sessions=pool.recycle_sessions),
                ),
                self._environ,
                self._groups(),
                told=log.told,
                warn=log.warn,
            )
        return self._agents

    async def aclose(self) -> None:
        """Idempotent."""
        if self._agents is not None:
            await self._agents.close()  # which ends a start under way, too
        if self._warming is not None:
            await self._warming


def _program(name: str, own: AgentSettings) -> AgentProgram:
    """A known agent with what the settings say instead, or one of the settings' alone."""
    from clew.adapters.agents.programs import AgentProgram, known_program  # noqa: PLC0415  as above

    base = known_program(name) or AgentProgram(name=name, command=name)
    return AgentProgram(
        name=name,
        command=own.command or base.command,
        args=base.args if own.args is None else own.args,
        model_args=base.model_args if own.model_args is None else own.model_args,
        env={**base.env, **own.env},
        model_env=base.model_env,
        auth=own.auth or base.auth,
        install=base.install,
        context_window=base.context_window,
    )
