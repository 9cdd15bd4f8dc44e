"""Forgetting a session's words, in every file, whatever crashes.

The first commit writes the purge row: from then on nobody can read the session. The rest goes in chunks, index before
ledger, so that a crash between leaves an unfindable text and never a findable ghost; it resumes at the next start.
What another session's path still reaches stays, and is named. Ops, turns and usage stay without text.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Final

import apsw

from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.paths import segments
from clew.adapters.stores.sqlite.readers import Readers
from clew.adapters.stores.sqlite.search import SearchIndex
from clew.adapters.stores.sqlite.writer import Writer
from clew.domain.conversation.ids import BranchId, MessageId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head
from clew.domain.ledger.errors import NotFound
from clew.domain.ledger.rows import Forgotten

CHUNK_ROWS: Final = 500


class Purger:
    """Runs deletions to their end."""

    def __init__(self, writer: Writer, readers: Readers, index: SearchIndex, home: Path) -> None:
        self._writer = writer
        self._readers = readers
        self._index = index
        self._home = home

    async def forget(
        self, principal: PrincipalId, session: SessionId, at: int, with_forks: bool
    ) -> Forgotten:
        """Raises NotFound unless the principal owns it. Returns when no byte is left."""
        doomed = await self._writer.do(
            partial(_condemn, principal=principal, session=session, at=at, with_forks=with_forks)
        )
        total = Forgotten(messages=0, blobs=0)
        for ident in doomed:
            gone = await self._erase(ident)
            total = Forgotten(
                messages=total.messages + gone.messages,
                blobs=total.blobs + gone.blobs,
                kept_for=gone.kept_for,
            )
        return total

    async def resume(self) -> None:
        """Finishes deletions that a crash cut short."""
        for ident in await self._readers.read(_unfinished):
            await self._erase(ident)

    async def _erase(self, session: SessionId) -> Forgotten:
        messages, blobs, kept = await self._erase_messages(session)
        for ancestor in await self._readers.read(partial(_forgotten_ancestors, session=session)):
            more = await self._erase_messages(ancestor)  # what only this session still kept alive
            messages, blobs = messages + more[0], blobs + more[1]
        await self._writer.do(partial(_strip, session=session))
        await self._writer.do(
            partial(_finish, session=session, counts={"messages": messages, "blobs": blobs})
        )
        await self._writer.checkpoint()
        return Forgotten(messages=messages, blobs=blobs, kept_for=kept)

    async def _erase_messages(self, session: SessionId) -> tuple[int, int, tuple[SessionId, ...]]:
        messages = blobs = 0
        kept = await self._readers.read(partial(_heirs, session=session))
        while chunk := await self._readers.read(partial(_doomed_messages, session=session, heirs=kept)):
            await self._index.remove(chunk)
            blobs += await self._writer.do(partial(_delete_messages, messages=chunk))
            messages += len(chunk)
        return messages, blobs, tuple(kept)


def _condemn(
    db: apsw.Connection, principal: PrincipalId, session: SessionId, at: int, with_forks: bool
) -> list[SessionId]:
    owned = fetch(
        db,
        "SELECT 1 FROM session WHERE id = ?1 AND owner = ?2 AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = ?1)",
        (session, principal),
    )
    if not owned:
        raise NotFound(f"There is no session {session}.")
    doomed = [*(reversed(_heirs(db, session)) if with_forks else ()), session]
    for ident in doomed:
        _cut(db, ident, at)
        db.execute("INSERT INTO purge(session_id, actor, at) VALUES(?, ?, ?)", (ident, principal, at))
    return doomed


def _cut(db: apsw.Connection, session: SessionId, at: int) -> None:
    """Fences whoever is in the middle of a turn."""
    db.execute(
        "UPDATE session SET epoch = epoch + 1, lease_owner = NULL, ended_at = coalesce(ended_at, ?), end_reason = 'deleted'"
        " WHERE id = ?",
        (at, session),
    )
    epoch = "(SELECT epoch FROM session WHERE id = ?1)"
    db.execute(
        f"UPDATE turn SET state = 'interrupted', end_reason = 'deleted', finished_at = ?2, epoch = {epoch}"
        " WHERE session_id = ?1 AND state IN ('running','waiting')",
        (session, at),
    )
    db.execute(
        f"UPDATE tool_call SET state = CASE state WHEN 'planned' THEN 'not_run' ELSE 'unknown' END, epoch = {epoch}"
        " WHERE session_id = ?1 AND state IN ('planned','started')",
        (session,),
    )
    db.execute(
        f"UPDATE inbox SET state = 'cancelled', epoch = {epoch} WHERE session_id = ?1 AND state = 'queued'",
        (session,),
    )


def _unfinished(db: apsw.Connection) -> list[SessionId]:
    return [row[0] for row in fetch(db, "SELECT session_id FROM purge WHERE done = 0 ORDER BY at")]


def _forgotten_ancestors(db: apsw.Connection, session: SessionId) -> list[SessionId]:
    """Deleted sessions that this one was forked from, nearest first."""
    return [
        row[0]
        for row in fetch(
            db,
            "WITH RECURSIVE up(id) AS (SELECT parent_session FROM session WHERE id = ?1 AND parent_branch IS NOT NULL"
            " UNION SELECT s.parent_session FROM up JOIN session s ON s.id = up.id WHERE s.parent_branch IS NOT NULL)"
            " SELECT id FROM up WHERE EXISTS (SELECT 1 FROM purge WHERE session_id = up.id)",
            (session,),
        )
    ]


def _heirs(db: apsw.Connection, session: SessionId) -> list[SessionId]:
    """Living sessions whose tree goes on from this one's, nearest first."""
    return [
        row[0]
        for row in fetch(
            db,
            "WITH RECURSIVE heir(id) AS (SELECT id FROM session WHERE parent_session = ?1 AND parent_branch IS NOT NULL"
            " UNION SELECT s.id FROM heir h JOIN session s ON s.parent_session = h.id WHERE s.parent_branch IS NOT NULL)"
            " SELECT id FROM heir WHERE NOT EXISTS (SELECT 1 FROM purge WHERE session_id = heir.id)",
            (session,),
        )
    ]


