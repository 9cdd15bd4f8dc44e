"""What a server leaves behind: children that outlived it, found by a mark in their environment.

The protocol ends a server by closing its input and lets it go by itself; a wrapper (npx, uvx, a shell script) then
goes, and the program it started may stay. Works where there is a /proc; elsewhere the server's group was all that
could be reached.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

MARK_VARIABLE: Final = "CLEW_MCP_SERVER"
GONE_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.02
_PROC: Final = Path("/proc")


async def end_leftovers(mark: str) -> None:
    """SIGKILL to every process with this mark, and a wait of at most GONE_SECONDS until they are gone.

    No more asking: whoever is still there had the time that its server was given.
    """
    assert mark, "an empty mark would be everybody's"
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    deadline = time.monotonic() + GONE_SECONDS
    while (left := _with(wanted)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):  # it went by itself just now
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_LOOK_SECONDS)


def _with(variable: bytes) -> list[int]:
    """Processes whose environment holds it; one that ended has none, even before it is collected."""
    if not _PROC.is_dir():
        return []
    return [int(entry.name) for entry in _PROC.glob("[0-9]*") if variable in _environment(entry)]


def _environment(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []  # it ended, or is another user's
