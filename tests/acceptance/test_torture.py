"""Real processes on one file are killed at every named point and go on: nothing taken is lost, nothing runs twice.

`make torture ROUNDS=1000` is the same for longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from clew.testing.crash_points import POINTS, WRITES
from clew.testing.torture_report import Report

pytestmark = pytest.mark.timeout(240)


def tortured(folder: Path, rounds: int, *arguments: str) -> Report:
    """A torture in a process of its own: it forks, and this one has threads."""
    environ = {**os.environ, "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "clew.testing.torture", "--json", "--rounds", str(rounds), *arguments]
    ran = subprocess.run(command, capture_output=True, check=False, timeout=220, env=environ)
    assert ran.stdout, ran.stderr.decode()
    report = msgspec.json.decode(ran.stdout, type=Report)
    assert (ran.returncode == 1) == bool(report.wrong)
    return report


def test_whatever_point_it_is_killed_at_the_next_process_goes_on(tmp_path: Path) -> None:
    report = tortured(tmp_path, 22)
    assert report.wrong == [], report.table()
    assert [point for point in POINTS if not report.kills.get(point)] == [], report.table()
    assert set(report.writes) - {write.name for write in WRITES} <= {"beat"}, "a write without a crash point"
    assert report.ready
    assert report.ready_cold
    assert report.stands


@pytest.mark.parametrize(
    ("broken", "noticed"),
    [("loses openings", "was taken and is lost"), ("runs calls twice", "took effect 2 times")],
)
def test_torture_notices(tmp_path: Path, broken: str, noticed: str) -> None:
    """The negative control: a program that is broken on purpose."""
    report = tortured(tmp_path, 2, "--break", broken)
    assert any(noticed in sentence for sentence in report.wrong), report.table()
