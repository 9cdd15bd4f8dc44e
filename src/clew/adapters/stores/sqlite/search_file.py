"""The index file: what is in it, how it follows the ledger, how it is kept in shape in small steps.

Contentless FTS5: texts are not stored twice. `scope` holds tokens for owner, session and role, so that a query
never walks through other people's hits (without them an owner of 0.1 % waited 505 ms).

What is deleted must leave no word behind. A message that waits for its deletion is not indexed any more; and because
FTS5 keeps words as separators between its pages, whatever its `secure-delete` removed, an index in which a deleted word
is one is written anew in small steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from clew.adapters.stores.sqlite.connection import connect, fetch
from clew.adapters.stores.sqlite.heirs import heirs, reached
from clew.domain.conversation.ids import BranchId, MessageId, PrincipalId, SessionId
from clew.domain.conversation.messages import AssistantBody, Body, ToolBody
from clew.domain.conversation.words import pretokenised
from clew.domain.ledger.errors import Corrupt

BATCH: Final = 64
_LAYOUT: Final = 3
_MERGE_PAGES: Final = 64
_UNMERGED_BATCHES_MAX: Final = 16
_SPARE_PAGES_MAX: Final = 256
_GIVEN_BACK_PAGES: Final = 128
_LOG_BYTES_MAX: Final = 4 << 20

_decode: Final = msgspec.json.Decoder(Body).decode
_NEW: Final = """
SELECT m.id, m.text, m.body, m.role, b.session_id, s.owner, m.branch, m.seq,
  EXISTS (SELECT 1 FROM purge p WHERE p.session_id = s.id AND p.done = 0)
