"""What a principal may read. Each read asks first whether the session is theirs to see."""

from __future__ import annotations

from msgspec.structs import asdict, replace

from clew.adapters.stores.memory.spending import spent
from clew.adapters.stores.memory.state import State
from clew.adapters.stores.memory.tree import messages_to, normalised, placed, reach
from clew.adapters.stores.memory.turns import waiting_in
from clew.domain.conversation.ids import BranchId, CallId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head, Message, blobs_named
from clew.domain.ledger.commits import UsageState
from clew.domain.ledger.errors import Ambiguous, NotFound
from clew.domain.ledger.rows import (
    ApprovalRow,
    Blob,
    BranchRow,
    CallRow,
    CompactionLease,
    ConversationRow,
    InboxRow,
    OpRow,
    Origin,
    Prefix,
    ReplyRow,
    SessionRow,
    Spent,
    SummaryRow,
    TurnRow,
    TurnState,
    Unfinished,
    UsageTotals,
)

ID_PREFIX_MIN = 3


def path(
    state: State, principal: PrincipalId, session: SessionId, at: Head | None = None, *, above: int = 0
) -> tuple[Message, ...]:
    """Dense, from the first message or the one after `above`, to the head or to `at`."""
    row = state.visible(principal, session)
    return messages_to(state, row.handle.head if at is None else placed(state, session, at))[above:]


def turn_starts(
    state: State, principal: PrincipalId, session: SessionId, limit: int, at: Head | None = None
) -> tuple[Message, ...]:
    """Newest first."""
    starts = [message for message in path(state, principal, session, at) if message.opens_turn]
    return tuple(starts[::-1][:limit])


def before(state: State, principal: PrincipalId, session: SessionId, head: Head) -> Head:
    """The position before; before the first there is only the start itself."""
    state.visible(principal, session)
    at = placed(state, session, head)
    return normalised(state, Head(at.branch, at.seq - 1)) if at.seq else at


def resolve(state: State, principal: PrincipalId, reference: str) -> SessionId:
    """An exact id, else the start of one id, else one title."""
    typed = reference.strip()
    seen = [row for row in state.sessions.values() if state.sees(principal, row)]
    if any(row.id == typed for row in seen):
        return SessionId(typed)
    by_id = [row.id for row in seen if len(typed) >= ID_PREFIX_MIN and row.id.startswith(typed.lower())]
    by_title = [row.id for row in seen if row.title is not None and row.title.lower() == typed.lower()]
    for found in (by_id, by_title):
        if len(found) == 1:
            return found[0]
    several = by_id or by_title
    if not typed or not several:
        raise NotFound(f"There is no session {typed}.")
    raise Ambiguous(f"{typed} names several sessions: {', '.join(several)}.", tuple(several))


def summaries(state: State, principal: PrincipalId, session: SessionId) -> tuple[SummaryRow, ...]:
    """Oldest first."""
    state.visible(principal, session)
    return tuple(stored.row for stored in state.summaries.values() if stored.session == session)


def ops(
    state: State,
    principal: PrincipalId,
    session: SessionId,
    *,
    below: int | None = None,
    limit: int = 64,
    moving_only: bool = False,
) -> tuple[OpRow, ...]:
    """Newest first."""
    newest = state.visible(principal, session).handle.version
    top = newest if below is None else min(newest, below - 1)
    rows = (state.ops[session, version] for version in range(top, 0, -1))
    wanted = [row for row in rows if not moving_only or row.from_head != row.to_head]
    return tuple(wanted[:limit])


def turn(state: State, principal: PrincipalId, session: SessionId, turn: int | None = None) -> TurnRow | None:
    """A turn by its number, or the newest."""
    state.visible(principal, session)
    rows = [row for row in state.turns.values() if row.session == session and turn in (None, row.turn)]
    return max(rows, key=lambda row: row.turn, default=None)


def calls(
    state: State, principal: PrincipalId, session: SessionId, turn: int | None = None
) -> tuple[CallRow, ...]:
    """In the order they were asked for."""
    state.visible(principal, session)
    rows = [row for row in state.calls.values() if row.session == session and turn in (None, row.turn)]
    return tuple(sorted(rows, key=lambda row: (row.turn, row.step, row.n)))


def approvals(
    state: State, principal: PrincipalId, session: SessionId, call: CallId | None = None
) -> tuple[ApprovalRow, ...]:
    """Oldest first."""
    state.visible(principal, session)
    return tuple(
        row
        for row in state.approvals.values()
        if state.calls[row.call].session == session and call in (None, row.call)
    )


def compaction(state: State, principal: PrincipalId, session: SessionId) -> CompactionLease | None:
    state.visible(principal, session)
    return state.compactions.get(session)


def queued(state: State, principal: PrincipalId, session: SessionId) -> tuple[InboxRow, ...]:
    state.visible(principal, session)
    return tuple(state.inbox[ident] for ident in waiting_in(state, session))


def has_key(state: State, principal: PrincipalId, session: SessionId, key: str) -> bool:
    state.visible(principal, session)
    return (session, key) in state.keys


