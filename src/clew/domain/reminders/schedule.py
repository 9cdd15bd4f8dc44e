"""When something is due: once, or again and again in a named zone.

A time of day follows the wall clock of its zone, by the rule of `wall_time`. What was missed is said once, with the time it was
due. The next time is always after now and after the last one, so a clock that goes back makes nothing due again.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, tzinfo
from typing import Final, assert_never
from zoneinfo import ZoneInfo

import msgspec

from clew.domain.wall_time import moment_ms

LATE_MS: Final = 120_000
"""What is said later than this says when it was due."""
DAYS_LOOKED_MAX: Final = 800
"""A recurrence has its next time within so many days: the longest is every 365 days."""
WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Once(msgspec.Struct, frozen=True, tag="once"):
    """At one moment."""


class EveryMinutes(msgspec.Struct, frozen=True, tag="minutes"):
    """So many minutes after the last time, whatever clocks show."""

    minutes: int


class EveryDays(msgspec.Struct, frozen=True, tag="days"):
    """At a time of day, on every so many days from the first."""

    days: int
    at: time
    first: date


class EveryWeek(msgspec.Struct, frozen=True, tag="week"):
    """At a time on these days (Monday is 0) of every so many weeks from the one that the first day is in."""

    weeks: int
    days: tuple[int, ...]
    at: time
    first: date


class EveryMonth(msgspec.Struct, frozen=True, tag="month"):
    """At a time on a day of each month, or its last one where it has no such day."""

    day: int
    at: time


Schedule = Once | EveryMinutes | EveryDays | EveryWeek | EveryMonth


class Reminder(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be said and when, as it is kept. `due_ms` is when it is due next, in milliseconds since 1970."""

    text: str
    zone: str
    due_ms: int
    schedule: Schedule = Once()


class Firing(msgspec.Struct, frozen=True, kw_only=True):
    """What is said now. `due_ms` is the last time that was due by now, and `missed` counts those before it that nothing was
    said of; `following` is what is kept from here on, None when that is nothing."""

    due_ms: int
    missed: int
    is_late: bool
    following: Reminder | None


def fire(reminder: Reminder, now_ms: int) -> Firing:
    """What becomes of a reminder that is due by now."""
    zone = ZoneInfo(reminder.zone)
    last, missed, following = reminder.due_ms, 0, next_ms(reminder.schedule, zone, reminder.due_ms)
    if isinstance(reminder.schedule, EveryMinutes) and following is not None and following <= now_ms:
        step = reminder.schedule.minutes * 60_000
        missed = (now_ms - reminder.due_ms) // step
        last = reminder.due_ms + missed * step
        following = last + step
    while following is not None and following <= now_ms:
        last, missed = following, missed + 1
        following = next_ms(reminder.schedule, zone, following)
    return Firing(
        due_ms=last,
        missed=missed,
        is_late=now_ms - last >= LATE_MS,
        following=None if following is None else msgspec.structs.replace(reminder, due_ms=following),
    )


def next_ms(schedule: Schedule, zone: tzinfo, after_ms: int) -> int | None:
    """The first time after this one; None when there is no other."""
    match schedule:
        case Once():
            return None
        case EveryMinutes(minutes):
            return after_ms + minutes * 60_000
        case EveryDays() | EveryWeek() | EveryMonth():
            day = datetime.fromtimestamp(after_ms / 1000, zone).date() - timedelta(days=1)
            for _ in range(DAYS_LOOKED_MAX):
                if _is_on(schedule, day) and (at := moment_ms(day, schedule.at, zone)) > after_ms:
                    return at
                day += timedelta(days=1)
            return None
        case _:
            assert_never(schedule)


def _is_on(schedule: EveryDays | EveryWeek | EveryMonth, day: date) -> bool:
    match schedule:
        case EveryDays(days, _, first):
            return day >= first and (day - first).days % days == 0
        case EveryWeek(weeks, days, _, first):
            monday = first - timedelta(days=first.weekday())
            return day >= first and day.weekday() in days and (day - monday).days // 7 % weeks == 0
        case EveryMonth(number, _):
            is_last = (day + timedelta(days=1)).day == 1
            return day.day == number or (is_last and day.day < number)
        case _:
            assert_never(schedule)


# -- in words ----------------------------------------------------------------------------------------------------
def in_words(schedule: Schedule) -> str:
    """How often; empty for once."""
    match schedule:
        case Once():
            return ""
        case EveryMinutes(minutes):
            return f"every {minutes} min" if minutes % 60 else _every(minutes // 60, "hour")
        case EveryDays(days, at, _):
            return f"{_every(days, 'day')} at {at:%H:%M}"
        case EveryWeek(weeks, days, at, _):
            named = {(0, 1, 2, 3, 4): "weekday", (5, 6): "Saturday and Sunday"}.get(days)
            named = named or " and ".join(WEEKDAYS[day] for day in days)
            return f"every {named} at {at:%H:%M}" + (f", every {weeks} weeks" if weeks > 1 else "")
        case EveryMonth(day, at):
            return f"every month on day {day} at {at:%H:%M}"
        case _:
            assert_never(schedule)


def _every(count: int, unit: str) -> str:
    return f"every {unit}" if count == 1 else f"every {count} {unit}s"


def moment_in_words(at_ms: int, zone: str) -> str:
    """The absolute time and the zone."""
    local = datetime.fromtimestamp(at_ms / 1000, ZoneInfo(zone))
    return f"{local:%a %Y-%m-%d %H:%M} ({zone}, UTC{local:%z})"
