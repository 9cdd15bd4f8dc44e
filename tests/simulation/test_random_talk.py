"""Random conversations over the real ledger file: what the model is sent, whatever the person does."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from clew.adapters.stores.sqlite import open_ledger
from clew.domain.conversation.ids import LOCAL
from clew.domain.conversation.messages import Role
from clew.domain.models.answer import AskedCall, FailureKind
from clew.domain.models.request import ModelRequest
from clew.domain.tools.policy import ApprovalMode
from clew.domain.tools.spec import Effect, JsonObject, ToolResult
from clew.domain.turn.prefix import Instructions
from clew.domain.turn.prompt import canonical
from clew.runtime.commands import CommandError
from clew.runtime.ports.people import NobodyToAsk, Noticed, TurnNews
from clew.runtime.ports.tools import ToolContext
from clew.runtime.talk import Talk
from clew.runtime.turns import TurnStatus
from clew.runtime.turns.openings import Opening
from clew.testing.scripted_model import Hold, Step, fail, say
from clew.testing.world import HandClock, RecordingTool, World

pytestmark = pytest.mark.anyio
ACTIONS = 40
CHOICES = (
    ["say"] * 6 + ["stop", "queue", "process", "instructions", "tools", "event"] + ["/undo", "/undo 2", "/redo", "/retry"] * 2
)  # fmt: skip


class Course:
    """One conversation, driven by a seed, and what has to hold after each request."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.undone: set[str] = set()
        self._before: ModelRequest | None = None
        self._may_break = True
        self._words = 0
        self._hold: Hold | None = None
        self._tools = [self._tool("look", Effect.READ)]
        self._instructions: list[Instructions] = []

    def _tool(self, name: str, effect: Effect) -> RecordingTool:
        async def answers(arguments: JsonObject, context: ToolContext) -> ToolResult:
            if self._chance.random() < 0.2:
                await context.notify("note", f"event {context.call}")
            if self._chance.random() < 0.1:
                raise ValueError("the tool broke")
            return ToolResult(text=f"result of {context.call}")

        return RecordingTool(name, effect=effect, answer=answers)

    def step(self, request: ModelRequest) -> Step:
        """What the model says; every request is looked at on its way."""
        self._look_at(request)
        self._words += 1
        text = f"answer-{self._words}-end"
        if self._hold is not None:
            hold, self._hold = self._hold, None
            return say(text, hold)
        roll = self._chance.random()
        if roll < 0.1:
            return fail(FailureKind.SERVER, "down", text)
        if roll < 0.4:
            names = [
                self._chance.choice(["look", "look", "unknown"]) for _ in range(self._chance.randint(1, 3))
            ]
            arguments = self._chance.choice(["{}", "{broken", '{"a": 1}'])
            return Step(
                text=text,
                calls=tuple(AskedCall(provider_id="same", name=n, arguments=arguments) for n in names),
            )
        return say(text)

    def _look_at(self, request: ModelRequest) -> None:
        sent = canonical(request.messages)
        for words in self.undone:
            assert words.encode() not in sent, f"undone and sent: {words}"
        before = self._before
        if before is not None and not self._may_break:
            assert sent.startswith(canonical(before.messages)[:-1]), "not a prefix of the next request"
            assert (before.system, before.tools) == (request.system, request.tools)
        self._before, self._may_break = request, False

    def watch(self, news: TurnNews) -> None:
        if isinstance(news, Noticed):
            self._may_break = True

    # -- what a person does --------------------------------------------------------------------------------------
    async def run(self, home: Path) -> None:
        ledger = await open_ledger(home, HandClock())
        try:
            world = self._world(ledger, 0)
            talk = world.talk()
            for number in range(ACTIONS):
                action = self._chance.choice(CHOICES)
                if action == "process":
                    await ledger.close()
                    ledger = await open_ledger(home, HandClock(1_790_000_000_000 + number * 1_000_000))
                    talk = self._world(ledger, number + 1).talk(talk.session)
                else:
                    await self._act(action, talk)
        finally:
            await ledger.close()

    def _world(self, ledger: object, seed: int) -> World:
        world = World(
            ledger,  # type: ignore[arg-type]
            self.step,
            tools=self._tools,
            mode=ApprovalMode.ALL,
            owner=f"process-{seed}",
            seed=seed,
        )
        world.instructions = self._instructions
        return world

    async def _act(self, action: str, talk: Talk) -> None:
        match action:
            case "say":
                await self._turn(talk, None)
            case "stop":
                await self._stopped(talk)
            case "queue":
                await talk.queue(self._new_words())
            case "event":
                await talk._notify_for(await talk.ensure_session())("note", self._new_words())
            case "instructions":
                self._instructions[:] = [Instructions(source="AGENTS.md", text=self._new_words())]
            case "tools":
                self._tools.append(self._tool(f"tool{len(self._tools)}", Effect.READ))
            case _:
                await self._command(action, talk)

    async def _command(self, line: str, talk: Talk) -> None:
        path = await self._path(talk)
        try:
            reply = await talk.command(line)
        except CommandError:
            return
        after = await self._path(talk)
        if after != path:
            self._may_break = True
            self.undone |= path - after
            self.undone -= after
        if reply.opening is not None:
            await self._turn(talk, reply.opening)

    async def _path(self, talk: Talk) -> set[str]:
        if talk.session is None:
            return set()
        path = await talk.services.ledger.path(LOCAL, talk.session)
        return {m.text for m in path if m.role in (Role.USER, Role.ASSISTANT) and m.text}

    async def _turn(self, talk: Talk, opening: Opening | None) -> None:
        if opening is None:
            waits = await talk.next_queued()
            if waits is None:
                turn = await talk.say(self._new_words(), self.watch, NobodyToAsk())
            else:
                turn = await talk.begin(waits, self.watch, NobodyToAsk())
        else:
            turn = await talk.begin(opening, self.watch, NobodyToAsk())
        outcome = await turn.finish()
        assert outcome.status in (TurnStatus.DONE, TurnStatus.FAILED), outcome
        assert outcome.cause is None, outcome

    async def _stopped(self, talk: Talk) -> None:
        self._hold = hold = Hold()
        turn = await talk.say(self._new_words(), self.watch, NobodyToAsk())
        running = asyncio.create_task(turn.finish())
        if self._chance.random() < 0.7:
            await hold.reached()
        turn.stop("stopped")
        outcome = await running
        self._hold = None
        assert (outcome.status, outcome.cause) == (TurnStatus.INTERRUPTED, None)

    def _new_words(self) -> str:
        self._words += 1
        return f"words-{self._words}-end"


@pytest.mark.parametrize("seed", range(25))
async def test_each_request_is_a_prefix_of_the_next_and_holds_nothing_undone(
    tmp_path: Path, seed: int
) -> None:
    """Unless the head moved back or a change of the prompt was said; whatever fails, is stopped or starts anew."""
    await Course(seed).run(tmp_path)
