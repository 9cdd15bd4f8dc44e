"""What waits to be delivered, and to whom: the outbox, and what is asked of the inbox."""

from __future__ import annotations

from typing import Final

import apsw

from clew.adapters.stores.sqlite import rows
from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.open_session import refuse_absent
from clew.adapters.stores.sqlite.people import identified
from clew.domain.conversation.ids import ConversationId, OutboxId, OwnerId, PrincipalId, SessionId
from clew.domain.ledger.commits import AddReply
from clew.domain.ledger.errors import NotFound, Refused
from clew.domain.ledger.rows import Backlog, LastReceived, Undelivered, Waiting
from clew.domain.routing.routes import GROUPS, group_principal, moved

_UNDELIVERED: Final = """
-- the first unsettled row of each place; the index of due rows holds only unsettled ones
SELECT o.id, o.session_id, o.conversation, c.route_key, o.kind, o.part, coalesce(o.body, m.text, ''), o.state, o.key,
       o.attempts, o.owner, p.platform_id, p.id IS NOT NULL AND p.platform_id IS NULL AND p.state <> 'failed'
FROM outbox o JOIN conversation c ON c.id = o.conversation LEFT JOIN message m ON m.id = o.message
LEFT JOIN outbox p ON p.session_id = o.session_id AND p.turn = o.turn AND p.part = o.part AND p.kind = 'preview' AND o.kind = 'reply'
WHERE o.id IN (
    SELECT min(id) FROM outbox WHERE (state = 'pending' OR state = 'sending' OR state = 'unknown') AND kind <> 'preview'
      AND (?4 IS NULL OR conversation = ?4)
    GROUP BY conversation)
  AND c.surface = ?1 AND o.next_at <= ?2 AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = o.session_id)
ORDER BY o.id LIMIT ?3
"""


def undelivered(
    db: apsw.Connection,
    surface: str,
    at: int,
    limit: int = 100,
    *,
    conversation: ConversationId | None = None,
) -> tuple[Undelivered, ...]:
    found = fetch(db, _UNDELIVERED, (surface, at, limit, conversation))
    return rows.many(Undelivered, ((*row, bool(may_be_shown)) for *row, may_be_shown in found))


def take_reply(db: apsw.Connection, row: Undelivered, owner: OwnerId) -> bool:
    db.execute(
        "UPDATE outbox SET state = 'sending', owner = ?, attempts = attempts + 1"
        " WHERE id = ? AND state = ? AND attempts = ? AND owner IS ?",
        (owner, row.id, row.state, row.attempts, row.owner),
    )
    return db.changes() == 1


def settle_reply(
    db: apsw.Connection,
    reply: OutboxId,
    state: str,
    platform_id: str | None,
    reason: str | None = None,
    *,
    next_at: int | None = None,
) -> None:
    db.execute(
        "UPDATE outbox SET state = ?1, platform_id = coalesce(?2, platform_id), next_at = coalesce(?3, next_at),"
        " attempts = max(attempts - (?1 = 'pending'), 0), reason = coalesce(?5, reason)"
        " WHERE id = ?4 AND NOT (state = 'sent' AND kind = 'notice')",
        (state, platform_id, next_at, reply, reason),
    )
    if db.changes() == 1:
        return
    if fetch(db, "SELECT 1 FROM outbox WHERE id = ?", (reply,)):
        raise Refused(f"Reply {reply} was told already.")
    raise NotFound(f"There is no reply {reply}.")


def add_reply(db: apsw.Connection, session: SessionId, reply: AddReply, at: int) -> OutboxId:
    known = fetch(db, "SELECT id FROM outbox WHERE key = ?", (reply.key,))
    if known:
        return OutboxId(known[0][0])
    refuse_absent(db, session)
    db.execute(
        "INSERT INTO outbox(session_id, conversation, turn, body, part, kind, state, key, next_at)"
        " VALUES(?,?,?,?,?,?,'pending',?,?)",
        (session, reply.conversation, reply.turn, reply.body, reply.part, reply.kind, reply.key, at),
    )
    return OutboxId(db.last_insert_rowid())


