"""Programs that talk to `clew serve` over HTTP: many streams at once, and what thousands of requests leave in memory."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import msgspec

from benchmarks.bench import Bench
from benchmarks.families.conversation import MODEL_SECONDS, model_server
from benchmarks.measure import Samples
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_least, at_most
from clew.testing.command_line import CommandLine

STREAMS = 200
TURNS_EACH = 3
REQUESTS = 10_000
WARM = 1_000
AT_ONCE = 20
READY_SECONDS = 60
CHAT = "/v1/chat/completions"
_FIELD = re.compile(rb"^([\w-]+): (.*?)\r$", re.MULTILINE)


class Program:
    """A program with a connection of its own. It costs the machine next to nothing, because it is not what is measured:
    one httpx for 200 of them walks through all of its connections at each request, 11 ms of CPU a turn."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        self._reader = reader
        self._writer = writer
        self._key = key

    @classmethod
    async def at(cls, port: int, key: str) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port), key)

    async def ask(self, session: str = "", *, stream: bool) -> str:
        """Says hello, reads the whole answer, and returns the session that it belongs to."""
        message = {"role": "user", "content": "hello"}
        body = json.dumps({"model": "clew", "messages": [message], "stream": stream}).encode()
        extra = f"X-Clew-Session: {session}\r\n" if session else ""
        fields, answer = await self._exchange(f"POST {CHAT}", extra, body)
        assert b"An answer of a few plain words." in answer, answer
        assert b"[DONE]" in answer or not stream, answer
        return fields.get(b"x-clew-session", b"").decode()

    async def get(self, path: str) -> bytes:
        return (await self._exchange(f"GET {path}", "", b""))[1]

    async def _exchange(self, what: str, extra: str, body: bytes) -> tuple[dict[bytes, bytes], bytes]:
        head = f"{what} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._key}\r\n{extra}"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        first, _, lines = (await self._reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
        fields = {name.lower(): value for name, value in _FIELD.findall(lines)}
        answer = b""
        if b"transfer-encoding" in fields:
            while size := int(await self._reader.readline(), 16):
                answer += (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readline()
        else:
            answer = await self._reader.readexactly(int(fields[b"content-length"]))
        assert b" 200 " in first, (first, answer)
        return fields, answer

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """Where `clew serve` listens and the model's server that it asks, with a key for the first."""

    port: int
    model_port: int
    key: str
    pid: int

    @property
    def cpu_seconds(self) -> float:
        """What the server's process has used, in all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def programs(self, count: int, port: int = 0) -> list[Program]:
        return [await Program.at(port or self.port, self.key) for _ in range(count)]


@benchmark("http")
async def http(bench: Bench) -> AsyncIterator[Row]:
    yield await _streams(bench)
    yield await _memory(bench)


@asynccontextmanager
async def _served(bench: Bench, name: str, seconds: float) -> AsyncIterator[Served]:
    """`clew serve` over a model that answers after so long, each in a process of its own."""
    folder = bench.folder(name)
    async with model_server(folder, seconds) as url:
        clew = CommandLine(folder / "home", url)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        clew.environ |= {"CLEW__HTTP__PORT": str(port), "CLEW__HTTP__REQUESTS_PER_MINUTE": "0"}
        key = (await clew.run("pair", "key", "create")).out.strip()
        process = await clew.start("serve")
        try:
            await _listening(port)
            model_port = int(url.removesuffix("/v1").rpartition(":")[2])
            yield Served(port=port, model_port=model_port, key=key, pid=process.pid)
        finally:
            process.terminate()
            await process.communicate()


async def _listening(port: int) -> None:
    until = time.perf_counter() + READY_SECONDS
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            if time.perf_counter() > until:
                raise
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


async def _crowd(programs: Sequence[Program], session: str) -> tuple[Samples, float]:
    """Each program has its turns, one after the other and all at once; how long each took, and all of them together."""
    took = Samples()

    async def talk(program: Program) -> None:
        carried = session
        for _ in range(TURNS_EACH):
            asked = time.perf_counter()
            carried = await program.ask(carried, stream=True)
            took.add(time.perf_counter() - asked)

    began = time.perf_counter()
    await asyncio.gather(*map(talk, programs))
    return took, time.perf_counter() - began


async def _streams(bench: Bench) -> Row:
    """Two hundred sessions at once, each answered after 200 ms; the floor is the same programs at the model's server."""
    async with _served(bench, "http-streams", MODEL_SECONDS) as served:
        programs = await served.programs(STREAMS)
        straight = await served.programs(STREAMS, served.model_port)
        await _crowd(programs[:AT_ONCE], "new")
        floor, floor_seconds = await _crowd(straight, "")
        cpu, own = served.cpu_seconds, time.process_time()
        took, seconds = await _crowd(programs, "new")
        cpu, own = served.cpu_seconds - cpu, time.process_time() - own
        for program in (*programs, *straight):
            await program.close()
    turns = len(took)
    return Row(
        work=f"{STREAMS} streams over HTTP, 200 ms loopback model",
        samples=took,
        floor=floor,
        claims=(
            at_least("turns", turns / seconds, 72, "/s"),
            at_most("p99 against the median", took.at(99) / took.p50, 2, "x"),
        ),
        remark=f"floor: the model's server alone, {turns / floor_seconds:.0f}/s; CPU a turn: {cpu / turns * 1e3:.1f} ms"
        f" of the server's, {own / turns * 1e3:.1f} of all programs'",
    )


async def _memory(bench: Bench) -> Row:
    """Ten thousand requests without a session, twenty at a time."""
    count = bench.rounds(REQUESTS)
    async with _served(bench, "http-memory", 0.0) as served:
        programs = await served.programs(AT_ONCE)

        async def ask(many: int) -> None:
            left = iter(range(many))

            async def some(program: Program) -> None:
                for _ in left:
                    await program.ask(stream=False)

            await asyncio.gather(*map(some, programs))

        await ask(WARM)
        before = await _bytes(programs[0])
        began = time.perf_counter()
        await ask(count)
        seconds = time.perf_counter() - began
        after = await _bytes(programs[0])
        for program in programs:
            await program.close()
    return Row(
        work=f"memory of the server after {count:,} requests without a session",
        claims=(at_most(f"against after {WARM:,}", after / before, 1.1, "x"),),
        remark=f"{after / 1e6:.0f} MB; {count / seconds:.0f} requests/s",
    )


async def _bytes(program: Program) -> float:
    found = re.search(rb"^clew_memory_bytes (\S+)", await program.get("/metrics"), re.MULTILINE)
    assert found is not None, "this system does not say how much memory a process has"
    return float(found[1])
