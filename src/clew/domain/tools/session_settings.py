"""A session's own settings, kept as JSON in its row: they override the configuration for this session only."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from clew.domain.tools.policy import ApprovalMode

DEFAULT_EFFORT: Final = "default"
"""What a person says for: the provider decides how long the model thinks."""


class Effort(StrEnum):
    """How long a model thinks before it answers."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class SessionSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    approval: ApprovalMode | None = None
    effort: Effort | None = None
    """How long the model thinks, where it can be told."""
    allow: tuple[str, ...] = ()
    """Tools the person allowed for the whole session."""
    core: int | None = None
    """The newest fact that was remembered when the session's prompt was frozen, if one was."""


_decoder: Final = msgspec.json.Decoder(SessionSettings)
_encoder: Final = msgspec.json.Encoder(order="deterministic")


def read_settings(stored: str) -> SessionSettings:
    """Raises msgspec.ValidationError when the row holds something else."""
    return _decoder.decode(stored)


def write_settings(settings: SessionSettings) -> str:
    return _encoder.encode(settings).decode()
