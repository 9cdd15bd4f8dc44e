"""The machine itself: its clock and its source of chance."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from clew.domain.conversation.ids import ID_ALPHABET


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class SystemChance:
    def token(self, length: int) -> str:
        # A byte has eight times as many values as there are letters, so each is as likely as the others.
        return "".join([ID_ALPHABET[byte % len(ID_ALPHABET)] for byte in secrets.token_bytes(length)])


def system_zone(environ: Mapping[str, str], localtime: Path = Path("/etc/localtime")) -> str:
    """The name of this machine's time zone; UTC where it has none."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415  5 ms that no start waits for

    linked = os.path.realpath(localtime).partition("/zoneinfo/")[2]
    for name in (environ.get("TZ", "").removeprefix(":"), linked):
        try:
            return ZoneInfo(name).key
        except (ZoneInfoNotFoundError, ValueError, OSError):
            continue
    return "UTC"
