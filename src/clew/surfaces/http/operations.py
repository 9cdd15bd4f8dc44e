"""An operation of the API as data: its path, what it takes and gives. Routes and the OpenAPI document are made of these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from clew.surfaces.http.access import Caller


class Nothing(msgspec.Struct):
    """No parameters, or no body."""


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """One request, read and checked. `body` and `query` are of the operation's types."""

    caller: Caller
    path: Mapping[str, str]
    query: Any
    body: Any
    request: Request


Handler = Callable[[Asking], Awaitable[msgspec.Struct | Response]]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    method: Literal["GET", "POST"]
    path: str
    """With `{name}` for what differs."""
    summary: str
    answer: type[msgspec.Struct] | None
    """None where it answers with events alone."""
    handle: Handler
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] = Nothing
    events: tuple[type[msgspec.Struct], ...] = ()
    """What server-sent events hold, where it can answer with them."""
    end: str = ""
    """What the last event holds, where that is none of these."""
    status: int = 200
    headers: tuple[str, ...] = ()
    """Headers it looks at."""
