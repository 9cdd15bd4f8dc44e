"""Which servers there are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec


class McpServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server to start (`command`, `args`, `env`), or a running one to talk to over HTTP (`url`, `headers`)."""

    name: str
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    """Added to what every server gets: home, path, user, shell. Nothing else of our environment reaches it."""
    cwd: Path | None = None
    """Where it is started."""
    url: str = ""
    sse: bool = False
    """Whether it speaks the protocol's older transport over HTTP: events one way, posts the other."""
    headers: Mapping[str, str] = {}


class McpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a server may cost."""

    connect_seconds: float = 30.0
    """To start, agree on a protocol and list its tools."""
    call_seconds: float = 600.0
    output_bytes: int = 50_000
    """Text of one result."""
    file_bytes: int = 5_000_000
    """One image or other file of a result."""


class ServerFailed(Exception):
    """A server could not be reached or did not start; the message is a sentence that names it."""
