"""Forgetting a session's words, in every file, whatever crashes.

The first commit writes the purge row: from then on nobody can read the session, and the guards let nothing more be
written for it. The rest goes in chunks, index before ledger, so that a crash between leaves an unfindable text and
never a findable ghost; then both files are scrubbed of what SQLite left in them, and only then the purge is done.
Whatever is cut short resumes at the next start. What a living fork still reads stays, and the fork is named; it goes
with the last of them. Ops, turns and usage stay without text.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Final

import apsw

from clew.adapters.stores.sqlite.connection import fetch, in_words
from clew.adapters.stores.sqlite.facts import drop_facts_of, scrubbed, to_scrub
from clew.adapters.stores.sqlite.heirs import doomed_messages, forgotten_ancestors, heirs, sides
from clew.adapters.stores.sqlite.people import IS_OWNER
from clew.adapters.stores.sqlite.readers import Readers
from clew.adapters.stores.sqlite.scrub import scrub
from clew.adapters.stores.sqlite.search import SearchIndex
from clew.adapters.stores.sqlite.writer import Writer
from clew.domain.conversation.ids import MessageId, PrincipalId, SessionId
from clew.domain.ledger.errors import LedgerError, NotFound, StoreUnusable
from clew.domain.ledger.rows import Forgotten

CHUNK_ROWS: Final = 500


def was_forgotten(db: apsw.Connection, principal: PrincipalId, session: SessionId) -> bool:
    query = f"SELECT 1 FROM purge p JOIN session s ON s.id = p.session_id WHERE s.id = ?2 AND {IS_OWNER}"
    return bool(fetch(db, query, (principal, session)))


class Purger:
    """Runs deletions to their end."""

    def __init__(self, writer: Writer, readers: Readers, index: SearchIndex, path: Path) -> None:
        self._writer = writer
        self._readers = readers
        self._index = index
        self._path = path

    async def forget(
        self, principal: PrincipalId, session: SessionId, at: int, with_forks: bool
    ) -> Forgotten:
        """Raises NotFound unless the principal owns it. Returns when no byte is left.

        Raises StoreUnusable when that could not be brought to its end; the session is unreadable all the same.
        """
        doomed = await self._writer.do(
            partial(_condemn, principal=principal, session=session, at=at, with_forks=with_forks)
        )
        kept_for = await self._readers.read(partial(heirs, session=session))
        messages, blobs = await self._run(doomed)
        return Forgotten(messages=messages, blobs=blobs, kept_for=tuple(kept_for))

    async def resume(self) -> None:
        """Finishes deletions that a crash cut short. What cannot be finished now is left for the next start."""
        unfinished = await self._readers.read(_unfinished)
        try:
            if unfinished:
                await self._run(unfinished)
            await self.scrub_facts()
        except LedgerError:
            return  # unreadable it is already; `clew db check` names it until it is done

    async def scrub_facts(self) -> None:
        """Returns when no byte is left of the facts that were forgotten. Raises StoreUnusable as `forget` does."""
        if upto := await self._readers.read(to_scrub):
            await self._scrub_ledger("The fact is forgotten and in no request")
            await self._writer.do(partial(scrubbed, upto=upto))

    async def _run(self, doomed: list[SessionId]) -> tuple[int, int]:
        """Erases and scrubs. Returns how many messages and blobs went."""
        counts = {session: await self._erase(session) for session in doomed}
        await self._scrub()
        await self._writer.do(partial(_finish, counts=counts))
        return sum(messages for messages, _ in counts.values()), sum(blobs for _, blobs in counts.values())

    async def _erase(self, session: SessionId) -> tuple[int, int]:
        messages = blobs = 0
        while chunk := await self._readers.read(partial(doomed_messages, session=session, limit=CHUNK_ROWS)):
            await self._index.remove(chunk)
            blobs += await self._writer.do(partial(_delete_messages, messages=chunk))
            messages += len(chunk)
        while words := await self._readers.read(partial(_some_words, session=session)):
            statements, rows = words
            await self._writer.do(partial(_strip, session=session, statements=statements, rows=rows))
        while await self._writer.do(partial(drop_facts_of, session=session, limit=CHUNK_ROWS)):
            pass
        await self._writer.do(partial(_strip_session, session=session))
        return messages, blobs

    async def _scrub(self) -> None:
        gone = await self._index.scrub()
        await self._scrub_ledger("The session is deleted and nobody can read it", and_gone=gone)

    async def _scrub_ledger(self, done: str, *, and_gone: bool = True) -> None:
        try:
            gone = await asyncio.to_thread(scrub, self._path) and and_gone
        except apsw.Error as error:
            raise in_words(error, self._path) from error
        if not gone:
            raise StoreUnusable(
                f"{done}, but another program keeps reading the files, and its words stay in their logs until Clew starts"
                " again after that."
            )


def _condemn(
    db: apsw.Connection, principal: PrincipalId, session: SessionId, at: int, with_forks: bool
) -> list[SessionId]:
    """Writes the purge rows. Returns the sessions to erase: also deleted ones whose last readers go with these."""
    owned = fetch(
        db,
        f"SELECT 1 FROM session s WHERE id = ?2 AND {IS_OWNER} AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = ?2)",
        (principal, session),
    )
    if not owned:
        raise NotFound(f"There is no session {session}.")
    ancestors = forgotten_ancestors(db, session)
    forks = heirs(db, session) if with_forks else []
    beside = [side for each in (session, *forks) for side in sides(db, each)]
    doomed = [*reversed(dict.fromkeys((*forks, *beside))), session]
    for ident in doomed:
        _cut(db, ident, at)
        db.execute("INSERT INTO purge(session_id, actor, at) VALUES(?, ?, ?)", (ident, principal, at))
    for ident in ancestors:
        db.execute("UPDATE purge SET done = 0 WHERE session_id = ?", (ident,))
    return [*doomed, *ancestors]


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
        f"UPDATE inbox SET state = 'cancelled', epoch = {epoch}, settled_at = ?2, settled_by = 'deleted'"
        " WHERE session_id = ?1 AND state = 'queued'",
        (session, at),
    )


def _unfinished(db: apsw.Connection) -> list[SessionId]:
    return [row[0] for row in fetch(db, "SELECT session_id FROM purge WHERE done = 0 ORDER BY at")]


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


_IN: Final = "IN (SELECT value FROM json_each(?2))"
_WORDS: Final = (
    (
        "SELECT id FROM inbox WHERE session_id = ?1 AND body <> '' LIMIT ?2",
        (f"UPDATE inbox SET body = '' WHERE session_id = ?1 AND id {_IN}",),
    ),
    (
        "SELECT id FROM outbox WHERE session_id = ?1 AND message IS NULL LIMIT ?2",
        (f"DELETE FROM outbox WHERE session_id = ?1 AND id {_IN}",),
    ),
    (
        "SELECT a.id FROM tool_call c JOIN approval a ON a.call = c.id WHERE c.session_id = ?1 LIMIT ?2",
        (f"DELETE FROM approval WHERE ?1 IS NOT NULL AND id {_IN}",),
    ),
    (
        # The name of a tool is what the model wrote, and the model may write anything.
        "SELECT id FROM tool_call WHERE session_id = ?1 AND name <> '' LIMIT ?2",
        (
            "UPDATE tool_call SET name = '', provider_id = '', epoch = (SELECT epoch FROM session WHERE id = ?1)"
            f" WHERE session_id = ?1 AND id {_IN}",
        ),
    ),
    (
        "SELECT turn FROM turn WHERE session_id = ?1 AND error IS NOT NULL LIMIT ?2",
        (
            "UPDATE turn SET error = NULL, epoch = (SELECT epoch FROM session WHERE id = ?1)"
            f" WHERE session_id = ?1 AND turn {_IN}",
        ),
    ),
    (
        # From the newest on: each summary is named by the one after it.
        "SELECT id FROM summary WHERE session_id = ?1 ORDER BY id DESC LIMIT ?2",
        (f"DELETE FROM summary WHERE session_id = ?1 AND id {_IN}",),
    ),
    (
        "SELECT id FROM job WHERE session_id = ?1 LIMIT ?2",
        (f"DELETE FROM job WHERE session_id = ?1 AND id {_IN}",),
    ),
)
"""Rows with words that go with a session: how they are found, on a reading connection, and what takes the words away."""


def _some_words(db: apsw.Connection, session: SessionId) -> tuple[tuple[str, ...], str] | None:
    """The next rows to strip: the statements to do it, and the rows as JSON. None when no words are left."""
    for find, strip in _WORDS:
        rows = [row[0] for row in fetch(db, find, (session, CHUNK_ROWS))]
        if rows:
            return strip, json.dumps(rows)
    return None


def _strip(db: apsw.Connection, session: SessionId, statements: tuple[str, ...], rows: str) -> None:
    for statement in statements:
        db.execute(statement, (session, rows))


def _strip_session(db: apsw.Connection, session: SessionId) -> None:
    """Takes the words out of the session's own row, and its place away from it."""
    prefix = fetch(db, "SELECT prefix_sha256 FROM session WHERE id = ?", (session,))[0][0]
    db.execute(
        "UPDATE session SET title = NULL, cwd = NULL, settings = '{}', prefix_sha256 = NULL WHERE id = ?",
        (session,),
    )
    db.execute(
        "DELETE FROM prefix WHERE sha256 = ?1 AND NOT EXISTS (SELECT 1 FROM session WHERE prefix_sha256 = ?1)",
        (prefix,),
    )
    db.execute(
        "UPDATE conversation SET session_id = NULL, version = version + 1 WHERE session_id = ?", (session,)
    )


def _finish(db: apsw.Connection, counts: dict[SessionId, tuple[int, int]]) -> None:
    for session, (messages, blobs) in counts.items():
        said = json.dumps({"messages": messages, "blobs": blobs})
        db.execute("UPDATE purge SET done = 1, counts = ? WHERE session_id = ?", (said, session))
