"""What was begun by people who may not talk any more: it is ended and taken back, and costs nothing more."""

from __future__ import annotations

from typing import Final

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.rows import InboxRow
from clew.domain.routing.routes import GROUPS, Route
from clew.runtime.account import ACCESS
from clew.runtime.ports.ledger import Ledger
from clew.runtime.talk import Services
from clew.runtime.turns.waiting import unpack
from clew.surfaces.gateway.access import Access
from clew.surfaces.gateway.channel import LOG

LOOKED_AT_MAX: Final = 100
"""How many messages back it is looked who began a turn; before that nobody did but admins."""


async def turned_away(
    services: Services, access: Access, route: Route, who: PrincipalId, session: SessionId
) -> bool:
    """Ends a turn of the place, and takes back what waits from there, as far as it is of people who may not talk any more;
    whether that is everybody. Each is logged once. Raises NotFound without the session."""
    ledger, desk = services.ledger, services.desk
    why = await access.refusal(route, session)
    if why is None and not who.startswith(GROUPS):
        return False
    here = await ledger.conversation(route.key)
    turn = await ledger.turn(who, session)
    if here is not None and turn is not None and turn.state.is_open:
        began = why is not None or await _is_gone(access, await asker(ledger, who, session, turn.turn))
        if turn.conversation == here.id and began and await desk.stop(who, session, turn.turn, ACCESS):
            LOG.info("ended: may not talk here any more", session=session, turn=turn.turn)
    theirs = [
        row.id
        for row in await ledger.queued(who, session)
        if here is not None
        and row.conversation == here.id
        and (why is not None or await _is_gone(access, _speaker(row)))
    ]
    for taken_back in await desk.withdraw(who, session, theirs, ACCESS):
        LOG.info("taken back: may not talk here any more", session=session, row=taken_back)
    return why is not None


async def asker(ledger: Ledger, who: PrincipalId, session: SessionId, turn: int) -> PrincipalId | None:
    """Who in a shared place began a turn. A repeated one has no message of its own, and whoever joined it came later."""
    began = [
        (-row.turn, row.id, sender)
        for row in await ledger.received(who, session, LOOKED_AT_MAX)
        if row.turn is not None and row.turn <= turn and (sender := _speaker(row))
    ]
    return min(began)[2] if began else None


def _speaker(row: InboxRow) -> PrincipalId | None:
    return PrincipalId(unpack(row.body).sender) if row.body and unpack(row.body).sender else None


async def _is_gone(access: Access, person: PrincipalId | None) -> bool:
    return person is not None and not await access.may_still(person)