FROM message m JOIN branch b ON b.id = m.branch JOIN session s ON s.id = b.session_id
WHERE m.id > ? ORDER BY m.id LIMIT ?
"""
_ONE: Final = """
SELECT m.id, m.text, m.body, m.role, b.session_id, s.owner FROM message m JOIN branch b ON b.id = m.branch
JOIN session s ON s.id = b.session_id WHERE m.id = ?
"""


_INSERT: Final = "INSERT INTO fts(rowid, text, scope) VALUES(?, ?, ?)"
_DELETE: Final = "INSERT INTO fts(fts, rowid, text, scope) VALUES('delete', ?, ?, ?)"
_NO_MESSAGE: Final = (0, "", "none")


@lru_cache(maxsize=1024)
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
        self._has_spare_pages = False
        try:
            self._prepare()
        except BaseException:
            self.db.close()
            raise

    def _prepare(self) -> None:
        db = self.db
        fetch(db, "PRAGMA cache_size=-32000")
        fetch(
            db, f"PRAGMA journal_size_limit={_LOG_BYTES_MAX:d}"
        )  # putting segments together makes it long for once
        if fetch(db, "PRAGMA page_count")[0][0] <= 1:
            # Only an empty file can be told to give pages back; merging leaves a third of them empty.
            fetch(db, "PRAGMA auto_vacuum=INCREMENTAL")
            db.execute("VACUUM")
        db.execute("BEGIN IMMEDIATE")
        if fetch(db, "PRAGMA user_version")[0][0] != _LAYOUT:
            for table in ("fts", "indexed"):
                db.execute(f"DROP TABLE IF EXISTS {table}")
            db.execute(
                "CREATE VIRTUAL TABLE fts USING fts5(text, scope, content='', detail=full,"
                ' tokenize="unicode61 remove_diacritics 2")'
            )
            db.execute(
                "CREATE TABLE indexed(upto INTEGER NOT NULL, mark TEXT NOT NULL, tainted INTEGER NOT NULL)"
            )
            db.execute("INSERT INTO indexed VALUES(0, '', 0)")
            for option, value in (
                ("secure-delete", 1),
                ("automerge", 0),
                ("crisismerge", 256),
                ("usermerge", 4),
            ):
                db.execute("INSERT INTO fts(fts, rank) VALUES(?, ?)", (option, value))
            db.execute(f"PRAGMA user_version={_LAYOUT}")
        db.execute("COMMIT")

    def refuse_another(self, ledger: apsw.Connection) -> None:
        """Raises Corrupt when the last message indexed is not what this ledger has there: another was put in its place."""
        upto, mark = fetch(self.db, "SELECT upto, mark FROM indexed")[0]
        if mark and [mark] != [_mark(row) for row in fetch(ledger, _ONE, (upto,))]:
            raise Corrupt("The index belongs to another ledger.")

    @property
    def needs_upkeep(self) -> bool:
        return self._unmerged >= _UNMERGED_BATCHES_MAX or self._has_spare_pages

    def catch_up(self, ledger: apsw.Connection) -> bool:
        """Indexes the next messages, at most BATCH. True when there may be more."""
        db = self.db
        with self._transaction():
            upto = fetch(db, "SELECT upto FROM indexed")[0][0]
            new = fetch(ledger, _NEW, (upto, BATCH))
            if new:
                # Each entry is made when it is stored: the interpreter is kept for a moment, not for a batch.
                db.executemany(_INSERT, map(_entry, _staying(ledger, new)))
                last = new[-1]
                mark = "" if last[8] else _mark(last)  # what a deletion takes away is no landmark
                db.execute("UPDATE indexed SET upto = ?, mark = ?", (last[0], mark))
        self._unmerged += bool(new)
        return len(new) == BATCH

    def tend(self) -> None:
        """One bounded step of upkeep: segments are put together, then the pages that this left empty are given back."""
        if self._unmerged >= _UNMERGED_BATCHES_MAX:
            before = self.db.total_changes()
            self.db.execute("INSERT INTO fts(fts, rank) VALUES('merge', ?)", (_MERGE_PAGES,))
            if self.db.total_changes() - before < 2:
                self._unmerged = 0
                self._has_spare_pages = True
        else:
            before = fetch(self.db, "PRAGMA freelist_count")[0][0]
            fetch(self.db, f"PRAGMA incremental_vacuum({_GIVEN_BACK_PAGES:d})")
            left = fetch(self.db, "PRAGMA freelist_count")[0][0]
            self._has_spare_pages = _SPARE_PAGES_MAX < left < before

    def remove(self, ledger: apsw.Connection, messages: Iterable[MessageId]) -> None:
        """Takes messages out, given that the ledger still has their text and says that they are to be deleted.

        Those not yet indexed never will be.
        """
        db = self.db
        removed: set[bytes] = set()
        with self._transaction():
            for message in messages:
                db.execute("UPDATE indexed SET mark = '' WHERE upto = ? AND mark <> ''", (message,))
                found = fetch(ledger, _ONE, (message,))
                if found and fetch(db, "SELECT 1 FROM fts_docsize WHERE id = ?", (message,)):
                    entry = _entry(found[0])
                    db.execute(_DELETE, entry)
                    removed |= self._words(entry[1])
            if any(not self._is_alive(word) for word in removed & self._separators()):
                db.execute("UPDATE indexed SET tainted = 1")

    def _words(self, text: str) -> set[bytes]:
        """As the index has them."""
        tokens = self.db.fts5_tokenizer("unicode61", ["remove_diacritics", "2"])
        found = tokens(
            text.encode(), apsw.FTS5_TOKENIZE_DOCUMENT, None, include_offsets=False, include_colocated=False
        )
        return {str(word).encode() for word in found}

    def _separators(self) -> set[bytes]:
        """What stands between the index's pages: words, or beginnings of words, after a byte for the kind of index."""
        return {bytes(term)[1:] for (term,) in self.db.execute("SELECT term FROM fts_idx")}

    def _is_alive(self, word: bytes) -> bool:
        """Whether a message that stays has this word."""
        self.db.execute("CREATE VIRTUAL TABLE IF NOT EXISTS temp.vocabulary USING fts5vocab(main, fts, row)")
        return bool(fetch(self.db, "SELECT 1 FROM temp.vocabulary WHERE term = ?", (word.decode(),)))

    def begin_rewrite(self) -> bool:
        """Sees to it that no separator is a deleted word. True when `rewrite_a_little` is to be called."""
        if not fetch(self.db, "SELECT tainted FROM indexed")[0][0]:
            return False
        with self._transaction():
            # An entry of no message makes a second segment: a single one would be left as it is.
            if fetch(self.db, "SELECT 1 FROM fts_docsize WHERE id = ?", _NO_MESSAGE[:1]):
                self.db.execute(_DELETE, _NO_MESSAGE)
            self.db.execute(_INSERT, _NO_MESSAGE)
        return True

    def rewrite_a_little(self) -> bool:
        """One bounded step of merging everything into a new segment. True when there is more to do."""
        before = self.db.total_changes()
        self.db.execute("INSERT INTO fts(fts, rank) VALUES('merge', ?)", (-_MERGE_PAGES,))
        more = self.db.total_changes() - before >= 2
        if not more:
            self.db.execute("UPDATE indexed SET tainted = 0")
        return more

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        finally:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")

    def indexed_until(self, ledger: apsw.Connection) -> int:
        """The time of the newest indexed message, in milliseconds since 1970."""
        upto = fetch(self.db, "SELECT upto FROM indexed")[0][0]
        found = fetch(
            ledger, "SELECT created_at FROM message WHERE id <= ? ORDER BY id DESC LIMIT 1", (upto,)
        )
        return int(found[0][0]) if found else 0


def _staying(ledger: apsw.Connection, rows: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Rows without those that a deletion under way will remove: it may have passed by here already."""
    kept: dict[SessionId, dict[BranchId, int]] = {}
    for row in rows:
        session, branch, seq, is_forgotten = row[4], *row[6:9]
        if is_forgotten and session not in kept:
            kept[session] = reached(ledger, heirs(ledger, session))
        if not is_forgotten or seq <= kept[session].get(branch, 0):
            yield row


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


def _mark(row: tuple[Any, ...]) -> str:
    """What tells the last message indexed from another of the same number."""
    return hashlib.blake2b(repr(row[:6]).encode(), digest_size=8).hexdigest()


def _entry(row: tuple[Any, ...]) -> tuple[int, str, str]:
    ident, text, body, role, session, owner = row[:6]
    scope = f"{owner_token(owner)} {session_token(session)} r{role}"
    return ident, pretokenised(searchable(text, body)), scope
