"""What people type behind `/remind`: when, perhaps a zone, and what. Only what is understood to its end is taken.

    in 20m tea                       in 1h30m · in 2 days · in 3 weeks
    tomorrow 9:00 call Ann           today | Monday | next Friday | 2026-12-24 | 24 Dec, then a time; 9:00 without a time
    at 18:30 dinner                  the next time that clocks show it; also 6:30pm, noon
    every weekday at 9:00 stand-up   day | 2 days | Monday and Thursday | week | month on the 15th | 30 minutes | 2 hours
    tomorrow 9:00 Europe/Berlin x    in another zone than one's own

Days and weeks keep the time of day, hours and minutes do not look at clocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from clew.domain.reminders.schedule import (
    EveryDays,
    EveryMinutes,
    EveryMonth,
    EveryWeek,
    Once,
    Reminder,
    Schedule,
    moment_in_words,
    next_ms,
)
from clew.domain.wall_time import moment_ms

TEXT_CHARACTERS_MAX: Final = 1000
MINUTES_MIN: Final = 5
"""Nothing comes again sooner: each time is a turn of the model."""
DAYS_AHEAD_MAX: Final = 5 * 366
MORNING: Final = time(9)
"""The time of a day that was named without one."""
EXAMPLES: Final = "in 20m tea, tomorrow 9:00 call Ann, every weekday at 9:00 stand-up"

_UNITS: Final = r"(minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w)(?![a-z])"
_IN: Final = re.compile(rf"in\s+(?=(?:\d+|an?\b)\s*{_UNITS})", re.IGNORECASE)
_AMOUNT: Final = re.compile(rf"(?:(\d{{1,7}})|an?\b)\s*{_UNITS}(?:\s*,?\s*and\b)?\s*", re.IGNORECASE)
_EVERY: Final = re.compile(r"every\s+(?:(\d{1,4}|other)\s+)?", re.IGNORECASE)
_UNIT: Final = re.compile(r"(minutes?|mins?|hours?|days?|weeks?|months?)\b\s*", re.IGNORECASE)
_GROUP: Final = re.compile(r"(weekday|weekend)s?\b\s*", re.IGNORECASE)
_WEEKDAY: Final = re.compile(
    r"(mon|tues?|wed(?:nes)?|thu(?:rs?)?|fri|sat(?:ur)?|sun)(?:day)?s?\b\s*", re.IGNORECASE
)
_AND: Final = re.compile(r"(?:,\s*and\b|,|and\b)\s*", re.IGNORECASE)
_MONTH_DAY: Final = re.compile(r"on\s+(?:the\s+|day\s+)?(\d{1,2})(?:st|nd|rd|th)?\b\s*", re.IGNORECASE)
_TIME: Final = re.compile(r"(?:at\s+)?(?:(\d{1,2}):(\d{2})\s*([ap]m\b)?|(\d{1,2})\s*([ap]m)\b|(noon|midnight)\b)\s*", re.IGNORECASE)  # fmt: skip
_BARE_HOUR: Final = re.compile(r"at\s+(\d{1,2})(?![\d:])\b\s*", re.IGNORECASE)
_DAY: Final = re.compile(r"(today|tomorrow)\b\s*", re.IGNORECASE)
_ON: Final = re.compile(r"on\s+", re.IGNORECASE)
_NEXT: Final = re.compile(r"next\s+", re.IGNORECASE)
_ISO: Final = re.compile(r"(?:on\s+)?(\d{4})-(\d{1,2})-(\d{1,2})(?!\d)(?:T(?=\d))?\s*", re.IGNORECASE)
_DATE: Final = re.compile(r"(?:on\s+)?(?:the\s+)?(\d{1,2})(?:st|nd|rd|th)?\.?\s+(?:of\s+)?([a-z]{3,9})\b\.?(?:\s+(\d{4})\b)?\s*", re.IGNORECASE)  # fmt: skip
_ZONE: Final = re.compile(r"([A-Za-z]+(?:/[A-Za-z0-9_+-]+)+|UTC)(?:\s+|$)")
_MONTHS: Final = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december")  # fmt: skip
_SHORT: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class NotUnderstood(Exception):
    """One sentence for whoever asked."""


class _When(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule, and the day and time or the moment that it begins with."""

    schedule: Schedule = Once()
    first_ms: int | None = None
    """None: the next time of the schedule."""


