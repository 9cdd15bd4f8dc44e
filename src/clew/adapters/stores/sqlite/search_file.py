"""The index file: what is in it, how it follows the ledger, how it is kept in shape in small steps.

Contentless FTS5: texts are not stored twice. `scope` holds tokens for owner, session and role, so that a query
never walks through other people's hits (without them an owner of 0.1 % waited 505 ms).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from clew.adapters.stores.sqlite.connection import connect, fetch
from clew.domain.conversation.ids import MessageId, PrincipalId, SessionId
from clew.domain.conversation.messages import AssistantBody, Body, ToolBody
from clew.domain.ledger.search import pretokenised

BATCH: Final = 64
_LAYOUT: Final = 1
_MERGE_PAGES: Final = 64
_UNMERGED_BATCHES_MAX: Final = 16

_decode: Final = msgspec.json.Decoder(Body).decode
_NEW: Final = """
SELECT m.id, m.text, m.body, m.role, b.session_id, s.owner FROM message m JOIN branch b ON b.id = m.branch
JOIN session s ON s.id = b.session_id WHERE m.id > ? ORDER BY m.id LIMIT ?
"""
_ONE: Final = """
SELECT m.id, m.text, m.body, m.role, b.session_id, s.owner FROM message m JOIN branch b ON b.id = m.branch
JOIN session s ON s.id = b.session_id WHERE m.id = ?
"""


def owner_token(principal: PrincipalId) -> str:
    """One word for a principal, whatever characters its id has."""
    return "o" + hashlib.sha256(principal.encode()).hexdigest()[:20]


def session_token(session: SessionId) -> str:
    """One word for a session."""
    return "s" + session


class SearchFile:
    """An open index. Raises apsw errors when the file is damaged; its owner then starts a new one."""

    def __init__(self, path: Path) -> None:
        self.db = connect(path, synchronous="NORMAL")
        self._unmerged = 0
        try:
            self._prepare()
        except BaseException:
            self.db.close()
            raise

    def _prepare(self) -> None:
        db = self.db
        fetch(db, "PRAGMA cache_size=-32000")
        db.execute("BEGIN IMMEDIATE")
        if fetch(db, "PRAGMA user_version")[0][0] != _LAYOUT:
            for table in ("fts", "indexed"):
                db.execute(f"DROP TABLE IF EXISTS {table}")
            db.execute(
                "CREATE VIRTUAL TABLE fts USING fts5(text, scope, content='', detail=full,"
                ' tokenize="unicode61 remove_diacritics 2")'
            )
            db.execute("CREATE TABLE indexed(upto INTEGER NOT NULL)")
            db.execute("INSERT INTO indexed VALUES(0)")
            for option, value in (
                ("secure-delete", 1),
                ("automerge", 0),
                ("crisismerge", 256),
                ("usermerge", 4),
            ):
                db.execute("INSERT INTO fts(fts, rank) VALUES(?, ?)", (option, value))
            db.execute(f"PRAGMA user_version={_LAYOUT}")
        db.execute("COMMIT")

    @property
    def needs_merge(self) -> bool:
        return self._unmerged >= _UNMERGED_BATCHES_MAX

    def catch_up(self, ledger: apsw.Connection) -> bool:
        """Indexes the next messages, at most BATCH. True when there may be more."""
        db = self.db
        db.execute("BEGIN IMMEDIATE")
        try:
            upto = fetch(db, "SELECT upto FROM indexed")[0][0]
            new = fetch(ledger, _NEW, (upto, BATCH))
            if new:
                db.executemany(
                    "INSERT INTO fts(rowid, text, scope) VALUES(?, ?, ?)", [_entry(row) for row in new]
                )
                db.execute("UPDATE indexed SET upto = ?", (new[-1][0],))
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        self._unmerged += bool(new)
        return len(new) == BATCH

    def merge_a_little(self) -> None:
        """One bounded step of putting segments together."""
        before = self.db.total_changes()
        self.db.execute("INSERT INTO fts(fts, rank) VALUES('merge', ?)", (_MERGE_PAGES,))
        if self.db.total_changes() - before < 2:
            self._unmerged = 0

    def remove(self, ledger: apsw.Connection, messages: Iterable[MessageId]) -> None:
        """Takes messages out, given that the ledger still has their text; those not yet indexed are passed over."""
        db = self.db
        db.execute("BEGIN IMMEDIATE")
        upto = fetch(db, "SELECT upto FROM indexed")[0][0]
        for message in messages:
            found = fetch(ledger, _ONE, (message,))
            indexed = message <= upto and fetch(db, "SELECT 1 FROM fts_docsize WHERE id = ?", (message,))
            if found and indexed:
                db.execute(
                    "INSERT INTO fts(fts, rowid, text, scope) VALUES('delete', ?, ?, ?)", _entry(found[0])
                )
        db.execute("COMMIT")
        self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def indexed_until(self, ledger: apsw.Connection) -> int:
        """The time of the newest indexed message, in milliseconds since 1970."""
        upto = fetch(self.db, "SELECT upto FROM indexed")[0][0]
        found = fetch(
            ledger, "SELECT created_at FROM message WHERE id <= ? ORDER BY id DESC LIMIT 1", (upto,)
        )
        return int(found[0][0]) if found else 0


def searchable(text: str, body: bytes | None) -> str:
    """What a message is found by: its words, and the names and arguments of its tool calls."""
    if body is None:
        return text
    match _decode(body):
        case AssistantBody(calls=calls):
            return " ".join([text, *(f"{call.name} {call.arguments}" for call in calls)])
        case ToolBody(name=name):
            return f"{text} {name}"
        case _:
            return text


def _entry(row: tuple[Any, ...]) -> tuple[int, str, str]:
    ident, text, body, role, session, owner = row
    scope = f"{owner_token(owner)} {session_token(session)} r{role}"
    return ident, pretokenised(searchable(text, body)), scope
