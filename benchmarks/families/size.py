"""What the conversations take on disk, index included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_most

BUDGET_BYTES_PER_MESSAGE = 0.45e9 / 200_000
UPKEEP_SECONDS_MAX = 120


@benchmark("size")
async def size(bench: Bench) -> AsyncIterator[Row]:
    corpus = await bench.corpus()
    await _at_rest(corpus.home)
    ledger, index = _bytes(corpus.home, "clew.db"), _bytes(corpus.home, "clew-search.db")
    budget = BUDGET_BYTES_PER_MESSAGE * corpus.messages / 1e9
    yield Row(
        work=f"files of {corpus.messages:,} messages",
        claims=(at_most("size", (ledger + index) / 1e9, budget, "GB"),),
        remark=f"{corpus.text_bytes / 1e6:.0f} MB of text: ledger {ledger / 1e6:.0f}, index {index / 1e6:.0f} MB",
    )


async def _at_rest(home: Path) -> None:
    """Waits until the index has put itself in order: nothing of it changed for a while."""
    for _ in range(UPKEEP_SECONDS_MAX):
        before = _touched(home)
        await asyncio.sleep(1)
        if _touched(home) == before:
            return


def _touched(home: Path) -> list[tuple[str, int, int]]:
    found = ((path.name, path.stat()) for path in sorted(home.glob("clew*")))
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def _bytes(home: Path, name: str) -> int:
    """The file and its write-ahead log."""
    return sum(path.stat().st_size for path in home.glob(f"{name}*"))
