"""When reminders are due: a table over clock changes, and what is said of what was missed."""

from __future__ import annotations

from datetime import date, datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.domain.reminders.schedule import (
    EveryDays,
    EveryMinutes,
    EveryMonth,
    EveryWeek,
    Once,
    Reminder,
    Schedule,
    fire,
    moment_in_words,
    next_ms,
)

BERLIN = "Europe/Berlin"
MONDAY = date(2026, 3, 2)
WEEKDAYS = (0, 1, 2, 3, 4)


def ms(text: str, zone: str = BERLIN, fold: int = 0) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


def following(schedule: Schedule, after: str, count: int, fold: int = 0) -> list[str]:
    """The next times, by the clocks of Berlin."""
    found, at = [], ms(after, fold=fold)
    for _ in range(count):
        at = next_ms(schedule, ZoneInfo(BERLIN), at) or 0
        found.append(datetime.fromtimestamp(at / 1000, ZoneInfo(BERLIN)).strftime("%m-%d %H:%M%z"))
    return found


@pytest.mark.parametrize(
    ("schedule", "after", "times"),
    [
        (EveryDays(1, time(9), MONDAY), "2026-03-27T09:00", "03-28 09:00+0100 03-29 09:00+0200 03-30 09:00+0200"),
        # 02:30 is skipped on 2026-03-29: it comes an hour later, once
        (EveryDays(1, time(2, 30), MONDAY), "2026-03-28T02:00", "03-28 02:30+0100 03-29 03:30+0200 03-30 02:30+0200"),
        # 02:30 is shown twice on 2026-10-25: the first counts
        (EveryDays(1, time(2, 30), MONDAY), "2026-10-24T02:30", "10-25 02:30+0200 10-26 02:30+0100"),
        (EveryDays(3, time(9), MONDAY), "2026-03-02T09:00", "03-05 09:00+0100 03-08 09:00+0100"),
        (EveryDays(3, time(9), MONDAY), "2026-02-01T09:00", "03-02 09:00+0100 03-05 09:00+0100"),
        (EveryWeek(1, WEEKDAYS, time(9), MONDAY), "2026-03-05T09:00", "03-06 09:00+0100 03-09 09:00+0100"),
        (EveryWeek(2, (0, 3), time(9), date(2026, 3, 4)), "2026-03-04T00:00", "03-05 09:00+0100 03-16 09:00+0100 03-19 09:00+0100"),
        (EveryMonth(31, time(9)), "2026-01-31T09:00", "02-28 09:00+0100 03-31 09:00+0200 04-30 09:00+0200"),
        (EveryMonth(1, time(0)), "2026-01-31T23:59", "02-01 00:00+0100 03-01 00:00+0100"),
        # minutes are minutes, whatever clocks show
        (EveryMinutes(60), "2026-03-29T01:30", "03-29 03:30+0200 03-29 04:30+0200"),
        (EveryMinutes(60), "2026-10-25T01:30", "10-25 02:30+0200 10-25 02:30+0100 10-25 03:30+0100"),
    ],
)  # fmt: skip
def test_times_follow_the_clocks_of_the_zone(schedule: Schedule, after: str, times: str) -> None:
    """Also over the days on which clocks change."""
    assert " ".join(following(schedule, after, times.count("+"))) == times


def test_the_second_time_that_clocks_show_is_no_other() -> None:
    """From between the two 02:30 of 2026-10-25, the next 02:30 is on the next day."""
    daily = EveryDays(1, time(2, 30), MONDAY)
    assert following(daily, "2026-10-25T02:00", 1, fold=1) == ["10-26 02:30+0100"]


DAILY = Reminder(
    text="tea", zone=BERLIN, due_ms=ms("2026-06-10T09:00"), schedule=EveryDays(1, time(9), MONDAY)
)


@pytest.mark.parametrize(
    ("now", "due", "missed", "late", "next_"),
    [
        ("2026-06-10T09:00:00", "2026-06-10T09:00", 0, False, "2026-06-11T09:00"),
        ("2026-06-10T09:01:59", "2026-06-10T09:00", 0, False, "2026-06-11T09:00"),
        ("2026-06-10T12:00:00", "2026-06-10T09:00", 0, True, "2026-06-11T09:00"),
        ("2026-06-11T08:59:59", "2026-06-10T09:00", 0, True, "2026-06-11T09:00"),
        ("2026-06-11T09:00:00", "2026-06-11T09:00", 1, False, "2026-06-12T09:00"),
        ("2026-06-14T10:00:00", "2026-06-14T09:00", 4, True, "2026-06-15T09:00"),
    ],
)
def test_what_was_missed_is_said_once(now: str, due: str, missed: int, late: bool, next_: str) -> None:
    """However long nobody was there: one firing with the last time it was due, and the next is ahead."""
    firing = fire(DAILY, ms(now))
    assert (firing.due_ms, firing.missed, firing.is_late) == (ms(due), missed, late)
    assert firing.following is not None
    assert firing.following.due_ms == ms(next_)


def test_a_reminder_for_once_is_over() -> None:
    """Nothing is kept of it; said a year late, it says so."""
    once = Reminder(text="tea", zone=BERLIN, due_ms=ms("2026-06-10T09:00"), schedule=Once())
    firing = fire(once, ms("2027-06-10T09:00"))
    assert (firing.following, firing.missed, firing.is_late) == (None, 0, True)


def test_minutes_that_were_missed_are_counted_at_once() -> None:
    """Five years of every five minutes are no loop."""
    often = Reminder(text="tea", zone=BERLIN, due_ms=1_000_000, schedule=EveryMinutes(5))
    now = 1_000_000 + 5 * 366 * 86_400_000 + 299_999
    firing = fire(often, now)
    assert firing.missed == 5 * 366 * 288
    assert firing.due_ms == now - 299_999
    assert firing.following is not None
    assert firing.following.due_ms == now + 1


_SCHEDULES = st.one_of(
    st.builds(EveryMinutes, st.integers(5, 100_000)),
    st.builds(EveryDays, st.integers(1, 365), st.times(), st.dates(date(2018, 1, 1), date(2020, 1, 1))),
    st.builds(EveryWeek, st.integers(1, 52), st.sets(st.integers(0, 6), min_size=1).map(lambda s: tuple(sorted(s))),
              st.times(), st.dates(date(2018, 1, 1), date(2020, 1, 1))),
    st.builds(EveryMonth, st.integers(1, 31), st.times()),
)  # fmt: skip


@given(
    _SCHEDULES,
    st.sampled_from((BERLIN, "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "UTC")),
    st.integers(ms("2020-01-01"), ms("2030-01-01")),
    st.integers(0, 800 * 86_400_000),
)
def test_no_time_is_due_twice(schedule: Schedule, zone: str, due: int, later: int) -> None:
    """Whatever recurs, wherever, and however late it is looked at: what is said is due by now, and the next is after now."""
    now = due + later
    firing = fire(Reminder(text="x", zone=zone, due_ms=due, schedule=schedule), now)
    assert due <= firing.due_ms <= now
    assert firing.following is not None
    assert firing.following.due_ms > now
    assert next_ms(schedule, ZoneInfo(zone), firing.due_ms) == firing.following.due_ms


def test_a_moment_is_said_with_its_zone() -> None:
    """The day, the absolute time, the zone and how far it is from UTC."""
    assert moment_in_words(ms("2026-12-24T18:00"), BERLIN) == "Thu 2026-12-24 18:00 (Europe/Berlin, UTC+0100)"
