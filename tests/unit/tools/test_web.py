"""Fetching pages, from a real server on loopback."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import subprocess
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest

from clew.adapters.tools.addresses import Address, AddressRefused, PublicOnlyTransport, is_public
from clew.adapters.tools.html_text import Page, readable
from clew.adapters.tools.limits import TimeLimits
from clew.adapters.tools.toolbox import ToolboxOptions
from clew.adapters.tools.web import BODY_BYTES_MAX
from clew.domain.conversation.messages import Status
from tests.unit.tools.bench import Bench
from tests.unit.tools.web_server import WebServer, answer, html, web_server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        yield server


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(ToolboxOptions(cwd=tmp_path, tool_output_bytes=3000, allow_private_addresses=True))


@pytest.fixture
def careful(tmp_path: Path) -> Bench:
    """A toolbox as it is unless the settings say otherwise."""
    return Bench(ToolboxOptions(cwd=tmp_path))


# -- pages -----------------------------------------------------------------------------------------------------------
async def test_a_page_becomes_readable_text(bench: Bench, web: WebServer) -> None:
    """Headings, paragraphs, lists, links with their addresses; no scripts, no menus."""
    web.pages["/a"] = html(
        "<html><head><title>The  title</title><style>p{}</style><script>if (a<b) x('</p>')</script></head>"
        "<body><nav><a href=/>Home</a></nav><h2>Part</h2><p>One <b>bold</b> word,\n<a href='../b?x=1'>a link</a>.</p>"
        "<ul><li>first<li>second</ul><table><tr><th>A<th>B<tr><td>1<td>2</table>"
        "<pre>  code\n    here</pre><p>caf&eacute; &amp; more<br>next</body></html>"
    )
    result = await bench.run("web_fetch", url=web.url("/a"))
    assert result.status is Status.OK
    assert result.text == (
        f"{web.url('/a')}: 200 OK, text/html\n# The title\n\n## Part\n\nOne bold word, a link <{web.url('/b?x=1')}>.\n\n"
        "- first\n- second\n\nA | B\n1 | 2\n\n```\n  code\n    here\n```\n\ncafé & more\nnext"
    )


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>one<select><option>a<option>b</select><p>two", "one\n\ntwo"),
        ("<nav>menu<p>never closed, so it is no menu", "menu\n\nnever closed, so it is no menu"),
        ("plain < text & more", "plain < text & more"),
        ("<a href='javascript:x'>here</a> <a href='http://[bad'>there</a>", "here there"),
        ("", ""),
    ],
)
def test_markup_that_is_wrong_loses_no_text(page: str, text: str) -> None:
    """Browsers show it, so it was never mended."""
    assert readable(Page(html=page, url="http://h/")) == text


async def test_a_page_that_would_take_for_ever_is_given_up(tmp_path: Path, web: WebServer) -> None:
    """HTML parsers take quadratic time on some input; it costs the person a sentence, not the program."""
    web.pages["/a"] = html("<a b='" * 300_000)
    bench = Bench(
        ToolboxOptions(cwd=tmp_path, allow_private_addresses=True, limits=TimeLimits(reading_seconds=1.0))
    )
    result = await bench.run("web_fetch", url=web.url("/a"))
    assert result.text == f"{web.url('/a')} could not be turned into text within 1 s."


async def test_a_long_page_is_read_on_with_offset(bench: Bench, web: WebServer) -> None:
    """The parts join without gap or overlap."""
    web.pages["/a"] = answer("é".encode() * 4000, "Content-Type: text/plain")
    seen, offset = "", 0
    while offset >= 0:
        _, text, *note = (await bench.run("web_fetch", url=web.url("/a"), offset=offset)).text.split("\n")
        seen += text
        offset = int(note[0].rpartition("offset=")[2].rstrip("]")) if note else -1
    assert seen == "é" * 4000
    beyond = await bench.run("web_fetch", url=web.url("/a"), offset=9999)
    assert "the text has 4,000 characters; there is nothing at offset=9999" in beyond.text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (answer("é".encode("latin-1"), "Content-Type: text/plain; charset=iso-8859-1"), "é"),
        (answer(b"<meta charset='windows-1252'><p>\x80", "Content-Type: text/html"), "€"),
        (answer(b"\xff", "Content-Type: text/plain; charset=no-such-thing"), "\ufffd"),
        (answer(b'{"a": 1}', "Content-Type: application/problem+json"), '{"a": 1}'),
        (answer(b"no type said"), "no type said"),
        (answer(gzip.compress(b"packed"), "Content-Type: text/plain", "Content-Encoding: gzip"), "packed"),
        (answer(b"", "Content-Type: text/plain"), "[empty]"),
    ],
)
async def test_texts_are_decoded_as_they_say(bench: Bench, web: WebServer, page: bytes, text: str) -> None:
    """By the header, by the page itself, else as UTF-8."""
    web.pages["/a"] = page
    assert (await bench.run("web_fetch", url=web.url("/a"))).text.split("\n", 1)[1] == text


async def test_an_image_comes_as_a_file(bench: Bench, web: WebServer) -> None:
    """For a model that can look."""
    web.pages["/p.png"] = answer(b"\x89PNG\r\n\x1a\n\0", "Content-Type: image/png")
    (file,) = (await bench.run("web_fetch", url=web.url("/p.png"))).files
    assert (file.media_type, file.bytes) == ("image/png", b"\x89PNG\r\n\x1a\n\0")


@pytest.mark.parametrize("kind", ["application/pdf", "application/octet-stream", "text/plain"])
async def test_what_is_no_text_is_refused(bench: Bench, web: WebServer, kind: str) -> None:
    """By its type, or by its bytes where the type lies."""
    web.pages["/a"] = answer(b"a\0b", f"Content-Type: {kind}")
    result = await bench.run("web_fetch", url=web.url("/a"))
    assert (result.status, result.text) == (
        Status.ERROR,
        f"{web.url('/a')}: 200 OK, {kind}: this is no text, and it is not shown.",
    )


async def test_an_error_page_is_an_error_that_can_be_read(bench: Bench, web: WebServer) -> None:
    """The status is said, and so is what the page says."""
    result = await bench.run("web_fetch", url=web.url("/missing"))
    assert (result.status, result.text) == (
        Status.ERROR,
        f"{web.url('/missing')}: 404 Not Found, unknown type\nno",
    )


# -- limits ----------------------------------------------------------------------------------------------------------
async def test_an_endless_answer_is_cut(bench: Bench, web: WebServer) -> None:
    """At two megabytes, and the connection is dropped."""
    stopped = asyncio.Event()

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"", "Content-Type: text/plain"))
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        finally:
            stopped.set()

    web.pages["/a"] = endless
    result = await bench.run("web_fetch", url=web.url("/a"))
    assert "[cut: only the first 2.0 MB were read]" in result.text
    await stopped.wait()


async def test_a_small_answer_that_unpacks_to_a_gigabyte_is_cut(bench: Bench, web: WebServer) -> None:
    """It is never unpacked beyond the limit."""
    packed = gzip.compress(b" " * 200_000_000, 9)
    web.pages["/a"] = answer(packed, "Content-Type: text/plain", "Content-Encoding: gzip")
    assert len(packed) < BODY_BYTES_MAX
    tracemalloc.start()
    try:
        result = await bench.run("web_fetch", url=web.url("/a"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "[cut: only the first 2.0 MB were read]" in result.text
    assert peak < 10 * BODY_BYTES_MAX


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (answer(b"x", "Content-Encoding: br"), "packed as 'br'"),
        (answer(b"not gzip", "Content-Encoding: gzip"), "cannot be unpacked"),
        (b"garbage\r\n\r\n", "could not be read"),
        (b"", "could not be read"),
        (answer(b"short", "Content-Length: 100"), "could not be read"),
    ],
)
async def test_a_broken_server_costs_one_sentence(
    bench: Bench, web: WebServer, page: bytes, words: str
) -> None:
    """Whatever it sends."""
    web.pages["/a"] = page
    result = await bench.run("web_fetch", url=web.url("/a"))
    assert result.status is Status.ERROR
    assert words in result.text


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def dripping(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(b"", "Content-Type: text/plain"))
    for _ in range(BODY_BYTES_MAX):
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0)


@pytest.mark.parametrize("page", [silent, dripping])
async def test_a_server_that_comes_to_no_end_is_given_up(
    tmp_path: Path, web: WebServer, page: Callable[[asyncio.StreamWriter], Awaitable[None]]
) -> None:
    """At the time limit for all of it, however slowly something comes."""
    web.pages["/a"] = page
    limits = TimeLimits(fetch_seconds=0.5)
    bench = Bench(ToolboxOptions(cwd=tmp_path, allow_private_addresses=True, limits=limits))
    started = time.monotonic()
    assert "took longer than 0.5 s" in (await bench.run("web_fetch", url=web.url("/a"))).text
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/x", "gopher://x", "/etc/passwd", "http://", "http://[x"]
)
async def test_only_the_web_is_fetched(bench: Bench, url: str) -> None:
    """Every other address is refused."""
    result = await bench.run("web_fetch", url=url)
    assert result.status is Status.ERROR
    assert "root:" not in result.text


# -- private addresses -----------------------------------------------------------------------------------------------
PRIVATE = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.0.8", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:7f00:1::", "::ffff:0:127.0.0.1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1",
    "93.184.216.34",
    "2606:4700:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
    "2a00:1450:4001:81b::200e",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_a_strangers_is_not_public(address: str) -> None:
    """Private, loopback, link-local, multicast and reserved addresses, however they are written."""
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_a_strangers_is_public(address: str) -> None:
    """Or nothing could be fetched."""
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1", "0"]
)
async def test_our_own_machine_is_not_reached(careful: Bench, web: WebServer, host: str) -> None:
    """By number, by name, by any spelling: nothing is sent."""
    web.pages["/a"] = html("secret")
    result = await careful.run("web_fetch", url=web.url("/a", host))
    assert result.status is Status.ERROR
    assert "not a public address" in result.text
    assert web.asked == []


async def test_a_redirect_to_our_own_machine_is_not_followed(web: WebServer) -> None:
    """Each hop is checked: the first went to an address that was allowed, the second is refused unsent."""
    web.pages["/a"] = answer(b"", f"Location: {web.url('/secret', '127.0.0.2')}", status="302 Found")
    web.pages["/secret"] = html("secret")

    transport = PublicOnlyTransport(
        ssl.create_default_context(), admits=lambda address: str(address) == "127.0.0.1" or is_public(address)
    )
    async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
        with pytest.raises(AddressRefused, match=r"127\.0\.0\.2"):
            await client.get(web.url("/a"))
    assert len(web.asked) == 1


class NameServer:
    """Answers each question with the next of its answers, and cannot be asked more often."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(self, host: str, port: int) -> list[Address]:
        return [ip_address(one) for one in self.answers.pop(0)]


