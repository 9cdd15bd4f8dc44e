"""Tools whose effects are counted outside, by the call's idempotency key: slow, broken, deadly, safe to repeat and not."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from clew.domain.conversation.messages import Status
from clew.domain.ledger.rows import CallState
from clew.domain.tools.spec import Effect, JsonObject, ToolResult, ToolSpec
from clew.runtime.ports.tools import Tool, ToolContext
from clew.testing.simulation.process_life import Life
from clew.testing.simulation.witness import Witness


class Effects:
    """What tools did to the world outside, by call, whichever process ran them."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._done: Counter[str] = Counter()

    def happened(self, life: Life, context: ToolContext, *, is_safe: bool) -> None:
        """A tool starts to work."""
        record, row = self._witness.record, self._witness.disk.state.calls.get(context.call)
        self._done[context.call] += 1
        times = self._done[context.call]
        record.require(times == 1 or is_safe, f"call {context.call} was run {times} times")
        if times > 1:
            record.hit("tool: run again, which is safe")
        record.require(row is not None, f"call {context.call} was run before it was planned")
        ours = self._witness.holds(life.name, context.session)
        if row is not None and ours:
            record.require(row.state == CallState.STARTED, f"call {context.call} was run while {row.state}")
        if row is not None:
            record.require(
                row.state != CallState.FINISHED, f"call {context.call} was run again, its result stored"
            )


class _Counted:
    """A tool as the fault model has it; each kind below differs in what `_work` does."""

    name = ""
    effect = Effect.EXECUTE
    safe_to_repeat = False

    def __init__(self, effects: Effects, life: Life, chance: random.Random) -> None:
        self.spec = ToolSpec(
            name=self.name,
            description=f"The tool {self.name}.",
            parameters={"type": "object"},
            effect=self.effect,
            safe_to_repeat=self.safe_to_repeat,
        )
        self._effects = effects
        self._life = life
        self._chance = chance

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolResult:
        self._effects.happened(self._life, context, is_safe=self.safe_to_repeat)
        if self._chance.random() < 0.04:
            self._life.end("killed while a tool runs")
        result = await self._work(context)
        if self._chance.random() < 0.08:
            self._life.end("killed after a tool took effect")
        self._life.meddle("a tool ends")
        self._life.record.hit(f"tool: {'safe' if self.safe_to_repeat else 'not safe'} to repeat, ran")
        return result

    async def _work(self, context: ToolContext) -> ToolResult:
        await self._wait()
        return ToolResult(text=f"{self.name} done")

    async def _wait(self) -> None:
        await asyncio.sleep(self._chance.choice([0, 0, 0.1, 10, 40]))

    def describe(self, arguments: JsonObject) -> str:
        return self.name


class Mark(_Counted):
    name = "mark"


class Look(_Counted):
    name = "look"
    effect = Effect.READ
    safe_to_repeat = True


class Put(_Counted):
    """Takes a while to stop."""

    name = "put"
    safe_to_repeat = True

    async def _work(self, context: ToolContext) -> ToolResult:
        try:
            return await super()._work(context)
        except asyncio.CancelledError:
            await asyncio.sleep(self._chance.choice([0, 2, 4]))
            raise


class Raising(_Counted):
    name = "raising"

    async def _work(self, context: ToolContext) -> ToolResult:
        await self._wait()
        self._life.record.fault("a tool raises", self._life.name)
        raise RuntimeError("broken")


class Unsure(_Counted):
    """Ends without knowing what it did; says things on the way, and afterwards."""

    name = "unsure"

    async def _work(self, context: ToolContext) -> ToolResult:
        context.progress("on it")
        await self._wait()
        context.progress("still on it")
        await context.notify("process", "it ended")
        return ToolResult(text="timed out", status=Status.UNKNOWN)


class Deadly(_Counted):
    name = "deadly"

    async def _work(self, context: ToolContext) -> ToolResult:
        self._life.end("a tool kills its process")
        return ToolResult(text="survived")


class DeadlyAgain(Deadly):
    """Declared safe to repeat, so it is: each recovery runs it, and dies of it."""

    name = "deadly-again"
    safe_to_repeat = True


KINDS = (Mark, Look, Put, Raising, Unsure, Deadly, DeadlyAgain)


def all_tools(effects: Effects, life: Life, chance: random.Random) -> tuple[Tool, ...]:
    return tuple(kind(effects, life, chance) for kind in KINDS)
