"""All MCP servers of the settings, and their tools as a toolbox."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from clew.adapters.mcp.settings import McpLimits, McpServer, ServerFailed
from clew.adapters.processes.groups import StartedGroups
from clew.domain.conversation.messages import Status
from clew.domain.conversation.text import one_line
from clew.domain.tools.spec import JsonObject, ToolResult, ToolSpec
from clew.runtime.ports.tools import Tool, ToolContext

if TYPE_CHECKING:
    from clew.adapters.mcp.connection import Connection


def load() -> type[Connection]:
    """Imports mcp, which takes 0.8 s: only when there is a server to connect to."""
    from clew.adapters.mcp.connection import Connection  # noqa: PLC0415

    return Connection


class RemoteServer:
    """One server, connected again when it is called after its death."""

    def __init__(self, server: McpServer, limits: McpLimits, groups: StartedGroups) -> None:
        self.name = server.name
        self._server = server
        self._limits = limits
        self._groups = groups
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    async def connect(self) -> dict[str, ToolSpec]:
        """The server's tools under their own names. Raises ServerFailed."""
        return (await self._living()).tools

    async def call(self, tool: str, arguments: JsonObject, context: ToolContext) -> ToolResult:
        """Raises ServerFailed when no result came of it; a server that had ended before is started once more."""
        connection = await self._living()
        return await connection.call(tool, arguments, context.progress)

    async def _living(self) -> Connection:
        async with self._connecting:
            if self._closed:
                raise ServerFailed(f"MCP server {self.name} was closed with its session.")
            if self._connection is not None and self._connection.dead:
                await self._connection.close()
                self._connection = None
            if self._connection is None:
                connection_type = await asyncio.to_thread(load)
                self._connection = await connection_type.open(self._server, self._limits, self._groups)
            return self._connection

    async def close(self) -> None:
        """Idempotent. A connection that is being made is waited for, then closed."""
        async with self._connecting:
            self._closed = True
            if self._connection is not None:
                await self._connection.close()
                self._connection = None


class RemoteTool:
    """Satisfies the `Tool` port for one tool of one server."""

    def __init__(self, server: RemoteServer, name: str, spec: ToolSpec) -> None:
        self.server = server
        self._name = name
        self.spec = spec

    def of(self, server: RemoteServer) -> RemoteTool:
        """The same tool of another server that is started alike."""
        return RemoteTool(server, self._name, self.spec)

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolResult:
        try:
            return await self.server.call(self._name, arguments, context)
        except ServerFailed as failure:
            return ToolResult(text=str(failure), status=Status.ERROR)

    def describe(self, arguments: JsonObject) -> str:
        given = msgspec.json.encode(arguments).decode("utf-8", "replace") if arguments else ""
        return one_line(f"{self.server.name}: {self._name} {given}")


class McpServers:
    """Satisfies the `Toolbox` port. Entering connects all servers at once; those that fail are in `problems`."""

    def __init__(
        self,
        servers: Sequence[McpServer],
        groups: StartedGroups,
        limits: McpLimits = McpLimits(),  # noqa: B008 - frozen
    ) -> None:
        self._made_of = (servers, groups, limits)
        self._servers = [RemoteServer(server, limits, groups) for server in servers]
        self._tools: dict[str, RemoteTool] = {}
        self.problems: tuple[str, ...] = ()
        """A sentence for each server that did not start, and each tool that could not be offered."""

    async def __aenter__(self) -> McpServers:
        try:
            problems = await asyncio.gather(*(self._connect(server) for server in self._servers))
        except BaseException:
            await self.close()
            raise
        self.problems = tuple(sentence for several in problems for sentence in several)
        return self

    async def _connect(self, server: RemoteServer) -> list[str]:
        try:
            tools = await server.connect()
        except ServerFailed as failure:
            return [f"{failure}."]
        return [
            problem
            for name, spec in tools.items()
            if (problem := self._offer(RemoteTool(server, name, spec), server.name))
        ]

    def _offer(self, tool: RemoteTool, server: str) -> str:
        if tool.spec.name in self._tools:
            return f"MCP server {server} has another tool that would be called {tool.spec.name}: it is not offered."
        self._tools[tool.spec.name] = tool
        return ""

    def beside(self) -> McpServers:
        """The same tools of servers of its own, each of which is started when it is first called."""
        other = McpServers(*self._made_of)
        own = dict(zip(self._servers, other._servers, strict=True))
        other._tools = {name: tool.of(own[tool.server]) for name, tool in self._tools.items()}
        return other

    def tools(self) -> tuple[Tool, ...]:
        """By name. What a session was offered stays, also while a server is down."""
        return tuple(self._tools[name] for name in sorted(self._tools))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every server we started. Idempotent."""
        await asyncio.gather(*(server.close() for server in self._servers))
