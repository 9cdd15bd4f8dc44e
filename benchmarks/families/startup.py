"""How long a person waits for the program to say anything at all."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.measure import interleaved
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_most


@benchmark("startup")
async def startup(bench: Bench) -> AsyncIterator[Row]:
    command = Path(sys.executable).with_name("clew")

    async def version(_: int) -> None:
        await _run(str(command), "--version")

    async def python(_: int) -> None:
        await _run(sys.executable, "-c", "print(1)")

    ours, floor = await interleaved(bench.disk, bench.rounds(40), version, python)
    yield Row(
        work="`clew --version`",
        samples=ours,
        floor=floor,
        peer=await bench.peer.median("version"),
        claims=(at_most("p50", ours.p50, 0.08, "s"),),
        remark="floor: python -c 'print(1)'",
    )


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait():
        raise RuntimeError(f"{command[0]} failed")
