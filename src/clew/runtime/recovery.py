"""Goes on with the turns that processes left in the middle, in sessions that nobody is looking at here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from clew.domain.conversation.ids import SessionId
from clew.domain.ledger.errors import Busy, LedgerError, NotFound, Outdated
from clew.domain.ledger.rows import Unfinished
from clew.runtime.ports.models import ModelUnavailable
from clew.runtime.ports.people import NobodyToAsk, Noticed, TurnNews
from clew.runtime.sessions import Place
from clew.runtime.talk import Services, Talk

AT_ONCE_MAX: Final = 4
"""Turns that are gone on with at the same time."""


class Recovery:
    """Looks for turns of one surface that were left open. A question they come to waits in the ledger.

    `told` is given the session and one sentence of what a person should know.
    """

    def __init__(self, services: Services, place: Place, told: Callable[[SessionId, str], None]) -> None:
        self._services = services
        self._place = place
        self._told = told
        self._room = asyncio.Semaphore(AT_ONCE_MAX)
        self._outdated: Outdated | None = None

    async def run(self, but: Callable[[], SessionId | None]) -> None:
        """Looks again each time a lease has passed, until it is cancelled; the session that `but` names is left to others.

        Raises Outdated: what is left open is for the program that is started next.
        """
        while True:
            await self.once(but())
            await asyncio.sleep(self._services.runner.settings.lease_seconds)

    async def once(self, but: SessionId | None = None) -> None:
        """Goes on with whatever is there now. Raises Outdated."""
        left = [row for row in await self._services.ledger.unfinished() if row.session != but]
        async with asyncio.TaskGroup() as group:
            for row in left:
                group.create_task(self._recover(row))
        if self._outdated is not None:
            raise self._outdated

    async def _recover(self, left: Unfinished) -> None:
        try:
            session = await self._services.ledger.session(left.principal, left.session)
        except NotFound:
            return  # deleted meanwhile
        if session.surface != self._place.surface:
            return
        cwd = Path(session.cwd) if session.cwd else Path.cwd()
        talk = Talk(self._services, left.principal, self._place, cwd, left.session)
        try:
            async with self._room:
                outcome = await talk.recover(self._watch(left.session), NobodyToAsk())
            if outcome is not None and isinstance(outcome.cause, Outdated):
                self._outdated = outcome.cause
            elif outcome is not None:
                self._told(left.session, f"A turn that was interrupted has ended ({outcome.status}).")
        except Busy:
            pass  # its holder lives, or somebody else was quicker
        except Outdated as error:
            self._outdated = error
        except (LedgerError, ModelUnavailable) as error:
            self._told(left.session, f"A turn that was interrupted could not be gone on with: {error}")
        finally:
            await talk.close()

    def _watch(self, session: SessionId) -> Callable[[TurnNews], None]:
        def watch(news: TurnNews) -> None:
            if isinstance(news, Noticed):
                self._told(session, news.text)

        return watch
