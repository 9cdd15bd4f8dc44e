"""What calls of models used, and what is set aside for those under way."""

from __future__ import annotations

from msgspec.structs import replace

from clew.adapters.stores.memory.state import State, StoredUsage
from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.commits import AddUsage, Commit, Reserve, UsageState
from clew.domain.ledger.rows import Origin, Spent
from clew.domain.ledger.spending import refuse_over_cap


def write_usage(state: State, work: Commit) -> None:
    """Adds what was used, each in the place of its reservation, and reserves what may be."""
    for usage in work.usage:
        _write(state, work, usage)
    if work.reserve is not None:
        _reserve(state, work, work.reserve)


def estimate_reserved(state: State, session: SessionId, turn: int) -> None:
    """The turn was cut off: what its call would have cost at most stands for what it did."""
    for ident, stored in state.usage.items():
        if (stored.session, stored.row.turn, stored.row.state) == (session, turn, UsageState.RESERVED):
            estimated = replace(stored.row, state=UsageState.ESTIMATED)
            state.usage[ident] = replace(stored, row=estimated)


def _write(state: State, work: Commit, usage: AddUsage) -> None:
    key = (work.session, usage.turn, usage.step, usage.attempt, usage.task, UsageState.RESERVED)
    reserved = [ident for ident, stored in state.usage.items() if _key(stored) == key]
    ident = reserved[0] if reserved else state.next_id()
    owner = state.sessions[work.session].owner
    state.usage[ident] = StoredUsage(owner=owner, session=work.session, row=usage, at=work.at)


def _key(stored: StoredUsage) -> tuple[SessionId, int, int, int, str, UsageState]:
    row = stored.row
    return (stored.session, row.turn, row.step, row.attempt, row.task, row.state)


def _reserve(state: State, work: Commit, reserve: Reserve) -> None:
    refuse_over_cap(
        reserve, spent(state, work.session, state.sessions[work.session].owner, reserve.caps.day_began)
    )
    key = (work.session, reserve.usage.turn, reserve.usage.step, reserve.usage.attempt, reserve.usage.task)
    for ident, stored in state.usage.items():
        if _key(stored) == (
            *key,
            UsageState.RESERVED,
        ):  # whoever had set it aside is dead: nobody settles it any more
            state.usage[ident] = replace(stored, row=replace(stored.row, state=UsageState.ESTIMATED))
    _write(state, work, reserve.usage)


def spent(state: State, session: SessionId | None, owner: PrincipalId, day_began: int) -> Spent:
    """What counts against the caps."""
    return Spent(
        in_session=sum(_spent(state, session=one) for one in _family(state, session)),
        alone=0.0 if session is None else _spent(state, session=session),
        by_owner=_spent(state, owner=owner, since=day_began),
        by_all=_spent(state, since=day_began),
    )


def _family(state: State, session: SessionId | None) -> list[SessionId]:
    """A session, or the one it works beside, and all that work beside that."""
    if session is None:
        return []
    row = state.sessions[session]
    while row.origin == Origin.SIDE and row.parent is not None:
        row = state.sessions[row.parent]
    return [row.id, *sides(state, row.id)]


def sides(state: State, session: SessionId) -> list[SessionId]:
    """The side sessions of a session, and theirs."""
    own = [row.id for row in state.sessions.values() if row.parent == session and row.origin == Origin.SIDE]
    return [each for side in own for each in (side, *sides(state, side))]


def _spent(
    state: State, *, session: SessionId | None = None, owner: PrincipalId | None = None, since: int = 0
) -> float:
    return sum(
        stored.row.cost_usd or 0.0
        for stored in state.usage.values()
        if session in (None, stored.session) and owner in (None, stored.owner) and stored.at >= since
    )
