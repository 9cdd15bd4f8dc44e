"""Connections to servers: kept for the next request where nothing is wrong with them, and given up in every other case."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from clew.adapters.models.connections import UNREAD_BYTES_MAX, Connections
from clew.adapters.models.openai_chat.failures import Server, from_exception
from clew.adapters.models.redaction import Redactor
from clew.testing.model_server import ModelServer

pytestmark = pytest.mark.anyio
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwhat"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nwhat\r\n"
BIG = 20 * UNREAD_BYTES_MAX


class Streams:
    """One side of a connection: the server's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def asked(self) -> None:
        await self.reader.readuntil(b"\r\n\r\n")

    async def say(self, said: bytes) -> None:
        self.writer.write(said)
        await self.writer.drain()


Serve = Callable[[Streams, int], Awaitable[None]]


@asynccontextmanager
async def serving(
    serve: Serve, transport: Connections | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that does what `serve` does with each connection, which is told its number."""
    tasks: set[asyncio.Task[None]] = set()
    number = iter(range(1_000))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def whole() -> None:
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await serve(Streams(reader, writer), next(number))
                writer.close()
            except asyncio.CancelledError:
                writer.transport.abort()  # the test is over

        tasks.add(asyncio.create_task(whole()))

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with httpx.AsyncClient(
            transport=transport or Connections(), base_url=base, timeout=30
        ) as client:
            yield client
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def again_and_again(streams: Streams, _: int) -> None:
    while True:
        await streams.asked()
        await streams.say(WHOLE)


async def test_a_connection_serves_one_request_after_the_other() -> None:
    """Many at once have one each, which are kept: those who ask later need no new ones."""
    async with ModelServer([]) as server:
        connections = Connections()
        async with httpx.AsyncClient(transport=connections, base_url=server.base_url) as client:
            for _ in range(3):
                assert (await client.get("/models")).json()["data"]
            assert server.connections == 1
            open_ = [client.stream("GET", "/models") for _ in range(5)]
            answers = await asyncio.gather(*(stream.__aenter__() for stream in open_))
            await asyncio.gather(*(answer.aread() for answer in answers))
            await asyncio.gather(*(stream.__aexit__(None, None, None) for stream in open_))
            for _ in range(3):
                await client.get("/models")
            assert server.connections == 5
            assert [len(kept) for kept in connections.kept.values()] == [5]
        assert not connections.kept


async def test_what_is_not_read_to_its_end_is_not_kept() -> None:
    """Neither of an answer that is left, nor of a request that is cancelled."""
    served: list[int] = []
    second = asyncio.Event()

    async def serve(streams: Streams, number: int) -> None:
        await streams.asked()
        served.append(number)
        if number == 0:
            await streams.say(CHUNKED)
        elif number == 1:
            second.set()
        else:
            await streams.say(WHOLE)
        await streams.reader.read()

    async with serving(serve) as client:
        async with client.stream("GET", "/") as left:
            assert await anext(left.aiter_bytes()) == b"what"
        asking = asyncio.create_task(client.get("/"))
        await second.wait()
        asking.cancel()
        await asyncio.wait([asking])
        assert (await client.get("/")).text == "what"
        assert served == [0, 1, 2]


@pytest.mark.parametrize("last", [b"", b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"])
async def test_one_that_hangs_up_while_nothing_is_asked_is_not_used(last: bytes) -> None:
    """Nor one that says that it is about to, which is no answer to what is asked next."""
    answered = asyncio.Event()

    async def serve(streams: Streams, number: int) -> None:
        await streams.asked()
        await streams.say(WHOLE)
        if number == 0:
            await answered.wait()
            await streams.say(last)
        if number or last:
            await streams.reader.read()

    connections = Connections()
    async with serving(serve, connections) as client:
        assert (await client.get("/")).text == "what"
        (kept,) = connections.kept.values()
        answered.set()
        async with asyncio.timeout(30):
            while not kept[0].is_over:  # noqa: ASYNC110 - it sets no event
                await asyncio.sleep(0)
        assert (await client.get("/")).text == "what"


async def test_what_came_before_a_break_is_read() -> None:
    """A server that ends in the middle: its words are shown, then the error, which says whether it had begun."""

    async def serve(streams: Streams, number: int) -> None:
        await streams.asked()
        await streams.say(CHUNKED if number == 0 else b"")

    async with serving(serve) as client:
        async with client.stream("GET", "/") as response:
            parts = response.aiter_bytes()
            assert await anext(parts) == b"what"
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                await anext(parts)
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            await client.get("/")


async def test_what_is_no_answer_is_an_error() -> None:
    async def serve(streams: Streams, number: int) -> None:
        await streams.asked()
        await streams.say(b"220 mail.example ESMTP\r\n\r\n" if number == 0 else b"x" * 200_000)

    async with serving(serve) as client:
        for _ in range(2):
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/")


async def test_much_is_sent_and_read_as_fast_as_the_slower_side() -> None:
    """Megabytes in both directions; a server that says more than is read waits, so they are not in memory at once."""
    written = asyncio.Event()

    async def serve(streams: Streams, _: int) -> None:
        await streams.asked()
        body = await streams.reader.readexactly(BIG)
        await streams.say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BIG)
        await streams.say(body)
        written.set()
        await streams.reader.read()

    async with serving(serve) as client, client.stream("POST", "/", content=b"y" * BIG) as response:
        parts = response.aiter_raw()
        got = len(await anext(parts))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not written.is_set()
        async for part in parts:
            got += len(part)
        assert got == BIG
        await written.wait()


async def test_more_than_may_be_under_way_wait() -> None:
    """In time for one that ends, or they are told. One that fails makes room as well."""
    connections = Connections(under_way=1)
    async with serving(again_and_again, connections) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://127.0.0.1:9/")
        async with client.stream("GET", "/") as first:
            with pytest.raises(httpx.PoolTimeout):
                await client.get("/", timeout=httpx.Timeout(30, pool=0.01))
            waiting = asyncio.create_task(client.get("/"))
            await first.aread()
        assert (await waiting).text == "what"


async def test_a_silent_server_is_given_up() -> None:
    async def serve(streams: Streams, _: int) -> None:
        await streams.reader.read()

    async with serving(serve) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=httpx.Timeout(30, read=0.01))


async def test_a_host_that_refuses_on_each_of_its_addresses_is_said_to_refuse() -> None:
    """Whoever named it `localhost` hears the same as by number: that nothing answers there."""
    server = Server(host="localhost", model="m", redact=Redactor([]))
    async with httpx.AsyncClient(transport=Connections()) as client:
        for host in ("localhost", "127.0.0.1", "[::1]"):
            try:
                await client.get(f"http://{host}:9/")
            except httpx.ConnectError as error:
                said = from_exception(server, error, started=False)
                assert "Nothing answers" in said.message or "[::1]" in host
                assert not said.was_sent


async def test_tls_is_spoken_with_whom_the_certificates_know(tmp_path: Path) -> None:
    """By the name that was asked for; whom they do not know is told nothing."""
    certificate, own = _made(tmp_path)
    connections = Connections()
    connections.context = ssl.create_default_context(cafile=str(certificate))
    async with (
        serving(again_and_again, connections, own) as client,
        httpx.AsyncClient(transport=Connections()) as other,
    ):
        named = f"https://localhost:{client.base_url.port}/"
        for _ in range(2):
            assert (await client.get(named)).text == "what"
        assert [len(kept) for kept in connections.kept.values()] == [1]
        for asking, url in ((client, named.replace("localhost", "127.0.0.1")), (other, named)):
            with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                await asking.get(url)


def _made(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate of this machine's own, and the server's side of it."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificate, key)
    return certificate, own
