"""Appending flat out: no commit may wait for the index, a checkpoint or a merge."""

from __future__ import annotations

from collections.abc import AsyncIterator

from benchmarks.bench import Bench
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_most, worst_at_most


@benchmark("append")
async def append(bench: Bench) -> AsyncIterator[Row]:
    corpus = await bench.corpus()
    worst = corpus.samples.worst * 1e3
    yield Row(
        work=f"append {corpus.messages:,} messages flat out",
        samples=corpus.samples,
        floor=corpus.floor,
        peer=await bench.peer.median("append", str(min(corpus.messages, 5000))),
        claims=(
            at_most("p99", corpus.samples.at(99) * 1e3, 3.0, "ms"),
            worst_at_most(worst, 20, corpus.floor),
        ),
        remark=f"{corpus.messages / corpus.seconds:,.0f}/s, index {corpus.index_seconds:.1f} s behind at the end",
    )
