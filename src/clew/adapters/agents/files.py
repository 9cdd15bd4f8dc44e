"""Files that an agent asks its client for: from the session's directory, and from nowhere else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from clew.wire.jsonrpc import INVALID_PARAMS, RpcError

READ_BYTES_MAX: Final = 10_000_000


def inside(cwd: Path, path: str) -> Path:
    """Where the path leads, with links followed. Raises RpcError for what is not inside the directory."""
    base = os.path.realpath(cwd)
    found = os.path.realpath(os.path.join(base, path))
    if found != base and not found.startswith(base.rstrip("/") + "/"):
        raise RpcError(INVALID_PARAMS, f"{path} is not inside {base}: only that directory is served.")
    return Path(found)


def read_text(cwd: Path, path: str, line: int | None, limit: int | None) -> str:
    """Lines `line` (from 1) and following of a text file, `limit` of them. Raises RpcError."""
    found = inside(cwd, path)
    try:
        with found.open("rb") as file:
            data = file.read(READ_BYTES_MAX + 1)
    except OSError as error:
        raise RpcError(INVALID_PARAMS, f"{path}: {error.strerror}.") from error
    if len(data) > READ_BYTES_MAX:
        raise RpcError(INVALID_PARAMS, f"{path} holds more than {READ_BYTES_MAX} bytes.")
    text = data.decode("utf-8", "replace")
    if line is None and limit is None:
        return text
    first = max(line or 1, 1) - 1
    lines = text.splitlines(keepends=True)[first:]
    return "".join(lines if limit is None else lines[:limit])
