"""The HTTP that emulated platforms have in common: calls are answered one by one, and whoever waits for one is told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from clew.testing.loopback import Loopback

Json = dict[str, Any]


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the bot sends."""

    name: str
    media_type: str
    bytes: bytes


class WireServer(Loopback):
    """A subclass answers; None ends the connection without a word."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Condition()

    async def answer(self, head: str, body: bytes) -> tuple[int, Json, bytes] | None:
        """Status, headers and body."""
        raise NotImplementedError

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when it holds; looked at after each call of the bot."""
        async with self._changed:
            await self._changed.wait_for(holds)

    async def note(self) -> None:
        """Whoever waits for something looks again."""
        async with self._changed:
            self._changed.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
            length = re.search(r"(?i)content-length: *(\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            answer = await self.answer(head, body)
            if answer is None:
                return
            status, headers, content = answer
            lines = [f"{name}: {value}" for name, value in headers.items()]
            whole = [f"HTTP/1.1 {status} x", *lines, f"Content-Length: {len(content)}", "", ""]
            writer.write("\r\n".join(whole).encode() + content)
            await writer.drain()


def fields(head: str, body: bytes) -> Json:
    """The parameters of a call, those that are JSON decoded."""
    kind = re.search(r"(?i)content-type: *([^\r\n]+)", head)
    media_type = kind[1] if kind else ""
    if media_type.startswith("application/json"):
        decoded: Json = msgspec.json.decode(body)
        return decoded
    if media_type.startswith("multipart/"):
        parsed = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {media_type}\r\n\r\n".encode() + body)
        pairs: list[tuple[str, str | Upload]] = [
            (str(part.get_param("name", header="content-disposition")), _part(part))
            for part in parsed.iter_parts()
        ]
    else:
        pairs = [*parse_qsl(body.decode(), keep_blank_values=True)]
    return {name: _value(value) for name, value in pairs}


def _part(part: Any) -> str | Upload:
    name = part.get_filename()
    if name is None:
        return str(part.get_content())
    return Upload(name=name, media_type=part.get_content_type(), bytes=part.get_payload(decode=True))


def _value(text: str | Upload) -> Any:
    if isinstance(text, str) and text[:1] in ("[", "{"):
        return msgspec.json.decode(text)
    return text
