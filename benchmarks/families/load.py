"""Reading a whole session into typed messages, as every request to a model begins."""

from __future__ import annotations

from collections.abc import AsyncIterator

from benchmarks.bench import Bench, settle
from benchmarks.families.moves import grow_tree, say
from benchmarks.floor import Floor
from benchmarks.measure import interleaved
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_most
from benchmarks.talk import Talk, start
from benchmarks.workload import Message
from clew.domain.conversation.ids import LOCAL


@benchmark("load")
async def load(bench: Bench) -> AsyncIterator[Row]:
    async with bench.ledger("load") as ledger:
        for number, (label, length, rounds) in enumerate((("1k", 1000, 120), ("10k", 10_000, 40))):
            messages = bench.workload.session(50 + number, length)
            talk = await start(ledger, number)
            await say(talk, messages)
            peer = await bench.peer.median("load", str(length))
            yield await _row(
                bench, talk, messages, work=f"load {label} into typed messages", rounds=rounds, peer=peer
            )
        tree = await start(ledger, 9)
        await grow_tree(tree, bench.workload)
        path = [message for number in range(200) for message in bench.workload.turn(number)]
        yield await _row(bench, tree, path, work="load 1k over 200 branches", rounds=120)


async def _row(
    bench: Bench, talk: Talk, messages: list[Message], *, work: str, rounds: int, peer: float | None = None
) -> Row:
    floor = Floor(bench.folder("load")).create()
    floor.append(0, messages)
    stored = await talk.ledger.path(LOCAL, talk.handle.session)
    if [message.text for message in stored] != [message["content"] for message in messages]:
        raise AssertionError(f"{work}: what was read is not what was written")
    del stored
    settle()

    async def ours(_: int) -> None:
        await talk.ledger.path(LOCAL, talk.handle.session)

    async def bare(_: int) -> None:
        floor.load()

    mine, theirs = await interleaved(bench.disk, bench.rounds(rounds), ours, bare)
    floor.close()
    return Row(
        work=work,
        samples=mine,
        floor=theirs,
        peer=peer,
        claims=(at_most("ratio", mine.p50 / theirs.p50, 0.8, "x"),),
        remark="floor: SELECT + json.loads",
    )
