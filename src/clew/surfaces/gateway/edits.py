"""What a change of a message does: one that waits is replaced, the last one is taken back and sent anew, an older one stays.

Each step can be done again: the changed message is received last, and until then the platform brings it again.
"""

from __future__ import annotations

from typing import Final

import msgspec

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.rows import InboxRow, InboxState
from clew.runtime.talk import Services
from clew.runtime.turns.waiting import MESSAGE, messages_among

LOOKED_AT: Final = 100
"""The newest messages of a session that a change is looked for among."""
TOO_OLD: Final = "That message was answered before others: changing it changes nothing. Send it anew."
NO_COMMAND: Final = "A command is not done again by changing it."


class Stays(msgspec.Struct, frozen=True):
    """The change has no effect; `why` is told, if it is anything."""

    why: str = ""


async def make_way(services: Services, who: PrincipalId, session: SessionId, key: str) -> Stays | None:
    """Takes back the message of this key, so that its changed version can be received. None when it may."""
    rows = await services.ledger.received(who, session, LOOKED_AT)
    row = next((row for row in rows if row.external_key == key), None)
    if row is None:
        return Stays()  # it was not for us, or is of another session
    if row.kind != MESSAGE:
        return Stays(NO_COMMAND)
    match row.state:
        case InboxState.QUEUED:
            return await _take_back(services, who, row)
        case InboxState.CANCELLED | InboxState.SUPERSEDED | InboxState.REFUSED:
            return None
        case InboxState.CONSUMED:
            return await _undo(services, who, row)


async def _take_back(services: Services, who: PrincipalId, row: InboxRow) -> Stays | None:
    if await services.desk.withdraw(who, row.session, (row.id,)):
        return None
    return await make_way(services, who, row.session, row.external_key)  # a turn has just taken it


async def _undo(services: Services, who: PrincipalId, row: InboxRow) -> Stays | None:
    newest = await services.ledger.turn(who, row.session)
    if newest is None or newest.turn != row.turn:
        return Stays(TOO_OLD)
    if messages_among(await services.ledger.queued(who, row.session)):
        return Stays(TOO_OLD)  # others wait behind it already
    starts = await services.ledger.turn_starts(who, row.session, 1)
    if starts and starts[0].turn == row.turn:
        await services.desk.undo(who, row.session)
    return None
