"""Our tools for agents that are not ours: each session of an agent has a binding, and everything hangs off the binding.

An agent starts `proxy.py` as an MCP server; that connects to a socket here and shows a token, which stood in that
session's environment and nowhere else. The token is looked up anew at every request, so a binding that was released is
gone at once, in the middle of a call too. Unknown, missing, revoked: an error, never a guess and never a neighbour's tools.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import struct
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from clew import __version__
from clew.adapters.agents import proxy
from clew.domain.models.request import ToolDeclaration
from clew.wire.acp_types import EnvVariable, McpServer
from clew.wire.jsonrpc import METHOD_NOT_FOUND, RpcError, decoded
from clew.wire.peer import Peer

SERVER_NAME: Final = "clew"
REVOKED: Final = -32001
HELLO_BYTES_MAX: Final = 256
HELLO_SECONDS_MAX: Final = 10.0
CONNECTIONS_MAX: Final = 512
MCP_VERSION: Final = "2025-06-18"
"""Named where the client names none; otherwise its own is echoed: what is used here is the same in all of them."""
_READ_BYTES: Final = 1 << 16


class ToolReply(msgspec.Struct, frozen=True):
    text: str
    failed: bool = False


Dispatch = Callable[[str, str], Awaitable[ToolReply]]
"""Calls a tool by name with its arguments as JSON text. Cancelled when nobody waits for the reply any more."""


class _Call(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _Cancelled(msgspec.Struct):
    request_id: int | str | None = msgspec.field(name="requestId", default=None)


class _Hello(msgspec.Struct):
    version: str = msgspec.field(name="protocolVersion", default=MCP_VERSION)


class Binding:
    """One session's door to its tools. Made by `ToolBridge.bind`; offers nothing before the first `publish`."""

    def __init__(self, bridge: ToolBridge, dispatch: Dispatch) -> None:
        self.token = secrets.token_hex(16)
        self._bridge = bridge
        self._dispatch = dispatch
        self._tools: tuple[ToolDeclaration, ...] = ()
        self._revoked: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def server(self) -> McpServer:
        """What an agent is told to start for this session. Its environment alone holds the token."""
        return McpServer(
            name=SERVER_NAME,
            command=sys.executable,
            args=["-I", "-S", str(Path(proxy.__file__))],
            env=[
                EnvVariable(name=proxy.SOCKET, value=str(self._bridge.path)),
                EnvVariable(name=proxy.TOKEN, value=self.token),
            ],
        )

    def publish(self, tools: Sequence[ToolDeclaration]) -> None:
        """Offers these tools, and no others, from now on; other bindings are left alone."""
        self._tools = tuple(tools)
        self._bridge.tools_changed(self.token)

    def release(self) -> None:
        """Revokes the token and ends what is called through it. Idempotent, also after the bridge was closed."""
        self._bridge.forget(self.token)
        if not self._revoked.done():
            self._revoked.set_result(None)

    def listed(self) -> list[dict[str, Any]]:
        return [
            {"name": tool.name, "description": tool.description, "inputSchema": tool.parameters}
            for tool in self._tools
        ]

    async def call(self, wanted: _Call) -> dict[str, Any]:
        """Raises RpcError when the binding is released before the reply."""
        if all(tool.name != wanted.name for tool in self._tools):
            return _result(ToolReply(f"There is no tool {wanted.name} here.", failed=True))
        work = asyncio.ensure_future(self._dispatch(wanted.name, bytes(wanted.arguments).decode()))
        try:
            waiting: tuple[asyncio.Future[Any], ...] = (work, self._revoked)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self._revoked.done():
                raise RpcError(REVOKED, "This session's tools were taken back: the call has no result.")
            return _result(await work)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


def _result(reply: ToolReply) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": reply.text}], "isError": reply.failed}


