"""Writes that move no head: receiving, deciding, delivering, sharing."""

from __future__ import annotations

from typing import Final

from msgspec.structs import asdict, replace

from clew.adapters.stores.memory.state import State
from clew.domain.conversation.ids import ApprovalId, InboxId, OwnerId, PrincipalId, SessionId
from clew.domain.ledger.commits import Receive, Received
from clew.domain.ledger.errors import NotFound, Refused
from clew.domain.ledger.rows import ApprovalRow, ApprovalState, CompactionLease, InboxRow, InboxState

_ROLES: Final = frozenset({"owner", "admin", "user", "group"})


def add_principal(state: State, principal: PrincipalId, name: str, role: str) -> None:
    """Known ones stay as they are."""
    if role not in _ROLES:
        raise Refused(f"There is no role {role}.")
    state.names.setdefault(principal, name)
    state.roles.setdefault(principal, role)


def receive(state: State, item: Receive) -> Received:
    """The same message arriving twice is stored once, and says so. Raises NotFound when its session is gone."""
    for row in state.inbox.values():
        if (row.account, row.external_key) == (item.account, item.external_key):
            return Received(id=row.id, n=row.n, duplicate=True)
    if item.session not in state.sessions or item.session in state.purged:
        raise NotFound(f"There is no session {item.session}.")
    if state.conversation_by_id(item.conversation) is None:
        raise NotFound("There is no such conversation.")
    ident = InboxId(state.next_id())
    n = 1 + max((row.n for row in state.inbox.values() if row.conversation == item.conversation), default=0)
    state.inbox[ident] = InboxRow(**asdict(item), id=ident, n=n, state=InboxState.QUEUED, turn=None)
    return Received(id=ident, n=n, duplicate=False)


def decide(
    draft: State, principal: PrincipalId, approval: ApprovalId, state: ApprovalState, at: int
) -> ApprovalRow:
    """The asker, the session's owner or an admin decides, once and in time."""
    row = draft.approvals.get(approval)
    if row is None or not _may_decide(draft, principal, row):
        raise NotFound(f"There is no approval {approval}.")
    if state not in (ApprovalState.APPROVED, ApprovalState.DENIED):
        raise Refused("An approval is granted or denied.")
    if row.state != ApprovalState.PENDING:
        raise Refused(f"Approval {approval} is already {row.state}.")
    if row.expires_at <= at:
        raise Refused(f"Approval {approval} has expired.")
    draft.approvals[approval] = replace(row, state=state, decided_by=principal, decided_at=at)
    return draft.approvals[approval]


def _may_decide(state: State, principal: PrincipalId, row: ApprovalRow) -> bool:
    session = state.sessions[state.calls[row.call].session]
    if session.id in state.purged:
        return False
    is_admin = state.roles.get(principal) in ("owner", "admin")
    return is_admin or principal in (session.owner, row.asker, state.joined.get(session.owner))


def lease_compaction(
    state: State, session: SessionId, owner: OwnerId, *, over: CompactionLease | None = None
) -> CompactionLease:
    """Free, one's own, or still exactly the one to be taken over: then it is this owner's."""
    if session not in state.sessions or session in state.purged:
        raise NotFound(f"There is no session {session}.")
    held = state.compactions.get(session)
    if held is None or held.holder == owner or held == over:
        held = CompactionLease(holder=owner, beat=1 + (held.beat if held is not None else 0))
        state.compactions[session] = held
    return held


def end_compaction(state: State, session: SessionId, owner: OwnerId) -> None:
    held = state.compactions.get(session)
    if held is not None and held.holder == owner:
        del state.compactions[session]


def beat(state: State, session: SessionId, owner: str, epoch: int) -> bool:
    """False when the lease is no longer this owner's."""
    row = state.sessions.get(session)
    if row is None or (row.lease_owner, row.handle.epoch) != (owner, epoch):
        return False
    state.sessions[session] = replace(row, lease_beat=row.lease_beat + 1)
    return True


def share(state: State, principal: PrincipalId, session: SessionId, with_: PrincipalId, may: str) -> None:
    """Only the owner shares; `none` takes it back."""
    state.owned(principal, session)
    if may not in ("read", "write", "none") or with_ not in state.roles:
        raise Refused("A session is shared with somebody known, to read or to write; `none` takes it back.")
    state.shares.pop((session, with_), None)
    if may != "none":
        state.shares[session, with_] = may