def _doomed_messages(db: apsw.Connection, session: SessionId, heirs: list[SessionId]) -> list[MessageId]:
    """The next messages of this session that no heir's tree reaches."""
    kept = _reached(db, heirs)
    found: list[MessageId] = []
    for (branch,) in fetch(db, "SELECT id FROM branch WHERE session_id = ? ORDER BY id DESC", (session,)):
        found += [
            row[0]
            for row in fetch(
                db,
                "SELECT id FROM message WHERE branch = ? AND seq > ? ORDER BY seq DESC LIMIT ?",
                (branch, kept.get(branch, 0), CHUNK_ROWS - len(found)),
            )
        ]
        if len(found) >= CHUNK_ROWS:
            break
    return found


def _reached(db: apsw.Connection, heirs: list[SessionId]) -> dict[BranchId, int]:
    """How far each branch is on an heir's inherited path: all that an heir can reach of another's tree."""
    kept: dict[BranchId, int] = {}
    for heir in heirs:
        fork = fetch(db, "SELECT parent_branch, parent_seq FROM session WHERE id = ?", (heir,))[0]
        for segment in segments(db, Head(*fork)):
            kept[segment.branch] = max(kept.get(segment.branch, 0), segment.high)
    return kept


def _delete_messages(db: apsw.Connection, messages: list[MessageId]) -> int:
    """Removes them and the blobs nobody names any more. Returns how many blobs went."""
    named: set[str] = set()
    for message in messages:
        named |= {row[0] for row in fetch(db, "SELECT sha256 FROM attachment WHERE message = ?", (message,))}
        db.execute("DELETE FROM outbox WHERE message = ?", (message,))
        db.execute("DELETE FROM attachment WHERE message = ?", (message,))
        db.execute("DELETE FROM message WHERE id = ?", (message,))
    gone = 0
    for sha256 in named:
        db.execute(
            "DELETE FROM blob WHERE sha256 = ?1 AND NOT EXISTS (SELECT 1 FROM attachment WHERE sha256 = ?1)",
            (sha256,),
        )
        gone += db.changes()
    return gone


def _strip(db: apsw.Connection, session: SessionId) -> None:
    """Takes the words out of every other row of the session."""
    db.execute(
        "UPDATE session SET title = NULL, cwd = NULL, settings = '{}', prefix_sha256 = NULL WHERE id = ?",
        (session,),
    )
    db.execute(
        "DELETE FROM prefix WHERE NOT EXISTS (SELECT 1 FROM session WHERE prefix_sha256 = prefix.sha256)"
    )
    db.execute("UPDATE inbox SET body = '' WHERE session_id = ?", (session,))
    db.execute(
        "DELETE FROM outbox WHERE turn IN (SELECT turn FROM turn WHERE session_id = ?1) AND conversation IN"
        " (SELECT conversation FROM turn WHERE session_id = ?1)",
        (session,),
    )
    db.execute(
        "UPDATE turn SET error = NULL, epoch = (SELECT epoch FROM session WHERE id = ?1) WHERE session_id = ?1",
        (session,),
    )
    db.execute("DELETE FROM job WHERE session_id = ?", (session,))
    db.execute(
        "DELETE FROM approval WHERE call IN (SELECT id FROM tool_call WHERE session_id = ?)", (session,)
    )
    for (summary,) in fetch(db, "SELECT id FROM summary WHERE session_id = ? ORDER BY id DESC", (session,)):
        db.execute("DELETE FROM summary WHERE id = ?", (summary,))
    db.execute(
        "UPDATE conversation SET session_id = NULL, version = version + 1 WHERE session_id = ?", (session,)
    )


def _finish(db: apsw.Connection, session: SessionId, counts: dict[str, int]) -> None:
    db.execute("UPDATE purge SET done = 1, counts = ? WHERE session_id = ?", (json.dumps(counts), session))
