"""Opening sessions: new ones, forks that copy nothing, and forks of another person's session, which copy their path."""

from __future__ import annotations

from typing import Final

import apsw
from msgspec.structs import asdict, replace

from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.paths import in_tree, normalised, on_path, segments
from clew.domain.conversation.ids import BranchId, PrincipalId, SessionId, SummaryId
from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import NewSession, PointConversation
from clew.domain.ledger.errors import HeadMoved, NotFound, Refused
from clew.domain.ledger.rows import Handle, OpKind, Prefix

_OP: Final = """
INSERT INTO op(session_id, version, kind, from_branch, from_seq, from_summary, to_branch, to_seq, to_summary, epoch,
  idempotency_key, payload_hash, actor, at) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)
"""


def open_session(db: apsw.Connection, new: NewSession, actor: PrincipalId, at: int) -> Handle:
    """Opens it with its first op. Raises NotFound for a parent that the actor cannot see, Refused for a bad position."""
    parent_owner = _parent_owner(db, new.parent, actor)
    start = _fork_head(db, new)
    shares_tree = start is not None and parent_owner == new.owner
    _insert(db, new, start if shares_tree else None, at)
    if shares_tree and start is not None:
        summary = _keep_summaries(db, new, start, start.branch)
        handle = Handle(session=new.id, head=start, version=1, epoch=1, summary=summary)
        return write_op(db, None, handle, OpKind.CREATE, actor=actor, at=at)
    db.execute("INSERT INTO branch(session_id) VALUES(?)", (new.id,))
    root = Head(BranchId(db.last_insert_rowid()), 0)
    handle = Handle(session=new.id, head=root, version=1, epoch=1)
    write_op(db, None, handle, OpKind.CREATE, actor=actor, at=at)
    return handle if start is None else _copy_path(db, new, handle, start, actor=actor, at=at)


def write_op(
    db: apsw.Connection,
    before: Handle | None,
    after: Handle,
    kind: OpKind,
    *,
    actor: PrincipalId,
    at: int,
    key: str | None = None,
    payload: bytes | None = None,
) -> Handle:
    """One op, from one handle of its session to the next, which it returns."""
    came_from = (None, 0, None) if before is None else (before.head.branch, before.head.seq, before.summary)
    went_to = (after.head.branch, after.head.seq, after.summary, after.epoch)
    db.execute(_OP, (after.session, after.version, kind, *came_from, *went_to, key, payload, actor, at))
    return after


def opened_before(db: apsw.Connection, new: NewSession, at: int) -> Handle | None:
    """The handle of this session, if it was opened by this very request."""
    rows = fetch(
        db,
        "SELECT head_branch, head_seq, version, summary_id FROM session WHERE id = ? AND owner = ? AND created_at = ?",
        (new.id, new.owner, at),
    )
    if not rows:
        return None
    branch, seq, version, summary = rows[0]
    return Handle(session=new.id, head=Head(branch, seq), version=version, epoch=1, summary=summary)


def _parent_owner(db: apsw.Connection, parent: SessionId | None, actor: PrincipalId) -> PrincipalId | None:
    if parent is None:
        return None
    rows = fetch(
        db,
        "SELECT owner FROM session WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = ?1)"
        " AND (owner = ?2 OR EXISTS (SELECT 1 FROM share WHERE session_id = ?1 AND principal = ?2))",
        (parent, actor),
    )
    if not rows:
        raise NotFound(f"There is no session {parent}.")
    owner: PrincipalId = rows[0][0]
    return owner


def _fork_head(db: apsw.Connection, new: NewSession) -> Head | None:
    """Where a fork starts; None for a session that starts empty."""
    if new.at is None:
        return None
    if new.parent is None:
        raise Refused("A fork needs the session it starts from.")
    known = fetch(db, "SELECT 1 FROM branch WHERE id = ?", (new.at.branch,))
    head = normalised(db, new.at) if known else new.at
    if not known or not in_tree(db, new.parent, head):
        raise Refused("That position is not in this session.")
    return head if head.seq else None


def _insert(db: apsw.Connection, new: NewSession, shared: Head | None, at: int) -> None:
    if fetch(db, "SELECT 1 FROM session WHERE id = ?", (new.id,)):
        raise Refused(f"There is already a session {new.id}.")
    if new.prefix is not None:
        store_prefix(db, new.prefix)
    db.execute(
        "INSERT INTO session(id, owner, surface, title, model, cwd, settings, prefix_sha256, parent_session, parent_branch,"
        " parent_seq, origin, last_active_at, created_at, temporary) VALUES(:id, :owner, :surface, :title, :model, :cwd, :settings,"
        " :prefix, :parent, :branch, :seq, :origin, :at, :at, :temporary)",
        {
            **asdict(new),
            "prefix": new.prefix.sha256 if new.prefix else None,
            "branch": shared.branch if shared else None,
            "seq": shared.seq if shared else None,
            "at": at,
        },
    )


