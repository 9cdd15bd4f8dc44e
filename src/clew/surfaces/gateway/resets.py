"""The reset policy of a place, from the settings: each level says only what differs from the one above."""

from __future__ import annotations

from datetime import UTC, time, tzinfo
from zoneinfo import ZoneInfo

from clew.config.settings import ResetOverride, ResetSettings
from clew.domain.reset.policy import ResetMode, ResetPolicy
from clew.domain.routing.routes import ChatKind


def reset_policy(settings: ResetSettings, platform: str, kind: ChatKind) -> ResetPolicy:
    """`[reset]`, then `[reset.PLATFORM]`, then `[reset.PLATFORM.KIND]`. A platform that has no such section has the first."""
    mode, at, idle_minutes, zone = settings.mode, settings.at, settings.idle_minutes, settings.timezone
    for level in _levels(settings, platform, kind):
        mode = level.mode if level.mode is not None else mode
        at = level.at if level.at is not None else at
        idle_minutes = level.idle_minutes if level.idle_minutes is not None else idle_minutes
        zone = level.timezone if level.timezone is not None else zone
    return ResetPolicy(
        mode=ResetMode(mode), at=time.fromisoformat(at), idle_minutes=idle_minutes, zone=_zone(zone)
    )


def _levels(settings: ResetSettings, platform: str, kind: ChatKind) -> tuple[ResetOverride, ...]:
    platforms = {
        "telegram": settings.telegram,
        "matrix": settings.matrix,
        "whatsapp": settings.whatsapp,
    }
    own = platforms.get(platform)
    if own is None:
        return ()
    kinds = {
        ChatKind.DM: own.dm,
        ChatKind.GROUP: own.group,
        ChatKind.CHANNEL: own.channel,
        ChatKind.THREAD: own.thread,
    }
    return (own, kinds[kind])


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)
