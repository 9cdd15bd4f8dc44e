"""The HTTP client as we set it up: what it keeps, what it gives up, whom it believes, and how what it raises is told."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from clew.adapters.models.http import HttpClient
from clew.adapters.models.openai_chat.failures import Server, from_exception
from clew.adapters.models.redaction import Redactor
from clew.testing.model_server import ModelServer

pytestmark = pytest.mark.anyio
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwhat"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nwhat\r\n"
SERVER = Server(host="localhost", model="m", redact=Redactor([]))
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[URL]:
    """A server that does what `serve` does with each connection, which is told its number."""
    tasks: set[asyncio.Task[None]] = set()
    number = iter(range(1_000))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def whole() -> None:
            try:
                with suppress(ConnectionError, asyncio.IncompleteReadError):
                    await serve(reader, writer, next(number))
                writer.close()
            except asyncio.CancelledError:
                writer.transport.abort()  # the test is over

        tasks.add(asyncio.create_task(whole()))

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def ask(http: HttpClient, url: URL, *, connect: float = 30, silent: float | None = 30) -> bytes:
    with closing(await http.ask("GET", url, {}, connect_seconds=connect, silent_seconds=silent)) as response:
        return await response.read()


async def test_a_connection_serves_one_request_after_the_other_without_cookies() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        while True:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(WHOLE.replace(b"\r\n\r\n", b"\r\nset-cookie: seen=1\r\n\r\n"))

    async with ModelServer([]) as models, serving(serve) as url, HttpClient() as http:
        for _ in range(3):
            assert b"data" in await ask(http, URL(f"{models.base_url}/models"))
        assert models.connections == 1
        assert [await ask(http, url) for _ in range(2)] == [b"what"] * 2
    assert b"cookie" not in heads[1].lower()


async def test_what_is_not_read_to_its_end_is_not_kept() -> None:
    """Neither of an answer that is left, nor of a request that is cancelled."""
    served: list[int] = []
    second = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await reader.readuntil(b"\r\n\r\n")
        served.append(number)
        if number == 0:
            writer.write(CHUNKED)
        elif number == 1:
            second.set()
        else:
            writer.write(WHOLE)
        await reader.read()

    async with serving(serve) as url, HttpClient() as http:
        with closing(await http.ask("GET", url, {}, connect_seconds=30)) as left:
            assert await left.content.readany() == b"what"
        asking = asyncio.create_task(ask(http, url))
        await second.wait()
        asking.cancel()
        await asyncio.wait([asking])
        assert await ask(http, url) == b"what"
    assert served == [0, 1, 2]


@pytest.mark.parametrize("said", [b"", b"220 mail.example ESMTP\r\n\r\n", b"x" * 200_000])
async def test_what_is_no_answer_is_an_error_that_was_sent(said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)

    async with serving(serve) as url, HttpClient() as http:
        with pytest.raises(aiohttp.ClientError) as caught:
            await ask(http, url)
    failure = from_exception(SERVER, caught.value, started=False)
    assert failure.was_sent
    assert "The connection to localhost failed" in failure.message


async def test_a_silent_server_is_given_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await reader.read()

    async with serving(serve) as url, HttpClient() as http:
        with pytest.raises(aiohttp.ServerTimeoutError):
            await ask(http, url, silent=0.01)


async def test_a_host_that_refuses_on_each_of_its_addresses_is_said_to_refuse() -> None:
    """Whoever named it `localhost` hears the same as by number: that nothing answers there."""
    async with HttpClient() as http:
        for host in ("localhost", "127.0.0.1"):
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await ask(http, URL(f"http://{host}:9/"))
            failure = from_exception(SERVER, caught.value, started=False)
            assert "Nothing answers" in failure.message
            assert not failure.was_sent


async def test_a_name_that_is_none_is_said_to_be_unknown() -> None:
    async with HttpClient() as http:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await ask(http, URL("http://no-such-host.invalid/"))
    failure = from_exception(SERVER, caught.value, started=False)
    assert "host name" in failure.message
    assert not failure.was_sent


async def test_tls_is_spoken_with_whom_the_certificates_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name that was asked for; whom they do not know is told nothing."""
    certificate, own = _made(tmp_path)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(WHOLE)

    async with serving(serve, own) as plain, HttpClient() as http, HttpClient() as other:
        url = plain.with_scheme("https").with_host("localhost")
        await other.certificates()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert [await ask(http, url) for _ in range(2)] == [b"what"] * 2
        for asking, named in ((http, url.with_host("127.0.0.1")), (other, url)):
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await ask(asking, named)
            failure = from_exception(SERVER, caught.value, started=False)
            assert "is not trusted" in failure.message
            assert not failure.was_sent


async def test_the_certificates_are_read_only_for_https() -> None:
    """A start that talks to this machine alone does not pay for them."""
    async with ModelServer([]) as models, HttpClient() as http:
        await ask(http, URL(f"{models.base_url}/models"))
        assert not http.has_certificates
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(http, URL("https://127.0.0.1:9/"))
        assert http.has_certificates


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
