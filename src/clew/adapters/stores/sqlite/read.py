"""Reads of one session and lists of many. Each function says who is reading and runs in one read transaction."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

import apsw

from clew.adapters.stores.sqlite import rows
from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.paths import PATH, in_tree, normalised, segments, walk
from clew.adapters.stores.sqlite.spending import spent
from clew.domain.conversation.ids import SESSION_ID_LENGTH, BranchId, CallId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head, Message
from clew.domain.ledger.errors import Ambiguous, Corrupt, NotFound, Refused
from clew.domain.ledger.rows import (
    ApprovalRow,
    Blob,
    BranchRow,
    CallRow,
    CompactionLease,
    ConversationRow,
    InboxRow,
    OpRow,
    Prefix,
    ReplyRow,
    SessionRow,
    Spent,
    SummaryRow,
    TurnRow,
    Unfinished,
    UsageTotals,
)

PREFIX_LENGTH_MIN: Final = 3
_SESSION: Final = f"SELECT {rows.SESSION_COLUMNS} FROM session s WHERE s.id = ?2 AND {rows.VISIBLE}"


def session(db: apsw.Connection, principal: PrincipalId, ident: SessionId) -> SessionRow:
    found = fetch(db, _SESSION, (principal, ident))
    if not found:
        raise NotFound(f"There is no session {ident}.")
    return rows.session(found[0])


def resolve(db: apsw.Connection, principal: PrincipalId, reference: str) -> SessionId:
    """Exact id, then the prefix of one id, then a title."""
    typed = reference.strip()
    if not typed:
        raise NotFound("Name a session by its id, the start of its id, or its title.")
    if PREFIX_LENGTH_MIN <= len(typed) <= SESSION_ID_LENGTH:
        found = _matching(db, principal, "s.id >= ?2 AND s.id < ?2 || '~'", typed.lower())
        if found:
            return _only(found, typed)
    found = _matching(db, principal, "s.title = ?2 COLLATE NOCASE", typed)
    if not found:
        raise NotFound(f"There is no session {typed}.")
    return _only(found, typed)


def _matching(db: apsw.Connection, principal: PrincipalId, condition: str, typed: str) -> list[SessionId]:
    query = f"SELECT s.id FROM session s WHERE {condition} AND {rows.VISIBLE} LIMIT 10"
    return [row[0] for row in db.execute(query, (principal, typed))]


def _only(found: list[SessionId], typed: str) -> SessionId:
    if len(found) > 1:
        raise Ambiguous(f"{typed} names several sessions: {', '.join(found)}.", tuple(found))
    return found[0]


_ABOVE: Final = f"""
{PATH}
-- its messages above a position: the newest branch first, each branch from its oldest on, so that nothing is sorted here
SELECT {rows.MESSAGE_COLUMNS} FROM path p
CROSS JOIN message m ON m.branch = p.branch AND m.seq > max(p.low, ?3) AND m.seq <= p.high
"""
_SEQ: Final = attrgetter("seq")


def path(
    db: apsw.Connection, principal: PrincipalId, ident: SessionId, at: Head | None, above: int
) -> tuple[Message, ...]:
    head = _head(db, principal, ident, at)
    found = rows.messages(db.execute(_ABOVE, (head.branch, head.seq, above)))
    if found and found[0].seq > found[-1].seq:
        found.sort(key=_SEQ)
    positions = range(above + 1, head.seq + 1)
    if list(map(_SEQ, found)) != list(positions):
        missing = min(set(positions) - set(map(_SEQ, found)), default=head.seq)
        raise Corrupt(f"Session {ident} lacks message {missing} of its history; run `clew db check`.")
    return tuple(found)


def _head(db: apsw.Connection, principal: PrincipalId, ident: SessionId, at: Head | None) -> Head:
    """The session's head, or `at` if it is in its tree."""
    row = session(db, principal, ident)
    if at is None or at == row.handle.head:
        return row.handle.head
    known = fetch(db, "SELECT 1 FROM branch WHERE id = ?", (at.branch,))
    head = normalised(db, at) if known else at
    if not known or not in_tree(db, ident, head):
        raise Refused("That position is not in this session.")
    return head


