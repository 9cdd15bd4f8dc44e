"""The `web_fetch` tool: one page, of a stranger's server, within limits of size and time."""

from __future__ import annotations

import asyncio
import re
import ssl
import zlib
from collections.abc import AsyncIterator
from functools import cache
from typing import Annotated, Final

import httpx
import msgspec
from msgspec import Meta

from clew.adapters.tools.addresses import AddressRefused, PublicOnlyTransport
from clew.adapters.tools.arguments import Arguments
from clew.adapters.tools.bounded import cut_after
from clew.adapters.tools.declared import DeclaredTool, ToolFailed
from clew.adapters.tools.html_text import Page
from clew.adapters.tools.kinds import is_binary, size_of
from clew.adapters.tools.limits import TimeLimits
from clew.adapters.tools.workers import ask_worker
from clew.domain.conversation.messages import Status
from clew.domain.conversation.text import one_line
from clew.domain.tools.spec import Effect, ToolFile, ToolResult
from clew.runtime.ports.tools import ToolContext

BODY_BYTES_MAX: Final = 2_000_000
REDIRECTS_MAX: Final = 5
IMAGES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_TEXTS: Final = re.compile(r"text/|application/(.*\+)?(json|xml|javascript|x-ndjson|yaml|toml)$")
_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})
_META_CHARSET: Final = re.compile(rb"""<meta[^>]{0,200}charset=["']?\s*([\w-]{1,40})""", re.IGNORECASE)


class FetchArguments(Arguments, frozen=True, kw_only=True):
    url: Annotated[str, Meta(min_length=1, description="http or https.")]
    offset: Annotated[int, Meta(ge=0, description="Skip so many characters of the text: to read on.")] = 0


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """What a server answered, after redirects. `cut` when there was more than BODY_BYTES_MAX."""

    url: str
    status: int
    reason: str
    media_type: str
    charset: str
    body: bytes
    cut: bool


@cache
def tls() -> ssl.SSLContext:
    """The trusted certificates, loaded once: that takes 20 ms."""
    return httpx.create_ssl_context()


class WebReader:
    """Fetches pages. Without `allow_private` only public addresses are reached, over no proxy."""

    def __init__(self, *, allow_private: bool, limits: TimeLimits) -> None:
        self._allow_private = allow_private
        self._limits = limits

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=None if self._allow_private else PublicOnlyTransport(tls()),
            verify=tls(),
            trust_env=self._allow_private,
            follow_redirects=True,
            max_redirects=REDIRECTS_MAX,
            timeout=self._limits.fetch_seconds,
            # Only what can be unpacked within the size limit.
            headers={"Accept-Encoding": "gzip, identity", "User-Agent": "clew (a person's agent)"},
        )

    async def fetch(self, url: str) -> Fetched:
        """Raises ToolFailed with a sentence for whatever keeps the page from being read."""
        try:
            async with asyncio.timeout(self._limits.fetch_seconds), self._client() as client:
                async with client.stream("GET", url) as response:
                    return await _received(response)
        except TimeoutError as error:
            raise ToolFailed(f"{url} took longer than {self._limits.fetch_seconds:g} s.") from error
        except AddressRefused as error:
            raise ToolFailed(
                f"{error} Private addresses are reached only where the settings allow it."
            ) from error
        except httpx.TooManyRedirects as error:
            raise ToolFailed(f"{url} redirects more than {REDIRECTS_MAX} times.") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ToolFailed(f"{url} is not an address of the web: {error}") from error
        except httpx.HTTPError as error:
            raise ToolFailed(f"{url} could not be read: {str(error) or type(error).__name__}") from error

    async def text(self, fetched: Fetched) -> str:
        """The page as text. Raises ToolFailed when that takes too long."""
        html = fetched.media_type in _HTML or (not fetched.media_type and fetched.body[:1] == b"<")
        decoded = _decoded(fetched, html=html)
        if not html:
            return decoded
        page = msgspec.json.encode(Page(html=decoded, url=fetched.url))
        seconds = self._limits.reading_seconds
        answered = await ask_worker("clew.adapters.tools.html_text", page, seconds=seconds)
        if not answered.complete:
            raise ToolFailed(f"{fetched.url} could not be turned into text within {seconds:g} s.")
        return answered.output.decode("utf-8", errors="replace")


