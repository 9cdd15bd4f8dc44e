"""How far a pull has come, told to whoever draws the bar."""

from __future__ import annotations

from typing import Literal

import msgspec


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of a pull. Bytes count within the phase and never go back; `total_bytes` is None where unknown."""

    phase: Literal["download", "unpack", "verify"]
    done_bytes: int
    total_bytes: int | None
