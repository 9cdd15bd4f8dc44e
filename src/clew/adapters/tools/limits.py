"""How long things may take that somebody else's data could make take for ever."""

from __future__ import annotations

import msgspec


class TimeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. A command's limit is the model's own to say, see `shell`."""

    search_seconds: float = 20.0
    """For `glob` and `grep`."""
    fetch_seconds: float = 30.0
    """For a page, redirects included."""
    reading_seconds: float = 10.0
    """For turning HTML into text."""