def store_prefix(db: apsw.Connection, prefix: Prefix) -> None:
    """A prefix is stored once, whoever uses it."""
    db.execute(
        "INSERT INTO prefix SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM prefix WHERE sha256 = ?1)",
        (prefix.sha256, prefix.system_prompt, prefix.tools),
    )


def _keep_summaries(db: apsw.Connection, new: NewSession, start: Head, branch: BranchId) -> SummaryId | None:
    """Copies the summary a fork keeps, and those it would fall back to, if they stand for its path.

    They become rows of the fork, so that either session can be purged alone. `branch` is the fork's last.
    """
    last: SummaryId | None = None
    for ident, upto in reversed(_summaries_behind(db, new, start)):
        stands_on = upto.branch if branch == start.branch else branch
        db.execute(
            "INSERT INTO summary(session_id, branch, upto_seq, previous, text, focus, model, tokens_before, tokens_after, created_at)"
            " SELECT ?2, ?3, upto_seq, ?4, text, focus, model, tokens_before, tokens_after, created_at FROM summary WHERE id = ?1",
            (ident, new.id, stands_on, last),
        )
        last = SummaryId(db.last_insert_rowid())
    return last


def _summaries_behind(db: apsw.Connection, new: NewSession, start: Head) -> list[tuple[SummaryId, Head]]:
    """The summary a fork asked for and those before it, newest first; none if it is not the parent's or off the path."""
    found: list[tuple[SummaryId, Head]] = []
    ident = new.summary
    while ident is not None:
        rows = fetch(
            db,
            "SELECT branch, upto_seq, previous FROM summary WHERE id = ? AND session_id = ?",
            (ident, new.parent),
        )
        if not rows or not on_path(db, start, upto := Head(*rows[0][:2])):
            break
        found.append((ident, upto))
        ident = rows[0][2]
    return found


def _copy_path(
    db: apsw.Connection, new: NewSession, handle: Handle, start: Head, *, actor: PrincipalId, at: int
) -> Handle:
    """Another person's path is copied, by ops of its own, so that nobody's deletion waits on a stranger."""
    root = handle.head.branch
    copied = replace(handle, head=Head(root, start.seq), version=2)
    write_op(db, handle, copied, OpKind.APPEND, actor=actor, at=at)
    for segment in reversed(segments(db, start)):
        for (message,) in fetch(
            db,
            "SELECT id FROM message WHERE branch = ? AND seq > ? AND seq <= ? ORDER BY seq",
            tuple(segment),
        ):
            db.execute(
                "INSERT INTO message(branch, seq, turn, step, role, actor, status, body, text, created_at)"
                " SELECT ?2, seq, turn, step, role, actor, status, body, text, created_at FROM message WHERE id = ?1",
                (message, root),
            )
            db.execute(
                "INSERT INTO attachment(message, sha256) SELECT ?2, sha256 FROM attachment WHERE message = ?1",
                (message, db.last_insert_rowid()),
            )
    summary = _keep_summaries(db, new, start, root)
    if summary is None:
        return copied
    return write_op(
        db, copied, replace(copied, version=3, summary=summary), OpKind.COMPACT, actor=actor, at=at
    )


def refuse_absent(db: apsw.Connection, session: SessionId) -> None:
    """Raises NotFound for a session that is not there, or was deleted."""
    if not fetch(
        db,
        "SELECT 1 FROM session WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = ?1)",
        (session,),
    ):
        raise NotFound(f"There is no session {session}.")


def point_conversation(db: apsw.Connection, conversation: PointConversation) -> None:
    """Points a place at a session. Raises HeadMoved when somebody moved it meanwhile, NotFound when there is none."""
    refuse_absent(db, conversation.to)
    if conversation.version == 0:
        if fetch(db, "SELECT 1 FROM conversation WHERE route_key = ?", (conversation.route_key,)):
            raise HeadMoved("This conversation was opened meanwhile.")
        db.execute(
            "INSERT INTO conversation(route_key, surface, origin, session_id) VALUES(?,?,?,?)",
            (conversation.route_key, conversation.surface, conversation.origin, conversation.to),
        )
        return
    db.execute(
        "UPDATE conversation SET session_id = ?, version = version + 1 WHERE route_key = ? AND version = ?",
        (conversation.to, conversation.route_key, conversation.version),
    )
    if db.changes() != 1:
        raise HeadMoved("This conversation moved meanwhile.")
