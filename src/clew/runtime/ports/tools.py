"""Tools as the runtime sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from clew.domain.conversation.ids import CallId, PrincipalId, SessionId
from clew.domain.tools.spec import JsonObject, ToolResult, ToolSpec
from clew.runtime.ports.people import Approver, NobodyToAsk


class ToolContext(msgspec.Struct, frozen=True, kw_only=True):
    """Where and for whom a call runs. `call` is the idempotency key: the same after every recovery."""

    session: SessionId
    principal: PrincipalId
    call: CallId
    cwd: Path
    progress: Callable[[str], None]
    """Takes output as it comes, for showing only."""
    approver: Approver = NobodyToAsk()
    """The person of the turn, for what a call asks about on its way."""
    notify: Callable[[str, str], Awaitable[None]]
    """Stores an event (kind, text) in the session: a background process ended."""


class Tool(Protocol):
    """One thing a model can ask for. `run` returns a result for whatever the arguments are; it raises only for
    cancellation, and then leaves no process behind."""

    @property
    def spec(self) -> ToolSpec: ...

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolResult: ...

    def describe(self, arguments: JsonObject) -> str:
        """One short line for people: what this call would do."""
        ...


class ToolServer(msgspec.Struct, frozen=True, kw_only=True):
    """An MCP server that belongs to one session: a command to start, or an address to talk to over HTTP, by its older transport where it is `sse`."""

    name: str
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    url: str = ""
    sse: bool = False
    headers: Mapping[str, str] = {}


class TextFiles(Protocol):
    """Text files as an editor has them: what somebody typed and did not save is in them. Both raise OSError."""

    async def read(self, path: Path) -> str: ...

    async def write(self, path: Path, text: str) -> None: ...


class TerminalEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a command in a terminal ended, and what it printed: the end of it, if it was `truncated`."""

    output: str
    truncated: bool = False
    exit_code: int | None = None
    signal: str | None = None
    timed_out: bool = False


class Terminals(Protocol):
    """Terminals of an editor, in which a person sees a command run."""

    async def run(
        self,
        call: CallId,
        command: Sequence[str],
        directory: Path,
        environ: Mapping[str, str],
        *,
        seconds_max: float,
        output_bytes: int,
    ) -> TerminalEnd:
        """Runs a command to its end, or ends it after `seconds_max`, or when cancelled. `environ` is added to the
        editor's own. Raises OSError."""
        ...


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a place adds to the tools of its sessions: an editor, or a chat that takes files."""

    servers: tuple[ToolServer, ...] = ()
    files: TextFiles | None = None
    terminals: Terminals | None = None
    sends_bytes_max: int = 0
    """The largest file that the place can be sent; 0 where it takes none."""


class Toolbox(Protocol):
    """The tools of one session, and what lives as long as they do (background processes, MCP servers)."""

    def tools(self) -> tuple[Tool, ...]: ...

    async def close(self) -> None:
        """Ends every process the tools started. Idempotent."""
        ...
