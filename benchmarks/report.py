"""Results for people, as one table, and for programs, as JSON lines."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Final, TextIO

import apsw

from benchmarks.measure import Samples
from benchmarks.rows import Claim, Row
from clew.adapters.stores.sqlite.connection import filesystem_of

_PERCENTS: Final = (50, 95, 99)


class Report:
    """Rows as they come, with what an fsync cost beside them."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines
        self._rows: list[tuple[Row, float]] = []

    def machine(self, folder: Path, messages: int) -> None:
        """The first line: where the figures come from."""
        self._write(
            {
                "machine": platform.machine(),
                "system": f"{platform.system()} {platform.release()}",
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "sqlite": apsw.sqlite_lib_version(),
                "filesystem": filesystem_of(folder.resolve()),
                "messages": messages,
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
        )

    def add(self, family: str, row: Row, fsync: float) -> None:
        self._rows.append((row, fsync))
        self._write(
            {
                "family": family,
                "work": row.work,
                **_milliseconds("", row.samples),
                **_milliseconds("floor_", row.floor),
                "ratio": _round(row.ratio),
                "fsync_ms": _round(fsync * 1e3),
                "peer_ms": _round(row.peer * 1e3) if row.peer is not None else None,
                "load": round(os.getloadavg()[0], 1),
                "claims": [
                    {
                        "figure": claim.figure,
                        "value": _round(claim.value),
                        "unit": claim.unit,
                        "budget": claim.budget,
                        "limit": _round(claim.limit),
                        "met": claim.met,
                    }
                    for claim in row.claims
                ],
                "remark": row.remark,
            }
        )

    def table(self) -> str:
        """Milliseconds, but where a unit is given."""
        head = ("work", "n", "p50", "p95", "p99", "worst", "floor", "ratio", "fsync", "hermes", "budget")
        lines = [head, *(_line(row, fsync) for row, fsync in self._rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        rendered = (
            "  ".join(
                cell.ljust(width) if column in (0, len(head) - 1) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        return "\n".join(rendered)

    def _write(self, line: dict[str, object]) -> None:
        print(json.dumps(line, ensure_ascii=False), file=self._lines, flush=True)


def _milliseconds(prefix: str, samples: Samples | None) -> dict[str, float | int | None]:
    if samples is None:
        return {}
    figures = {f"{prefix}p{percent}_ms": _round(samples.at(percent) * 1e3) for percent in _PERCENTS}
    return {f"{prefix}n": len(samples), **figures, f"{prefix}worst_ms": _round(samples.worst * 1e3)}


def _line(row: Row, fsync: float) -> tuple[str, ...]:
    samples = row.samples
    figures = ("", "", "", "", "")
    if samples is not None:
        times = (*(samples.at(percent) for percent in _PERCENTS), samples.worst)
        figures = (str(len(samples)), *(_short(seconds * 1e3) for seconds in times))  # type: ignore[assignment]
    return (
        row.work,
        *figures,
        _short(row.floor.p50 * 1e3) if row.floor is not None else "",
        f"{row.ratio:.2f}x" if row.ratio is not None else "",
        _short(fsync * 1e3),
        _short(row.peer * 1e3) if row.peer is not None else "",
        "; ".join(map(_verdict, row.claims)),
    )


def _verdict(claim: Claim) -> str:
    relation = "≥" if claim.at_least else "≤"
    verdict = "met" if claim.met else "MISSED"
    if claim.limit != claim.budget and claim.met and claim.value > claim.budget:
        verdict = f"met (4x floor: {_short(claim.limit)})"
    return f"{claim.figure} {_short(claim.value)} {relation} {claim.budget:g} {claim.unit} {verdict}"


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
