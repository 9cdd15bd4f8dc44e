"""What becomes of a call of a homeserver, in the words of the port."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final

import aiohttp
import msgspec
from nio import ErrorResponse

from clew.runtime.ports.platforms import MaybeSent, NeverSent, NotSent, PlatformError, PlatformRefused

LOST: Final = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_DEACTIVATED", "M_USER_LOCKED", "M_USER_SUSPENDED"})  # fmt: skip


class Rejected(NeverSent):
    """The call made no sense to the homeserver."""


class Absent(NeverSent):
    """What was asked for is not there."""


class Outcome:
    """Turns what breaks a call into the words of the port."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            raise NotSent(f"the homeserver cannot be reached: {error}") from error
        if isinstance(error, aiohttp.InvalidURL):
            raise PlatformRefused("gateway.matrix.base_url is no address") from error
        if isinstance(error, aiohttp.ClientError | TimeoutError):
            raise MaybeSent(f"the homeserver did not answer: {type(error).__name__}") from error


async def called(call: Awaitable[Any]) -> Any:
    """A call of nio's. Raises NotSent, MaybeSent, NeverSent, PlatformRefused."""
    with Outcome():
        answer = await call
    if isinstance(answer, ErrorResponse):
        status = answer.transport_response.status if answer.transport_response is not None else 500
        raise error_of(status, str(answer.status_code or ""), answer.message, answer.retry_after_ms or 0)
    return answer


async def first_of(call: Awaitable[tuple[Any, Any]]) -> Any:
    return (await call)[0]


async def retried(call: Awaitable[Any]) -> Any:
    """A call that may be made again as it is, so that nothing about it is doubtful. Raises NotSent, NeverSent, PlatformRefused."""
    try:
        return await call
    except MaybeSent as error:
        raise NotSent(str(error)) from error


async def polled(call: Awaitable[Any]) -> Any:
    """A call without which we cannot go on. Raises NotSent, PlatformRefused."""
    try:
        return await retried(called(call))
    except NeverSent as error:
        raise NotSent(str(error)) from error


def error_of(status: int, code: str, message: str, after_ms: int) -> PlatformError:
    if code == "M_LIMIT_EXCEEDED" or status == 429:
        return NotSent("the homeserver asks for a pause", after_ms / 1000)
    if code in LOST:
        return PlatformRefused("The homeserver does not know this access token (any more).")
    if code == "M_NOT_FOUND":
        return Absent(f"{code} {message}")
    if status >= 500 or status < 400:
        return MaybeSent(f"the homeserver failed: {status} {code}")
    return (Rejected if status == 400 else NeverSent)(f"{code} {message}".strip())


class Wrong(msgspec.Struct, frozen=True):
    errcode: str = ""
    error: str = ""
    retry_after_ms: int = 0


def reason_of(body: bytes) -> tuple[str, str, int]:
    try:
        wrong = msgspec.json.decode(body, type=Wrong)
    except msgspec.DecodeError:
        return "", "", 0
    return wrong.errcode, wrong.error, wrong.retry_after_ms
