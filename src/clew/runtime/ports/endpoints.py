"""What answers at a path of the HTTP listener, without knowing who listens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was read whole. The names of headers are in lower case."""

    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str] = {}
    """What stands behind the path's question mark."""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    status: int = 200
    media_type: str = "text/plain; charset=utf-8"
    body: bytes = b""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path. Who may ask is for `answer` to judge, from the headers."""

    method: str
    path: str
    answer: Callable[[Asked], Awaitable[Answered]]
    bytes_max: int = 0
    """The largest body; more is refused before it is read."""
