"""Listens for HTTP, and lets nobody hold it up: connections, heads, bodies and answers are bounded in number, size and time.

uvicorn's protocol without its server: that one takes the process's signals, ends the process when an address is taken, and
wakes ten times a second.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import h11
import msgspec
import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from clew.runtime.ports.endpoints import Asked, Endpoint
from clew.surfaces.http.errors import bad_request

LOG: Final = structlog.get_logger("clew.http")
HEAD_BYTES_MAX: Final = 16_384
IDLE_SECONDS: Final = 75
"""For how long a connection may be kept for the next request: longer than clients keep theirs, so that none is hung up on
just as it asks. Where there are too many, those go first that have been silent longest."""
CLOSING_SECONDS: Final = 3.0
"""Time that answers under way have when the listener ends."""
BACKLOG: Final = 128
_UNREADABLE: Final = bad_request(
    f"This is no HTTP, or its head has more than {HEAD_BYTES_MAX} bytes.", code="invalid_request"
)


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What nobody can exceed; whoever tries is hung up on."""

    connections: int = 256
    head_seconds: float = 10.0
    """From a connection until a request's head is whole, and from an answer until a body is that was not needed for it."""
    body_seconds: float = 10.0


class _Connection(H11Protocol):
    """One connection; closed when a head does not come. Of too many, the one that has been silent longest is: of those whose
    client has to go on, whether with a head, with a body, or by taking what it is sent."""

    _late: asyncio.TimerHandle | None = None
    silent_since = 0.0

    def __init__(self, config: Config, state: ServerState, bounds: Bounds) -> None:
        super().__init__(config, state, {})
        self._bounds = bounds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(self._bounds.head_seconds)
        if len(self.connections) > self._bounds.connections:
            silent = (c for c in self.connections if isinstance(c, _Connection) and c.is_waited_for)
            min(silent, key=lambda c: c.silent_since, default=self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._late is not None:
            self._late.cancel()

    def data_received(self, data: bytes) -> None:
        self.silent_since = self.loop.time()
        super().data_received(data)

    def pause_writing(self) -> None:
        self.silent_since = self.loop.time()
        super().pause_writing()

    def send_400_response(self, msg: str) -> None:
        """In the shape that every error has; nothing where the answer is on its way already."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        headers = {"content-type": "application/json", "connection": "close"}
        said = (
            h11.Response(status_code=400, headers=list(headers.items())),
            h11.Data(data=_UNREADABLE.encoded()),
            h11.EndOfMessage(),
        )
        self.transport.write(b"".join(self.conn.send(one) for one in said))
        self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        is_whole = self.conn.their_state is not h11.SEND_BODY
        self._wait(IDLE_SECONDS if is_whole else self._bounds.head_seconds)  # nobody needs the rest

    def _wait(self, seconds: float) -> None:
        """For the next head."""
        if self._late is not None:
            self._late.cancel()
        self.silent_since = self.loop.time()
        self._late = self.loop.call_later(seconds, self._give_up)

    @property
    def is_waited_for(self) -> bool:
        """Whether nothing happens before the client does something."""
        is_saying = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        return is_saying or self.flow.write_paused or self.transport.is_closing()

    def _give_up(self) -> None:
        is_answering = self.conn.our_state in (h11.SEND_RESPONSE, h11.SEND_BODY)
        if self.is_waited_for and not is_answering:
            self.transport.abort()


class Listener:
    """Serves endpoints, and routes of starlette where an answer is a stream."""

    def __init__(
        self,
        host: str,
        port: int,
        endpoints: Sequence[Endpoint],
        *,
        routes: Sequence[BaseRoute] = (),
        cors_origins: Sequence[str] = (),
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    ) -> None:
        self._bounds = bounds
        self._host = host
        self._port = port
        self.port = 0
        """Where it listens, once it does."""
        own = [Route(e.path, _served(e, bounds), methods=[e.method]) for e in endpoints]
        headers = ["Authorization", "Content-Type", "Last-Event-ID", "X-Clew-Session"]
        cors = Middleware(
            CORSMiddleware, allow_origins=cors_origins, allow_headers=headers, expose_headers=headers[3:]
        )
        self._app = Starlette(routes=[*own, *routes], middleware=[cors] if cors_origins else [])

    def __str__(self) -> str:
        return f"http://{self._host}:{self._port}"

    def check(self) -> None:
        """Raises OSError when the address cannot be listened on."""
        self._bound().close()

    async def run(self) -> None:
        """Listens until it is cancelled. Raises OSError when the address cannot be listened on."""
        state = ServerState()
        config = Config(
            self._app,
            interface="asgi3",
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            timeout_keep_alive=IDLE_SECONDS,
        )
        bound = self._bound()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Connection(config, state, self._bounds), sock=bound, backlog=BACKLOG
        )
        self.port = bound.getsockname()[1]
        LOG.info("listening", host=self._host, port=self.port)
        try:
            await loop.create_future()
        finally:
            server.close()
            for connection in list(state.connections):
                connection.shutdown()
            await _ended(state.tasks)
            for connection in list(state.connections):
                if connection.transport is not None:
                    connection.transport.abort()

    def _bound(self) -> socket.socket:
        family, kind, protocol, _, address = socket.getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setblocking(False)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
        return bound


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=CLOSING_SECONDS)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late)


def _served(endpoint: Endpoint, bounds: Bounds) -> Any:
    """What starlette calls: reads the request within its bounds, and answers. The supervisor of an answer."""

    async def serve(request: Request) -> Response:
        try:
            async with asyncio.timeout(bounds.body_seconds):
                body = await read_body(request, endpoint.bytes_max)
        except TimeoutError:
            return PlainTextResponse("Too slow.\n", 408, {"connection": "close"})
        if body is None:
            return PlainTextResponse("Too large.\n", 413, {"connection": "close"})
        try:
            asked = Asked(headers=dict(request.headers), body=body, query=dict(request.query_params))
            answered = await endpoint.answer(asked)
        except Exception as error:  # noqa: BLE001 - the supervisor of an answer: said by its kind, which holds nobody's words
            LOG.error("not answered", path=endpoint.path, error=type(error).__name__)
            return PlainTextResponse("An error inside Clew.\n", 500)
        return Response(answered.body, answered.status, media_type=answered.media_type)

    return serve


async def read_body(request: Request, most: int) -> bytes | None:
    """The body, or None when it is too large."""
    said = request.headers.get("content-length", "0")
    if not said.isdigit() or int(said) > most:
        return None
    body = bytearray()
    with suppress(ClientDisconnect):
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                return None
        return bytes(body)
    return None
