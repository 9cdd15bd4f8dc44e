"""The API over real sockets of the loopback, a ledger in memory and a scripted model. Every answer is held against the document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any

import httpx
import jsonschema
import msgspec

from clew.adapters.stores.memory import MemoryLedger
from clew.config.settings import HttpSettings
from clew.domain.conversation.ids import LOCAL, PrincipalId
from clew.domain.ledger.commits import Caps
from clew.domain.models.answer import Usage
from clew.domain.models.request import ModelProfile
from clew.domain.routing.keys import PLAIN, WITH_TOOLS, account
from clew.runtime.ports.models import Cost, ModelSource, no_price
from clew.runtime.ports.tools import Tool
from clew.runtime.talk import Services
from clew.runtime.turns import TurnSettings
from clew.surfaces.http import HttpApi, Listener
from clew.testing.scripted_model import Script, ScriptedModel
from clew.testing.world import World
from clew.wire.sse import ServerSentEvent, SseDecoder

KEY = "the-owners-key"
SECONDS_MAX = 30


class Served:
    """One API that listens. `keep` gives it another ledger's clients."""

    def __init__(
        self,
        script: Script,
        *,
        ledger: MemoryLedger | None = None,
        tools: tuple[Tool, ...] = (),
        settings: HttpSettings | None = None,
        caps: Caps | None = None,
        profile: ModelProfile | None = None,
        price: Callable[[Usage], Cost | None] = no_price,
        names: tuple[str, ...] = ("other-model",),
    ) -> None:
        self.ledger = ledger or MemoryLedger()
        turns = TurnSettings(caps=caps or Caps())
        self.world = World(self.ledger, script, tools=tools, settings=turns, profile=profile, price=price)
        self.model = self.world.model
        self.model._names = names
        services = msgspec.structs.replace(self.world.services, in_memory=self._in_memory)
        self._tools = tools
        chosen = settings or HttpSettings(requests_per_minute=0)
        self.api = HttpApi(services, chosen, KEY)
        self.listener = Listener("127.0.0.1", 0, (), routes=self.api.routes, cors_origins=chosen.cors_origins)
        self.document: dict[str, Any] = {}
        self.lived = 0
        """How many ledgers were made for requests without a session."""

    def _in_memory(self, models: ModelSource) -> Services:
        self.lived += 1
        world = World(MemoryLedger(), (), tools=self._tools, seed=1000 + self.lived)
        return msgspec.structs.replace(world.services, models=models)

    async def key(self, name: str, *, tools: bool = False) -> str:
        """A key of somebody."""
        who = PrincipalId(name)
        if who != LOCAL:
            await self.ledger.add_principal(who, name, "user")
        key = f"key-of-{name}-{tools}"
        await self.ledger.offer_pairing(key, who, 2**60)
        await self.ledger.pair(key, account(key, WITH_TOOLS if tools else PLAIN), 1)
        return key

    def client(self, key: str = KEY) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.listener.port}",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=SECONDS_MAX,
            event_hooks={"response": [self._conforms]},
        )

    async def _conforms(self, response: httpx.Response) -> None:
        """Raises for an answer that the document does not promise."""
        if response.headers.get("content-type") != "application/json":
            return
        body = msgspec.json.decode(await response.aread())
        name = "ErrorBody"
        if response.is_success:
            path = response.request.url.path
            found = [
                o for o in self.api.operations if o.method == response.request.method and _fits(o.path, path)
            ]
            if not found:
                return
            assert found[0].answer is not None
            name = found[0].answer.__name__
        schemas = {"components": self.document["components"], "$ref": f"#/components/schemas/{name}"}
        jsonschema.validate(body, schemas)


def _fits(template: str, path: str) -> bool:
    mine, its = template.split("/"), path.split("/")
    return len(mine) == len(its) and all(a == b or a.startswith("{") for a, b in zip(mine, its, strict=True))


@asynccontextmanager
async def serving(script: Script = (), **more: Any) -> AsyncIterator[Served]:
    served = Served(script, **more)
    running = [asyncio.create_task(served.listener.run()), asyncio.create_task(served.api.run())]
    try:
        while not served.listener.port:
            assert not running[0].done(), running[0].result()
            await asyncio.sleep(0)
        async with served.client() as client:
            served.document = (await client.get("/openapi.json")).json()
        yield served
    finally:
        await served.api.drain(0)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await served.api.close()
        assert served.model.open_streams == 0


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    """A body for /v1/chat/completions: texts are the user's."""
    given = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
    return {"model": "clew", "messages": given, **more}


async def events(response: httpx.Response) -> AsyncIterator[ServerSentEvent]:
    decoder = SseDecoder()
    async for piece in response.aiter_bytes():
        for event in decoder.feed(piece):
            yield event


async def until(holds: Callable[[], Any]) -> None:
    """Returns when it holds, or what it awaits does."""
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            found = holds()
            if await found if isawaitable(found) else found:
                return
            await asyncio.sleep(0)


def said(model: ScriptedModel, number: int = -1) -> list[tuple[str, str]]:
    """(role, text) of what a request to the model held, without what is rendered beside it."""
    return [_said(message) for message in model.sent[number].request.messages]


def _said(message: Any) -> tuple[str, str]:
    struct = msgspec.to_builtins(message)
    if "parts" in struct:
        texts = [p.get("text", f"[{p['type']}]") for p in struct["parts"]]
        return struct["role"], " ".join(t for t in texts if not t.startswith("<sent "))
    return struct["role"], struct["text"]
