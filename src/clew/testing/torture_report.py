"""What a torture did, in figures and sentences; lanes add theirs up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from clew.testing.crash_points import POINTS

WRONG_SHOWN: Final = 20


class Report(msgspec.Struct, kw_only=True):
    """What a torture did, and what is wrong."""

    rounds: int = 0
    kills: dict[str, int] = msgspec.field(default_factory=dict)
    missed: dict[str, int] = msgspec.field(default_factory=dict)
    """How often a process ended before it came to its point."""
    writes: dict[str, int] = msgspec.field(default_factory=dict)
    """How often each kind of write was told to be durable."""
    random_kills: int = 0
    stands: int = 0
    """How often a process was stopped where it stood, and woke later."""
    messages: int = 0
    runs: int = 0
    ready: list[float] = msgspec.field(default_factory=list)
    ready_cold: list[float] = msgspec.field(default_factory=list)
    seconds: float = 0.0
    wrong: list[str] = msgspec.field(default_factory=list)

    def add(self, other: Report) -> None:
        self.rounds += other.rounds
        self.random_kills += other.random_kills
        self.stands += other.stands
        self.messages += other.messages
        self.runs += other.runs
        self.writes = dict(Counter(self.writes) + Counter(other.writes))
        self.kills = dict(Counter(self.kills) + Counter(other.kills))
        self.missed = dict(Counter(self.missed) + Counter(other.missed))
        self.ready += other.ready
        self.ready_cold += other.ready_cold
        self.wrong += other.wrong

    def table(self) -> str:
        lines = [f"{self.kills.get(point, 0):7} {point}" + self._missed(point) for point in POINTS]
        lines += [
            f"{self.random_kills:7} at random instants",
            f"{self.stands:7} processes stood still meanwhile",
            f"{sum(self.kills.values()) + self.random_kills:7} kills in {self.rounds} rounds, {self.seconds:.0f} s; "
            f"{self.messages} messages said, {self.runs} runs of tools",
            f"ready again: {_spread(self.ready)}; from a cold start: {_spread(self.ready_cold)}",
        ]
        lines += [f"   WRONG {sentence}" for sentence in self.wrong[:WRONG_SHOWN]] or ["all of it holds"]
        if len(self.wrong) > WRONG_SHOWN:
            lines.append(f"   WRONG and {len(self.wrong) - WRONG_SHOWN} more")
        return "\n".join(lines)

    def _missed(self, point: str) -> str:
        return f"   (not reached {self.missed[point]} times)" if point in self.missed else ""


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "never"
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)]
    return f"median {ordered[len(ordered) // 2]:.3f} s, p99 {p99:.3f} s, worst {ordered[-1]:.3f} s of {len(ordered)}"
