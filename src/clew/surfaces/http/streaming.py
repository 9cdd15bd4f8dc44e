"""Answers that take time: sent as they come, and let go of when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
QUIET_SECONDS: Final = 15.0
"""After so long without a word a comment is sent: so that nobody on the way takes the connection for dead."""
SEND_SECONDS_MAX: Final = 60.0
"""A client that takes nothing for so long has left."""


class Gone(Exception):
    """The client left."""


async def unless_gone(request: Request, work: Awaitable[T], leave: Callable[[], Awaitable[None]]) -> T:
    """Raises Gone when the client leaves first; then the work is cancelled, and `leave` is called."""
    working, gone = asyncio.ensure_future(work), asyncio.create_task(_left(request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        await leave()
        raise Gone
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        leave: Callable[[], Awaitable[None]],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={**(headers or {}), "cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending, gone = asyncio.create_task(self._send(send)), asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                await self._leave()
                return
            try:
                sending.result()
            except TimeoutError:
                await self._leave()
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(_beaten(self._events)) as events:
            async for event in events:
                async with asyncio.timeout(SEND_SECONDS_MAX):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _beaten(events: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The events, and a comment whenever there was none for a while."""
    coming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            await asyncio.wait({coming}, timeout=QUIET_SECONDS)
            if not coming.done():
                yield b": \n\n"
                continue
            if (event := coming.result()) is None:
                return
            coming = asyncio.ensure_future(anext(events, None))
            yield event
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