_STARTS: Final = f"""
-- what people sent to start turns, newest first, within one branch
SELECT {rows.MESSAGE_COLUMNS} FROM message m
WHERE m.branch = ? AND m.seq > ? AND m.seq <= ? AND m.role = 'user' AND m.step = 0 ORDER BY m.seq DESC LIMIT ?
"""


def turn_starts(
    db: apsw.Connection, principal: PrincipalId, ident: SessionId, limit: int, at: Head | None
) -> tuple[Message, ...]:
    head = _head(db, principal, ident, at)
    found: list[Message] = []
    for stretch in walk(db, head):
        found += rows.messages(db.execute(_STARTS, (*stretch, limit - len(found))))
        if len(found) >= limit:
            break
    return tuple(found)


def before(db: apsw.Connection, principal: PrincipalId, ident: SessionId, head: Head) -> Head:
    at = _head(db, principal, ident, head)
    return normalised(db, Head(at.branch, at.seq - 1)) if at.seq else at


def summaries(db: apsw.Connection, principal: PrincipalId, ident: SessionId) -> tuple[SummaryRow, ...]:
    session(db, principal, ident)
    query = f"SELECT {rows.SUMMARY_COLUMNS} FROM summary WHERE session_id = ? ORDER BY id"
    return tuple(map(rows.summary, db.execute(query, (ident,))))


def compaction(db: apsw.Connection, principal: PrincipalId, ident: SessionId) -> CompactionLease | None:
    session(db, principal, ident)
    found = fetch(db, rows.COMPACTION_LEASE, (ident,))
    return rows.compaction_lease(found[0]) if found else None


def ops(
    db: apsw.Connection,
    principal: PrincipalId,
    ident: SessionId,
    *,
    below: int | None,
    limit: int,
    moving_only: bool,
) -> tuple[OpRow, ...]:
    session(db, principal, ident)
    moving = " AND (from_branch IS NOT to_branch OR from_seq <> to_seq)" if moving_only else ""
    query = f"SELECT {rows.OP_COLUMNS} FROM op WHERE session_id = ? AND version < ?{moving} ORDER BY version DESC LIMIT ?"
    return tuple(map(rows.op, db.execute(query, (ident, below if below is not None else 1 << 62, limit))))


def turn(db: apsw.Connection, principal: PrincipalId, ident: SessionId, number: int | None) -> TurnRow | None:
    session(db, principal, ident)
    chosen = "AND turn = ?2" if number is not None else "ORDER BY turn DESC LIMIT 1"
    query = f"SELECT {rows.TURN_COLUMNS} FROM turn WHERE session_id = ?1 {chosen}"
    found = fetch(db, query, (ident,) if number is None else (ident, number))
    return rows.turn(found[0]) if found else None


def calls(
    db: apsw.Connection, principal: PrincipalId, ident: SessionId, number: int | None
) -> tuple[CallRow, ...]:
    session(db, principal, ident)
    query = (
        f"SELECT {rows.CALL_COLUMNS} FROM tool_call WHERE session_id = ?1 AND (?2 IS NULL OR turn = ?2)"
        " ORDER BY turn, step, n"
    )
    return tuple(map(rows.call, db.execute(query, (ident, number))))


def approvals(
    db: apsw.Connection, principal: PrincipalId, ident: SessionId, call: CallId | None
) -> tuple[ApprovalRow, ...]:
    session(db, principal, ident)
    query = (
        f"SELECT {rows.APPROVAL_COLUMNS} FROM approval a JOIN tool_call c ON c.id = a.call"
        " WHERE c.session_id = ?1 AND (?2 IS NULL OR a.call = ?2) ORDER BY c.turn, c.step, c.n, a.n"
    )
    return tuple(map(rows.approval, db.execute(query, (ident, call))))


def queued(db: apsw.Connection, principal: PrincipalId, ident: SessionId) -> tuple[InboxRow, ...]:
    session(db, principal, ident)
    query = f"SELECT {rows.INBOX_COLUMNS} FROM inbox WHERE session_id = ? AND state = 'queued' ORDER BY conversation, n"
    return tuple(map(rows.inbox, db.execute(query, (ident,))))


