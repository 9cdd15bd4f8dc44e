"""What a benchmark says: a row with its measurements, and the claims it makes against the budgets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from benchmarks.measure import Samples

if TYPE_CHECKING:
    from benchmarks.bench import Bench

Unit = Literal["ms", "s", "x", "/s", "MB", "GB", "%"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A figure and its limit, both in `unit`. `budget` is what was promised, `limit` what holds on this machine."""

    figure: str
    value: float
    budget: float
    unit: Unit
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def at_most(figure: str, value: float, budget: float, unit: Unit) -> Claim:
    """A median, a percentile or a ratio: asserted as it stands."""
    return Claim(figure=figure, value=value, budget=budget, unit=unit, limit=budget)


def at_least(figure: str, value: float, budget: float, unit: Unit) -> Claim:
    """A rate that must be reached."""
    return Claim(figure=figure, value=value, budget=budget, unit=unit, limit=budget, at_least=True)


def worst_at_most(worst_ms: float, budget_ms: float, floor: Samples) -> Claim:
    """A worst case: the budget, or four times the worst of the floor beside it where the machine itself stalled."""
    limit = max(budget_ms, 4 * floor.worst * 1e3)
    return Claim(figure="worst", value=worst_ms, budget=budget_ms, unit="ms", limit=limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table. `peer` is hermes-agent's median in seconds, measured in the same run."""

    work: str
    samples: Samples | None = None
    floor: Samples | None = None
    peer: float | None = None
    claims: tuple[Claim, ...] = field(default=())
    remark: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the floor's, at the median."""
        if self.samples is None or self.floor is None:
            return None
        return self.samples.p50 / self.floor.p50


class Family(Protocol):
    """Benchmarks that share what they set up."""

    def __call__(self, bench: Bench) -> AsyncIterator[Row]: ...