def understood(phrase: str, now_ms: int, zone: str) -> Reminder:
    """The reminder that was asked for. Raises NotUnderstood."""
    words = _Words(phrase.strip(), zone)
    when = words.when(now_ms)
    text = words.rest.strip()
    if not text:
        raise NotUnderstood(f"Say when and then what: {EXAMPLES}.")
    if len(text) > TEXT_CHARACTERS_MAX:
        raise NotUnderstood(f"A reminder has at most {TEXT_CHARACTERS_MAX} characters.")
    first = when.first_ms
    if first is None:
        first = next_ms(when.schedule, ZoneInfo(words.zone), now_ms)
    if first is None or first > now_ms + DAYS_AHEAD_MAX * 86_400_000:
        raise NotUnderstood("A reminder is at most five years ahead.")
    if first <= now_ms:
        raise NotUnderstood(f"{moment_in_words(first, words.zone)} is past; nothing was kept.")
    return Reminder(text=text, zone=words.zone, due_ms=first, schedule=when.schedule)


class _Words:
    """Takes what it understands from the start of a phrase."""

    def __init__(self, phrase: str, zone: str) -> None:
        self.rest = phrase
        self.zone = zone
        self._phrase = phrase

    def when(self, now_ms: int) -> _When:
        try:
            if self._take(_IN):
                return self._in(now_ms)
            if (every := self._take(_EVERY)) is not None:
                return self._every(every[1], now_ms)
            return self._at(now_ms)
        except (ValueError, OverflowError) as error:  # a day or time that no calendar has
            raise NotUnderstood(f"“{self._said}” is no day or time of day.") from error

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.rest)
        if found is not None:
            self.rest = self.rest[found.end() :]
        return found

    @property
    def _said(self) -> str:
        """The start of the phrase, as far as it was looked at."""
        taken = self._phrase[: len(self._phrase) - len(self.rest)].strip() or self._phrase
        return taken[:60]

    def _unclear(self) -> NotUnderstood:
        return NotUnderstood(f"I do not understand when “{self._phrase[:60]}” is. Say it like: {EXAMPLES}.")

    def _zoned(self, now_ms: int) -> datetime:
        """Now, by the clocks of the zone that is named next, or one's own."""
        if (found := self._take(_ZONE)) is not None:
            self.zone = found[1]
        return self._local(now_ms)

    def _local(self, now_ms: int) -> datetime:
        try:
            return datetime.fromtimestamp(now_ms / 1000, ZoneInfo(self.zone))
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise NotUnderstood(
                f"There is no time zone {self.zone[:60]}; one is called Europe/Berlin."
            ) from error

    # -- in 1h30m ------------------------------------------------------------------------------------------------
    def _in(self, now_ms: int) -> _When:
        days, minutes = 0, 0
        while (amount := self._take(_AMOUNT)) is not None:
            count, unit = int(amount[1] or 1), amount[2][0].lower()
            days += count * {"d": 1, "w": 7}.get(unit, 0)
            minutes += count * {"m": 1, "h": 60}.get(unit, 0)
        local = self._zoned(now_ms)
        if not days and not minutes:
            raise NotUnderstood("“in 0” is now: nothing was kept.")
        if days > DAYS_AHEAD_MAX or minutes > DAYS_AHEAD_MAX * 1440:
            raise NotUnderstood("A reminder is at most five years ahead.")
        then = (
            now_ms
            if not days
            else moment_ms(local.date() + timedelta(days=days), local.time(), ZoneInfo(self.zone))
        )
        return _When(first_ms=then + minutes * 60_000)

    # -- every weekday at 9:00 -----------------------------------------------------------------------------------
    def _every(self, typed: str | None, now_ms: int) -> _When:
        count = 2 if typed and typed.lower() == "other" else int(typed or 1)
        named = self._take(_UNIT)
        unit = named[1].lower()[:2] if named is not None else "we"
        weekdays: tuple[int, ...] = ()
        if unit == "we":
            self._take(_ON)
            weekdays = self._weekdays()
        if count < 1 or (named is None and not weekdays):
            raise self._unclear()
        day = self._take(_MONTH_DAY) if unit == "mo" else None
        at = None if unit in ("mi", "ho") else self._time()
        today = self._zoned(now_ms).date()
        if unit in ("mi", "ho"):
            return _every_minutes(count * (60 if unit == "ho" else 1), now_ms)
        if count > {"da": 365, "we": 52, "mo": 1}[unit]:
            raise NotUnderstood("That is more than a year apart, or several months; nothing was kept.")
        if unit == "mo":
            number = int(day[1]) if day is not None else today.day
            date(2000, 1, number)  # it has 31 days
            return _When(schedule=EveryMonth(number, at or MORNING))
        if unit == "we":
            return _When(schedule=EveryWeek(count, weekdays or (today.weekday(),), at or MORNING, today))
        first = today
        if moment_ms(today, at or MORNING, ZoneInfo(self.zone)) <= now_ms:
            first += timedelta(
                days=1
            )  # every second day begins with the next time, not with one that is past
        return _When(schedule=EveryDays(count, at or MORNING, first))

    def _weekdays(self) -> tuple[int, ...]:
        """Weekdays that are named one after the other, each once."""
        if (group := self._take(_GROUP)) is not None:
            return (0, 1, 2, 3, 4) if group[1].lower() == "weekday" else (5, 6)
        days: set[int] = set()
        behind = self.rest
        while (found := self._take(_WEEKDAY)) is not None:
            days.add(_weekday(found))
            behind = self.rest
            if self._take(_AND) is None:
                break
        self.rest = behind
        return tuple(sorted(days))

    # -- tomorrow 9:00 -------------------------------------------------------------------------------------------
    def _at(self, now_ms: int) -> _When:
        """A day and a time of day in either order, or one of them."""
        at = self._time()
        day = self._day()
        at = at or self._time()
        if at is None and day is None:
            raise self._unclear()
        now = self._zoned(now_ms)
        zone, at = ZoneInfo(self.zone), at or MORNING
        first, again = (now.date(), 1) if day is None else day(now.date())
        moment = moment_ms(first, at, zone)
        if moment <= now_ms and again:
            moment = moment_ms(first + timedelta(days=again), at, zone)
        return _When(first_ms=moment)

    def _day(self) -> Callable[[date], tuple[date, int]] | None:
        """From today, the day that is named, and after how many days there is another; 0 for never."""
        if (found := self._take(_DAY)) is not None:
            ahead = int(found[1].lower() == "tomorrow")
            return lambda today: (today + timedelta(days=ahead), 0)
        if (found := self._take(_ISO)) is not None:
            named = date(int(found[1]), int(found[2]), int(found[3]))
            return lambda _: (named, 0)
        if (found := _DATE.match(self.rest)) is not None and (month := _month(found[2])):
            self._take(_DATE)
            number, year = int(found[1]), found[3]
            return lambda today: (_in_year(today, month, number, year), 0)
        before, is_next = self.rest, self._take(_NEXT)
        if is_next is None:
            self._take(_ON)
        if (found := self._take(_WEEKDAY)) is None:
            self.rest = before
            return None
        skips = int(is_next is not None)
        weekday = _weekday(found)
        return lambda today: (today + timedelta(days=skips + (weekday - today.weekday() - skips) % 7), 7)

    def _time(self) -> time | None:
        found = self._take(_TIME)
        if found is None:
            bare = self._take(_BARE_HOUR)
            return time(int(bare[1])) if bare is not None else None
        if found[6]:
            return time(12 if found[6].lower() == "noon" else 0)
        hour, half = int(found[1] or found[4]), (found[3] or found[5] or "").lower()
        if half and not 1 <= hour <= 12:
            raise ValueError(hour)
        return time(hour % 12 + 12 * (half == "pm") if half else hour, int(found[2] or 0))


def _every_minutes(minutes: int, now_ms: int) -> _When:
    if minutes < MINUTES_MIN:
        raise NotUnderstood(f"At most every {MINUTES_MIN} minutes; nothing was kept.")
    return _When(schedule=EveryMinutes(minutes), first_ms=now_ms + minutes * 60_000)


def _weekday(found: re.Match[str]) -> int:
    return _SHORT.index(found[1][:3].lower())


def _month(name: str) -> int:
    """1 to 12; 0 for what is no month."""
    months = [n for n, month in enumerate(_MONTHS, 1) if month.startswith(name.lower())]
    return months[0] if len(months) == 1 else 0


def _in_year(today: date, month: int, number: int, year: str | None) -> date:
    """The day in the year that was named, or the next one there is."""
    if year is not None:
        return date(int(year), month, number)
    this = date(today.year, month, number)
    return this if this >= today else date(today.year + 1, month, number)
