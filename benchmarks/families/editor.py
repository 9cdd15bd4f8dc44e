"""How long somebody waits for `clew acp`, what for, and what it costs in memory then and a moment later."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from benchmarks.bench import Bench
from benchmarks.measure import interleaved
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_most
from clew.testing.model_server import ModelServer, Served

Frame = dict[str, object]
IMPORTS = "import os, clew.surfaces.cli.main, clew.bootstrap.services, clew.surfaces.acp.serving; os._exit(0)"
"""What `clew acp` has imported when it reads its first line, but for a few modules of the command line."""


@benchmark("editor")
async def editor(bench: Bench) -> AsyncIterator[Row]:
    """From spawn to the answer of `session/new`, in a home that is there already, and the stages of it."""
    with tempfile.TemporaryDirectory() as home:

        async def python(_: int) -> None:
            await _run("import asyncio")

        async def imports(_: int) -> None:
            await _run(IMPORTS)

        async def hello(_: int) -> None:
            async with _agent(home) as until:
                await until(lambda frame: frame.get("id") == 0)

        async def session(_: int) -> None:
            async with _agent(home) as until:
                await until(lambda frame: frame.get("id") == 1)

        await session(0)
        sides = (session, hello, imports, python)
        opened, greeted, imported, floor = await interleaved(bench.disk, bench.rounds(20), *sides)
        at_answer, warm = await _memory(home)
    memory = (at_most("answered", at_answer, 60, "MB"), at_most("warm", warm, 120, "MB"))
    yield Row(
        work="`clew acp`, spawn to `session/new`", samples=opened, floor=floor, peer=await bench.peer.median("editor"),
        claims=(at_most("p50", opened.p50, 0.3, "s"), *memory), remark="floor: python -c 'import asyncio'",
    )  # fmt: skip
    yield Row(
        work="  of it, to `initialize`", samples=greeted, floor=floor, remark="the ledger is open by then"
    )
    yield Row(work="  of that, imports", samples=imported, floor=floor)


async def _memory(home: str) -> tuple[float, float]:
    """MB when `session/new` was answered, and when all was imported that a first prompt needs, and the models known."""
    async with (
        ModelServer(lambda _: Served(), models=("m",)) as server,
        _agent(home, server.base_url) as until,
    ):
        answered = await until(lambda frame: frame.get("id") == 1)
        return answered, await until(lambda frame: "config_option_update" in str(frame))


@asynccontextmanager
async def _agent(
    home: str, base_url: str = "http://127.0.0.1:9/v1"
) -> AsyncIterator[Callable[[Callable[[Frame], bool]], Awaitable[float]]]:
    """Says hello and opens a session in one go, as fast as an editor could. Yields a wait for a frame, which tells the
    resident memory then, in MB."""
    environ = {**os.environ, "CLEW_HOME": home, "CLEW_BASE_URL": base_url, "CLEW_MODEL": "m"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clew", "acp", env=environ,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(_HELLO + msgspec.json.encode(_new(home)) + b"\n")
    stdout = process.stdout
    assert stdout is not None

    async def until(wanted: Callable[[Frame], bool]) -> float:
        while not wanted(msgspec.json.decode(await stdout.readline(), type=Frame)):
            pass
        return _resident_mb(process.pid)

    try:
        yield until
    finally:
        process.kill()  # what it imports behind the answer, and its end, are not what somebody waits for
        await process.wait()


def _resident_mb(pid: int) -> float:
    """0 where there is no /proc."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


_HELLO = b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":1}}\n'


def _new(cwd: str) -> Frame:
    return {"jsonrpc": "2.0", "id": 1, "method": "session/new", "params": {"cwd": cwd, "mcpServers": []}}


async def _run(program: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    if await process.wait():
        raise RuntimeError(f"{program} failed")
