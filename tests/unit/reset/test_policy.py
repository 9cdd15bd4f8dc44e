"""When a conversation begins a new session by itself: a table of boundaries, and what holds for all of them."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.domain.reset.policy import Idle, NewDay, ResetMode, ResetPolicy, in_words, reset_due

NEW_YORK = ZoneInfo("America/New_York")
ATHENS = ZoneInfo("Europe/Athens")


def ms(text: str, zone: ZoneInfo | None = None, fold: int = 0) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=zone or UTC, fold=fold)
    return round(moment.timestamp() * 1000)


def daily(at: str, zone: ZoneInfo) -> ResetPolicy:
    return ResetPolicy(mode=ResetMode.DAILY, at=time.fromisoformat(at), zone=zone)


@pytest.mark.parametrize(
    ("last", "now", "resets"),
    [
        ("2026-06-01T03:59:59", "2026-06-01T04:00:00", True),  # the boundary belongs to the new day
        ("2026-06-01T04:00:00", "2026-06-02T03:59:59", False),
        ("2026-06-01T04:00:00", "2026-06-02T04:00:00", True),
        ("2026-06-01T12:00:00", "2026-06-01T23:59:59", False),
        ("2026-06-01T12:00:00", "2026-06-09T00:00:00", True),
        ("2026-06-01T05:00:00", "2026-06-01T03:00:00", False),  # the clock went back
    ],
)
def test_the_day_begins_at_its_time(last: str, now: str, resets: bool) -> None:
    """A daily reset comes with the first message at or after the time, in the named zone."""
    due = reset_due(daily("04:00", ATHENS), last_active_ms=ms(last, ATHENS), now_ms=ms(now, ATHENS))
    assert (due is not None) == resets


def test_a_time_that_clocks_skip_comes_as_much_later() -> None:
    """02:30 does not exist in New York on 2026-03-08: the reset is at 03:30, once."""
    policy, last = daily("02:30", NEW_YORK), ms("2026-03-08T01:00", NEW_YORK)
    assert reset_due(policy, last_active_ms=last, now_ms=ms("2026-03-08T03:29:59", NEW_YORK)) is None
    at = ms("2026-03-08T03:30", NEW_YORK)
    assert reset_due(policy, last_active_ms=last, now_ms=at) == NewDay(at)
    assert reset_due(policy, last_active_ms=at, now_ms=ms("2026-03-08T23:00", NEW_YORK)) is None


def test_a_time_that_clocks_show_twice_counts_once() -> None:
    """01:30 comes twice in New York on 2026-11-01: the first is the reset, the second is nothing."""
    policy = daily("01:30", NEW_YORK)
    first, second = ms("2026-11-01T01:30", NEW_YORK), ms("2026-11-01T01:30", NEW_YORK, fold=1)
    assert second - first == 3_600_000
    assert reset_due(policy, last_active_ms=first - 1, now_ms=first) == NewDay(first)
    assert reset_due(policy, last_active_ms=first, now_ms=second + 60_000) is None


def test_idle_time_is_inclusive() -> None:
    """After exactly the idle time a new session begins, a millisecond before it does not."""
    policy = ResetPolicy(mode=ResetMode.IDLE, idle_minutes=30)
    assert reset_due(policy, last_active_ms=0, now_ms=30 * 60_000 - 1) is None
    assert reset_due(policy, last_active_ms=0, now_ms=30 * 60_000) == Idle(30)


def test_of_both_the_first_is_the_reason() -> None:
    """With both, the reason told is the one that came first."""
    policy = ResetPolicy(mode=ResetMode.BOTH, at=time(4), idle_minutes=120)
    evening, morning = ms("2026-06-01T22:00"), ms("2026-06-02T09:00")
    assert reset_due(policy, last_active_ms=evening, now_ms=morning) == Idle(120)
    late = ms("2026-06-02T03:30")
    assert reset_due(policy, last_active_ms=late, now_ms=morning) == NewDay(ms("2026-06-02T04:00"))


MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2032, 1, 1)).map(  # noqa: DTZ001 - the zone is put on next
    lambda naive: round(naive.replace(tzinfo=UTC).timestamp() * 1000)
)
POLICIES = st.builds(
    ResetPolicy,
    mode=st.sampled_from(list(ResetMode)),
    at=st.times().map(lambda t: t.replace(second=0, microsecond=0)),
    zone=st.sampled_from([UTC, NEW_YORK, ATHENS, ZoneInfo("Australia/Lord_Howe")]),
    idle_minutes=st.integers(1, 3000),
)


@given(POLICIES, MOMENTS, st.integers(-10, 20_160))
def test_a_reset_is_not_repeated(policy: ResetPolicy, last: int, minutes: int) -> None:
    """Right after the message that caused a reset there is none; without a mode there never is."""
    now = last + minutes * 60_000
    due = reset_due(policy, last_active_ms=last, now_ms=now)
    assert due is None or policy.mode != ResetMode.NONE
    assert due is None or now > last
    assert reset_due(policy, last_active_ms=now, now_ms=now) is None


@given(POLICIES, MOMENTS, st.integers(0, 7 * 24 * 60), st.integers(0, 7 * 24 * 60))
def test_once_due_it_stays_due(policy: ResetPolicy, last: int, some: int, more: int) -> None:
    """Waiting longer never takes a reset back, or changes its reason."""
    first = reset_due(policy, last_active_ms=last, now_ms=last + some * 60_000)
    later = reset_due(policy, last_active_ms=last, now_ms=last + (some + more) * 60_000)
    assert first is None or later == first


@given(POLICIES, MOMENTS)
def test_a_day_has_one_reset(policy: ResetPolicy, last: int) -> None:
    """Two days without a word have a daily reset in them, an instant has none."""
    plain = ResetPolicy(mode=ResetMode.DAILY, at=policy.at, zone=policy.zone)
    two_days = round(timedelta(days=2, hours=1).total_seconds() * 1000)
    assert isinstance(reset_due(plain, last_active_ms=last, now_ms=last + two_days), NewDay)


def test_the_reason_is_said_in_words() -> None:
    """People are told why: how long nothing was said, or which day began."""
    assert in_words(Idle(1440), UTC) == "nothing was said for 24 h"
    assert in_words(Idle(45), UTC) == "nothing was said for 45 min"
    assert (
        in_words(NewDay(ms("2026-06-02T04:00", ATHENS)), ATHENS) == "a new day began at 04:00 (Europe/Athens)"
    )
