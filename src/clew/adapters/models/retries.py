"""When to try again, and after how long. Pure: time and chance are given.

Retried is what may pass by itself: a rate limit, a server's fault, a broken line, a cut answer. What will be refused
again is not. A server that asks for a longer pause than a person would sit through is not waited for: that is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from clew.domain.models.answer import FailureKind

RETRIED: Final = frozenset(
    {FailureKind.RATE_LIMITED, FailureKind.SERVER, FailureKind.NETWORK, FailureKind.CUT}
)


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds, in seconds. `seconds_max` is from the first attempt's start: no attempt begins after it."""

    attempts_max: int = 4
    first_wait_seconds: float = 1.0
    wait_seconds_max: float = 30.0
    seconds_max: float = 600.0

    def wait(
        self, kind: FailureKind, *, attempt: int, asked: float | None, elapsed: float, chance: float
    ) -> float | None:
        """Seconds to wait before attempt + 1, or None to give up.

        `attempt` counts from 1, `asked` is what the server's Retry-After came to, `chance` is drawn from [0, 1).
        The wait doubles with each attempt and is spread over its upper half, so that many clients do not return
        together; it is never shorter than asked.
        """
        if kind not in RETRIED or attempt >= self.attempts_max:
            return None
        doubled = min(self.first_wait_seconds * 2.0 ** (attempt - 1), self.wait_seconds_max)
        seconds = max(doubled * (0.5 + 0.5 * chance), asked or 0.0)
        if seconds > self.wait_seconds_max or elapsed + seconds > self.seconds_max:
            return None
        return seconds


def asked_seconds(headers: Mapping[str, str], *, now: float) -> float | None:
    """What `Retry-After` (seconds or an HTTP date, RFC 9110 section 10.2.3) or `retry-after-ms` asks for.

    `headers` has lower-case names; `now` is seconds since 1970. None when absent or unreadable; never negative.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if value is None:
        return None
    if (seconds := _number(value)) is not None:
        return seconds
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.fromtimestamp(now, UTC)).total_seconds())


def _number(value: str | None) -> float | None:
    """A finite count, not below zero."""
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
