"""What a turn costs the ledger: its messages alone, and the whole way from received to delivered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from benchmarks.bench import Bench, settle
from benchmarks.floor import Floor
from benchmarks.measure import interleaved
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_most
from benchmarks.talk import Chat, start, start_chat
from benchmarks.workload import Message
from clew.adapters.stores.sqlite.ledger import SqliteLedger
from clew.domain.conversation.ids import OutboxId

KNOWN_CHATS = 10_000


@benchmark("turn")
async def turn(bench: Bench) -> AsyncIterator[Row]:
    turns = [bench.workload.turn(number) for number in range(bench.rounds(400) * 2)]
    async for row in _persist(bench, turns):
        yield row
    async for row in _whole(bench, turns):
        yield row


async def _persist(bench: Bench, turns: list[list[Message]]) -> AsyncIterator[Row]:
    """One 5-message turn in one commit, and in five."""
    floor = Floor(bench.folder("persist")).create(sessions=2)
    async with bench.ledger("persist") as ledger:
        whole, apart = await start(ledger, 1), await start(ledger, 2)

        async def in_one(number: int) -> None:
            await whole.append(*map(whole.scribe.write, turns[number]), key=f"turn-{number}")

        async def in_five(number: int) -> None:
            for n, message in enumerate(turns[number]):
                await apart.append(apart.scribe.write(message), key=f"message-{number}-{n}")

        async def floor_in_one(number: int) -> None:
            floor.append(0, turns[number])

        async def floor_in_five(number: int) -> None:
            for message in turns[number]:
                floor.append(1, (message,))

        settle()
        one, floor_one, five, floor_five = await interleaved(
            bench.disk, bench.rounds(400), in_one, floor_in_one, in_five, floor_in_five
        )
    floor.close()
    yield Row(
        work="persist a 5-message turn, 1 commit",
        samples=one,
        floor=floor_one,
        peer=await bench.peer.median("turn", "1"),
        claims=(at_most("ratio", one.p50 / floor_one.p50, 1.75, "x"),),
    )
    yield Row(
        work="persist a 5-message turn, 5 commits",
        samples=five,
        floor=floor_five,
        claims=(at_most("ratio", five.p50 / floor_five.p50, 2.0, "x"),),
    )


async def _whole(bench: Bench, turns: list[list[Message]]) -> AsyncIterator[Row]:
    """Nine commits, where one chat is known and where ten thousand are."""
    floor = Floor(bench.folder("whole")).create()
    async with bench.ledger("alone") as alone, bench.ledger("known") as known:
        only = [await start_chat(alone, 0)]
        many = await known_chats(known, KNOWN_CHATS)

        async def with_one(number: int) -> None:
            await _turn_in(only, number, turns[number])

        async def with_many(number: int) -> None:
            await _turn_in(many, number, turns[number])

        async def bare(number: int) -> None:
            for message in turns[number]:
                floor.append(0, (message,))
            for _ in range(4):
                floor.touch(0)

        settle()
        ours, crowded, nine = await interleaved(bench.disk, bench.rounds(400), with_one, with_many, bare)
    floor.close()
    yield Row(
        work="a whole turn, received to delivered, 9 commits",
        samples=ours,
        floor=nine,
        claims=(at_most("p50", ours.p50 * 1e3, 2.5, "ms"),),
        remark="floor: 9 transactions",
    )
    yield Row(
        work=f"the same with {KNOWN_CHATS:,} known chats",
        samples=crowded,
        floor=nine,
        peer=await bench.peer.median("turn", str(KNOWN_CHATS)),
        claims=(at_most("against one chat", crowded.p50 / ours.p50, 1.2, "x"),),
    )


async def _turn_in(chats: list[Chat], number: int, messages: list[Message]) -> None:
    """Each turn in another chat. Nothing reads the outbox yet, but its rows are numbered from 1."""
    chat = chats[number * 13 % len(chats)]
    await chat.whole_turn(number, messages, OutboxId(number + 1))


async def known_chats(ledger: SqliteLedger, count: int) -> list[Chat]:
    """Conversations with a session each and nothing said yet."""
    chats: list[Chat] = []
    for first in range(0, count, 256):
        numbers = range(first, min(count, first + 256))
        chats += await asyncio.gather(*(start_chat(ledger, number) for number in numbers))
    return chats
