"""What a summary costs besides the summary model, and what it costs a turn that runs beside it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final

from benchmarks.bench import Bench, settle
from benchmarks.measure import Samples
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_most
from clew.adapters.stores.sqlite.ledger import SqliteLedger
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.ledger.rows import Handle
from clew.domain.models.answer import Answer, ModelEvent
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.runtime.compaction import Compacted, CompactionAsk, Compactor, Trigger
from clew.testing.ledgers import add, assistant, begin, expand, handle_of, user
from clew.testing.scripted_model import ScriptedModel, say
from clew.testing.world import HandClock, NamedOwners, OneModel, World, exchange

MESSAGES: Final = 1_000
MODEL_SECONDS: Final = 0.2
PROFILE: Final = ModelProfile(name="scripted-model", provider="scripted", context_window=128_000)


class _Summarising(ScriptedModel):
    """Writes the same notes, after so long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(profile=PROFILE)
        self._seconds = seconds

    async def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncGenerator[ModelEvent, None]:
        await asyncio.sleep(self._seconds)
        yield Answer(text="## Goal\nWhat was wanted.\n" * 20)


class _Compacting:
    """A session of MESSAGES, and a compaction of it that can be made again and again."""

    def __init__(self, ledger: SqliteLedger, seconds: float) -> None:
        self._ledger = ledger
        self._compactor = Compactor(
            ledger=ledger,
            owners=NamedOwners("compacting"),
            models=OneModel(_Summarising(seconds)),
            clock=HandClock(),
        )
        self._session = SessionId("")

    async def fill(self, number: int) -> None:
        """Each exchange is a question of 100 and an answer of 300 characters."""
        handle: Handle = await begin(self._ledger, number, owner=LOCAL)
        said, answered = user("word " * 20, actor=LOCAL), assistant("answer words " * 23)
        for _ in range(MESSAGES // 100):
            handle = await add(self._ledger, handle, *[said, answered] * 50, actor=LOCAL)
        self._session = handle.session

    async def compact(self) -> None:
        ask = CompactionAsk(
            principal=LOCAL, session=self._session, trigger=Trigger.COMMAND, model=PROFILE, saw=None
        )
        outcome = await self._compactor.compact(ask)
        assert isinstance(outcome, Compacted), outcome

    async def take_back(self) -> None:
        handle = await handle_of(self._ledger, self._session, who=LOCAL)
        await expand(self._ledger, handle, actor=LOCAL)


@benchmark("compaction")
async def compaction(bench: Bench) -> AsyncIterator[Row]:
    yield await _alone(bench)
    yield await _beside_a_turn(bench)


async def _alone(bench: Bench) -> Row:
    samples = Samples()
    async with bench.ledger("compaction") as ledger:
        compacting = _Compacting(ledger, 0.0)
        await compacting.fill(1)
        settle()
        for _ in range(bench.rounds(100)):
            with samples:
                await compacting.compact()
            await compacting.take_back()
    return Row(
        work="summarise 1,000 messages, without the model's time",
        samples=samples,
        claims=(at_most("p50", samples.p50 * 1e3, 50, "ms"),),
        remark="hermes-agent: 660 ms, measured on another day",
    )


async def _beside_a_turn(bench: Bench) -> Row:
    """A turn at some moment of a compaction of another session, and one after the same pause without: each less the
    turn right before it. So the machine's own hiccups are on both sides."""
    chance, beside, alone = random.Random(1), Samples(), Samples()
    later, control = Samples(), Samples()
    async with bench.ledger("beside") as ledger:
        compacting = _Compacting(ledger, MODEL_SECONDS)
        await compacting.fill(1)
        talk = World(ledger, lambda _: say("An answer.")).talk()

        async def pair(delays: Samples, second: Samples) -> None:
            with alone:
                await exchange(talk, "hello")
            pause = chance.uniform(0, MODEL_SECONDS)
            background = asyncio.create_task(compacting.compact()) if second is beside else None
            await asyncio.sleep(pause)
            with second:
                await exchange(talk, "hello")
            delays.add(second.last - alone.last)
            if background is not None:
                await background
                await compacting.take_back()

        settle()
        for number in range(bench.rounds(200)):
            if number % 20 == 0:
                await talk.command("/new")
                await exchange(talk, "first")
            await pair(control, Samples())
            await pair(later, beside)
    delay = (later.at(95) - control.at(95)) * 1e3
    return Row(
        work="a turn while another session is summarised",
        samples=beside,
        floor=alone,
        claims=(at_most("p95 later", delay, 5, "ms"),),
        remark=f"floor: the turn right before; the summary model takes {MODEL_SECONDS * 1e3:.0f} ms",
    )
