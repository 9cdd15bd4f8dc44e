"""The machine itself: its clock and its source of chance."""

from __future__ import annotations

import secrets
import time

from clew.domain.conversation.ids import ID_ALPHABET


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class SystemChance:
    def token(self, length: int) -> str:
        return "".join(secrets.choice(ID_ALPHABET) for _ in range(length))
