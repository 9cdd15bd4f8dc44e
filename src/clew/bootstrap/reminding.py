"""Puts reminders together: whose clocks count is in the settings."""

from __future__ import annotations

from collections.abc import Mapping

from clew.adapters.system import system_zone
from clew.config.settings import Settings
from clew.domain.conversation.ids import PrincipalId
from clew.runtime.ports.world import Chance, Clock
from clew.runtime.reminders import Reminders
from clew.runtime.sessions import SessionDesk


def open_reminders(
    settings: Settings, environ: Mapping[str, str], desk: SessionDesk, clock: Clock, chance: Chance
) -> Reminders:
    """Somebody's own zone, or everybody's, or this machine's."""
    own = settings.reminders
    everybody = own.timezone or system_zone(environ)

    def zone_of(who: PrincipalId) -> str:
        return own.timezones.get(who, everybody)

    return Reminders(desk, clock, chance, zone_of)