async def _received(response: httpx.Response) -> Fetched:
    body = bytearray()
    async for chunk in _unpacked(response):
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            break
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return Fetched(
        url=str(response.request.url),
        status=response.status_code,
        reason=response.reason_phrase,
        media_type=media_type,
        charset=response.charset_encoding or "",
        body=bytes(body[:BODY_BYTES_MAX]),
        cut=len(body) > BODY_BYTES_MAX,
    )


async def _unpacked(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body, in pieces no larger than the limit: a few bytes of gzip can mean a gigabyte."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", "x-gzip", ""}:
        raise ToolFailed(f"The server sends its answer packed as {encoding!r}, which was not asked for.")
    unpacking = zlib.decompressobj(wbits=31) if "gzip" in encoding else None
    async for chunk in response.aiter_raw():
        if unpacking is None:
            yield chunk
        else:
            yield _unpack(unpacking, chunk)


def _unpack(unpacking: zlib._Decompress, chunk: bytes) -> bytes:
    """At most one byte more than the limit, which is enough to know that there is more."""
    try:
        return unpacking.decompress(chunk, BODY_BYTES_MAX + 1)
    except zlib.error as error:
        raise ToolFailed(f"The server's answer cannot be unpacked: {error}.") from error


def web_fetch_tool(reader: WebReader, output_bytes: int) -> DeclaredTool[FetchArguments]:
    """`output_bytes` bounds the text of a result."""

    async def perform(arguments: FetchArguments, context: ToolContext) -> ToolResult:
        if not arguments.url.lower().startswith(("http://", "https://")):
            raise ToolFailed(f"{one_line(arguments.url)} is not an http or https address.")
        return await _result(reader, await reader.fetch(arguments.url), arguments.offset, output_bytes)

    return DeclaredTool(
        name="web_fetch",
        description="Read a web page as text, or look at an image on the web.",
        arguments=FetchArguments,
        effect=Effect.NETWORK,
        safe_to_repeat=True,
        perform=perform,
        describe=lambda arguments: f"fetch {arguments.url}",
    )


async def _result(reader: WebReader, fetched: Fetched, offset: int, output_bytes: int) -> ToolResult:
    head = f"{fetched.url}: {fetched.status} {fetched.reason}, {fetched.media_type or 'unknown type'}"
    status = Status.OK if fetched.status < 400 else Status.ERROR
    if fetched.media_type in IMAGES and not fetched.cut:
        picture = ToolFile(media_type=fetched.media_type, bytes=fetched.body)
        return ToolResult(text=f"{head}, {size_of(len(fetched.body))}", files=(picture,), status=status)
    if is_binary(fetched.body) or not _is_text(fetched.media_type):
        raise ToolFailed(f"{head}: this is no text, and it is not shown.")
    text = await reader.text(fetched)
    notes = [f"cut: only the first {size_of(BODY_BYTES_MAX)} were read"] if fetched.cut else []
    return ToolResult(text="\n".join([head, *_part(text, offset, output_bytes, notes)]), status=status)


def _is_text(media_type: str) -> bool:
    return not media_type or bool(_TEXTS.match(media_type)) or media_type in _HTML


def _part(text: str, offset: int, output_bytes: int, notes: list[str]) -> list[str]:
    """The part asked for, and where to go on."""
    if offset and offset >= len(text):
        return [f"[the text has {len(text):,} characters; there is nothing at offset={offset}]", *notes]
    part = cut_after(text[offset:], output_bytes)
    end = offset + len(part)
    if end < len(text):
        notes = [*notes, f"characters {offset}-{end} of {len(text)}: go on with offset={end}"]
    return [part or "[empty]", *(f"[{note}]" for note in notes)]


def _decoded(fetched: Fetched, *, html: bool) -> str:
    """As the server says, else as the page says, else UTF-8; what does not fit is replaced."""
    said = _META_CHARSET.search(fetched.body[:4096]) if html else None
    charset = fetched.charset or (said[1].decode("ascii", "replace") if said else "utf-8")
    try:
        return fetched.body.decode(charset, errors="replace").removeprefix("\ufeff")
    except LookupError:
        return fetched.body.decode("utf-8", errors="replace")
