"""Several processes write one session and are killed in the middle: the ledger keeps all it acknowledged, and its shape.

`python -m clew.testing.attack --seconds 60` is the same for longer.
"""

from __future__ import annotations

from pathlib import Path

from clew.testing.attack import attack


def test_nothing_acknowledged_is_lost_when_writers_are_killed_inside_transactions(tmp_path: Path) -> None:
    report = attack(tmp_path, 8)
    assert report.wrong == [], report.table()
    assert report.kills_inside >= 5, report.table()
    assert all(report.done[kind] >= 20 for kind in ("append", "undo", "redo", "retry", "fork")), (
        report.table()
    )


def test_the_guards_alone_refuse_writers_who_do_not_look(tmp_path: Path) -> None:
    report = attack(tmp_path, 30, careless=True)
    assert report.wrong == [], report.table()
    assert report.done["append"] > 0
    assert report.refused["stale"] > 0


def test_without_guards_the_attack_finds_what_is_wrong(tmp_path: Path) -> None:
    """The negative control: the same writers on a ledger without its triggers, and the questions see it."""
    report = attack(tmp_path, 30, careless=True, guarded=False)
    assert report.refused["stale"] == 0
    assert any(reason.startswith("acknowledged and lost") for reason in report.wrong), report.table()
    assert any("does not go on from" in reason for reason in report.wrong), report.table()
