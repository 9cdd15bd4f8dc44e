"""One prompt under way at an agent, cut into steps of a turn.

An agent that calls a tool waits for its result in the middle of its prompt. Here that is where a step ends: the call goes
to the turn, which decides, records and runs it like any other, and asks again; the result is then given to the agent that
still waits, and the next step is what it says from there on. So a prompt is one or many steps, and no call of a tool
happens that the turn does not know of.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from time import monotonic
from typing import Final

import msgspec

from clew.adapters.agents.client import Update
from clew.adapters.agents.errors import AgentRefused
from clew.adapters.agents.priming import new_texts, unheard
from clew.domain.models.answer import AskedCall, TextDelta, ThinkingDelta
from clew.domain.models.request import AssistantTurn, RequestMessage, ToolTurn, UserTurn
from clew.wire.jsonrpc import INTERNAL_ERROR, RpcError

TEXT_CHARACTERS_MAX: Final = 8_000_000
"""Of one prompt; an agent that says more is cut off."""
UPDATES_MAX: Final = 200_000
OVER: Final = "The turn is over: nothing of it was run."


class WaitingCall(msgspec.Struct):
    """A call that an agent waits for. `result` is what the turn made of it."""

    asked: AskedCall
    result: asyncio.Future[str]


class Prompt:
    """What came of it so far, and what it waits for."""

    def __init__(self, told: Sequence[RequestMessage], characters_max: int = TEXT_CHARACTERS_MAX) -> None:
        self._characters_max = characters_max
        self.told = tuple(told)
        """The conversation as the agent knows it; what it says now is not in it."""
        self.granted = False
        """Whether the agent was allowed to do something itself."""
        self.began = monotonic()
        self.first_call_after: float | None = None
        self.asked_at = 0.0
        """When the turn was last given calls."""
        self.changed = asyncio.Event()
        self._news: list[TextDelta | ThinkingDelta] = []
        self._queued: list[WaitingCall] = []
        self._given: dict[str, WaitingCall] = {}
        self._characters = 0
        self._updates = 0
        self._closed = False

    # -- the agent's side ----------------------------------------------------------------------------------------
    def updated(self, update: Update) -> None:
        self._updates += 1
        text = self._shown(update)
        if text is None or self._is_flooded():
            self.changed.set()
            return
        self._characters += len(text.text)
        self._news.append(text)
        self.changed.set()

    def _shown(self, update: Update) -> TextDelta | ThinkingDelta | None:
        match update.session_update:
            case "agent_message_chunk":
                return TextDelta(update.text())
            case "agent_thought_chunk":
                return ThinkingDelta(update.text())
            case "tool_call" if update.title:
                return ThinkingDelta(f"[{update.title}]\n")
            case _:
                return None

    async def call(self, name: str, arguments: str) -> str:
        """What the turn made of the call. Raises RpcError when the turn ends before."""
        if self._closed:
            raise RpcError(INTERNAL_ERROR, OVER)
        asked = AskedCall(provider_id=secrets.token_hex(8), name=name, arguments=arguments)
        waiting = WaitingCall(asked, asyncio.get_running_loop().create_future())
        self._queued.append(waiting)
        if self.first_call_after is None:
            self.first_call_after = monotonic() - self.began
        self.changed.set()
        try:
            return await waiting.result
        finally:
            if waiting in self._queued:
                self._queued.remove(waiting)

    # -- the turn's side -----------------------------------------------------------------------------------------
    def news(self) -> list[TextDelta | ThinkingDelta]:
        """What was said since. Raises AgentRefused when it was too much."""
        if self._is_flooded():
            raise AgentRefused(
                f"The agent sent more than {self._characters_max:,} characters or {UPDATES_MAX:,} updates "
                "in one turn: it was cut off.",
                INTERNAL_ERROR,
            )
        news, self._news = self._news, []
        return news

    def _is_flooded(self) -> bool:
        return self._updates > UPDATES_MAX or self._characters > self._characters_max

    def take_calls(self) -> tuple[AskedCall, ...]:
        """The calls that the turn has not seen; they are its own from here on."""
        taken, self._queued = self._queued, []
        self.asked_at = monotonic()
        self._given = {waiting.asked.provider_id: waiting for waiting in taken}
        return tuple(waiting.asked for waiting in taken)

    def go_on(self, messages: Sequence[RequestMessage]) -> bool:
        """Gives the agent the results that stand in a request; False where it is no continuation of this prompt.

        What a person said meanwhile, or what happened, comes with the last result: an agent takes nothing else in between.
        """
        rest = unheard(self.told, messages)
        if rest is None or not self._given or not isinstance(rest[0], AssistantTurn):
            return False
        results = {turn.call: turn.text for turn in rest if isinstance(turn, ToolTurn)}
        others = [turn for turn in rest[1:] if not isinstance(turn, ToolTurn)]
        ids = [call.id for call in rest[0].calls]
        if set(ids) != self._given.keys() or not all(isinstance(turn, UserTurn) for turn in others):
            return False
        if joined := new_texts(others):
            last = ids[-1]
            results[last] = "\n\n".join(
                [results.get(last, ""), "<said_meanwhile>", *joined, "</said_meanwhile>"]
            )
        for name, waiting in self._given.items():
            if not waiting.result.done():
                waiting.result.set_result(results.get(name, ""))
        self._given = {}
        self.told = tuple(messages)
        return True

    def close(self) -> None:
        """No call is taken any more, and those that wait are answered with an error. Idempotent."""
        self._closed = True
        for waiting in (*self._queued, *self._given.values()):
            if not waiting.result.done():
                waiting.result.set_exception(RpcError(INTERNAL_ERROR, OVER))
                waiting.result.exception()  # whoever waited for it may be gone
        self._queued, self._given = [], {}
