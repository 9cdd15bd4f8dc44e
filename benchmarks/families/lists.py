"""The list of sessions, which every surface shows first and after every message."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

from benchmarks.bench import Bench, settle
from benchmarks.families.turn import known_chats
from benchmarks.floor import Floor
from benchmarks.measure import Samples
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_most
from clew.domain.conversation.ids import LOCAL

SHOWN = 20


@benchmark("lists")
async def lists(bench: Bench) -> AsyncIterator[Row]:
    for label, sessions in (("10k", 10_000), ("100k", 100_000)):
        if bench.quick and sessions > 10_000:
            return
        yield await _list(bench, label, sessions)


async def _list(bench: Bench, label: str, sessions: int) -> Row:
    """Before each list somebody writes somewhere: that session must come first."""
    samples, bare = Samples(), Samples()
    floor = Floor(bench.folder("lists")).create(sessions)
    async with bench.ledger("lists") as ledger:
        chats = await known_chats(ledger, sessions)
        settle()
        chosen = random.Random(sessions).sample(range(sessions), bench.rounds(300))
        for number in chosen:
            await chats[number].write(bench.workload.turn(number)[:1])
            with samples:
                shown = await ledger.sessions(LOCAL, limit=SHOWN)
            if len(shown) != SHOWN or shown[0].id != chats[number].handle.session:
                raise AssertionError("the list does not begin with the newest session")
            floor.touch(number)
            with bare:
                floor.newest_sessions(SHOWN)
            bench.disk.probe()
    floor.close()
    peer = await bench.peer.median("list", str(sessions)) if sessions == 10_000 else None
    return Row(
        work=f"list {SHOWN} by activity, of {label}",
        samples=samples,
        floor=bare,
        peer=peer,
        claims=(at_most("p50", samples.p50 * 1e3, 0.3, "ms"),),
        remark="floor: no index, so a scan",
    )
