"""What is handed on until somebody needs tools: named here, so that no start imports what makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from clew.adapters.processes.groups import StartedGroups
from clew.config.home import Home
from clew.config.settings import Settings
from clew.runtime.memory.desk import MemoryDesk
from clew.runtime.ports.ledger import Ledger

if TYPE_CHECKING:
    from clew.runtime.reminders import Reminders


class Ingredients(NamedTuple):
    """What a session's tools are made of."""

    settings: Settings
    environ: Mapping[str, str]
    home: Home
    ledger: Ledger
    groups: StartedGroups
    remind: Callable[[], Reminders] | None
    memory: MemoryDesk | None
