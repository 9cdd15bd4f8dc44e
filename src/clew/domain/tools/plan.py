"""A plan as a model states it: steps in order, each with how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

Status = Literal["pending", "in_progress", "completed"]
MARKS: Final[Mapping[Status, str]] = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]"}


class PlanEntry(msgspec.Struct, frozen=True, kw_only=True):
    content: Annotated[str, msgspec.Meta(min_length=1)]
    status: Status = "pending"
    priority: Literal["high", "medium", "low"] = "medium"


class _Plan(msgspec.Struct):
    entries: tuple[PlanEntry, ...]


_read: Final = msgspec.json.Decoder(_Plan, strict=False).decode


def read_plan(arguments: str) -> tuple[PlanEntry, ...] | None:
    """The plan in a call's arguments; None where they hold none."""
    try:
        return _read(arguments).entries
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
