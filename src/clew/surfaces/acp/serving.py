"""Runs the agent over standard input and output, until the editor closes them.

Rule: nothing but frames ever reaches the editor. The pipes are taken away from the rest of the process first: what a
library or a tool prints goes to standard error, and nobody else reads what the editor writes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

import msgspec

from clew.domain.ledger.errors import Outdated
from clew.runtime.talk import Services
from clew.surfaces.acp.agent import Agent
from clew.surfaces.acp.editor import Editor
from clew.wire.peer import Peer

READ_BYTES: Final = 1 << 16
UNREAD_BYTES_MAX: Final = 64 * 1024 * 1024
"""What may wait for an editor that does not read; past it the connection is given up, and turns end as when it closes."""


class Host(Protocol):
    """What is needed of the program around it."""

    def services(self) -> AbstractAsyncContextManager[Services]: ...

    async def import_own_modules(self) -> None: ...


async def serve(host: Host) -> Outdated | None:
    """Until the editor is gone, or SIGTERM. Returns why the program has to be started anew, if it has."""
    async with host.services() as services, _pipes() as (reading, writing):
        return await Connection(host, services, reading, writing).run()


class Connection:
    """One editor."""

    def __init__(
        self, host: Host, services: Services, reading: asyncio.StreamReader, writing: asyncio.StreamWriter
    ) -> None:
        self._reading = reading
        self._writing = writing
        self._host = host
        self._jobs = services.jobs
        self._ended = asyncio.Event()
        self._outdated: Outdated | None = None
        self._warm: asyncio.Task[None] | None = None
        self._peer = Peer(self._write, serve=self._serve, heard=self._heard, broke=_told)
        self._agent = Agent(
            services, Editor(self._peer, self._sent), ready=self._ready, outdated=self._must_restart
        )

    async def run(self) -> Outdated | None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._ended.set)
        beside = [asyncio.create_task(self._pump())]
        if self._jobs is not None:
            beside.append(asyncio.create_task(self._jobs.run()))
        try:
            await self._ended.wait()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await self._agent.close()
            await self._peer.close()
            if self._warm is not None:
                self._warm.cancel()
                await asyncio.gather(self._warm, return_exceptions=True)
        return self._outdated

    async def _pump(self) -> None:
        try:
            while data := await self._reading.read(READ_BYTES):
                self._peer.receive(data)
                await self._sent()
        except ConnectionError:
            pass  # the editor is gone
        finally:
            self._ended.set()

    def _write(self, line: bytes) -> None:
        transport = self._writing.transport
        if transport.is_closing():
            return
        self._writing.write(line)
        if transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            _say(f"clew acp: the editor has not read {UNREAD_BYTES_MAX} bytes: the connection is given up.")
            transport.abort()
            self._ended.set()

    async def _sent(self) -> None:
        try:
            await self._writing.drain()
        except ConnectionError:
            self._ended.set()

    async def _serve(self, method: str, params: msgspec.Raw) -> object:
        return await self._agent.serve(method, params)

    def _heard(self, method: str, params: msgspec.Raw) -> None:
        self._agent.heard(method, params)

    async def _ready(self) -> None:
        """From the first turn on no module of ours is left to be imported: an update cannot mix two versions."""
        if self._warm is None:
            self._warm = asyncio.create_task(self._host.import_own_modules())
        await asyncio.shield(self._warm)

    def _must_restart(self, error: Outdated) -> None:
        self._outdated = error
        asyncio.get_running_loop().call_soon(self._ended.set)  # after its answer was written


@asynccontextmanager
async def _pipes() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Raises OSError where standard input or output is a file or /dev/null: an editor gives pipes."""
    for number in (0, 1):
        kind = os.fstat(number).st_mode
        if stat.S_ISREG(kind) or (stat.S_ISCHR(kind) and not os.isatty(number)):
            raise OSError(
                "An editor speaks through pipes; standard input or output is a file or nothing here."
            )
    loop = asyncio.get_running_loop()
    reading, writing = _taken_away()
    reader = asyncio.StreamReader()
    source, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
    )
    sink, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop), os.fdopen(writing, "wb", buffering=0)
    )
    try:
        yield reader, asyncio.StreamWriter(sink, protocol, None, loop)
    finally:
        source.close()
        sink.close()


def _taken_away() -> tuple[int, int]:
    """Standard input and output under other numbers. In their places: nothing, and standard error."""
    reading, writing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    return reading, writing


def _told(error: BaseException) -> None:
    _say("".join(traceback.format_exception(error)).rstrip())


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