class ToolBridge:
    """The socket, and who may use it. `start` after `close` begins anew: nothing of before is known."""

    def __init__(self, directory: Path | None = None) -> None:
        """`directory`, where it is short enough for a socket's name; else one of the system's for such files."""
        self._wanted = directory
        self._directory: Path | None = None
        self._server: asyncio.Server | None = None
        self._starting = asyncio.Lock()
        self._bindings: dict[str, Binding] = {}
        self._connections: dict[_Connection, str] = {}

    @property
    def path(self) -> Path:
        assert self._directory is not None, "the bridge was started"
        return self._directory / "bridge"

    async def start(self) -> None:
        """Idempotent, also at once."""
        async with self._starting:
            if self._server is None:
                self._server = await self._listen()

    async def _listen(self) -> asyncio.Server:
        self._directory = self._made_directory()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(self.path))  # in a directory that only we may enter
            self.path.chmod(0o600)
            return await asyncio.start_unix_server(self._connected, sock=listening)
        except BaseException:
            listening.close()
            raise

    def _made_directory(self) -> Path:
        if self._wanted is not None and len(os.fsencode(self._wanted)) <= 70:
            self._wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix="b-", dir=self._wanted))
        return Path(tempfile.mkdtemp(prefix="clew-"))

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """Those that are not released."""
        return tuple(self._bindings.values())

    def bind(self, dispatch: Dispatch) -> Binding:
        binding = Binding(self, dispatch)
        self._bindings[binding.token] = binding
        return binding

    def forget(self, token: str) -> None:
        self._bindings.pop(token, None)

    def bound(self, token: str) -> Binding:
        """Raises RpcError for a token that is nobody's, or nobody's any more."""
        if token not in self._bindings:
            raise RpcError(REVOKED, "These tools belong to no session, or to none any more.")
        return self._bindings[token]

    def tools_changed(self, token: str) -> None:
        for connection, shown in self._connections.items():
            if shown == token:
                connection.tools_changed()

    async def _connected(self, reading: asyncio.StreamReader, writing: asyncio.StreamWriter) -> None:
        """Serves one proxy to its end. Another user's process is not listened to."""
        try:
            if not _is_ours(writing) or len(self._connections) >= CONNECTIONS_MAX:
                return
            try:
                async with asyncio.timeout(HELLO_SECONDS_MAX):
                    token = (
                        (await reading.readuntil(b"\n"))[:HELLO_BYTES_MAX].decode("ascii", "replace").strip()
                    )
            except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                return
            connection = _Connection(self, token, writing)
            self._connections[connection] = token
            try:
                await connection.serve(reading)
            finally:
                del self._connections[connection]
        except ConnectionError:
            pass  # the proxy is gone, and its agent with it
        finally:
            writing.close()

    async def close(self) -> None:
        """Revokes every token, ends every connection, removes the socket. Idempotent."""
        for binding in self.bindings:
            binding.release()
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in tuple(self._connections):
            await connection.close()
        shutil.rmtree(self.path.parent, ignore_errors=True)


class _Connection:
    """One proxy: what it asks is answered by the binding that its token stands for at that moment."""

    def __init__(self, bridge: ToolBridge, token: str, writing: asyncio.StreamWriter) -> None:
        self._bridge = bridge
        self._token = token
        self._writing = writing
        self._peer = Peer(self._write, serve=self._serve, heard=self._heard, broke=_broke)
        self._listens = False

    async def serve(self, reading: asyncio.StreamReader) -> None:
        try:
            while data := await reading.read(_READ_BYTES):
                self._peer.receive(data)
                await self._writing.drain()
        finally:
            await self._peer.close()

    async def close(self) -> None:
        await self._peer.close()
        self._writing.close()

    def tools_changed(self) -> None:
        if self._listens:
            self._peer.notify("notifications/tools/list_changed", {})

    def _write(self, line: bytes) -> None:
        if not self._writing.transport.is_closing():
            self._writing.write(line)

    async def _serve(self, method: str, params: msgspec.Raw) -> object:
        binding = self._bridge.bound(self._token)
        match method:
            case "initialize":
                self._listens = True
                return {
                    "protocolVersion": decoded(params, _Hello).version,
                    "capabilities": {"tools": {"listChanged": True}},
                    "serverInfo": {"name": SERVER_NAME, "version": __version__},
                }
            case "ping":
                return {}
            case "tools/list":
                return {"tools": binding.listed()}
            case "tools/call":
                return await binding.call(decoded(params, _Call))
            case _:
                raise RpcError(METHOD_NOT_FOUND, f"{method} is not served here.")

    def _heard(self, method: str, params: msgspec.Raw) -> None:
        """MCP's way to say that nobody waits for a reply any more."""
        if method == "notifications/cancelled":
            self._peer.cancel(decoded(params, _Cancelled).request_id)


def _broke(error: BaseException) -> None:
    """An error of ours in a call: the agent is told, as its result."""


def _is_ours(writing: asyncio.StreamWriter) -> bool:
    """By the kernel's word, where it gives one; elsewhere the directory's permissions have kept others out."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    peer: socket.socket = writing.get_extra_info("socket")
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(user == os.getuid())
