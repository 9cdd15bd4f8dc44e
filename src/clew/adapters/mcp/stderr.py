"""The last words of a server: what it wrote to standard error, in a bounded amount of memory."""

from __future__ import annotations

import asyncio
import os
from typing import Final, TextIO

KEPT_BYTES: Final = 4096


class LastWords(asyncio.Protocol):
    """Reads a pipe until it ends and keeps the end of what came."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._transport: asyncio.BaseTransport | None = None

    @classmethod
    async def listen(cls) -> tuple[LastWords, TextIO]:
        """Also returns the file to give to the server; close it as soon as the server has it."""
        reading, writing = os.pipe()
        words = cls()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: words, os.fdopen(reading, "rb", buffering=0)
        )
        return words, os.fdopen(writing, "w")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._kept += data
        del self._kept[:-KEPT_BYTES]

    def last_line(self) -> str:
        """Empty when nothing was said."""
        lines = self._kept.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
