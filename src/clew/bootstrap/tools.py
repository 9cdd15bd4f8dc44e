"""The tools of a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from clew.config.home import Home
from clew.config.settings import Settings
from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.runtime.commands.values import Processes
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.tools import Tool
from clew.runtime.talk import Notify


class NoTools:
    processes: Processes | None = None
    problems: Sequence[str] = ()

    def tools(self) -> Sequence[Tool]:
        return ()

    async def close(self) -> None:
        return None


class SettingsToolmaker:
    def __init__(self, settings: Settings, environ: Mapping[str, str], home: Home, ledger: Ledger) -> None:
        pass

    async def open(self, session: SessionId, principal: PrincipalId, cwd: Path, notify: Notify) -> NoTools:
        return NoTools()