def received(
    db: apsw.Connection, principal: PrincipalId, ident: SessionId, limit: int
) -> tuple[InboxRow, ...]:
    session(db, principal, ident)
    query = f"SELECT {rows.INBOX_COLUMNS} FROM inbox WHERE session_id = ? ORDER BY id DESC LIMIT ?"
    return tuple(map(rows.inbox, fetch(db, query, (ident, limit))[::-1]))


def replies(
    db: apsw.Connection, principal: PrincipalId, ident: SessionId, limit: int
) -> tuple[ReplyRow, ...]:
    session(db, principal, ident)
    query = f"SELECT {rows.REPLY_COLUMNS} FROM outbox WHERE session_id = ? ORDER BY id DESC LIMIT ?"
    return tuple(map(rows.reply, fetch(db, query, (ident, limit))[::-1]))


def has_key(db: apsw.Connection, principal: PrincipalId, ident: SessionId, key: str) -> bool:
    session(db, principal, ident)
    query = "SELECT 1 FROM op WHERE session_id = ? AND idempotency_key = ?"
    return bool(fetch(db, query, (ident, key)))


_UNFINISHED: Final = """
-- turns that no commit has ended, with whoever claims them; `IN` as the index of open turns has it, or it is not used
SELECT t.session_id, t.turn, t.principal, s.lease_owner, s.lease_beat, c.route_key
FROM turn t JOIN session s ON s.id = t.session_id LEFT JOIN conversation c ON c.id = t.conversation WHERE t.state IN ('running','waiting') AND t.state = 'running'
ORDER BY t.session_id, t.turn
"""


def unfinished(db: apsw.Connection) -> tuple[Unfinished, ...]:
    return tuple(
        Unfinished(
            session=row[0],
            turn=row[1],
            principal=row[2],
            lease_owner=row[3],
            lease_beat=row[4],
            route_key=row[5],
        )
        for row in fetch(db, _UNFINISHED)
    )


_BRANCHES: Final = """
-- the branches of a session's tree: its own, and those its first head stood on
WITH RECURSIVE tree(id) AS (
  SELECT id FROM branch WHERE session_id = ?1
  UNION SELECT parent_branch FROM session WHERE id = ?1 AND parent_branch IS NOT NULL
  UNION SELECT b.parent_branch FROM tree t JOIN branch b ON b.id = t.id WHERE b.parent_branch IS NOT NULL
)
SELECT b.id, b.session_id, b.parent_branch, b.parent_seq, coalesce((SELECT max(seq) FROM message WHERE branch = b.id), b.parent_seq)
FROM tree t JOIN branch b ON b.id = t.id ORDER BY b.id
"""


def branches(db: apsw.Connection, principal: PrincipalId, ident: SessionId) -> tuple[BranchRow, ...]:
    """A branch of another session is shown as far as this one's path goes: what came after is not its own."""
    session(db, principal, ident)
    inherited = _inherited(db, ident)
    found = []
    for branch, owner, parent, parent_seq, tip in fetch(db, _BRANCHES, (ident,)):
        reach = tip if owner == ident else inherited.get(branch, parent_seq)
        head = None if parent is None else Head(parent, parent_seq)
        found.append(BranchRow(id=branch, session=owner, parent=head, tip=reach))
    return tuple(found)


def _inherited(db: apsw.Connection, ident: SessionId) -> dict[BranchId, int]:
    fork = fetch(db, "SELECT parent_branch, parent_seq FROM session WHERE id = ?", (ident,))[0]
    return {} if fork[0] is None else {s.branch: s.high for s in segments(db, Head(*fork))}


_RANGE: Final = (
    f"SELECT {rows.MESSAGE_COLUMNS} FROM message m WHERE m.branch = ? AND m.seq <= ? ORDER BY m.seq"
)


def segment(
    db: apsw.Connection, principal: PrincipalId, ident: SessionId, branch: int
) -> tuple[Message, ...]:
    for row in branches(db, principal, ident):
        if row.id == branch:
            return tuple(rows.messages(db.execute(_RANGE, (row.id, row.tip))))
    raise NotFound("That branch is not in this session.")


