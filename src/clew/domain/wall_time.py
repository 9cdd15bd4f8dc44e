"""When a time of day is, in a named zone. Rule: where clocks skip it, it comes as much later as they skip; where they show it
twice, the first counts."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, tzinfo


def moment_ms(day: date, at: time, zone: tzinfo) -> int:
    """Milliseconds since 1970. A time that the zone skips is read with the offset from before."""
    return round(datetime.combine(day, at, tzinfo=zone).astimezone(UTC).timestamp() * 1000)
