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
_SEEN: Final = f"FROM session s WHERE s.id = ?2 AND {rows.VISIBLE}"
_SESSION: Final = f"SELECT {rows.SESSION_COLUMNS} {_SEEN}"
_IS_SEEN: Final = f"SELECT 1 {_SEEN}"


def visible(db: apsw.Connection, principal: PrincipalId, session: SessionId) -> SessionRow:
    found = fetch(db, _SESSION, (principal, session))
    if not found:
        raise _not_found(session)
    return rows.session(found[0])


def check_visible(db: apsw.Connection, principal: PrincipalId, session: SessionId) -> None:
    """Before anything else of a session is read; half of what the whole row costs. Raises NotFound."""
    if not fetch(db, _IS_SEEN, (principal, session)):
        raise _not_found(session)


def _not_found(session: SessionId) -> NotFound:
    return NotFound(f"There is no session {session}.")


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
    db: apsw.Connection, principal: PrincipalId, session: SessionId, at: Head | None = None, *, above: int = 0
) -> tuple[Message, ...]:
    head = _head(db, principal, session, at)
    found = rows.messages(db.execute(_ABOVE, (head.branch, head.seq, above)))
    if found and found[0].seq > found[-1].seq:
        found.sort(key=_SEQ)
    positions = range(above + 1, head.seq + 1)
    if list(map(_SEQ, found)) != list(positions):
        missing = min(set(positions) - set(map(_SEQ, found)), default=head.seq)
        raise Corrupt(f"Session {session} lacks message {missing} of its history; run `clew db check`.")
    return tuple(found)


def _head(db: apsw.Connection, principal: PrincipalId, session: SessionId, at: Head | None) -> Head:
    """The session's head, or `at` if it is in its tree."""
    row = visible(db, principal, session)
    if at is None or at == row.handle.head:
        return row.handle.head
    known = fetch(db, "SELECT 1 FROM branch WHERE id = ?", (at.branch,))
    head = normalised(db, at) if known else at
    if not known or not in_tree(db, session, head):
        raise Refused("That position is not in this session.")
    return head


_STARTS: Final = f"""
-- what people sent to start turns, newest first, within one branch
SELECT {rows.MESSAGE_COLUMNS} FROM message m
WHERE m.branch = ? AND m.seq > ? AND m.seq <= ? AND m.role = 'user' AND m.step = 0 ORDER BY m.seq DESC LIMIT ?
"""


def turn_starts(
    db: apsw.Connection, principal: PrincipalId, session: SessionId, limit: int, at: Head | None = None
) -> tuple[Message, ...]:
    head = _head(db, principal, session, at)
    found: list[Message] = []
    for stretch in walk(db, head):
        found += rows.messages(db.execute(_STARTS, (*stretch, limit - len(found))))
        if len(found) >= limit:
            break
    return tuple(found)


def before(db: apsw.Connection, principal: PrincipalId, session: SessionId, head: Head) -> Head:
    at = _head(db, principal, session, head)
    return normalised(db, Head(at.branch, at.seq - 1)) if at.seq else at


def summaries(db: apsw.Connection, principal: PrincipalId, session: SessionId) -> tuple[SummaryRow, ...]:
    check_visible(db, principal, session)
    query = f"SELECT {rows.SUMMARY_COLUMNS} FROM summary WHERE session_id = ? ORDER BY id"
    return tuple(map(rows.summary, db.execute(query, (session,))))


def compaction(db: apsw.Connection, principal: PrincipalId, session: SessionId) -> CompactionLease | None:
    check_visible(db, principal, session)
    found = fetch(db, rows.COMPACTION_LEASE, (session,))
    return rows.one(CompactionLease, found[0]) if found else None


def ops(
    db: apsw.Connection,
    principal: PrincipalId,
    session: SessionId,
    *,
    below: int | None = None,
    limit: int = 64,
    moving_only: bool = False,
) -> tuple[OpRow, ...]:
    check_visible(db, principal, session)
    moving = " AND (from_branch IS NOT to_branch OR from_seq <> to_seq)" if moving_only else ""
    query = f"SELECT {rows.OP_COLUMNS} FROM op WHERE session_id = ? AND version < ?{moving} ORDER BY version DESC LIMIT ?"
    return tuple(map(rows.op, db.execute(query, (session, below if below is not None else 1 << 62, limit))))


def turn(
    db: apsw.Connection, principal: PrincipalId, session: SessionId, turn: int | None = None
) -> TurnRow | None:
    check_visible(db, principal, session)
    chosen = "AND turn = ?2" if turn is not None else "ORDER BY turn DESC LIMIT 1"
    query = f"SELECT {rows.TURN_COLUMNS} FROM turn WHERE session_id = ?1 {chosen}"
    found = fetch(db, query, (session,) if turn is None else (session, turn))
    return rows.one(TurnRow, found[0]) if found else None


