"""Tools that the client runs: our side of a call is to wait until the client sends what came of it.

Such a call is declared safe to repeat, because what we do for it is only to wait: after a crash it is waited for again, and
the client's result is taken whichever process asked for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from clew.domain.conversation.ids import CallId
from clew.domain.conversation.messages import Status
from clew.domain.tools.spec import Effect, JsonObject, ToolFile, ToolResult, ToolSpec
from clew.runtime.ports.tools import Tool, ToolContext
from clew.surfaces.http.asked import ClientTool, ToolSaid

KEPT_MAX: Final = 256
"""Results that came before their call was waited for."""
LINE_CHARACTERS_MAX: Final = 200


class Results:
    """What the client sent, by call; whoever waits for one gets it once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[CallId, asyncio.Future[ToolResult]] = {}
        self._waits = 0

    @property
    def is_waited_for(self) -> bool:
        return self._waits > 0

    def deliver(self, said: ToolSaid) -> None:
        """Also of a call that nobody waits for yet: a turn that goes on after a restart comes to it soon."""
        future = self._of(said.call)
        files = tuple(ToolFile(media_type=f.media_type, bytes=f.bytes, name=f.name) for f in said.files)
        if not future.done():
            future.set_result(ToolResult(text=said.text, files=files))

    async def wait(self, call: CallId) -> ToolResult:
        self._waits += 1
        try:
            async with asyncio.timeout(self._seconds):
                return await self._of(call)
        except TimeoutError:
            text = f"The client did not send what came of this call within {self._seconds:g} s."
            return ToolResult(text=text, status=Status.UNKNOWN)
        finally:
            self._waits -= 1
            self._waiting.pop(call, None)

    def _of(self, call: CallId) -> asyncio.Future[ToolResult]:
        if call not in self._waiting and len(self._waiting) >= KEPT_MAX:
            del self._waiting[next(iter(self._waiting))]
        return self._waiting.setdefault(call, asyncio.get_running_loop().create_future())


class RemoteTool:
    """A tool of the client's."""

    def __init__(self, declared: ClientTool, results: Results, asked: Callable[[CallId], None]) -> None:
        """`asked` is told of each call that waits from now on."""
        self.spec = ToolSpec(
            name=declared.name,
            description=declared.description,
            parameters=declared.parameters,
            effect=Effect.READ,  # whether it may run is for the client, which runs it, to decide
            safe_to_repeat=True,
        )
        self._results = results
        self._asked = asked

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolResult:
        self._asked(context.call)
        return await self._results.wait(context.call)

    def describe(self, arguments: JsonObject) -> str:
        return f"{self.spec.name} (run by the client)"[:LINE_CHARACTERS_MAX]


def beside(own: Sequence[Tool], client: Mapping[str, Tool]) -> tuple[Tool, ...]:
    """All tools of a turn: where both have one of a name it is the client's that is meant."""
    return (*(tool for tool in own if tool.spec.name not in client), *client.values())
