"""How long a person waits for the program to say anything at all."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

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


@benchmark("editor")
async def editor(bench: Bench) -> AsyncIterator[Row]:
    """From spawn to the answer of `session/new`, in a home that is there already."""
    with tempfile.TemporaryDirectory() as home:

        async def session(_: int) -> None:
            await _session(home)

        async def python(_: int) -> None:
            await _run(sys.executable, "-c", "import asyncio")

        await session(0)
        ours, floor = await interleaved(bench.disk, bench.rounds(20), session, python)
    yield Row(
        work="`clew acp`, spawn to `session/new`",
        samples=ours,
        floor=floor,
        claims=(at_most("p50", ours.p50, 0.3, "s"),),
        remark="floor: python -c 'import asyncio'",
    )


async def _session(home: str) -> None:
    """Says hello and opens a session in one go, as fast as an editor could."""
    environ = {
        **os.environ,
        "CLEW_HOME": home,
        "CLEW_BASE_URL": "http://127.0.0.1:9/v1",
        "CLEW_MODEL": "none",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clew", "acp", env=environ,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(_HELLO + msgspec.json.encode(_new(home)) + b"\n")
    while msgspec.json.decode(await process.stdout.readline()).get("id") != 1:
        pass
    process.kill()  # what it imports behind the answer, and its end, are not what somebody waits for
    await process.wait()


_HELLO = b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":1}}\n'


def _new(cwd: str) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": "session/new", "params": {"cwd": cwd, "mcpServers": []}}


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait():
        raise RuntimeError(f"{command[0]} failed")
