"""Forgetting a session's words. What another living session's tree still reaches stays, and is named."""

from __future__ import annotations

from msgspec.structs import replace

from clew.adapters.stores.memory.facts import drop
from clew.adapters.stores.memory.spending import sides
from clew.adapters.stores.memory.state import State
from clew.adapters.stores.memory.tree import reach
from clew.domain.conversation.ids import BranchId, PrincipalId, SessionId
from clew.domain.conversation.messages import blobs_named
from clew.domain.ledger.rows import CallState, Forgotten, InboxState, TurnState


def forget(
    state: State, principal: PrincipalId, session: SessionId, at: int, *, with_forks: bool = False
) -> Forgotten:
    """Only the owner may; everybody else is told NotFound."""
    state.owned(principal, session)
    forks = heirs(state, session) if with_forks else ()
    beside = [
        side
        for each in (session, *forks)
        for side in sides(state, each)
        if state.sessions[side].owner == principal and side not in state.purged
    ]
    for doomed in dict.fromkeys((session, *forks, *beside)):
        state.purged[doomed] = at
        _fence(state, doomed, at)
        _strip(state, doomed, at)
    kept_for = heirs(state, session)
    messages, blobs = _sweep(state)
    return Forgotten(messages=messages, blobs=blobs, kept_for=kept_for)


def was_forgotten(state: State, principal: PrincipalId, session: SessionId) -> bool:
    return session in state.purged and principal in (
        owner := state.sessions[session].owner,
        state.joined.get(owner),
    )


def heirs(state: State, session: SessionId) -> tuple[SessionId, ...]:
    """The living sessions that were forked from this one, or from a fork of it, and share its tree; nearest first."""
    line = [session]
    for ancestor in line:
        line += [child for child in state.forks if state.sessions[child].parent == ancestor]
    return tuple(heir for heir in line[1:] if heir not in state.purged)


def _fence(state: State, session: SessionId, at: int) -> None:
    """Whoever is in the middle of a turn writes nothing more."""
    row = state.sessions[session]
    handle = replace(row.handle, epoch=row.handle.epoch + 1, summary=None)
    state.sessions[session] = replace(row, handle=handle, lease_owner=None, end_reason="deleted")
    for key, turn in state.turns.items():
        if turn.session == session:
            ended = replace(turn, state=TurnState.INTERRUPTED, end_reason="deleted", finished_at=at)
            state.turns[key] = replace(ended if turn.state.is_open else turn, error=None)
    for call in state.calls.values():
        if call.session == session and call.state in (CallState.PLANNED, CallState.STARTED):
            settled = CallState.NOT_RUN if call.state == CallState.PLANNED else CallState.UNKNOWN
            state.calls[call.id] = replace(call, state=settled)


def _strip(state: State, session: SessionId, at: int) -> None:
    """Takes the words out of every row but the messages."""
    row = state.sessions[session]
    state.sessions[session] = replace(row, title=None, cwd=None, settings="{}", prefix=None)
    used = {other.prefix for other in state.sessions.values()}
    state.prefixes = {sha256: prefix for sha256, prefix in state.prefixes.items() if sha256 in used}
    state.summaries = {ident: row for ident, row in state.summaries.items() if row.session != session}
    state.outbox = {ident: row for ident, row in state.outbox.items() if row.session != session}
    state.approvals = {
        ident: row for ident, row in state.approvals.items() if state.calls[row.call].session != session
    }
    drop(state, [fact for fact in state.facts.values() if fact.session == session], row.owner, at)
    state.jobs = {ident: job for ident, job in state.jobs.items() if job.session != session}
    for item in state.inbox.values():
        if item.session == session:
            state.inbox[item.id] = replace(item, body="")
            if item.state == InboxState.QUEUED:
                cancelled = replace(state.inbox[item.id], state=InboxState.CANCELLED)
                state.inbox[item.id] = replace(cancelled, settled_at=at, settled_by="deleted")
    for route, place in state.conversations.items():
        if place.session == session:
            state.conversations[route] = replace(place, session=None, version=place.version + 1)


def _sweep(state: State) -> tuple[int, int]:
    """Removes what nobody living reaches of all deleted sessions, and the blobs only that named."""
    kept = _kept(state)
    gone = [
        message
        for at, message in state.messages.items()
        if state.branches[at.branch].session in state.purged and at.seq > kept.get(at.branch, 0)
    ]
    for message in gone:
        del state.messages[message.head]
    named = {sha256 for message in gone for sha256 in blobs_named(message.body)}
    still = {sha256 for message in state.messages.values() for sha256 in blobs_named(message.body)}
    for sha256 in named - still:
        del state.blobs[sha256]
    return len(gone), len(named - still)


def _kept(state: State) -> dict[BranchId, int]:
    """How far each branch is still in the tree of a living session."""
    kept: dict[BranchId, int] = {}
    for session in state.sessions:
        if session not in state.purged:
            for branch, tip in reach(state, session).items():
                kept[branch] = max(kept.get(branch, 0), tip)
    return kept
