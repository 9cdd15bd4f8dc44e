"""Reminders of whoever sits here: what they asked for in a terminal or an editor is said in the chat that is open.

Of several chats one says it, in the session that is open there. What is due when none is open is said by the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from clew.domain.ledger.errors import HeadMoved, NotFound
from clew.runtime.sessions import LOOKED_ON
from clew.runtime.talk import Talk


async def say_reminders(talk: Talk, said: Callable[[str], Awaitable[None]]) -> None:
    """Until it is cancelled. `said` is given the words when they are on disk. Not while a talk keeps no word."""
    if (made := talk.services.reminders) is None:
        return
    reminders, desk = made(), talk.services.desk
    while True:
        due, seconds = await reminders.due(*sorted(LOOKED_ON), owner=talk.principal)
        for row in due:
            if talk.is_temporary:
                break
            try:
                session = await talk.ensure_session()
                await desk.point(talk.place, session)
                words = await reminders.fire(row, talk.place, session)
            except (HeadMoved, NotFound):
                break  # the chat has just gone on in another session: looked at again
            if words is not None:
                await said(words)
        await asyncio.sleep(seconds)
