"""Programs that talk to `clew serve` over HTTP: many streams at once, and what thousands of requests leave in memory."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from statistics import median, quantiles

import httpx

from benchmarks.bench import Bench
from benchmarks.families.conversation import MODEL_SECONDS, model_server
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


@benchmark("http")
async def http(bench: Bench) -> AsyncIterator[Row]:
    yield await _streams(bench)
    yield await _memory(bench)


@asynccontextmanager
async def _served(bench: Bench, name: str, seconds: float) -> AsyncIterator[httpx.AsyncClient]:
    """`clew serve` over a model that answers after so long, each in a process of its own, and a client with a key."""
    folder = bench.folder(name)
    async with model_server(folder, seconds) as url:
        clew = CommandLine(folder / "home", url)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        clew.environ |= {"CLEW__HTTP__PORT": str(port), "CLEW__HTTP__REQUESTS_PER_MINUTE": "0"}
        key = (await clew.run("pair", "key", "create")).out.strip()
        process = await clew.start("serve")
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}, timeout=READY_SECONDS,
            limits=limits,
        )  # fmt: skip
        try:
            async with client:
                await _ready(client)
                yield client
        finally:
            process.terminate()
            await process.communicate()


async def _ready(client: httpx.AsyncClient) -> None:
    until = time.perf_counter() + READY_SECONDS
    while True:
        try:
            await client.get("/healthz")
        except httpx.TransportError:
            if time.perf_counter() > until:
                raise
            await asyncio.sleep(0.05)
        else:
            return


async def _ask(client: httpx.AsyncClient, headers: Mapping[str, str], *, stream: bool) -> httpx.Response:
    message = {"role": "user", "content": "hello"}
    body = {"model": "clew", "messages": [message], "stream": stream}
    answer = await client.post(CHAT, json=body, headers=dict(headers))
    assert answer.status_code == httpx.codes.OK, answer.text
    return answer


async def _streams(bench: Bench) -> Row:
    """Two hundred sessions at once, each answered after 200 ms."""
    async with _served(bench, "http-streams", MODEL_SECONDS) as client:
        took: list[float] = []

        async def talk(_: int) -> None:
            headers: dict[str, str] = {"X-Clew-Session": "new"}
            for _turn in range(TURNS_EACH):
                began = time.perf_counter()
                answer = await _ask(client, headers, stream=True)
                took.append(time.perf_counter() - began)
                headers = {"X-Clew-Session": answer.headers["X-Clew-Session"]}

        await asyncio.gather(*map(talk, range(AT_ONCE)))
        took.clear()
        began = time.perf_counter()
        await asyncio.gather(*map(talk, range(STREAMS)))
        seconds = time.perf_counter() - began
    p99 = quantiles(took, n=100)[98]
    return Row(
        work=f"{STREAMS} streams over HTTP, 200 ms loopback model",
        claims=(
            at_least("turns", len(took) / seconds, 72, "/s"),
            at_most("p99 against the median", p99 / median(took), 2, "x"),
        ),
        remark=f"median {median(took) * 1e3:.0f} ms; server, model and clients share the machine",
    )


async def _memory(bench: Bench) -> Row:
    """Ten thousand requests without a session, twenty at a time."""
    count = bench.rounds(REQUESTS)
    async with _served(bench, "http-memory", 0.0) as client:
        left = iter(range(WARM))

        async def some() -> None:
            for _ in left:
                await _ask(client, {}, stream=False)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        before = await _bytes(client)
        left = iter(range(count))
        began = time.perf_counter()
        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        seconds = time.perf_counter() - began
        after = await _bytes(client)
    return Row(
        work=f"memory of the server after {count:,} requests without a session",
        claims=(at_most(f"against after {WARM:,}", after / before, 1.1, "x"),),
        remark=f"{after / 1e6:.0f} MB; {count / seconds:.0f} requests/s",
    )


async def _bytes(client: httpx.AsyncClient) -> float:
    found = re.search(r"^clew_memory_bytes (\S+)", (await client.get("/metrics")).text, re.MULTILINE)
    assert found is not None, "this system does not say how much memory a process has"
    return float(found[1])
