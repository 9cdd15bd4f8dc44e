"""One connection to one server, in a task of its own.

mcp's context managers hold task groups: they must be left by the task that entered them, in order. So one task enters
them, says when the server is ready, waits until it is told to leave, and leaves. Everybody else only calls.

This module and `translation` import the `mcp` package, which takes 0.8 s: see `servers.load`.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final

import anyio
import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.sse import sse_client
from mcp.client.stdio import get_default_environment
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import CONNECTION_CLOSED, INVALID_REQUEST, REQUEST_TIMEOUT, Tool

from clew.adapters.mcp.settings import McpLimits, McpServer, ServerFailed
from clew.adapters.mcp.stderr import LastWords
from clew.adapters.mcp.translation import result_of, spec_of
from clew.adapters.processes.groups import StartedGroups
from clew.adapters.processes.tree import NO_GROUP, kill_all
from clew.domain.tools.spec import JsonObject, ToolResult, ToolSpec

if TYPE_CHECKING:
    from mcp.client._transport import ReadStream, TransportStreams

TOOL_PAGES_MAX: Final = 100
CLOSE_SECONDS: Final = 8.0
"""For a server to go: mcp gives it 2 s by itself, 2 s after SIGTERM, and then ends it."""
_GONE: Final = frozenset({CONNECTION_CLOSED, INVALID_REQUEST})
"""How a connection over HTTP says that the server, or its session, is no more."""


class Connection:
    """A server that is ready for calls, until it dies or `close` is called. Made by `open` only."""

    def __init__(self, server: McpServer, limits: McpLimits, groups: StartedGroups) -> None:
        self._server = server
        self._groups = groups
        self._limits = limits
        self._mark = secrets.token_hex(8)
        self._words: LastWords | None = None
        self._client: Client | None = None
        self._leave = asyncio.Event()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._scope = anyio.CancelScope(deadline=anyio.current_time() + limits.connect_seconds)
        self._task = asyncio.create_task(self._live())
        self.tools: dict[str, ToolSpec] = {}
        """The server's tools under their own names, sorted by them."""
        self.dead = False
        """Whether the server ended or the connection broke: a call now would not reach it."""

    @classmethod
    async def open(cls, server: McpServer, limits: McpLimits, groups: StartedGroups) -> Connection:
        """Starts or reaches the server. Raises ServerFailed; then, or when cancelled, nothing of it is left."""
        connection = cls(server, limits, groups)
        try:
            await connection._ready
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _live(self) -> None:
        problem = f"it was not ready within {self._limits.connect_seconds:g} s"
        try:
            with self._scope:
                await self._serve()
        except Exception as error:  # noqa: BLE001 - the supervisor of this server: what failed is said by `open`
            problem = _reason(error)
        finally:
            self.dead, self._client = True, None
            await self._end_leftovers()
            if self._words is not None:
                self._words.close()
        if not self._ready.done():
            self._ready.set_exception(self._did_not_start(problem))

    async def _serve(self) -> None:
        async with Client(self._transport(), cache=None) as client:
            listed = await _all_tools(client)
            self.tools = {tool.name: spec_of(self._server.name, tool) for tool in listed}
            self._client = client
            self._scope.deadline = math.inf
            if not self._ready.done():
                self._ready.set_result(None)
            await self._leave.wait()

    def _did_not_start(self, problem: str) -> ServerFailed:
        said = self._words.last_line() if self._words is not None else ""
        return ServerFailed(
            f"MCP server {self._server.name} did not start: {problem}"
            + (f" (it said: {said})" if said else "")
        )

    def _transport(self) -> AbstractAsyncContextManager[TransportStreams]:
        if self._server.sse:
            return self._over_events()
        return self._over_http() if self._server.url else self._over_pipes()

    @asynccontextmanager
    async def _over_pipes(self) -> AsyncGenerator[TransportStreams]:
        program, *arguments = self._groups.recorded([_program(self._server), *self._server.args])
        self._words, stderr = await LastWords.listen()
        parameters = StdioServerParameters(
            command=program,
            args=arguments,
            cwd=self._server.cwd,
            env={**self._server.env, **self._groups.variables(self._mark)},
            encoding_error_handler="replace",
        )
        try:
            async with stdio_client(parameters, stderr) as (reading, writing):
                stderr.close()  # the server has it: when it ends, so does what we hear
                yield _Watched(reading, self._has_died), writing
        finally:
            stderr.close()

    @asynccontextmanager
    async def _over_http(self) -> AsyncGenerator[TransportStreams]:
        timeout = httpx2.Timeout(self._limits.connect_seconds, read=self._limits.call_seconds)
        async with httpx2.AsyncClient(headers=dict(self._server.headers), timeout=timeout) as http:
            async with streamable_http_client(self._server.url, http_client=http) as streams:
                yield streams

    @asynccontextmanager
    async def _over_events(self) -> AsyncGenerator[TransportStreams]:
        """Open for as long as the session is, however quiet; each call has its own limit."""
        async with sse_client(
            self._server.url, dict(self._server.headers), self._limits.connect_seconds, math.inf
        ) as (reading, writing):
            yield _Watched(reading, self._has_died), writing

    async def _end_leftovers(self) -> None:
        """What a server leaves behind: its wrapper (npx, uvx, a shell script) goes when its input is closed, and the
        program it started may stay. It is not asked: it had the time that its server was given.
        """
        await kill_all(NO_GROUP, frozenset({self._mark}))
        self._groups.forget_ended()

    def _has_died(self) -> None:
        self.dead = True

    async def call(self, tool: str, arguments: JsonObject, show: Callable[[str], None]) -> ToolResult:
        """Calls a tool by its own name. Raises ServerFailed when no result came of it."""
        if self._client is None:
            raise ServerFailed(f"MCP server {self._server.name} has ended.")

        async def progressed(progress: float, total: float | None, message: str | None) -> None:
            show(f"{message or _share(progress, total)}\n")

        try:
            result = await self._client.call_tool(
                tool, arguments, read_timeout_seconds=self._limits.call_seconds, progress_callback=progressed
            )
        except Exception as error:  # a stranger's answer, in a library's hands
            raise self._failed(error) from error
        return result_of(result, self._limits)

    def _failed(self, error: Exception) -> ServerFailed:
        name = self._server.name
        if self._server.url and not (isinstance(error, MCPError) and error.code not in _GONE):
            self.dead = True
        if self.dead:
            return ServerFailed(
                f"MCP server {name} ended during this call: whether it did its work is not known."
            )
        if isinstance(error, MCPError) and error.code == REQUEST_TIMEOUT:
            return ServerFailed(f"MCP server {name} did not answer within {self._limits.call_seconds:g} s.")
        return ServerFailed(f"MCP server {name}: {_reason(error)}")

    async def close(self) -> None:
        """Leaves the server and ends it. Idempotent; finishes even when cancelled, within about CLOSE_SECONDS."""
        self._leave.set()
        if self._client is None:
            self._scope.cancel()
        cancelled: asyncio.CancelledError | None = None
        while not self._task.done():
            try:
                _, late = await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
            except asyncio.CancelledError as error:
                cancelled = error
            else:
                if late:
                    self._scope.cancel()
        if cancelled is not None:
            raise cancelled