def prefix(state: State, principal: PrincipalId, session: SessionId) -> Prefix | None:
    sha256 = state.visible(principal, session).prefix
    return None if sha256 is None else state.prefixes[sha256]


def received(
    state: State, principal: PrincipalId, session: SessionId, limit: int = 20
) -> tuple[InboxRow, ...]:
    """Oldest first, in the order they came."""
    state.visible(principal, session)
    rows = sorted((r for r in state.inbox.values() if r.session == session), key=lambda row: row.id)
    return tuple(rows[-limit:])


def replies(
    state: State, principal: PrincipalId, session: SessionId, limit: int = 20
) -> tuple[ReplyRow, ...]:
    """Oldest first."""
    state.visible(principal, session)
    surfaces = {row.id: row.surface for row in state.conversations.values()}
    rows = [
        ReplyRow(
            **asdict(stored.row),
            id=ident,
            state=stored.state,
            surface=surfaces[stored.row.conversation],
            platform_id=stored.platform_id,
            reason=stored.reason,
        )
        for ident, stored in state.outbox.items()
        if stored.session == session
    ]
    return tuple(rows[-limit:])


def unfinished(state: State) -> tuple[Unfinished, ...]:
    """By session and turn."""
    rows = []
    for turn in sorted(state.turns.values(), key=lambda row: (row.session, row.turn)):
        session = state.sessions[turn.session]
        if turn.state == TurnState.RUNNING:
            place = None if turn.conversation is None else state.conversation_by_id(turn.conversation)
            rows.append(
                Unfinished(
                    session=turn.session,
                    turn=turn.turn,
                    principal=turn.principal,
                    lease_owner=session.lease_owner,
                    lease_beat=session.lease_beat,
                    route_key=None if place is None else place.route_key,
                )
            )
    return tuple(rows)


def branches(state: State, principal: PrincipalId, session: SessionId) -> tuple[BranchRow, ...]:
    """An ancestor's branch is shown as far as this session's path goes: what came after is not its own."""
    state.visible(principal, session)
    return tuple(replace(state.branches[ident], tip=tip) for ident, tip in reach(state, session).items())


def segment(state: State, principal: PrincipalId, session: SessionId, branch: int) -> tuple[Message, ...]:
    """The messages one branch adds."""
    state.visible(principal, session)
    ident = BranchId(branch)
    tip = reach(state, session).get(ident)
    if tip is None:
        raise NotFound("That branch is not in this session.")
    parent = state.branches[ident].parent
    return messages_to(state, Head(ident, tip))[parent.seq if parent else 0 :]


def blob(state: State, principal: PrincipalId, session: SessionId, sha256: str) -> Blob:
    """Only what a message of the session's own tree names."""
    state.visible(principal, session)
    for ident in reach(state, session):
        if any(sha256 in blobs_named(message.body) for message in segment(state, principal, session, ident)):
            return state.blobs[sha256]
    raise NotFound("There is no such attachment in this session.")


def sessions(
    state: State,
    principal: PrincipalId,
    *,
    limit: int = 20,
    before: tuple[int, str] | None = None,
    archived: bool = False,
    sides: bool = False,
) -> tuple[SessionRow, ...]:
    """Newest activity first; `before` is the key of the last row of the page before."""
    rows = [
        row
        for row in state.sessions.values()
        if state.sees(principal, row)
        and (row.archived_at is not None) == archived
        and not row.temporary
        and (sides or row.origin != Origin.SIDE)
        and (before is None or (row.last_active_at, row.id) < before)
    ]
    rows.sort(key=lambda row: (row.last_active_at, row.id), reverse=True)
    return tuple(rows[: max(0, limit)])


def children(state: State, principal: PrincipalId, session: SessionId) -> tuple[SessionRow, ...]:
    """Those the reader may see; others' forks are not hinted at."""
    state.visible(principal, session)
    rows = [row for row in state.sessions.values() if row.parent == session and state.sees(principal, row)]
    return tuple(sorted(rows, key=lambda row: (row.created_at, row.id)))


def usage(state: State, principal: PrincipalId, session: SessionId | None = None) -> UsageTotals:
    """What was reserved counts once it is settled."""
    if session is not None:
        state.visible(principal, session)
    rows = [
        stored.row
        for stored in state.usage.values()
        if (stored.owner == principal if session is None else stored.session == session)
        and stored.row.state != UsageState.RESERVED
    ]
    prices = [row.cost_usd for row in rows if row.cost_usd is not None]
    return UsageTotals(
        input=sum(row.input for row in rows),
        output=sum(row.output for row in rows),
        cache_read=sum(row.cache_read for row in rows),
        cache_write=sum(row.cache_write for row in rows),
        cost_usd=sum(prices) if prices else None,
        calls=len(rows),
        unpriced=sum(row.cost_usd is None and row.input + row.output > 0 for row in rows),
    )


def spending(state: State, principal: PrincipalId, session: SessionId | None, day_began: int) -> Spent:
    owner = principal if session is None else state.visible(principal, session).owner
    return spent(state, session, owner, day_began)


def conversation(state: State, route_key: str) -> ConversationRow | None:
    return state.conversations.get(route_key)
