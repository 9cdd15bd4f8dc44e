"""Where the terminal is, as a conversation."""

from __future__ import annotations

from typing import Final

from clew.runtime.sessions import Place

TERMINAL: Final = Place(route_key="terminal:local", surface="terminal")
