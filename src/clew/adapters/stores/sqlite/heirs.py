"""Who still reads a session's messages when the session itself is deleted: what goes, and what a living fork keeps."""

from __future__ import annotations

from typing import Final

import apsw

from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.paths import segments
from clew.domain.conversation.ids import BranchId, MessageId, SessionId
from clew.domain.conversation.messages import Head

_HEIRS: Final = """
-- living sessions whose tree goes on from this one's, nearest first
WITH RECURSIVE heir(id) AS (
  SELECT id FROM session WHERE parent_session = ?1 AND parent_branch IS NOT NULL
  UNION SELECT s.id FROM heir h JOIN session s ON s.parent_session = h.id WHERE s.parent_branch IS NOT NULL
)
SELECT id FROM heir WHERE NOT EXISTS (SELECT 1 FROM purge WHERE session_id = heir.id)
"""
_SIDES: Final = """
-- living sessions that work beside this one, and beside those; nearest first
WITH RECURSIVE side(id) AS (
  SELECT ?1 UNION SELECT s.id FROM side d JOIN session s ON s.parent_session = d.id
    JOIN session p ON p.id = d.id WHERE s.origin = 'side' AND s.owner = p.owner
)
SELECT id FROM side WHERE id <> ?1 AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = side.id)
"""
_FORGOTTEN_ANCESTORS: Final = """
-- deleted sessions that this one was forked from, nearest first
WITH RECURSIVE up(id) AS (
  SELECT parent_session FROM session WHERE id = ?1 AND parent_branch IS NOT NULL
  UNION SELECT s.parent_session FROM up JOIN session s ON s.id = up.id WHERE s.parent_branch IS NOT NULL
)
SELECT id FROM up WHERE EXISTS (SELECT 1 FROM purge WHERE session_id = up.id)
"""


def heirs(db: apsw.Connection, session: SessionId) -> list[SessionId]:
    return [row[0] for row in fetch(db, _HEIRS, (session,))]


def sides(db: apsw.Connection, session: SessionId) -> list[SessionId]:
    return [row[0] for row in fetch(db, _SIDES, (session,))]


def forgotten_ancestors(db: apsw.Connection, session: SessionId) -> list[SessionId]:
    return [row[0] for row in fetch(db, _FORGOTTEN_ANCESTORS, (session,))]


def reached(db: apsw.Connection, living: list[SessionId]) -> dict[BranchId, int]:
    """How far each branch is on an heir's inherited path: all that an heir can reach of another's tree."""
    kept: dict[BranchId, int] = {}
    for heir in living:
        fork = fetch(db, "SELECT parent_branch, parent_seq FROM session WHERE id = ?", (heir,))[0]
        for segment in segments(db, Head(*fork)):
            kept[segment.branch] = max(kept.get(segment.branch, 0), segment.high)
    return kept


def doomed_messages(db: apsw.Connection, session: SessionId, limit: int) -> list[MessageId]:
    """The next messages of a deleted session that no living fork reaches, from the end of each branch on."""
    kept = reached(db, heirs(db, session))
    found: list[MessageId] = []
    for (branch,) in fetch(db, "SELECT id FROM branch WHERE session_id = ? ORDER BY id DESC", (session,)):
        rows = fetch(
            db,
            "SELECT id FROM message WHERE branch = ? AND seq > ? ORDER BY seq DESC LIMIT ?",
            (branch, kept.get(branch, 0), limit - len(found)),
        )
        found += [row[0] for row in rows]
        if len(found) >= limit:
            break
    return found
