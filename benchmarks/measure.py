"""Times and what they come to. Sides of a comparison take turns, so that a noisy machine disturbs all of them alike."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

now: Final = time.perf_counter
Side = Callable[[int], Awaitable[None]]
_PAGE: Final = b"x" * 4096


class Samples:
    """Durations in seconds, in the order they were measured."""

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._seconds = array("d", seconds)
        self._started = 0.0

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    def __enter__(self) -> None:
        self._started = now()

    def __exit__(self, *_: object) -> None:
        self._seconds.append(now() - self._started)

    def __len__(self) -> int:
        return len(self._seconds)

    def at(self, percent: float) -> float:
        """The percentile, by the nearest rank."""
        ordered = sorted(self._seconds)
        return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]

    @property
    def p50(self) -> float:
        return self.at(50)

    @property
    def last(self) -> float:
        return self._seconds[-1]

    @property
    def worst(self) -> float:
        return max(self._seconds)

    def __iadd__(self, other: Samples) -> Samples:
        self._seconds.extend(other._seconds)
        return self


class Disk:
    """What an fsync costs here and now: one small overwrite a time, between the measurements it explains."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "fsync-probe", os.O_CREAT | os.O_RDWR, 0o600)
        self._samples = Samples()
        os.pwrite(self._file, _PAGE, 0)
        os.fsync(self._file)

    def probe(self, times: int = 1) -> None:
        for _ in range(times):
            with self._samples:
                os.pwrite(self._file, _PAGE, 0)
                os.fdatasync(self._file)

    def median(self) -> float:
        """The median since it was last asked for."""
        if len(self._samples) < 20:
            self.probe(20)
        median, self._samples = self._samples.p50, Samples()
        return median

    def close(self) -> None:
        os.close(self._file)


async def interleaved(disk: Disk, rounds: int, *sides: Side) -> list[Samples]:
    """Runs every side once a round, each round starting with another one. A few rounds warm up, unmeasured."""
    samples = [Samples() for _ in sides]
    warm_up = max(2, rounds // 20)
    for number in range(warm_up + rounds):
        for turn in range(len(sides)):
            chosen = (number + turn) % len(sides)
            started = now()
            await sides[chosen](number)
            if number >= warm_up:
                samples[chosen].add(now() - started)
        disk.probe()
    return samples
