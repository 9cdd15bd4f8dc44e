"""The HTTP listener over real sockets of the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from clew.runtime.ports.endpoints import Answered, Asked, Endpoint
from clew.surfaces.http import Bounds, Listener

pytestmark = pytest.mark.anyio
HOST = "127.0.0.1"


async def echo(asked: Asked) -> Answered:
    return Answered(status=201, body=asked.body + asked.headers.get("x-more", "").encode())


async def breaks(asked: Asked) -> Answered:
    raise ValueError(f"a secret: {asked.body!r}")


ENDPOINTS = (
    Endpoint(method="POST", path="/echo", answer=echo, bytes_max=1000),
    Endpoint(method="GET", path="/breaks", answer=breaks),
)


@asynccontextmanager
async def listening(bounds: Bounds | None = None) -> AsyncIterator[int]:
    """The port of a listener that runs; whatever happens in between, it ends at once when it is told to."""
    listener = Listener(HOST, 0, ENDPOINTS, bounds=bounds or Bounds())
    running = asyncio.create_task(listener.run())
    while not (port := listener.port):
        assert not running.done(), running.result()
        await asyncio.sleep(0)
    yield port
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, port)


async def hung_up(reader: asyncio.StreamReader) -> None:
    """Returns when the connection was closed or reset, without a word."""
    with suppress(ConnectionResetError):
        assert await reader.read() == b""


async def test_an_endpoint_answers_its_method_and_path_alone() -> None:
    """Status, body and headers go through; other paths and methods do not; an error is said without its words."""
    async with listening() as port, httpx.AsyncClient(base_url=f"http://{HOST}:{port}") as client:
        answered = await client.post("/echo", content=b"hello", headers={"X-More": "!"})
        assert (answered.status_code, answered.content) == (201, b"hello!")
        assert (await client.get("/echo")).status_code == 405
        assert (await client.get("/other")).status_code == 404
        broken = await client.get("/breaks")
        assert (broken.status_code, broken.text) == (500, "An error inside Clew.\n")


async def test_a_body_over_its_bound_is_refused() -> None:
    """Announced or counted, whatever is too large gets 413, and a listener that goes on."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 400

    async with listening() as port, httpx.AsyncClient(base_url=f"http://{HOST}:{port}") as client:
        assert (await client.post("/echo", content=b"x" * 1001)).status_code == 413
        assert (await client.post("/echo", content=chunks())).status_code == 413
        assert (await client.post("/echo", content=b"x" * 1000)).status_code == 201


@pytest.mark.parametrize(
    "said", [b"", b"POST /echo HTTP/1.1\r\nHost: x\r\nX-Slow", b"POST /echo HTTP/1.1\r\nHost: x\r\n"]
)
async def test_a_head_that_does_not_come_ends_its_connection(said: bytes) -> None:
    """Whoever connects and says nothing, or not enough, is hung up on."""
    async with listening(Bounds(head_seconds=0.2)) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(said)
        await hung_up(reader)
        writer.close()


async def test_a_body_that_does_not_come_is_given_up() -> None:
    """A request that announces a body and sends none gets 408."""
    async with listening(Bounds(body_seconds=0.2)) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        assert b" 408 " in await reader.readline()
        writer.close()


@pytest.mark.parametrize(
    ("said", "then"),
    [
        (b"nonsense\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000, b""),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"zz\r\n"),
    ],
)
async def test_what_is_no_request_is_told_so(said: bytes, then: bytes) -> None:
    """In the shape that every error has, and the connection ends."""
    async with listening() as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(said)
        await writer.drain()
        writer.write(then)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"application/json" in head
        assert b'"code":"invalid_request"' in body
        writer.close()


async def test_garbage_behind_an_answer_ends_the_connection() -> None:
    """Without a word, here or in the log."""
    broken: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
    async with listening() as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"POST /other HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b" 404 " in await reader.readline()
        writer.write(b"zz\r\n")
        with suppress(ConnectionResetError):
            await reader.read()
        writer.close()
    assert broken == []


async def test_too_many_connections_are_not_kept() -> None:
    """Of those above the limit, the one that has been silent longest is hung up on: whoever asks is answered."""
    async with listening(Bounds(connections=3)) as port:
        silent = [await asyncio.open_connection(HOST, port) for _ in range(100)]
        for reader, _ in silent[:97]:
            await hung_up(reader)
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert b" 201 " in await reader.readline()
        await hung_up(silent[97][0])
        for _, other in (*silent, (reader, writer)):
            other.close()


@pytest.mark.parametrize(("path", "answered"), [("/echo", b""), ("/other", b" 404 ")])
async def test_nobody_is_kept_out_by_bodies_that_do_not_come(path: str, answered: bytes) -> None:
    """Whether they are waited for, or were not needed for the answer: those that announced one and sent no more make room."""
    async with listening(Bounds(connections=3)) as port:
        slow = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12".encode())
            if answered:
                assert answered in await reader.readline()
            slow.append(writer)
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}") as client:
            for _ in range(3):
                assert (await client.post("/echo", content=b"hello")).status_code == 201
        for writer in slow:
            writer.close()


async def test_a_body_that_nobody_needs_is_not_waited_for_long() -> None:
    """The connection ends, however the rest trickles in."""
    async with listening(Bounds(head_seconds=0.2)) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        assert b" 404 " in await reader.readline()
        writer.write(b"12")
        with suppress(ConnectionResetError):
            await reader.read()
        writer.close()