def calls(
    db: apsw.Connection, principal: PrincipalId, session: SessionId, turn: int | None = None
) -> tuple[CallRow, ...]:
    check_visible(db, principal, session)
    query = (
        f"SELECT {rows.CALL_COLUMNS} FROM tool_call WHERE session_id = ?1 AND (?2 IS NULL OR turn = ?2)"
        " ORDER BY turn, step, n"
    )
    return tuple(map(rows.call, db.execute(query, (session, turn))))


def approvals(
    db: apsw.Connection, principal: PrincipalId, session: SessionId, call: CallId | None = None
) -> tuple[ApprovalRow, ...]:
    check_visible(db, principal, session)
    query = (
        f"SELECT {rows.APPROVAL_COLUMNS} FROM approval a JOIN tool_call c ON c.id = a.call"
        " WHERE c.session_id = ?1 AND (?2 IS NULL OR a.call = ?2) ORDER BY c.turn, c.step, c.n, a.n"
    )
    return rows.many(ApprovalRow, db.execute(query, (session, call)))


def queued(db: apsw.Connection, principal: PrincipalId, session: SessionId) -> tuple[InboxRow, ...]:
    check_visible(db, principal, session)
    query = f"SELECT {rows.INBOX_COLUMNS} FROM inbox WHERE session_id = ? AND state = 'queued' ORDER BY conversation, n"
    return rows.many(InboxRow, db.execute(query, (session,)))


def received(
    db: apsw.Connection, principal: PrincipalId, session: SessionId, limit: int = 20
) -> tuple[InboxRow, ...]:
    check_visible(db, principal, session)
    query = f"SELECT {rows.INBOX_COLUMNS} FROM inbox WHERE session_id = ? ORDER BY id DESC LIMIT ?"
    return rows.many(InboxRow, fetch(db, query, (session, limit))[::-1])


def replies(
    db: apsw.Connection, principal: PrincipalId, session: SessionId, limit: int = 20
) -> tuple[ReplyRow, ...]:
    check_visible(db, principal, session)
    query = f"""
    SELECT {rows.REPLY_COLUMNS} FROM outbox o JOIN conversation c ON c.id = o.conversation
    WHERE o.session_id = ? ORDER BY o.id DESC LIMIT ?
    """
    return rows.many(ReplyRow, fetch(db, query, (session, limit))[::-1])


def has_key(db: apsw.Connection, principal: PrincipalId, session: SessionId, key: str) -> bool:
    check_visible(db, principal, session)
    query = "SELECT 1 FROM op WHERE session_id = ? AND idempotency_key = ?"
    return bool(fetch(db, query, (session, key)))


_UNFINISHED: Final = """
-- turns that no commit has ended, with whoever claims them; `IN` as the index of open turns has it, or it is not used
SELECT t.session_id, t.turn, t.principal, s.lease_owner, s.lease_beat, c.route_key
FROM turn t JOIN session s ON s.id = t.session_id LEFT JOIN conversation c ON c.id = t.conversation WHERE t.state IN ('running','waiting') AND t.state = 'running'
ORDER BY t.session_id, t.turn
"""


def unfinished(db: apsw.Connection) -> tuple[Unfinished, ...]:
    return rows.many(Unfinished, fetch(db, _UNFINISHED))


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


def branches(db: apsw.Connection, principal: PrincipalId, session: SessionId) -> tuple[BranchRow, ...]:
    """A branch of another session is shown as far as this one's path goes: what came after is not its own."""
    check_visible(db, principal, session)
    inherited = _inherited(db, session)
    found = []
    for branch, owner, parent, parent_seq, tip in fetch(db, _BRANCHES, (session,)):
        reach = tip if owner == session else inherited.get(branch, parent_seq)
        head = None if parent is None else Head(parent, parent_seq)
        found.append(BranchRow(id=branch, session=owner, parent=head, tip=reach))
    return tuple(found)


def _inherited(db: apsw.Connection, session: SessionId) -> dict[BranchId, int]:
    fork = fetch(db, "SELECT parent_branch, parent_seq FROM session WHERE id = ?", (session,))[0]
    return {} if fork[0] is None else {s.branch: s.high for s in segments(db, Head(*fork))}


_RANGE: Final = (
    f"SELECT {rows.MESSAGE_COLUMNS} FROM message m WHERE m.branch = ? AND m.seq <= ? ORDER BY m.seq"
)


