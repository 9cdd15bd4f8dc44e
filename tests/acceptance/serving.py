"""`clew serve` as a process against an emulated platform and a scripted model server."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer
from clew.testing.telegram import BotApi
from clew.testing.whatsapp import CloudApi

SECONDS_MAX = 30


Api = TypeVar("Api", BotApi, CloudApi)


class Ended:
    """A process that is killed or stopped, and what it had logged."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.log = ""

    async def kill(self) -> None:
        """kill -9."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: int) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        if process.returncode is None:
            os.kill(process.pid, number)
        _, err = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
        self.log += err.decode()
        return process.returncode or 0


class Served(Ended, Generic[Api]):
    """Starts, kills and stops the gateway of one home. It asks one of `polling` when it listens to the platform."""

    def __init__(
        self,
        home: Path,
        model: ModelServer,
        api: Api,
        polling: tuple[str, ...],
        *,
        module: str = "clew",
        **settings: str,
    ) -> None:
        super().__init__()
        self.clew = CommandLine(home, model.base_url, module=module)
        self.clew.environ |= settings
        self.model = model
        self.api: Api = api
        self._polling = polling

    async def start(self, **environ: str) -> None:
        """Returns when it polls."""
        polls = self.polls
        self.process = await self.clew.start("serve", environ=environ)
        await self.until(lambda: self.polls > polls)

    @property
    def polls(self) -> int:
        return sum(1 for method, _ in self.api.calls if method in self._polling)

    async def until(self, holds: Any) -> None:
        """Returns when it holds; a gateway that never gets there fails the test with its log."""
        try:
            async with asyncio.timeout(SECONDS_MAX):
                await self.api.until(holds)
        except TimeoutError:
            await self.kill()
            raise AssertionError(f"it never came to that; {self.api.messages}\n{self.log}") from None

    def asked(self) -> list[list[str]]:
        return asked_of(self.model)


class Gateway(Served[BotApi]):
    """The gateway on Telegram."""

    def __init__(
        self, home: Path, model: ModelServer, api: BotApi, *, module: str = "clew", **settings: str
    ) -> None:
        own = {
            "TELEGRAM_BOT_TOKEN": BotApi.TOKEN,
            "CLEW__GATEWAY__TELEGRAM__BASE_URL": api.base_url,
            "CLEW__GATEWAY__TELEGRAM__ALLOW": '["42", "43"]',
            "CLEW__HTTP__ENABLED": "false",
        }
        polling = ("getUpdates", "getWebhookInfo")
        super().__init__(home, model, api, polling, module=module, **(own | settings))

    async def shows(self, chat: int, *texts: str) -> None:
        """Returns when the bot's messages in a chat say this."""
        await self.until(lambda: self.api.shown(chat) == list(texts))


def asked_of(model: ModelServer) -> list[list[str]]:
    """For each request the model got: what its messages say, without the system prompt."""
    bodies = [msgspec.json.decode(body) for body in model.requests]
    return [
        [re.sub(r"<sent [^>]*/>", "", _text(m)) for m in body["messages"] if m["role"] != "system"]
        for body in bodies
    ]


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return str(content)


@asynccontextmanager
async def gateway(home: Path, model: ModelServer, **settings: str) -> AsyncIterator[Gateway]:
    """A home with a gateway that is not running yet; killed at the end."""
    async with BotApi() as api, model:
        served = Gateway(home, model, api, **settings)
        try:
            yield served
        finally:
            await served.kill()
