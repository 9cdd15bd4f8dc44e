"""`clew serve` as a process that programs talk to over HTTP, against a scripted model server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer
from tests.acceptance.test_gateway_operations import free_port

SECONDS_MAX = 60
CHAT, SESSION = "/v1/chat/completions", "X-Clew-Session"


class Api:
    """Starts, kills and stops the server of one home; `client` talks to it."""

    def __init__(self, home: Path, model: ModelServer) -> None:
        self.clew = CommandLine(home, model.base_url)
        self.port = free_port()
        self.clew.environ |= {"CLEW__HTTP__PORT": str(self.port)}
        self.process: asyncio.subprocess.Process | None = None
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=SECONDS_MAX)

    async def start(self) -> None:
        """Returns when it answers."""
        self.process = await self.clew.start("serve")
        async with asyncio.timeout(SECONDS_MAX):
            while True:
                assert self.process.returncode is None, await self.process.communicate()
                try:
                    await self.client.get("/healthz")
                except httpx.TransportError:
                    await asyncio.sleep(0)
                else:
                    return

    async def end(self, number: int) -> tuple[int, str]:
        process, self.process = self.process, None
        if process is None:
            return 0, ""
        if process.returncode is None:
            os.kill(process.pid, number)
        _, err = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
        return process.returncode or 0, err.decode()

    async def key(self, *arguments: str) -> str:
        made = await self.clew.run("pair", "key", "create", *arguments)
        assert made.code == 0, made.err
        return made.out.strip()

    def show(self, key: str) -> None:
        self.client.headers["Authorization"] = f"Bearer {key}"


@asynccontextmanager
async def api(tmp_path: Path, model: ModelServer) -> AsyncIterator[Api]:
    async with model:
        served = Api(tmp_path / "home", model)
        try:
            yield served
        finally:
            await served.client.aclose()
            await served.end(signal.SIGKILL)
