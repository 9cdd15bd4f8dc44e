"""The reset policy: none, after idle time, every day at a time of a named zone, or both.

It is asked when a message comes, never by a timer and never in a turn. A boundary belongs to what begins there: a message at
exactly 04:00 starts the new day, and one after exactly the idle time starts a new session. Where clocks skip the time of the
reset it comes as much later as they skip; where they show it twice, the first counts. A clock that went back resets nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import StrEnum

import msgspec

from clew.domain.wall_time import moment_ms


class ResetMode(StrEnum):
    NONE = "none"
    IDLE = "idle"
    DAILY = "daily"
    BOTH = "both"


class ResetPolicy(msgspec.Struct, frozen=True, kw_only=True):
    mode: ResetMode = ResetMode.NONE
    at: time = time(4)
    zone: tzinfo = UTC
    idle_minutes: int = 1440


class Idle(msgspec.Struct, frozen=True):
    """Nothing was said for so long."""

    minutes: int


class NewDay(msgspec.Struct, frozen=True):
    """The time of the daily reset has passed since; in milliseconds since 1970."""

    at_ms: int


ResetReason = Idle | NewDay


def reset_due(policy: ResetPolicy, *, last_active_ms: int, now_ms: int) -> ResetReason | None:
    """Why a new session begins with a message that comes now; the reason that came first, or None."""
    idle = _idle(policy, last_active_ms, now_ms)
    day = _new_day(policy, last_active_ms, now_ms)
    if idle is None or day is None:
        return idle or day
    idle_at_ms = last_active_ms + policy.idle_minutes * 60_000
    return idle if idle_at_ms < day.at_ms else day


def _idle(policy: ResetPolicy, last_active_ms: int, now_ms: int) -> Idle | None:
    if policy.mode not in (ResetMode.IDLE, ResetMode.BOTH):
        return None
    return Idle(policy.idle_minutes) if now_ms - last_active_ms >= policy.idle_minutes * 60_000 else None


def _new_day(policy: ResetPolicy, last_active_ms: int, now_ms: int) -> NewDay | None:
    """The first boundary after the last activity, if it has come."""
    if policy.mode not in (ResetMode.DAILY, ResetMode.BOTH) or now_ms <= last_active_ms:
        return None
    day = datetime.fromtimestamp(last_active_ms / 1000, policy.zone).date() - timedelta(days=1)
    while (boundary := moment_ms(day, policy.at, policy.zone)) <= last_active_ms:
        day += timedelta(days=1)
    return NewDay(boundary) if boundary <= now_ms else None


def in_words(reason: ResetReason, zone: tzinfo) -> str:
    """The reason, for the person."""
    match reason:
        case Idle(minutes):
            long = f"{minutes // 60} h" if minutes >= 60 and minutes % 60 == 0 else f"{minutes} min"
            return f"nothing was said for {long}"
        case NewDay(at_ms):
            local = datetime.fromtimestamp(at_ms / 1000, zone)
            return f"a new day began at {local:%H:%M} ({zone})"