class _Watched:
    """The messages of a server; says when there will be no more."""

    def __init__(self, inner: ReadStream[SessionMessage | Exception], ended: Callable[[], None]) -> None:
        self._inner = inner
        self._ended = ended

    async def receive(self) -> SessionMessage | Exception:
        try:
            return await self._inner.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._ended()
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self._inner.__anext__()
        except (StopAsyncIteration, anyio.ClosedResourceError):
            self._ended()
            raise

    async def __aenter__(self) -> _Watched:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)


def _program(server: McpServer) -> str:
    """Where a server's command is found. Raises FileNotFoundError: the shell that starts it would say it less well."""
    path = {**get_default_environment(), **server.env}.get("PATH", os.defpath)
    if (found := shutil.which(server.command, path=path)) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), server.command)
    return found


async def _all_tools(client: Client) -> list[Tool]:
    """Every page of the list, sorted by name. Raises ServerFailed for a list without end."""
    tools: list[Tool] = []
    cursor: str | None = None
    for _ in range(TOOL_PAGES_MAX):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return sorted(tools, key=lambda tool: tool.name)
    raise ServerFailed(f"its list of tools has more than {TOOL_PAGES_MAX} pages")


def _share(done: float, total: float | None) -> str:
    return f"{done:g} of {total:g}" if total else f"{done:g}"


def _reason(error: BaseException) -> str:
    """The first cause of an error in a few words; task groups wrap what happened in them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__
