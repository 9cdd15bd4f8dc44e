"""`python -m benchmarks`: runs them, prints one table, writes JSON lines. Exit code 0 unless something crashed."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.measure import Disk
from benchmarks.peer import Peer
from benchmarks.registry import families
from benchmarks.report import Report

MESSAGES = 200_000


def main() -> None:
    options = _options()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody who starts Clew waits for a compiler each time
    names = options.only or list(families())
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.dir.mkdir(parents=True, exist_ok=True)
    messages = 1_000_000 if options.million else MESSAGES // 10 if options.quick else MESSAGES
    with options.json.open("w", encoding="utf-8") as lines:
        report = Report(lines)
        report.machine(options.dir, messages)
        try:
            asyncio.run(_run(names, report, options.dir.resolve(), options.quick, messages))
        finally:
            print(report.table())
    print(f"\nmilliseconds; floor: bare SQLite at its median, in the same run; JSON lines in {options.json}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks",
        description="How fast Clew is, against bare SQLite in the same run; against hermes-agent too when PEER_PY names a"
        " Python that has it.",
    )
    build = Path("build")
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds, a tenth of the messages: a minute"
    )
    parser.add_argument("--million", action="store_true", help="a million messages in the big ledger")
    parser.add_argument(
        "--only", action="append", choices=list(families()), help="one family; may be repeated"
    )
    parser.add_argument("--json", type=Path, default=build / "benchmarks.jsonl", help="where JSON lines go")
    parser.add_argument("--dir", type=Path, default=build, help="the disk to measure on")
    return parser.parse_args()


async def _run(names: list[str], report: Report, folder: Path, quick: bool, messages: int) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=folder))
    peer = Peer(os.environ.get("PEER_PY"), scratch)
    bench = Bench(scratch=scratch, disk=Disk(scratch), peer=peer, quick=quick, messages=messages)
    try:
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            async for row in families()[name](bench):
                report.add(name, row, bench.disk.median())
    finally:
        await bench.close()


if __name__ == "__main__":
    main()