def segment(
    db: apsw.Connection, principal: PrincipalId, session: SessionId, branch: int
) -> tuple[Message, ...]:
    for row in branches(db, principal, session):
        if row.id == branch:
            return tuple(rows.messages(db.execute(_RANGE, (row.id, row.tip))))
    raise NotFound("That branch is not in this session.")


def prefix(db: apsw.Connection, principal: PrincipalId, session: SessionId) -> Prefix | None:
    row = visible(db, principal, session)
    found = fetch(db, "SELECT sha256, system_prompt, tools FROM prefix WHERE sha256 = ?", (row.prefix,))
    return rows.one(Prefix, found[0]) if found else None


def blob(db: apsw.Connection, principal: PrincipalId, session: SessionId, sha256: str) -> Blob:
    check_visible(db, principal, session)
    for branch, seq in fetch(
        db,
        "SELECT m.branch, m.seq FROM attachment a JOIN message m ON m.id = a.message WHERE a.sha256 = ?",
        (sha256,),
    ):
        if in_tree(db, session, Head(branch, seq)):
            found = fetch(db, "SELECT sha256, media_type, bytes FROM blob WHERE sha256 = ?", (sha256,))[0]
            return Blob(sha256=found[0], media_type=found[1], bytes=found[2])
    raise NotFound("There is no such attachment in this session.")


def sessions(
    db: apsw.Connection,
    principal: PrincipalId,
    *,
    limit: int = 20,
    before: tuple[int, str] | None = None,
    archived: bool = False,
    sides: bool = False,
) -> tuple[SessionRow, ...]:
    """Own ones by the index, shared ones beside them; pages by key, never by offset."""
    at, above = before if before is not None else (1 << 62, "")
    state = "IS NOT NULL" if archived else "IS NULL"
    page = f"AND s.archived_at {state} AND (s.last_active_at, s.id) < (?2, ?3) AND s.temporary = 0"
    page += "" if sides else " AND s.origin <> 'side'"
    order = "ORDER BY s.last_active_at DESC, s.id DESC LIMIT ?4"
    alive = "NOT EXISTS (SELECT 1 FROM purge WHERE session_id = s.id)"
    own = f"SELECT {rows.SESSION_COLUMNS} FROM session s WHERE s.owner = ?1 {page} AND {alive} {order}"
    found = [rows.session(row) for row in db.execute(own, (principal, at, above, limit))]
    if fetch(db, "SELECT EXISTS (SELECT 1 FROM share WHERE principal = ?)", (principal,))[0][0]:
        shared = (
            f"SELECT {rows.SESSION_COLUMNS} FROM share h JOIN session s ON s.id = h.session_id"
            f" WHERE h.principal = ?1 AND s.owner <> ?1 {page} AND {alive} {order}"
        )
        found += [rows.session(row) for row in db.execute(shared, (principal, at, above, limit))]
        found.sort(key=lambda row: (row.last_active_at, row.id), reverse=True)
    return tuple(found[:limit])


def children(db: apsw.Connection, principal: PrincipalId, session: SessionId) -> tuple[SessionRow, ...]:
    check_visible(db, principal, session)
    query = (
        f"SELECT {rows.SESSION_COLUMNS} FROM session s WHERE s.parent_session = ?2 AND {rows.VISIBLE}"
        " ORDER BY s.created_at, s.id"
    )
    return tuple(map(rows.session, db.execute(query, (principal, session))))


def conversation(db: apsw.Connection, route_key: str) -> ConversationRow | None:
    found = fetch(
        db,
        "SELECT id, route_key, surface, session_id, version FROM conversation WHERE route_key = ?",
        (route_key,),
    )
    return rows.one(ConversationRow, found[0]) if found else None


def spending(db: apsw.Connection, principal: PrincipalId, session: SessionId | None, day_began: int) -> Spent:
    owner = principal if session is None else visible(db, principal, session).owner
    return spent(db, session, owner, day_began)


def usage(db: apsw.Connection, principal: PrincipalId, session: SessionId | None = None) -> UsageTotals:
    if session is not None:
        check_visible(db, principal, session)
    where = "owner = ?1" if session is None else "session_id = ?1"
    total = fetch(
        db,
        "SELECT coalesce(sum(input), 0), coalesce(sum(output), 0), coalesce(sum(cache_read), 0), coalesce(sum(cache_write), 0),"
        f" sum(cost_usd), count(*), coalesce(sum(cost_usd IS NULL AND input + output > 0), 0) FROM usage WHERE {where} AND state <> 'reserved'",
        (principal if session is None else session,),
    )[0]
    return rows.one(UsageTotals, total)