def prefix(db: apsw.Connection, principal: PrincipalId, ident: SessionId) -> Prefix | None:
    row = session(db, principal, ident)
    found = fetch(db, "SELECT sha256, system_prompt, tools FROM prefix WHERE sha256 = ?", (row.prefix,))
    return Prefix(sha256=found[0][0], system_prompt=found[0][1], tools=found[0][2]) if found else None


def blob(db: apsw.Connection, principal: PrincipalId, ident: SessionId, sha256: str) -> Blob:
    session(db, principal, ident)
    for branch, seq in fetch(
        db,
        "SELECT m.branch, m.seq FROM attachment a JOIN message m ON m.id = a.message WHERE a.sha256 = ?",
        (sha256,),
    ):
        if in_tree(db, ident, Head(branch, seq)):
            found = fetch(db, "SELECT sha256, media_type, bytes FROM blob WHERE sha256 = ?", (sha256,))[0]
            return Blob(sha256=found[0], media_type=found[1], bytes=found[2])
    raise NotFound("There is no such attachment in this session.")


def sessions(
    db: apsw.Connection, principal: PrincipalId, limit: int, after: tuple[int, str] | None, archived: bool
) -> tuple[SessionRow, ...]:
    """Own ones by the index, shared ones beside them; pages by key, never by offset."""
    at, ident = after if after is not None else (1 << 62, "")
    state = "IS NOT NULL" if archived else "IS NULL"
    page = f"AND s.archived_at {state} AND (s.last_active_at, s.id) < (?2, ?3) AND s.temporary = 0"
    order = "ORDER BY s.last_active_at DESC, s.id DESC LIMIT ?4"
    alive = "NOT EXISTS (SELECT 1 FROM purge WHERE session_id = s.id)"
    own = f"SELECT {rows.SESSION_COLUMNS} FROM session s WHERE s.owner = ?1 {page} AND {alive} {order}"
    found = [rows.session(row) for row in db.execute(own, (principal, at, ident, limit))]
    if fetch(db, "SELECT EXISTS (SELECT 1 FROM share WHERE principal = ?)", (principal,))[0][0]:
        shared = (
            f"SELECT {rows.SESSION_COLUMNS} FROM share h JOIN session s ON s.id = h.session_id"
            f" WHERE h.principal = ?1 AND s.owner <> ?1 {page} AND {alive} {order}"
        )
        found += [rows.session(row) for row in db.execute(shared, (principal, at, ident, limit))]
        found.sort(key=lambda row: (row.last_active_at, row.id), reverse=True)
    return tuple(found[:limit])


def children(db: apsw.Connection, principal: PrincipalId, ident: SessionId) -> tuple[SessionRow, ...]:
    session(db, principal, ident)
    query = (
        f"SELECT {rows.SESSION_COLUMNS} FROM session s WHERE s.parent_session = ?2 AND {rows.VISIBLE}"
        " ORDER BY s.created_at, s.id"
    )
    return tuple(map(rows.session, db.execute(query, (principal, ident))))


def conversation(db: apsw.Connection, route_key: str) -> ConversationRow | None:
    found = fetch(
        db,
        "SELECT id, route_key, surface, session_id, version FROM conversation WHERE route_key = ?",
        (route_key,),
    )
    if not found:
        return None
    ident, key, surface, current, version = found[0]
    return ConversationRow(id=ident, route_key=key, surface=surface, session=current, version=version)


def spending(db: apsw.Connection, principal: PrincipalId, ident: SessionId | None, day_began: int) -> Spent:
    owner = principal if ident is None else session(db, principal, ident).owner
    return spent(db, ident, owner, day_began)


def usage(db: apsw.Connection, principal: PrincipalId, ident: SessionId | None) -> UsageTotals:
    if ident is not None:
        session(db, principal, ident)
    where = "owner = ?1" if ident is None else "session_id = ?1"
    total = fetch(
        db,
        "SELECT coalesce(sum(input), 0), coalesce(sum(output), 0), coalesce(sum(cache_read), 0), coalesce(sum(cache_write), 0),"
        f" sum(cost_usd), count(*) FROM usage WHERE {where} AND state <> 'reserved'",
        (principal if ident is None else ident,),
    )[0]
    return UsageTotals(
        input=total[0],
        output=total[1],
        cache_read=total[2],
        cache_write=total[3],
        cost_usd=total[4],
        calls=total[5],
    )
