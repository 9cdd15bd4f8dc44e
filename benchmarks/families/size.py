"""What the conversations take on disk, index included."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_most

BUDGET_BYTES_PER_MESSAGE = 0.45e9 / 200_000


@benchmark("size")
async def size(bench: Bench) -> AsyncIterator[Row]:
    corpus = await bench.corpus()
    ledger, index = _bytes(corpus.home, "clew.db"), _bytes(corpus.home, "clew-search.db")
    budget = BUDGET_BYTES_PER_MESSAGE * corpus.messages / 1e9
    yield Row(
        work=f"files of {corpus.messages:,} messages",
        claims=(at_most("size", (ledger + index) / 1e9, budget, "GB"),),
        remark=f"{corpus.text_bytes / 1e6:.0f} MB of text: ledger {ledger / 1e6:.0f}, index {index / 1e6:.0f} MB",
    )


def _bytes(home: Path, name: str) -> int:
    """The file and its write-ahead log."""
    return sum(path.stat().st_size for path in home.glob(f"{name}*"))
