"""What people type behind /remind: a table of what is understood, and of the one sentence where it is not."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.domain.reminders.phrases import NotUnderstood, understood
from clew.domain.reminders.schedule import Once, in_words

BERLIN = "Europe/Berlin"


def ms(text: str, zone: str = BERLIN) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


NOW = ms("2026-06-10T14:00:30")  # a Wednesday


@pytest.mark.parametrize(
    ("phrase", "due", "text"),
    [
        ("in 20m tea", "2026-06-10T14:20:30", "tea"),
        ("in 20 minutes  call Ann, now", "2026-06-10T14:20:30", "call Ann, now"),
        ("in 1h30m x", "2026-06-10T15:30:30", "x"),
        ("in 1 hour and 30 min x", "2026-06-10T15:30:30", "x"),
        ("in an hour x", "2026-06-10T15:00:30", "x"),
        ("in 2 days x", "2026-06-12T14:00:30", "x"),
        ("in 1 week 2 h x", "2026-06-17T16:00:30", "x"),
        ("in 5 min 3 eggs", "2026-06-10T14:05:30", "3 eggs"),
        ("in 2h 5 minutes of stretching", "2026-06-10T16:05:30", "of stretching"),
        ("tomorrow 9:00 call Ann", "2026-06-11T09:00", "call Ann"),
        ("Tomorrow at 9:00 call Ann", "2026-06-11T09:00", "call Ann"),
        ("tomorrow call Ann", "2026-06-11T09:00", "call Ann"),
        ("at 9:00 tomorrow call Ann", "2026-06-11T09:00", "call Ann"),
        ("tomorrow 9am x", "2026-06-11T09:00", "x"),
        ("tomorrow 12am x", "2026-06-11T00:00", "x"),
        ("tomorrow 12:30 pm x", "2026-06-11T12:30", "x"),
        ("today noon x", None, "past"),
        ("tomorrow at noon x", "2026-06-11T12:00", "x"),
        ("today at 18 x", "2026-06-10T18:00", "x"),
        ("at 18:30 dinner", "2026-06-10T18:30", "dinner"),
        ("at 9:00 dinner", "2026-06-11T09:00", "dinner"),
        ("18:30 dinner", "2026-06-10T18:30", "dinner"),
        ("wednesday 18:00 x", "2026-06-10T18:00", "x"),
        ("wednesday 9:00 x", "2026-06-17T09:00", "x"),
        ("next wed 18:00 x", "2026-06-17T18:00", "x"),
        ("on friday x", "2026-06-12T09:00", "x"),
        ("Mon 7:15 x", "2026-06-15T07:15", "x"),
        ("2026-12-24 18:00 x", "2026-12-24T18:00", "x"),
        ("on 2026-12-24 x", "2026-12-24T09:00", "x"),
        ("24 Dec 18:00 x", "2026-12-24T18:00", "x"),
        ("1 March x", "2027-03-01T09:00", "x"),
        ("3rd of january 2028 at 8:00 x", "2028-01-03T08:00", "x"),
        ("every day at 8:00 x", "2026-06-11T08:00", "x"),
        ("every day at 18:00 x", "2026-06-10T18:00", "x"),
        ("every 2 days at 8:00 x", "2026-06-11T08:00", "x"),
        ("every weekday at 9:00 stand-up", "2026-06-11T09:00", "stand-up"),
        ("every weekend x", "2026-06-13T09:00", "x"),
        ("every mon, thu and friday at 9:00 x", "2026-06-11T09:00", "x"),
        ("every monday and then some", "2026-06-15T09:00", "and then some"),
        ("every week at 9:00 x", "2026-06-17T09:00", "x"),
        ("every 2 weeks on monday at 9:00 x", "2026-06-22T09:00", "x"),
        ("every other monday x", "2026-06-22T09:00", "x"),
        ("every month on the 15th at 10:00 x", "2026-06-15T10:00", "x"),
        ("every month x", "2026-07-10T09:00", "x"),
        ("every 30 minutes x", "2026-06-10T14:30:30", "x"),
        ("every hour x", "2026-06-10T15:00:30", "x"),
        ("tomorrow 9:00 Europe/London x", "2026-06-11T10:00", "x"),
        ("every day at 9:00 America/New_York x", "2026-06-10T15:00", "x"),
        ("tomorrow 9:00 UTC x", "2026-06-11T11:00", "x"),
        ("", None, "Say it like"),
        ("tea", None, "Say it like"),
        ("in a while tea", None, "Say it like"),
        ("in 20m", None, "then what"),
        ("in 20 miles", None, "Say it like"),
        ("in 0m x", None, "nothing was kept"),
        ("may I ask", None, "Say it like"),
        ("2 March", None, "then what"),
        ("2020-01-01 x", None, "is past; nothing was kept"),
        ("today 9:00 x", None, "Wed 2026-06-10 09:00 (Europe/Berlin, UTC+0200) is past"),
        ("2026-02-30 x", None, "“2026-02-30” is no day"),
        ("30 Feb x", None, "is no day"),
        ("tomorrow 25:00 x", None, "“tomorrow 25:00” is no day or time of day"),
        ("tomorrow 13pm x", None, "is no day or time of day"),
        ("2099-01-01 x", None, "five years"),
        ("in 9999999 weeks x", None, "five years"),
        ("in 9999999 h x", None, "five years"),
        ("every 4 minutes x", None, "every 5 minutes"),
        ("every 0 days x", None, "Say it like"),
        ("every 400 days x", None, "more than a year"),
        ("every 2 months x", None, "several months"),
        ("every month on the 32 x", None, "is no day"),
        ("every blue moon x", None, "Say it like"),
        ("tomorrow 9:00 Europe/Nowhere x", None, "no time zone Europe/Nowhere"),
        ("tomorrow " + "x" * 1001, None, "1000 characters"),
    ],
)  # fmt: skip
def test_what_is_understood(phrase: str, due: str | None, text: str) -> None:
    """The time by the clocks of the zone and every letter behind it; or one sentence that says what is wrong."""
    if due is None:
        with pytest.raises(
            NotUnderstood, match=text.replace("(", r"\(").replace(")", r"\)").replace("+", r"\+")
        ):
            understood(phrase, NOW, BERLIN)
    else:
        reminder = understood(phrase, NOW, BERLIN)
        assert (
            datetime.fromtimestamp(reminder.due_ms / 1000, ZoneInfo(BERLIN)).isoformat()[:19],
            reminder.text,
        ) == (
            datetime.fromisoformat(due).isoformat(),
            text,
        )
        assert (reminder.schedule == Once()) == (not phrase.startswith("every"))


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("every weekday at 9:00 x", "every weekday at 09:00"),
        ("every other monday x", "every Monday at 09:00, every 2 weeks"),
        ("every sat and sun at 10:00 x", "every Saturday and Sunday at 10:00"),
        ("every 2 days x", "every 2 days at 09:00"),
        ("every 90 minutes x", "every 90 min"),
        ("every 120 minutes x", "every 2 hours"),
        ("every month on the 31st x", "every month on day 31 at 09:00"),
        ("in 5m x", ""),
    ],
)
def test_a_schedule_is_said_in_words(phrase: str, words: str) -> None:
    """As it was understood."""
    assert in_words(understood(phrase, NOW, BERLIN).schedule) == words


_PIECES = st.sampled_from(
    [
        *(
            "in",
            "every",
            "at",
            "on",
            "next",
            "the",
            "and",
            ",",
            "9:00",
            "25:99",
            "9am",
            "0",
            "1",
            "20",
            "99999999",
            "m",
            "h",
        ),
        *(
            "days",
            "weeks",
            "weekday",
            "mon",
            "tomorrow",
            "today",
            "noon",
            "month",
            "2026-02-30",
            "2026-12-24",
            "24",
            "Dec",
        ),
        *("31", "feb", "0000", "UTC", "Europe/Berlin", "a/b", "tea", "\0", "é"),
    ]
)


@given(st.lists(_PIECES | st.text(max_size=4), max_size=8).map(" ".join))
def test_anything_is_a_reminder_ahead_or_one_sentence(phrase: str) -> None:
    """Whatever is typed: never another error, never a time that is past, never an empty text."""
    sentence, reminder = "", None
    try:
        reminder = understood(phrase, NOW, BERLIN)
    except NotUnderstood as error:
        sentence = str(error)
    if reminder is None:
        assert 0 < len(sentence) < 250
    else:
        assert reminder.due_ms > NOW
        assert reminder.text
        assert phrase.strip().endswith(reminder.text)
