"""Random conversations of several processes under the fault model, by seed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from clew.testing.simulation import run_seed

SEEDS = range(40)
PRINT_TRACE = "import sys; from clew.testing.simulation import run_seed; print(run_seed(int(sys.argv[1])))"


@pytest.mark.timeout(240)  # 14 s of a processor, which may be shared by many
def test_what_must_hold_holds_in_every_run() -> None:
    """A failure names its seed: `run_seed(seed)` replays it. `make simulate` runs more of them, and counts what they met."""
    hits: Counter[str] = Counter()
    for seed in SEEDS:
        run = run_seed(seed)
        assert run.broken is None, run.told()
        hits += run.hits
    missing = {
        "fault: refused, busy",
        "fault: refused, disk full",
        "fault: killed at a random instant",
        "fault: a holder is paused past its lease",
        "turn: running → running, after a crash",
        "recovery: the model was told",
        "memory: forgotten while a turn runs",
        "job: taken over",
        "beside: delegate gone on with after a crash",
        "beside: background gone on with after a crash",
    } - set(hits)
    assert not missing, f"never tried: {missing}"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_seed_gives_the_same_run(seed: int) -> None:
    """Without it a failure could not be replayed."""
    assert run_seed(seed) == run_seed(seed)


def test_the_same_seed_gives_the_same_run_in_another_process() -> None:
    """Nothing hangs on addresses in memory, or on how this process hashes strings."""

    def printed(hash_seed: str) -> str:
        environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", PRINT_TRACE, "7"]
        return subprocess.run(command, env=environ, capture_output=True, check=True, text=True).stdout

    assert printed("1") == printed("2")
