"""Many writers of one file: tasks of one process, and two processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench, settle
from benchmarks.floor import Floor
from benchmarks.measure import Samples, now
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_least, at_most, worst_at_most
from benchmarks.talk import Talk, start
from benchmarks.workload import Message
from clew.adapters.stores.sqlite.ledger import open_ledger
from clew.adapters.system import SystemClock
from clew.domain.conversation.ids import LOCAL

WAITERS = 16
SESSIONS = 50
"""Of each process, so that two never write the same one."""
MESSAGE: Final[Message] = {"role": "user", "content": "several writers write to this file at once " * 8}


@benchmark("writers")
async def writers(bench: Bench) -> AsyncIterator[Row]:
    yield await _group(bench)
    yield await _processes(bench)


async def _group(bench: Bench) -> Row:
    """16 tasks, each committing its next message when the last one is durable; the floor takes 16 at a time."""
    floor = Floor(bench.folder("group")).create(WAITERS)
    ours, bare = Samples(), Samples()
    rates: list[float] = []
    floor_rates: list[float] = []
    async with bench.ledger("group") as ledger:
        talks = await asyncio.gather(*(start(ledger, number) for number in range(WAITERS)))
        settle()
        for _ in range(5):
            rates.append(await _together(talks, 0.2 if bench.quick else 1.0, ours))
            floor_rates.append(_alone(floor, 0.1 if bench.quick else 0.5, bare))
            bench.disk.probe(5)
    floor.close()
    rate, floor_rate = sorted(rates)[2], sorted(floor_rates)[2]
    return Row(
        work=f"group commit, {WAITERS} waiters",
        samples=ours,
        floor=bare,
        claims=(at_least("commits", rate, 10_000, "/s"),),
        remark=f"floor: transactions of {WAITERS}, {floor_rate:,.0f} messages/s",
    )


async def _together(talks: list[Talk], seconds: float, samples: Samples) -> float:
    """Commits a second."""
    before = len(samples)
    started = now()
    end = started + seconds

    async def talk_on(talk: Talk) -> None:
        while (begun := now()) < end:
            await talk.write((MESSAGE,))
            samples.add(now() - begun)

    await asyncio.gather(*map(talk_on, talks))
    return (len(samples) - before) / (now() - started)


def _alone(floor: Floor, seconds: float, samples: Samples) -> float:
    """Messages a second."""
    started = now()
    count = 0
    batch = [(number, MESSAGE) for number in range(WAITERS)]
    while now() < started + seconds:
        with samples:
            floor.append_for_many(batch)
        count += WAITERS
    return count / (now() - started)


async def _processes(bench: Bench) -> Row:
    """Two processes, each committing as fast as it can to sessions of its own; the floor is one bare process alone."""
    home = bench.folder("processes")
    seconds = 1.5 if bench.quick else 4.0
    floor = Floor(bench.folder("processes-floor")).create()
    bare = Samples()
    started = now()
    while now() < started + seconds / 2:
        with bare:
            floor.append(0, (MESSAGE,))
    floor.close()
    ledger = await open_ledger(home, SystemClock())
    await ledger.close()
    first, second = await _race(home, seconds)
    bench.disk.probe(20)
    share = abs(len(first) - len(second)) / (len(first) + len(second))
    first += second
    return Row(
        work="two writing processes",
        samples=first,
        floor=bare,
        claims=(
            worst_at_most(first.worst * 1e3, 150, bare),
            at_most("shares apart", share * 100, 20, "%"),
        ),
        remark="floor: one bare process alone",
    )


async def _race(home: Path, seconds: float) -> list[Samples]:
    racers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.families.writers", str(home), str(number), str(seconds)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        await racer.stdout.readline()  # it has opened its sessions
    results = await asyncio.gather(*(racer.communicate(b"go\n") for racer in racers))
    return [Samples(json.loads(output)) for output, _ in results]


async def _racer(home: Path, number: int, seconds: float) -> None:
    """One of the two: ready, wait, write, report."""
    ledger = await open_ledger(home, SystemClock())
    first = number * SESSIONS
    talks = [await start(ledger, first + n) for n in range(SESSIONS)]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    samples: list[float] = []
    end = now() + seconds
    while (begun := now()) < end:
        await talks[len(samples) % SESSIONS].write((MESSAGE,))
        samples.append(now() - begun)
    written = sum([len(await ledger.path(LOCAL, talk.handle.session)) for talk in talks])
    await ledger.close()
    if written != len(samples):
        raise AssertionError(f"{len(samples)} commits were confirmed, {written} are in the file")
    print(json.dumps(samples))


if __name__ == "__main__":
    asyncio.run(_racer(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
