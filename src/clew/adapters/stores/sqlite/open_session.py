"""Opening sessions: new ones, forks that copy nothing, and forks of another person's session, which copy their path."""

from __future__ import annotations

from typing import Final

import apsw

from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.paths import in_tree, normalised, on_path, segments
from clew.domain.conversation.ids import BranchId, PrincipalId, SessionId, SummaryId
from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import NewSession, PointConversation
from clew.domain.ledger.errors import HeadMoved, NotFound, Refused
from clew.domain.ledger.rows import Handle, OpKind

_OP: Final = """
INSERT INTO op(session_id, version, kind, from_branch, from_seq, to_branch, to_seq, to_summary, epoch, actor, at)
VALUES(?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?)
"""


def open_session(db: apsw.Connection, new: NewSession, actor: PrincipalId, at: int) -> Handle:
    """Opens it with its first op. Raises NotFound for a parent that the actor cannot see, Refused for a bad position."""
    parent_owner = _parent_owner(db, new.parent, actor)
    at_head = _fork_head(db, new)
    shares_tree = at_head is not None and at_head.seq > 0 and parent_owner == new.owner
    _insert(db, new, at_head if shares_tree else None, at)
    if shares_tree and at_head is not None:
        summary = _kept_summary(db, new, at_head)
        db.execute(_OP, (new.id, 1, OpKind.CREATE, None, 0, at_head.branch, at_head.seq, summary, actor, at))
        return Handle(session=new.id, head=at_head, version=1, epoch=1, summary=summary)
    db.execute("INSERT INTO branch(session_id) VALUES(?)", (new.id,))
    root = BranchId(db.last_insert_rowid())
    db.execute(_OP, (new.id, 1, OpKind.CREATE, None, 0, root, 0, None, actor, at))
    handle = Handle(session=new.id, head=Head(root, 0), version=1, epoch=1)
    return _copy_path(db, handle, at_head, actor, at) if at_head is not None and at_head.seq else handle


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
    if new.at is None:
        return None
    if new.parent is None:
        raise Refused("A fork needs the session it starts from.")
    known = fetch(db, "SELECT 1 FROM branch WHERE id = ?", (new.at.branch,))
    head = normalised(db, new.at) if known else new.at
    if not known or not in_tree(db, new.parent, head):
        raise Refused("That position is not in this session.")
    return head


def _insert(db: apsw.Connection, new: NewSession, shared: Head | None, at: int) -> None:
    if fetch(db, "SELECT 1 FROM session WHERE id = ?", (new.id,)):
        raise Refused(f"There is already a session {new.id}.")
    prefix = new.prefix
    if prefix is not None:
        db.execute(
            "INSERT INTO prefix SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM prefix WHERE sha256 = ?1)",
            (prefix.sha256, prefix.system_prompt, prefix.tools),
        )
    db.execute(
        "INSERT INTO session(id, owner, surface, title, model, cwd, settings, prefix_sha256, parent_session, parent_branch,"
        " parent_seq, origin, last_active_at, created_at, temporary) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            new.id,
            new.owner,
            new.surface,
            new.title,
            new.model,
            new.cwd,
            new.settings,
            prefix.sha256 if prefix else None,
            new.parent,
            shared.branch if shared else None,
            shared.seq if shared else None,
            new.origin,
            at,
            at,
            new.temporary,
        ),
    )


def _kept_summary(db: apsw.Connection, new: NewSession, head: Head) -> SummaryId | None:
    """A fork copies the pointer if it stands on the fork's path: as a row of its own, so that it can be purged alone."""
    if new.summary is None:
        return None
    rows = fetch(
        db, "SELECT branch, upto_seq FROM summary WHERE id = ? AND session_id = ?", (new.summary, new.parent)
    )
    if not rows or not on_path(db, head, Head(*rows[0])):
        return None
    db.execute(
        "INSERT INTO summary(session_id, branch, upto_seq, text, focus, model, tokens_before, tokens_after, created_at)"
        " SELECT ?2, branch, upto_seq, text, focus, model, tokens_before, tokens_after, created_at FROM summary WHERE id = ?1",
        (new.summary, new.id),
    )
    return SummaryId(db.last_insert_rowid())


def _copy_path(db: apsw.Connection, handle: Handle, source: Head, actor: PrincipalId, at: int) -> Handle:
    """Another person's path is copied, so that nobody's deletion waits on a stranger."""
    root = handle.head.branch
    db.execute(_OP, (handle.session, 2, OpKind.APPEND, root, 0, root, source.seq, None, actor, at))
    for segment in reversed(segments(db, source)):
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
    return Handle(session=handle.session, head=Head(root, source.seq), version=2, epoch=1)


def point_conversation(db: apsw.Connection, move: PointConversation) -> None:
    """Points a place at a session. Raises HeadMoved when somebody moved it meanwhile."""
    if move.version == 0:
        if fetch(db, "SELECT 1 FROM conversation WHERE route_key = ?", (move.route_key,)):
            raise HeadMoved("This conversation was opened meanwhile.")
        db.execute(
            "INSERT INTO conversation(route_key, surface, origin, session_id) VALUES(?,?,?,?)",
            (move.route_key, move.surface, move.origin, move.to),
        )
        return
    db.execute(
        "UPDATE conversation SET session_id = ?, version = version + 1 WHERE route_key = ? AND version = ?",
        (move.to, move.route_key, move.version),
    )
    if db.changes() != 1:
        raise HeadMoved("This conversation moved meanwhile.")
