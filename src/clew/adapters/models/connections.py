"""Connections to servers of models: HTTP/1.1 as h11 reads it, over asyncio's own transports.

httpx brings pools of connections for every kind of event loop, proxy and version of HTTP. They took more than half of the CPU
that asking a model costs us (1.3 ms a call, 0.65 with these), and with many requests at once they walk through all of their
connections at each. What we need of them is this: a connection is used by one request at a time, is kept for the next where
both sides said all they had to, and is closed in every other case, cancellation included.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from errno import ECONNREFUSED
from typing import Final

import h11
import httpx

UNDER_WAY_MAX: Final = 256
"""Requests at once; more wait for one of them to end."""
KEPT_SECONDS: Final = 60.0
"""A kept connection saves a TLS handshake; servers close theirs after 60 s or later."""
HEAD_BYTES_MAX: Final = 100 * 1024
UNREAD_BYTES_MAX: Final = 256 * 1024
"""A server that sends more than is read waits."""
_SECOND_ADDRESS_SECONDS: Final = 0.25
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")
Origin = tuple[str, str, int]
Event = h11.Event | type[h11.PAUSED]
_PORTS: Final = {"http": 80, "https": 443}


class Connection(asyncio.Protocol):
    """One connection, for one request at a time."""

    def __init__(self) -> None:
        self.kept_at: float | None = None
        """Since when it waits for a request; None while one is under way."""
        self.is_over = False
        """Whether it can serve no other request: it ended, or the server spoke unasked."""
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._transport: asyncio.Transport
        self._came = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._unread = 0
        self._lost: Exception | None = None
        self._broken: httpx.RemoteProtocolError | None = None

    # -- as asyncio tells it -------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self.kept_at is not None:
            self.close()  # that it hangs up now, as a rule
            return
        self._http.receive_data(data)
        self._unread += len(data)
        if self._unread > UNREAD_BYTES_MAX:
            self._transport.pause_reading()
        self._came.set()

    def eof_received(self) -> None:
        self._http.receive_data(b"")
        self.is_over = True
        self._came.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc or ConnectionResetError("it was closed")
        self.is_over = True
        self._came.set()
        self._may_write.set()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    # -- one request ---------------------------------------------------------------------------------------------
    async def ask(self, request: httpx.Request, body: bytes) -> h11.Response:
        """Sends a request and returns the head of its answer. Raises httpx.TransportError."""
        self.kept_at = None
        limits = request.extensions.get("timeout", {})
        head = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
        parts = [head, h11.Data(data=body), h11.EndOfMessage()]
        try:
            self._transport.write(b"".join(self._http.send(part) or b"" for part in parts))
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(str(error)) from error
        try:
            async with asyncio.timeout(limits.get("write")):
                await (
                    self._may_write.wait()
                )  # a server that answers before it has read all is heard all the same
        except TimeoutError as error:
            raise httpx.WriteTimeout("The server did not take the request in time.") from error
        while not isinstance(event := await self.event(limits.get("read")), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise httpx.RemoteProtocolError("The server answered with something that is no answer.")
        return event

    async def event(self, seconds: float | None) -> Event:
        """What comes next. Raises httpx.TransportError."""
        while (event := self.event_at_hand()) is None:
            if self._broken is not None:
                raise self._broken
            if self._lost is not None:
                raise httpx.ReadError(str(self._lost)) from self._lost
            self._came.clear()
            if self._unread > UNREAD_BYTES_MAX:
                self._transport.resume_reading()
            self._unread = 0
            try:
                async with asyncio.timeout(seconds):
                    await self._came.wait()
            except TimeoutError as error:
                raise httpx.ReadTimeout("The server did not answer in time.") from error
        return event

    def event_at_hand(self) -> Event | None:
        """The same, or None where it has yet to come, or nothing will."""
        is_waited_for = self._http.their_state is h11.SEND_RESPONSE and not self._unread
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            said = "Server disconnected without sending a response." if is_waited_for else str(error)
            self._broken = self._broken or httpx.RemoteProtocolError(said)
            return None
        return None if event is h11.NEED_DATA else event  # type: ignore[return-value]  # h11's markers are classes

    def next_cycle(self) -> bool:
        """Whether another request may follow: both sides said all they had to."""
        done = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        if self.is_over or not done:
            return False
        self._http.start_next_cycle()
        return self._http.trailing_data == (b"", False)

    def close(self) -> None:
        """At once. Idempotent."""
        self.is_over = True
        self._transport.abort()


class Connections(httpx.AsyncBaseTransport):
    """Those of a process, by origin. The certificates are read at the first request of https, in a thread."""

    def __init__(self, under_way: int = UNDER_WAY_MAX) -> None:
        self.context: ssl.SSLContext | None = None
        self.kept: dict[Origin, list[Connection]] = {}
        self._room = asyncio.Semaphore(under_way)
        self._reading = asyncio.Lock()
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        limits = request.extensions.get("timeout", {})
        url, body = request.url, await request.aread()
        origin = (url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])
        try:
            async with asyncio.timeout(limits.get("pool")):
                await self._room.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout("Too many requests are under way.") from error
        connection = None
        try:
            connection = self._taken(origin) or await self._connected(origin, limits.get("connect"))
            head = await connection.ask(request, body)
        except BaseException:
            self.give_back(origin, connection)
            raise
        return httpx.Response(
            head.status_code,
            headers=head.headers.raw_items(),
            stream=_Body(self, origin, connection, limits.get("read")),
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": head.reason},
        )

    def give_back(self, origin: Origin, connection: Connection | None) -> None:
        """Its request is over."""
        self._room.release()
        if connection is not None and not self._is_closed and connection.next_cycle():
            connection.kept_at = asyncio.get_running_loop().time()
            self.kept.setdefault(origin, []).append(connection)
        elif connection is not None:
            connection.close()

    async def aclose(self) -> None:
        self._is_closed = True
        for connections in self.kept.values():
            for connection in connections:
                connection.close()
        self.kept.clear()
        await asyncio.sleep(0)  # the transports let go of their sockets in the next round

    def _taken(self, origin: Origin) -> Connection | None:
        """The one that was used last; none that ended meanwhile or may be about to."""
        kept, now = self.kept.get(origin, []), asyncio.get_running_loop().time()
        while kept:
            connection = kept.pop()
            if not connection.is_over and now - (connection.kept_at or now) < KEPT_SECONDS:
                return connection
            connection.close()
        self.kept.pop(origin, None)
        return None

    async def _connected(self, origin: Origin, seconds: float | None) -> Connection:
        scheme, host, port = origin
        context = await self._certificates() if scheme == "https" else None
        try:
            async with asyncio.timeout(seconds):
                _, connection = await asyncio.get_running_loop().create_connection(
                    Connection, host, port, ssl=context, happy_eyeballs_delay=_SECOND_ADDRESS_SECONDS
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout("The server did not take the connection in time.") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from _refused(error)
        return connection

    async def _certificates(self) -> ssl.SSLContext:
        async with self._reading:
            if self.context is None:
                self.context = await asyncio.to_thread(httpx.create_ssl_context)
            return self.context


class _Body(httpx.AsyncByteStream):
    """The bytes of an answer; closing it gives its connection back."""

    def __init__(
        self, connections: Connections, origin: Origin, connection: Connection, seconds: float | None
    ) -> None:
        self._connections = connections
        self._origin = origin
        self._connection: Connection | None = connection
        self._seconds = seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """What came together comes together."""
        connection = self._connection
        assert connection is not None, "its bytes are read once"
        event: Event | None = None
        while event is None:
            event, part = await connection.event(self._seconds), bytearray()
            while isinstance(event, h11.Data):
                part += event.data
                event = connection.event_at_hand()
            if part:
                yield bytes(part)

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._connections.give_back(self._origin, connection)


def _refused(error: OSError) -> OSError:
    """A host with two addresses fails twice, and asyncio says so in words alone (with `all_errors`, from Python 3.12 on, in
    its errors)."""
    numbers = set(_ERRNO.findall(str(error)))
    return ConnectionRefusedError(str(error)) if numbers == {str(ECONNREFUSED)} else error
