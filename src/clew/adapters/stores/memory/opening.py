"""Opening sessions and pointing places at them."""

from __future__ import annotations

from msgspec.structs import replace

from clew.adapters.stores.memory.state import State, StoredSummary
from clew.adapters.stores.memory.tree import messages_to, on_path, placed
from clew.domain.conversation.ids import (
    BranchId,
    ConversationId,
    MessageId,
    PrincipalId,
    SessionId,
    SummaryId,
)
from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import NewSession, PointConversation
from clew.domain.ledger.errors import HeadMoved, NotFound, Refused
from clew.domain.ledger.rows import (
    BranchRow,
    ConversationRow,
    Handle,
    OpKind,
    OpRow,
    SessionRow,
    SummaryRow,
)


def open_session(state: State, new: NewSession, actor: PrincipalId, at: int) -> Handle:
    """Opens it with its first op. Raises NotFound for a parent the actor cannot see, Refused for what cannot be."""
    parent_owner = state.visible(actor, new.parent).owner if new.parent else None
    start = _start(state, new)
    if new.id in state.sessions:
        raise Refused(f"There is already a session {new.id}.")
    if new.owner not in state.roles:
        raise Refused(f"Nobody is known as {new.owner}.")
    if start is not None and parent_owner == new.owner:
        state.forks[new.id] = start
        summary = _keep_summaries(state, new, start, start.branch)
        return _create(state, new, actor, at, head=start, summary=summary)
    root = Head(new_branch(state, new.id, None), 0)
    handle = _create(state, new, actor, at, head=root, summary=None)
    return handle if start is None else _copy_path(state, new, handle, start, actor=actor, at=at)


def new_branch(state: State, session: SessionId, parent: Head | None) -> BranchId:
    """An empty branch of this session."""
    ident = BranchId(state.next_id())
    tip = parent.seq if parent else 0
    state.branches[ident] = BranchRow(id=ident, session=session, parent=parent, tip=tip)
    return ident


def point(state: State, conversation: PointConversation) -> None:
    """Points a place at a session. Raises HeadMoved when somebody moved it meanwhile, NotFound when there is none."""
    if conversation.to not in state.sessions or conversation.to in state.purged:
        raise NotFound(f"There is no session {conversation.to}.")
    row = state.conversations.get(conversation.route_key)
    if conversation.version != (row.version if row else 0):
        raise HeadMoved("This conversation moved meanwhile.")
    if row is None:
        ident = ConversationId(state.next_id())
        row = ConversationRow(
            id=ident, route_key=conversation.route_key, surface=conversation.surface, session=None, version=0
        )
    state.conversations[conversation.route_key] = replace(
        row, session=conversation.to, version=row.version + 1
    )


def _start(state: State, new: NewSession) -> Head | None:
    """Where a fork starts; None for a session that starts empty."""
    if new.at is None:
        return None
    if new.parent is None:
        raise Refused("A fork needs the session it starts from.")
    start = placed(state, new.parent, new.at)
    return start if start.seq else None


def _create(
    state: State, new: NewSession, actor: PrincipalId, at: int, *, head: Head, summary: SummaryId | None
) -> Handle:
    if new.prefix is not None:
        state.prefixes.setdefault(new.prefix.sha256, new.prefix)
    handle = Handle(session=new.id, head=head, version=1, epoch=1, summary=summary)
    state.sessions[new.id] = SessionRow(
        id=new.id,
        owner=new.owner,
        surface=new.surface,
        title=new.title,
        model=new.model,
        cwd=new.cwd,
        settings=new.settings,
        prefix=new.prefix.sha256 if new.prefix else None,
        parent=new.parent,
        origin=new.origin,
        handle=handle,
        lease_owner=None,
        lease_beat=0,
        last_active_at=at,
        created_at=at,
        ended_at=None,
        end_reason=None,
        archived_at=None,
        temporary=new.temporary,
    )
    return write_op(state, None, handle, OpKind.CREATE, actor=actor, at=at)


def write_op(
    state: State,
    before: Handle | None,
    after: Handle,
    kind: OpKind,
    *,
    actor: str,
    at: int,
    key: str | None = None,
) -> Handle:
    """One op, from one handle of its session to the next, which it returns. The session row follows."""
    state.ops[after.session, after.version] = OpRow(
        session=after.session,
        version=after.version,
        kind=kind,
        from_head=before.head if before else None,
        to_head=after.head,
        from_summary=before.summary if before else None,
        to_summary=after.summary,
        epoch=after.epoch,
        idempotency_key=key,
        actor=actor,
        at=at,
    )
    state.sessions[after.session] = replace(state.sessions[after.session], handle=after)
    return after


def _copy_path(
    state: State, new: NewSession, handle: Handle, start: Head, *, actor: PrincipalId, at: int
) -> Handle:
    """Another person's path is copied, by ops of its own, so that nobody's deletion waits on a stranger."""
    root = handle.head.branch
    for message in messages_to(state, start):
        place = Head(root, message.seq)
        state.messages[place] = replace(message, id=MessageId(state.next_id()), branch=root)
    state.branches[root] = replace(state.branches[root], tip=start.seq)
    copied = replace(handle, head=Head(root, start.seq), version=2)
    write_op(state, handle, copied, OpKind.APPEND, actor=actor, at=at)
    summary = _keep_summaries(state, new, start, root)
    if summary is None:
        return copied
    kept = replace(copied, version=3, summary=summary)
    return write_op(state, copied, kept, OpKind.COMPACT, actor=actor, at=at)


def _keep_summaries(state: State, new: NewSession, start: Head, branch: BranchId) -> SummaryId | None:
    """Copies the summary a fork keeps, and those it would fall back to, if they stand for its path.

    They become rows of the fork, so that either session can be purged alone. `branch` is the fork's last.
    """
    kept = _summaries_behind(state, new, start)
    last: SummaryId | None = None
    for row in reversed(kept):
        upto = row.upto if branch == start.branch else Head(branch, row.upto.seq)
        ident = SummaryId(state.next_id())
        state.summaries[ident] = StoredSummary(
            session=new.id, row=replace(row, id=ident, upto=upto, previous=last)
        )
        last = ident
    return last


def _summaries_behind(state: State, new: NewSession, start: Head) -> list[SummaryRow]:
    """The summary a fork asked for and those before it, newest first; none if it is not the parent's or off the path."""
    found: list[SummaryRow] = []
    ident = new.summary
    while ident is not None and ident in state.summaries:
        stored = state.summaries[ident]
        if stored.session != new.parent or not on_path(state, start, stored.row.upto):
            break
        found.append(stored.row)
        ident = stored.row.previous
    return found
