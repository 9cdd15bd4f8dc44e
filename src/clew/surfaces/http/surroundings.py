"""What a client brings, as the tools, the instructions and the limits of the turn that begins next.

All of it is frozen in the session's prefix by the turn's first commit: from there a turn is gone on with after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from clew.domain.conversation.ids import CallId, PrincipalId, SessionId
from clew.domain.ledger.rows import Prefix
from clew.domain.models.request import ToolDeclaration
from clew.domain.turn.prefix import Instructions, instructions_in
from clew.runtime.commands.values import Processes
from clew.runtime.ports.models import ModelChoice, ModelSource
from clew.runtime.ports.tools import Surroundings as PlaceSurroundings
from clew.runtime.ports.tools import Tool
from clew.runtime.talk import Notify, Services, SessionTools, Toolmaker
from clew.surfaces.http.asked import Brought, ClientTool
from clew.surfaces.http.client_tools import RemoteTool, Results, beside

CLIENT: Final = "client"
"""The source of the instructions that a client brings: the last of the prompt."""
CLIENT_TOOLS: Final = "client tools"
"""Before them: which of the tools the client runs. It tells the model, and us after a restart."""
_NAMES: Final = "These tools are run by the program that the person talks through: "
_declared: Final = msgspec.json.Decoder(tuple[ToolDeclaration, ...]).decode


class Surroundings:
    """`services` are those of a process, for one session and what its clients bring. `own`: the agent's own tools work too."""

    def __init__(
        self, services: Services, asked: Callable[[CallId], None], seconds: float, *, own: bool
    ) -> None:
        self.results = Results(seconds)
        self._asked = asked
        self._plain = services
        self._own = own
        self._brought = Brought()
        self.services = msgspec.structs.replace(
            services,
            toolmaker=_Toolmaker(services.toolmaker if own else None, self),
            models=_Limited(services.models, self),
            instructions=self._instructions,
            delegate=self._delegate if own and services.delegate is not None else None,
        )

    def bring(self, brought: Brought) -> None:
        """The next turn has these."""
        self._brought = brought

    async def restore(self, who: PrincipalId, session: SessionId) -> None:
        """The turn that is gone on with has what it began with."""
        prefix = await self._plain.ledger.prefix(who, session)
        if prefix is not None:
            names = client_tool_names(prefix)
            tools = tuple(
                ClientTool(name=tool.name, description=tool.description, parameters=tool.parameters)
                for tool in _declared(prefix.tools)
                if tool.name in names
            )
            self._brought = Brought(tools=tools, instructions=instructions_in(prefix, CLIENT))

    def tools(self, own: Sequence[Tool]) -> tuple[Tool, ...]:
        client = {tool.name: RemoteTool(tool, self.results, self._asked) for tool in self._brought.tools}
        return beside(own, client)

    def limited(self, choice: ModelChoice) -> ModelChoice:
        most = self._brought.max_output
        if most is None:
            return choice
        least = min(most, choice.profile.max_output or most)
        return choice._replace(profile=msgspec.structs.replace(choice.profile, max_output=least))

    def _delegate(self, _: Services, tools: SessionTools) -> Tool:
        """What the client brings is for this session alone."""
        assert self._plain.delegate is not None
        return self._plain.delegate(self._plain, tools)

    def _instructions(self, cwd: Path) -> Sequence[Instructions]:
        said = list(self._plain.instructions(cwd)) if self._own else []
        if names := ", ".join(tool.name for tool in self._brought.tools):
            said.append(Instructions(source=CLIENT_TOOLS, text=f"{_NAMES}{names}"))
        if text := self._brought.instructions.strip():
            said.append(Instructions(source=CLIENT, text=text))
        return said


def client_tool_names(prefix: Prefix | None) -> frozenset[str]:
    """The tools that the client runs, of the turns that have this prefix."""
    said = "" if prefix is None else instructions_in(prefix, CLIENT_TOOLS).partition("\n")[0]
    return frozenset(said.removeprefix(_NAMES).split(", ")) if said.startswith(_NAMES) else frozenset()


class _Limited:
    """`ModelSource`."""

    def __init__(self, models: ModelSource, surroundings: Surroundings) -> None:
        self._models = models
        self._surroundings = surroundings

    async def choose(self, name: str | None) -> ModelChoice:
        return self._surroundings.limited(await self._models.choose(name))


class _Toolmaker:
    """`Toolmaker`."""

    def __init__(self, own: Toolmaker | None, surroundings: Surroundings) -> None:
        self._own = own
        self._surroundings = surroundings

    def within(self, surroundings: PlaceSurroundings) -> Toolmaker:
        own = None if self._own is None else self._own.within(surroundings)
        return _Toolmaker(own, self._surroundings)

    async def open(
        self, session: SessionId, principal: PrincipalId, cwd: Path, notify: Notify
    ) -> SessionTools:
        own = None if self._own is None else await self._own.open(session, principal, cwd, notify)
        return _Tools(own, self._surroundings)


class _Tools:
    """`SessionTools`."""

    def __init__(self, own: SessionTools | None, surroundings: Surroundings) -> None:
        self._own = own
        self._surroundings = surroundings

    @property
    def processes(self) -> Processes | None:
        return None if self._own is None else self._own.processes

    @property
    def problems(self) -> Sequence[str]:
        return () if self._own is None else self._own.problems

    def tools(self) -> Sequence[Tool]:
        return self._surroundings.tools(() if self._own is None else self._own.tools())

    def beside(self) -> SessionTools:
        """For subagents the client's tools are not there: it is answered for this session alone."""
        assert self._own is not None, "subagents are the agent's own tool"
        return self._own.beside()

    async def close(self) -> None:
        if self._own is not None:
            await self._own.close()
