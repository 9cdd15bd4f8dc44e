"""A server on the loopback, for as long as it is entered. Its connections, and what it runs beside them, end with it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Loopback:
    """A subclass serves each connection."""

    def __init__(self, port: int = 0) -> None:
        """On a free port where none is wanted."""
        self.port = port
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, limit=1 << 24)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end; it may break off at any time."""
        raise NotImplementedError

    def _beside(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """What runs until the server ends."""
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._beside(asyncio.create_task(self._served(reader, writer)))

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # whoever called has left
        finally:
            writer.close()
