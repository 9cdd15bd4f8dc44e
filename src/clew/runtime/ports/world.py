"""Clock and chance, so that a simulation can own them."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Wall time in milliseconds since 1970-01-01 UTC. May jump both ways."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...


class Chance(Protocol):
    def token(self, length: int) -> str:
        """That many characters of `ID_ALPHABET`."""
        ...
