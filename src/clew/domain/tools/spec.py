"""Tools as data: the declaration a model sees, the effect a person is asked about, the result both get."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from clew.domain.conversation.messages import Status

JsonObject = dict[str, Any]
"""A JSON Schema or arguments object as it stands on the wire: the one place where shape is foreign."""


class Effect(StrEnum):
    """What running a tool can change; approval modes decide by it."""

    READ = "read"
    EDIT = "edit"
    EXECUTE = "execute"
    NETWORK = "network"


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as declared. `safe_to_repeat` is a promise: running it twice harms nothing."""

    name: str
    description: str
    parameters: JsonObject
    effect: Effect
    safe_to_repeat: bool


class ToolFile(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes a tool returned beside its text (an image it read)."""

    media_type: str
    bytes: bytes
    name: str | None = None
    is_sent: bool = False
    """It is for the person, and goes to the place that the turn came from; the model is not shown it."""


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a call came to. A refusal or an error is a result the model sees, never an exception."""

    text: str
    status: Status = Status.OK
    diff: str = ""
    files: tuple[ToolFile, ...] = ()
