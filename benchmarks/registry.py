"""The benchmarks by name. A new one is a module in `families` whose function is decorated, and its import below."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final

from benchmarks.rows import Family

_FAMILIES: Final[dict[str, Family]] = {}
# In the order in which they run: `append` fills the ledger that `search` and `size` look at.
_MODULES: Final = (
    "startup",
    "editor",
    "turn",
    "conversation",
    "agents",
    "gateway",
    "http",
    "compaction",
    "moves",
    "load",
    "lists",
    "writers",
    "append",
    "search",
    "size",
)


def benchmark(name: str) -> Callable[[Family], Family]:
    """Registers a family under the name that `--only` takes."""

    def register(family: Family) -> Family:
        _FAMILIES[name] = family
        return family

    return register


def families() -> dict[str, Family]:
    """All of them, in the order in which they run."""
    for module in _MODULES:
        import_module(f"benchmarks.families.{module}")
    return dict(_FAMILIES)
