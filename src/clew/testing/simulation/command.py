"""`python -m clew.testing.simulation --seeds N [--first SEED]`: runs seeds on every core, and prints what they met."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from clew.testing.simulation.coverage import shortfalls, table
from clew.testing.simulation.run import run_seed

CHUNK = 20
TOLD_MAX = 5
"""Failures that are shown with their trace; the others with their seed."""
JUDGED_FROM = 200
"""Fewer seeds than this say nothing of what was met too seldom."""


def _chunk(seeds: range) -> tuple[Counter[str], list[str]]:
    """What some seeds met, and the failures among them."""
    hits: Counter[str] = Counter()
    failures: list[str] = []
    for seed in seeds:
        run = run_seed(seed)
        hits += run.hits
        if run.broken is not None:
            failures.append(run.told())
    return hits, failures


def _chunks(first: int, count: int) -> Iterator[range]:
    for start in range(first, first + count, CHUNK):
        yield range(start, min(start + CHUNK, first + count))


def main() -> int:
    """Exit code 1 when something did not hold, or was never met."""
    parser = argparse.ArgumentParser(description="Random conversations under the fault model.")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    hits: Counter[str] = Counter()
    failures: list[str] = []
    began = time.monotonic()
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for met, failed in pool.map(_chunk, _chunks(arguments.first, arguments.seeds)):
            hits += met
            failures += failed
    took = time.monotonic() - began
    short = list(shortfalls(hits, arguments.seeds)) if arguments.seeds >= JUDGED_FROM else []
    sys.stdout.write(f"{table(hits)}\n\n")
    for number, failure in enumerate(failures):
        sys.stdout.write(failure if number < TOLD_MAX else failure.partition("\n")[0] + "\n")
    for each in short:
        sys.stdout.write(f"met {each.hits} times, to be met {each.needed} times: {each.name}\n")
    sys.stdout.write(
        f"{arguments.seeds - len(failures)} passed, {len(failures)} failed, {len(short)} met too seldom; "
        f"{arguments.seeds / took:.1f} seeds/s\n"
    )
    return 1 if failures or short else 0
