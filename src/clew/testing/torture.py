"""Real processes are killed and started again on one file: `python -m clew.testing.torture --rounds 1000`.

A round tells one process to end at a crash point (`crash_points`), or kills several at random instants, while others
use the same sessions. Then somebody says something in each session that was touched: that process has to be ready
within READY_SECONDS_MAX and to answer. What it finds is then compared with what was acknowledged and with what tools
did outside (`torture_checks`). Lanes work side by side, each with its own model server and its own homes.

A failure names its seed, round and processes, and the folder that is kept.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from clew.testing.crash_points import POINTS
from clew.testing.crashing import BREAK, BROKEN
from clew.testing.crashing import main as crashing_main
from clew.testing.torture_home import END_SECONDS_MAX, Lot, TorturedHome
from clew.testing.torture_model import serve_talk
from clew.testing.torture_processes import Process, Processes, Stuck
from clew.testing.torture_report import Report

ROUNDS_PER_HOME: Final = 8
"""Then a new one: a longer history says nothing more, and takes longer to check."""


class Lane:
    """One home after the other, tortured round by round."""

    def __init__(self, folder: Path, seed: str, points: Sequence[str], break_: str) -> None:
        """`points` in the order in which they are tried first."""
        self._folder = folder
        self._seed = seed
        self.report = Report()
        self._lot = Lot(random.Random(seed), points, self.report)
        self._server = Processes(folder, {})
        port = self._server.listen(self._server.fork("the model server", serve_talk), 20)
        self._environ = _environ(int(port), break_)
        self._import_what_a_run_imports()

    def run(self, rounds: int) -> None:
        try:
            parent = os.getppid()
            while self.report.rounds < rounds and os.getppid() == parent:
                self._one_home(min(rounds - self.report.rounds, ROUNDS_PER_HOME))
        finally:
            self._server.close()

    def _import_what_a_run_imports(self) -> None:
        """Much is imported when it is first needed: here, once, instead of in every process."""
        folder = Path(tempfile.mkdtemp(prefix="first-", dir=self._folder))

        def run(told: int) -> int:
            os.chdir(folder)
            os.environ.update({**self._environ, BREAK: ""}, CLEW_HOME=str(folder))
            code = crashing_main(["run", "--json", "w0 shell"]) + crashing_main(["sessions", "list"])
            os.write(told, msgspec.json.encode(list(sys.modules)) + b"\n")
            return code

        process = self._server.fork("a first run", run)
        self._server.wait([process], END_SECONDS_MAX)
        if process.status != 0:
            raise Stuck(f"a first run: {process.printed}")
        for name in msgspec.json.decode(process.lines[0], type=list[str]):
            with suppress(ImportError):  # made up by another module, not found by its name
                importlib.import_module(name)

    def _one_home(self, rounds: int) -> None:
        folder = Path(tempfile.mkdtemp(prefix="home-", dir=self._folder))
        home = TorturedHome(folder, self._environ, self._lot)
        wrong: list[str] = []
        try:
            home.prepare()
            for _ in range(rounds):
                self.report.rounds += 1
                wrong = home.round()
                if wrong:
                    break
            else:
                wrong = home.look_at_all()
        except Stuck as error:
            wrong = [f"stuck: {error}"]
        finally:
            home.close()
        where = f"(seed {self._seed}, round {self.report.rounds}: {home.what}; kept in {folder})"
        self.report.wrong += [f"{sentence} {where}" for sentence in wrong]
        if not wrong:
            shutil.rmtree(folder)


def _environ(port: int, break_: str) -> dict[str, str]:
    kept = {
        name: os.environ[name]
        for name in ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH")
        if name in os.environ
    }
    return {
        **kept,
        BREAK: break_,
        "CLEW_BASE_URL": f"http://127.0.0.1:{port}/v1",
        "CLEW_MODEL": "scripted-model",
        "CLEW_API_KEY": "sk-test",
        "CLEW__APPROVAL__MODE": "all",
        "CLEW__TITLES__ENABLED": "false",
    }


# -- all lanes -----------------------------------------------------------------------------------------------------
def torture(folder: Path, *, rounds: int, seed: int, lanes: int, break_: str = "") -> Report:
    """Runs the lanes, each in a process of its own, and adds up what they report."""
    began = time.monotonic()
    processes = Processes(folder, {})

    def lane(number: int) -> Process:
        share = rounds // lanes + (number < rounds % lanes)

        def run(told: int) -> int:
            os.chdir(folder)
            first = len(POINTS) * number // lanes
            points = [*list(POINTS)[first:], *list(POINTS)[:first]]
            lane = Lane(folder, f"{seed}.{number}", points, break_)
            lane.run(share)
            os.write(told, msgspec.json.encode(lane.report) + b"\n")
            return 0

        return processes.fork(f"lane {number}", run)

    report = Report()
    try:
        started = [lane(number) for number in range(lanes)]
        processes.wait(started, 60 + rounds * END_SECONDS_MAX)
    finally:
        processes.close(signal.SIGTERM)  # a lane has processes of its own to end
    for process in started:
        if process.status == 0 and process.lines:
            report.add(msgspec.json.decode(process.lines[-1], type=Report))
        else:
            report.wrong.append(f"{process.what} ended with {process.status}: {process.printed[-3000:]}")
    report.seconds = time.monotonic() - began
    return report


def main() -> int:
    """Exit code 1 when something does not hold."""
    parser = argparse.ArgumentParser(description="Real processes are killed and started again on one file.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--lanes", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.add_argument(
        "--break", dest="break_", default="", choices=BROKEN, help="break the program on purpose"
    )
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="clew-torture-"))
    sys.stderr.write(
        f"torture: seed {chosen.seed}, {chosen.rounds} rounds in {chosen.lanes} lanes, in {folder}\n"
    )
    report = torture(folder, rounds=chosen.rounds, seed=chosen.seed, lanes=chosen.lanes, break_=chosen.break_)
    if not report.wrong:
        shutil.rmtree(folder)
    sys.stdout.write(msgspec.json.encode(report).decode() if chosen.json else report.table())
    sys.stdout.write("\n")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
