"""Writes that move no head: receiving, deciding, sharing, beating."""

from __future__ import annotations

from typing import Final

import apsw
from msgspec.structs import asdict

from clew.adapters.stores.sqlite import rows
from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.open_session import refuse_absent
from clew.adapters.stores.sqlite.people import IS_OWNER
from clew.domain.conversation.ids import ApprovalId, InboxId, OwnerId, PrincipalId, SessionId
from clew.domain.ledger.commits import Receive, Received
from clew.domain.ledger.errors import NotFound, Refused
from clew.domain.ledger.rows import ApprovalRow, ApprovalState, CompactionLease


def add_principal(db: apsw.Connection, principal: PrincipalId, name: str, role: str) -> None:
    db.execute(
        "INSERT INTO principal SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM principal WHERE id = ?1)",
        (principal, name, role),
    )


def receive(db: apsw.Connection, item: Receive) -> Received:
    """The same message arriving twice is stored once, and says so."""
    known = received_before(db, item)
    if known is not None:
        return Received(id=known.id, n=known.n, duplicate=True)
    refuse_absent(db, item.session)
    if not fetch(db, "SELECT 1 FROM conversation WHERE id = ?", (item.conversation,)):
        raise NotFound("There is no such conversation.")
    n = fetch(db, "SELECT coalesce(max(n), 0) + 1 FROM inbox WHERE conversation = ?", (item.conversation,))[
        0
    ][0]
    db.execute(
        "INSERT INTO inbox(account, external_key, conversation, n, session_id, principal, kind, body, state, at, sent_by)"
        " VALUES(:account, :external_key, :conversation, :n, :session, :principal, :kind, :body, 'queued', :at, :sent_by)",
        {**asdict(item), "n": n},
    )
    return Received(id=InboxId(db.last_insert_rowid()), n=n, duplicate=False)


def received_before(db: apsw.Connection, item: Receive) -> Received | None:
    """The stored message of this key."""
    rows = fetch(
        db,
        "SELECT id, n FROM inbox WHERE account = ? AND external_key = ?",
        (item.account, item.external_key),
    )
    return Received(id=rows[0][0], n=rows[0][1], duplicate=False) if rows else None


_APPROVAL = f"""
SELECT {rows.APPROVAL_COLUMNS}, s.epoch FROM approval a JOIN tool_call c ON c.id = a.call JOIN session s ON s.id = c.session_id
WHERE a.id = ?2 AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = s.id)
  AND ({IS_OWNER} OR a.asker = ?1 OR EXISTS (SELECT 1 FROM principal WHERE id = ?1 AND role IN ('owner','admin')))
"""


def decide(
    db: apsw.Connection, principal: PrincipalId, approval: ApprovalId, state: ApprovalState, at: int
) -> ApprovalRow:
    """The asker, the session's owner or an admin decides, once and in time."""
    found = fetch(db, _APPROVAL, (principal, approval))
    if not found:
        raise NotFound(f"There is no approval {approval}.")
    row, epoch = rows.one(ApprovalRow, found[0][:-1]), found[0][-1]
    if row.state != ApprovalState.PENDING:
        raise Refused(f"Approval {approval} is already {row.state}.")
    if row.expires_at <= at:
        raise Refused(f"Approval {approval} has expired.")
    db.execute(
        "UPDATE approval SET state = ?, decided_by = ?, decided_at = ?, epoch = ? WHERE id = ?",
        (state, principal, at, epoch, approval),
    )
    return rows.one(ApprovalRow, fetch(db, _APPROVAL, (principal, approval))[0][:-1])


_LEASE: Final = """
INSERT INTO job(kind, key, owner, session_id, payload, state, next_at, lease_owner, beat)
VALUES('compaction', ?1, ?2, ?1, '', 'running', 0, ?2, 1)
ON CONFLICT(kind, key) DO UPDATE SET lease_owner = excluded.lease_owner, beat = beat + 1
  WHERE lease_owner = excluded.lease_owner OR (lease_owner = ?3 AND beat = ?4)
"""


def lease_compaction(
    db: apsw.Connection, session: SessionId, owner: OwnerId, *, over: CompactionLease | None = None
) -> CompactionLease:
    """Free, one's own, or still exactly the one to be taken over: then it is this owner's."""
    refuse_absent(db, session)
    db.execute(_LEASE, (session, owner, *((over.holder, over.beat) if over is not None else (None, None))))
    return rows.one(CompactionLease, fetch(db, rows.COMPACTION_LEASE, (session,))[0])


def end_compaction(db: apsw.Connection, session: SessionId, owner: OwnerId) -> None:
    db.execute("DELETE FROM job WHERE kind = 'compaction' AND key = ? AND lease_owner = ?", (session, owner))


def share(
    db: apsw.Connection, principal: PrincipalId, session: SessionId, with_: PrincipalId, may: str
) -> None:
    """Only the owner shares; `none` takes it back."""
    refuse_absent(db, session)
    if not fetch(db, f"SELECT 1 FROM session s WHERE id = ?2 AND {IS_OWNER}", (principal, session)):
        raise NotFound(f"There is no session {session}.")
    db.execute("DELETE FROM share WHERE session_id = ? AND principal = ?", (session, with_))
    if may != "none":
        db.execute("INSERT INTO share VALUES(?, ?, ?)", (session, with_, may))


def beat(db: apsw.Connection, session: SessionId, owner: str, epoch: int) -> bool:
    db.execute(
        "UPDATE session SET lease_beat = lease_beat + 1 WHERE id = ? AND lease_owner = ? AND epoch = ?",
        (session, owner, epoch),
    )
    return db.changes() == 1
