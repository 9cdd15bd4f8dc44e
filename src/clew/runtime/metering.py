"""What this process did since it began, in numbers, in the text format of Prometheus. Names and labels, never a word of anybody.

Sixty lines instead of a client library: nothing here runs in threads or several processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Seconds, of every spread."""
Labels = tuple[tuple[str, str], ...]


class Number(msgspec.Struct, frozen=True):
    """What something is just now, or has come to."""

    name: str
    value: float
    labels: Labels = ()
    kind: str = "gauge"


class _Spread:
    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0


class Meter:
    """Counts and spreads of one process."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, Labels], float] = {}
        self._spreads: dict[tuple[str, Labels], _Spread] = {}

    def count(self, name: str, by: float = 1.0, /, **labels: str) -> None:
        key = (name, tuple(labels.items()))
        self._counts[key] = self._counts.get(key, 0.0) + by

    def observe(self, name: str, seconds: float, /, **labels: str) -> None:
        spread = self._spreads.setdefault((name, tuple(labels.items())), _Spread())
        spread.counts[sum(seconds > bound for bound in BOUNDS)] += 1
        spread.sum += seconds

    def text(self, now: Iterable[Number] = ()) -> str:
        """Everything counted, and what is so just now."""
        numbers = [Number(name, value, labels, "counter") for (name, labels), value in self._counts.items()]
        for (name, labels), spread in self._spreads.items():
            below = 0
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), spread.counts, strict=True):
                below += count
                numbers.append(Number(f"{name}_bucket", below, (*labels, ("le", bound)), "histogram"))
            numbers.append(Number(f"{name}_sum", spread.sum, labels, "histogram"))
            numbers.append(Number(f"{name}_count", below, labels, "histogram"))
        lines, typed = [], set[str]()
        for number in sorted([*numbers, *now], key=_family):  # stable: buckets stay in order
            family = _family(number)
            if family not in typed:
                typed.add(family)
                lines.append(f"# TYPE {family} {number.kind}")
            lines.append(f"{number.name}{_written(number.labels)} {number.value:.10g}")
        return "\n".join(lines) + "\n"


def _family(number: Number) -> str:
    if number.kind != "histogram":
        return number.name
    return number.name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")


def _written(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
