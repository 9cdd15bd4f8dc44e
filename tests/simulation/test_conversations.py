"""Random conversations of several processes under the fault model, by seed."""

from __future__ import annotations

from collections import Counter

import pytest

from clew.testing.simulation import run_seed

SEEDS = range(60)


def test_what_must_hold_holds_in_every_run() -> None:
    """A failure names its seed: `run_seed(seed)` replays it."""
    hits: Counter[str] = Counter()
    for seed in SEEDS:
        try:
            hits += run_seed(seed)[1]
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    missing = {"refused", "killed before", "killed after", "model failed"} - set(hits)
    assert not missing, f"faults that were never tried: {missing}"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    """Without it a failure could not be replayed."""
    assert run_seed(seed) == run_seed(seed)