_WAITING: Final = """
SELECT DISTINCT c.route_key, i.session_id, i.principal FROM inbox i JOIN conversation c ON c.id = i.conversation
WHERE i.state = 'queued' AND i.kind <> 'event' AND c.surface = ? ORDER BY c.route_key
"""


def waiting(db: apsw.Connection, surface: str) -> tuple[Waiting, ...]:
    return rows.many(Waiting, fetch(db, _WAITING, (surface,)))


_BACKLOG: Final = """
SELECT count(i.id), min(i.at) FROM inbox i JOIN conversation c ON c.id = i.conversation
WHERE i.state = 'queued' AND i.kind <> 'event' AND c.surface = ?1
UNION ALL
SELECT count(o.id), min(o.next_at) FROM outbox o JOIN conversation c ON c.id = o.conversation
WHERE (o.state = 'pending' OR o.state = 'sending' OR o.state = 'unknown') AND o.kind <> 'preview' AND c.surface = ?1
  AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = o.session_id)
"""


def backlog(db: apsw.Connection, surface: str) -> Backlog:
    (inbox, inbox_since), (outbox, outbox_since) = fetch(db, _BACKLOG, (surface,))
    return Backlog(inbox=inbox, inbox_since=inbox_since, outbox=outbox, outbox_since=outbox_since)


def is_received(db: apsw.Connection, account: str, external_key: str) -> bool:
    found = fetch(db, "SELECT 1 FROM inbox WHERE account = ? AND external_key = ?", (account, external_key))
    return bool(found)


_LAST_RECEIVED: Final = """
SELECT i.principal, i.sent_by, i.at FROM conversation c JOIN inbox i ON i.conversation = c.id
WHERE c.route_key = ? AND i.kind <> 'event' AND i.kind <> 'wake' ORDER BY i.n DESC LIMIT 1
"""


def last_received(db: apsw.Connection, route_key: str) -> LastReceived | None:
    found = rows.many(LastReceived, fetch(db, _LAST_RECEIVED, (route_key,)))
    return found[0] if found else None


def group_of(db: apsw.Connection, surface: str, route_key: str) -> PrincipalId | None:
    return identified(db, GROUPS + surface, route_key)


def move_chat(db: apsw.Connection, surface: str, old: str, new: str) -> None:
    # Keys are percent-encoded: "/" and what follows it in ASCII bound those of one chat.
    query = (
        "SELECT id, route_key, session_id FROM conversation"
        " WHERE surface = ?1 AND session_id IS NOT NULL AND (route_key = ?2 OR route_key > ?2 || '/' AND route_key < ?2 || '0')"
    )
    for ident, key, session in fetch(db, query, (surface, old)):
        to = moved(key, old, new)
        assert to is not None, "the query finds places of the old chat only"
        group = group_of(db, surface, key) or group_principal(key)
        if fetch(db, "SELECT 1 FROM principal WHERE id = ?", (group,)):
            db.execute(
                "INSERT INTO identity(platform, account, external_id, principal) SELECT ?1, '', ?2, ?3"
                " WHERE NOT EXISTS (SELECT 1 FROM identity WHERE platform = ?1 AND external_id = ?2)",
                (GROUPS + surface, to, group),
            )
        if not fetch(db, "SELECT 1 FROM conversation WHERE route_key = ?", (to,)):
            place = "UPDATE conversation SET route_key = ?, version = version + 1 WHERE id = ?"
            db.execute(place, (to, ident))
        else:
            there = "UPDATE conversation SET session_id = ?1, version = version + 1 WHERE route_key = ?2 AND session_id IS NOT ?1"
            db.execute(there, (session, to))
            db.execute(
                "UPDATE conversation SET session_id = NULL, version = version + 1 WHERE id = ?", (ident,)
            )
