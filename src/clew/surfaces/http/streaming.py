"""Answers that take time: sent as they come, and let go of when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Final, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
QUIET_SECONDS: Final = 15.0
"""After so long without a word a comment is sent: so that nobody on the way takes the connection for dead."""
SEND_SECONDS_MAX: Final = 60.0
"""A client that takes nothing for so long has left."""


class Gone(Exception):
    """The client left."""


class Client:
    """Whoever asked, and may leave before the answer is there. Made once the request was read.

    One task looks out, from here to the end of the answer: what `receive` then says is the same as when a client leaves.
    """

    def __init__(self, receive: Receive) -> None:
        self._looking = asyncio.create_task(_left(receive))
        self._looking.add_done_callback(self._has_left)
        self._working: asyncio.Task[object] | None = None

    async def unless_gone(self, work: Awaitable[T], leave: Callable[[], Awaitable[None]]) -> T:
        """Raises Gone when the client leaves first; then the work is cancelled, and `leave` is called."""
        working = self._working = asyncio.current_task()
        assert working is not None
        cancelling = working.cancelling()
        if self._looking.done():
            working.cancel()
        try:
            return await work
        except Gone:
            pass  # it takes nothing any more
        except asyncio.CancelledError:
            if not self._looking.done() or working.uncancel() > cancelling:
                raise  # it was somebody else's wish
        finally:
            self._working = None
        await leave()
        raise Gone

    def hang_up(self) -> None:
        """It takes nothing any more: as if it had left."""
        self._looking.cancel()

    def _has_left(self, _: object) -> None:
        if self._working is not None:
            self._working.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events. What comes together is sent together."""

    media_type = "text/event-stream"

    def __init__(
        self,
        client: Client,
        events: AsyncGenerator[bytes, None],
        leave: Callable[[], Awaitable[None]],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={**(headers or {}), "cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._client = client
        self._events = events
        self._leave = leave
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(Gone):
            await self._client.unless_gone(self._send(send), self._leave)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self._sent_at = asyncio.get_running_loop().time()
        beating = asyncio.create_task(self._beat(send))
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    await self._part(send, event)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _part(self, send: Send, event: bytes) -> None:
        """Raises Gone when the client takes nothing."""
        self._sent_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except TimeoutError as error:
            raise Gone from error

    async def _beat(self, send: Send) -> None:
        """A comment whenever there was nothing for a while."""
        loop = asyncio.get_running_loop()
        while True:
            quiet = loop.time() - self._sent_at
            if quiet >= QUIET_SECONDS:
                try:
                    await self._part(send, b": \n\n")
                except Gone:
                    return self._client.hang_up()
                quiet = 0.0
            await asyncio.sleep(QUIET_SECONDS - quiet)
