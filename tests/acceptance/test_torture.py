"""Real processes on one file are killed at every named point and go on: nothing taken is lost, nothing runs twice.

`make torture ROUNDS=1000` is the same for longer.
"""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from clew.testing.crash_points import POINTS
from clew.testing.torture_home import READY_SECONDS_MAX
from clew.testing.torture_report import Report

pytestmark = pytest.mark.timeout(120)


def tortured(rounds: int, *arguments: str) -> Report:
    """A torture in a process of its own: it forks, and this one has threads."""
    command = [sys.executable, "-m", "clew.testing.torture", "--json", "--rounds", str(rounds), *arguments]
    ran = subprocess.run(command, capture_output=True, check=False, timeout=110)
    assert ran.stdout, ran.stderr.decode()
    report = msgspec.json.decode(ran.stdout, type=Report)
    assert (ran.returncode == 1) == bool(report.wrong)
    return report


def test_whatever_point_it_is_killed_at_the_next_process_goes_on() -> None:
    report = tortured(28)
    assert report.wrong == [], report.table()
    assert [point for point in POINTS if not report.kills.get(point)] == [], report.table()
    assert max(report.ready + report.ready_cold) <= READY_SECONDS_MAX


@pytest.mark.parametrize(
    ("broken", "noticed"),
    [("loses openings", "was taken and is lost"), ("runs calls twice", "took effect 2 times")],
)
def test_torture_notices(broken: str, noticed: str) -> None:
    """The negative control: a program that is broken on purpose."""
    report = tortured(2, "--break", broken)
    assert any(noticed in sentence for sentence in report.wrong), report.table()
