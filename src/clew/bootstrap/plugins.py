"""Chat platforms of other packages: found by entry point, and imported only when the settings name them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final, cast

from clew.config.errors import Problem, SettingsError
from clew.runtime.ports.platforms import Platform

GROUP: Final = "clew.platforms"
OURS: Final = frozenset({"telegram", "matrix", "terminal"})


def load_platform(name: str, token: str, options: Mapping[str, str]) -> Platform:
    """What the entry point `name` makes of a token and options. Raises SettingsError in one sentence.

    The supervisor of foreign code: whatever goes wrong in it is said with its kind, and is nobody else's trouble.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name in OURS or name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise _wrong(name, f"no installed package offers the chat platform {name}; there is {known}")
    try:
        make: Any = found[name].load()
        platform = cast(Platform, make(token, options))
        own_name = platform.name
    except Exception as error:
        raise _wrong(
            name, f"the chat platform {name} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if own_name != name:
        raise _wrong(name, f"the chat platform {name} calls itself {own_name}")
    return platform


def _wrong(name: str, sentence: str) -> SettingsError:
    return SettingsError(Problem(path=("gateway", "platforms", name), sentence=sentence))