def pinned(names: NameServer, tls: ssl.SSLContext | None = None) -> httpx.AsyncClient:
    """A client to which only 127.0.0.1 is public."""
    transport = PublicOnlyTransport(
        tls or ssl.create_default_context(),
        resolve=names.resolve,
        admits=lambda address: str(address) == "127.0.0.1",
    )
    return httpx.AsyncClient(transport=transport)


async def test_a_name_is_resolved_once_and_that_address_is_used(web: WebServer) -> None:
    """A name server that would answer differently the second time is not asked; the request names the host."""
    web.pages["/a"] = html("fine")
    names = NameServer(["127.0.0.1"])
    async with pinned(names) as client:
        assert (await client.get(web.url("/a", "rebinding.example"))).text == "fine"
    assert names.answers == []
    assert f"Host: rebinding.example:{web.port}\r\n" in web.asked[0]


async def test_a_name_with_one_private_address_is_refused(web: WebServer) -> None:
    """Whichever of its addresses comes first."""
    async with pinned(NameServer(["127.0.0.1", "10.0.0.1"])) as client:
        with pytest.raises(AddressRefused, match=r"mixed\.example is 10\.0\.0\.1"):
            await client.get(web.url("/a", "mixed.example"))
    assert web.asked == []


async def test_tls_asks_for_the_name_not_the_pinned_address(tmp_path: Path) -> None:
    """A certificate for the name is accepted, one for another name is not."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(  # noqa: ASYNC221 - half a second, before anything runs
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=named.example", "-addext", "subjectAltName=DNS:named.example"],
        check=True, capture_output=True,
    )  # fmt: skip
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with web_server(serving) as web:
        web.pages["/a"] = html("fine")
        async with pinned(NameServer(["127.0.0.1"], ["127.0.0.1"]), trusting) as client:
            assert (await client.get(f"https://named.example:{web.port}/a")).text == "fine"
            with pytest.raises(httpx.ConnectError, match="certificate"):
                await client.get(f"https://other.example:{web.port}/a")


async def test_a_name_nobody_has_is_one_sentence(careful: Bench) -> None:
    """`.invalid` never resolves."""
    result = await careful.run("web_fetch", url="http://nobody.invalid/")
    assert result.status is Status.ERROR
    assert "nobody.invalid cannot be found" in result.text


async def test_redirects_are_followed_but_not_for_ever(bench: Bench, web: WebServer) -> None:
    """Five hops, then a sentence."""
    web.pages["/a"] = answer(b"", "Location: /b", status="301 Moved")
    web.pages["/b"] = html("<p>there")
    assert (
        await bench.run("web_fetch", url=web.url("/a"))
    ).text == f"{web.url('/b')}: 200 OK, text/html\nthere"
    web.pages["/loop"] = answer(b"", "Location: /loop", status="302 Found")
    assert "redirects more than 5 times" in (await bench.run("web_fetch", url=web.url("/loop"))).text
    web.pages["/out"] = answer(b"", "Location: file:///etc/passwd", status="302 Found")
    assert "is not an address of the web" in (await bench.run("web_fetch", url=web.url("/out"))).text
