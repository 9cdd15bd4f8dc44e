"""Calls of the Graph API, and what becomes of them in the words of the port."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

import httpx
import msgspec

from clew.runtime.ports.platforms import MaybeSent, NeverSent, NotSent, PlatformRefused
from clew.wire.whatsapp import Failure, Wrong

T = TypeVar("T")
PUBLIC: Final = "https://graph.facebook.com"
VERSION: Final = "v25.0"
CALL_SECONDS: Final = 20.0
WINDOW_CLOSED: Final = 131047
NOT_TAKEN_IN: Final = "WhatsApp lets nothing but templates through 24 hours after a person's last message: until they write again."
_REFUSED: Final = frozenset({0, 10, 190, 368, 131005, 131031})
"""The token, its rights, or the account: no message of ours is taken."""
_LATER: Final = {4: 60.0, 80007: 60.0, 130429: 1.0, 131048: 60.0, 131056: 6.0, 133016: 60.0}
"""Limits of rate, and the pause after each where none is told."""
_BUSY: Final = frozenset({2, 131016, 131057})


class WindowClosed(NeverSent):
    """The person has not written for 24 hours."""


class Calls:
    """Made with one token; `refused` is told when it is not taken (any more). `contact` is when one was answered last."""

    def __init__(self, token: str, base_url: str, refused: Callable[[Exception], None]) -> None:
        self.contact = -math.inf
        self._refused = refused
        self._client = httpx.AsyncClient(
            base_url=f"{(base_url or PUBLIC).rstrip('/')}/{VERSION}/",
            headers={"Authorization": f"Bearer {token}"},
            timeout=CALL_SECONDS,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def call(self, kind: type[T], method: str, path: str, **more: Any) -> T:
        answer = await self.called(method, path, **more)
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            raise MaybeSent("WhatsApp's answer is not understood") from error

    async def called(self, method: str, path: str, *, most: int = 1_000_000, **more: Any) -> bytes:
        """The answer, or what became of the call in the words of the port."""
        try:
            async with self._client.stream(method, path, **more) as answer:
                content = bytearray()
                async for chunk in answer.aiter_bytes():
                    content += chunk
                    if len(content) > most:
                        raise NeverSent("The answer is too large.")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(f"WhatsApp cannot be reached: {error}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise MaybeSent(f"{type(error).__name__}: {error}") from error
        if answer.is_success:
            self.contact = asyncio.get_running_loop().time()
            return bytes(content)
        try:
            _fail(answer, bytes(content))
        except PlatformRefused as error:
            self._refused(error)
            raise


def _fail(answer: httpx.Response, content: bytes) -> NoReturn:
    """Raises what an error of the Graph API means."""
    try:
        wrong = msgspec.json.decode(content, type=Failure).error
    except msgspec.DecodeError:
        wrong = Wrong(message=f"HTTP {answer.status_code}")
    if wrong.code in _REFUSED or 200 <= wrong.code < 300 or answer.status_code == httpx.codes.UNAUTHORIZED:
        raise PlatformRefused(f"WhatsApp does not take our token (any more): {wrong.why}")
    if wrong.code in _LATER or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        told = answer.headers.get("retry-after", "")
        raise NotSent(wrong.why, float(told) if told.isdigit() else _LATER.get(wrong.code, 0.0))
    if wrong.code == WINDOW_CLOSED:
        raise WindowClosed(NOT_TAKEN_IN)
    if wrong.code in _BUSY or wrong.is_transient:
        raise NotSent(wrong.why)
    if answer.is_server_error:
        raise MaybeSent(wrong.why)
    raise NeverSent(wrong.why)
