"""What several settings must be together, and what only the machine knows (its time zones)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from clew.config.schema import Path, Table, dotted, values
from clew.config.settings import McpSettings, ResetSettings, Settings
from clew.config.values import shown


class BrokenRule(msgspec.Struct, frozen=True):
    """What is wrong with a setting, provided that all of `scope` was read as it was meant."""

    scope: Path
    path: Path
    sentence: str


KNOWN_AGENTS: Final = frozenset({"gemini", "claude", "codex"})
"""Agents whose commands `clew.adapters.agents.programs` knows; a test compares the two."""


def broken_rules(settings: Settings) -> Iterator[BrokenRule]:
    """The settings that contradict one another, or the machine."""
    compaction = settings.compaction
    if compaction.target >= compaction.trigger:
        sentence = f"compaction.target ({compaction.target}) has to be below trigger ({compaction.trigger})"
        yield BrokenRule(("compaction",), ("compaction", "target"), sentence)
    for name, server in settings.mcp.items():
        if wrong := _wrong_server(server):
            yield BrokenRule(("mcp", name), ("mcp", name), f"mcp.{name} {wrong}")
    for name, agent in settings.agents.items():
        if not agent.command and name not in KNOWN_AGENTS:
            yield BrokenRule(("agents", name), ("agents", name), f"agents.{name} needs a command to start")
    for path, zone in _zones(settings):
        if zone != "UTC" and not _is_zone(zone):
            yield BrokenRule(path, path, _no_zone(path, zone))


def _zones(settings: Settings) -> Iterator[tuple[Path, str]]:
    """Every time zone that is named."""
    for path, _, zone in values(settings.reset, Table(ResetSettings), ("reset",)):
        if path[-1] == "timezone" and isinstance(zone, str):
            yield path, zone
    yield ("reminders", "timezone"), settings.reminders.timezone or "UTC"
    for name, zone in settings.reminders.timezones.items():
        yield ("reminders", "timezones", name), zone


def _wrong_server(server: McpSettings) -> str:
    if not server.command and not server.url:
        return "needs a command to start, or the url of a running server"
    if server.command and server.url:
        return "has both a command and a url; a server is one or the other"
    if server.url and (server.args or server.env):
        return "has a url, so args and env have nobody to go to"
    if server.command and server.headers:
        return "has a command, so headers have nowhere to go"
    return ""


def _is_zone(name: str) -> bool:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415  5 ms, and most people stay with UTC

    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # unknown, not a name at all, a folder of zones
        return False
    return True


def _no_zone(path: Path, name: str) -> str:
    from clew.config.suggestions import zone_like  # noqa: PLC0415  slow to import, only for an error

    return f"{dotted(path)} is {shown(name)}, which is no time zone; {zone_like(name)}"
