"""Imports what is left of our own modules, so that a process never runs two versions of them at once.

Not those over libraries that take a second to import and that most people never use: a turn that needs them imports
them while it begins, and it only begins if the package was still the same afterwards.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import clew

LATER: Final = (
    "clew.adapters.mcp.connection",
    "clew.adapters.mcp.translation",
    "clew.adapters.models.pydantic_ai",
    "clew.surfaces.gateway.platforms",
    "clew.surfaces.http",
)
"""Over `mcp`, `pydantic_ai`, `telegram` and `starlette`, with all that is in them. The gateway imports its platforms and what
listens before it begins."""
_NEVER: Final = ("clew.__main__", "clew.testing")


async def import_own_modules() -> None:
    """Imports them one by one, each a few milliseconds at most, and lets the event loop run between them.

    Measured when a chat had begun: 21 of 246 modules were left; they took 36 ms, and finding all names 7 ms.
    """
    for name in own_modules():
        importlib.import_module(name)
        await asyncio.sleep(0)


def own_modules() -> Iterator[str]:
    """The names of all modules that a long-running process may need."""
    root = Path(clew.__file__).parent
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        name = ".".join(("clew", *parts)).removesuffix(".__init__")
        if not any(f"{name}.".startswith(f"{left}.") for left in (*LATER, *_NEVER)):
            yield name
