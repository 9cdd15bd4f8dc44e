"""The floor: the same rows in bare SQLite, with nothing that makes a ledger of them.

apsw, WAL, `synchronous=FULL`, no index beyond the primary key, no rules, no thread, no event loop. What it costs on
this disk is what anybody pays; the ratio to it is ours to answer for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import apsw

from benchmarks.workload import Message

_SCHEMA: Final = """
CREATE TABLE session(id INTEGER PRIMARY KEY, title TEXT, messages INTEGER NOT NULL DEFAULT 0, last_active_at INTEGER NOT NULL DEFAULT 0);
CREATE TABLE message(id INTEGER PRIMARY KEY, session INTEGER NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL,
  tool_calls TEXT, tool_call_id TEXT, tool_name TEXT, at INTEGER NOT NULL);
"""
_INSERT: Final = "INSERT INTO message(session, role, content, tool_calls, tool_call_id, tool_name, at) VALUES(?,?,?,?,?,?,?)"
_COUNT: Final = "UPDATE session SET messages = messages + ?, last_active_at = ? WHERE id = ?"


class Floor:
    """A file with two tables."""

    def __init__(self, folder: Path, name: str = "floor.db") -> None:
        self.path = folder / name
        self._db = apsw.Connection(str(self.path))
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        self._db.set_busy_timeout(10_000)
        self._at = 0

    def create(self, sessions: int = 1) -> Floor:
        self._db.execute(_SCHEMA)
        with self._db:
            rows = ((number, f"chat {number}") for number in range(sessions))
            self._db.executemany("INSERT INTO session(id, title) VALUES(?, ?)", rows)
        return self

    def append(self, session: int, messages: Iterable[Message]) -> None:
        """Messages in one transaction."""
        self._at += 1
        rows = [_row(session, message, self._at) for message in messages]
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(_INSERT, rows)
        self._db.execute(_COUNT, (len(rows), self._at, session))
        self._db.execute("COMMIT")

    def append_for_many(self, messages: Iterable[tuple[int, Message]]) -> None:
        """Messages of several sessions in one transaction: what a group commit cannot beat."""
        self._at += 1
        self._db.execute("BEGIN IMMEDIATE")
        for session, message in messages:
            self._db.execute(_INSERT, _row(session, message, self._at))
            self._db.execute(_COUNT, (1, self._at, session))
        self._db.execute("COMMIT")

    def touch(self, session: int) -> None:
        """The smallest transaction there is."""
        self._at += 1
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(_COUNT, (0, self._at, session))
        self._db.execute("COMMIT")

    def cut(self, session: int, messages: int) -> None:
        """Deletes the newest messages, of a file that holds one session."""
        self._at += 1
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM message WHERE id > (SELECT max(id) FROM message) - ?", (messages,))
        self._db.execute(_COUNT, (-messages, self._at, session))
        self._db.execute("COMMIT")

    def load(self) -> list[dict[str, Any]]:
        """All messages of a file that holds one session, as dicts: SELECT and json.loads."""
        loaded: list[dict[str, Any]] = []
        for role, content, calls, call, name, at in self._db.execute(
            "SELECT role, content, tool_calls, tool_call_id, tool_name, at FROM message ORDER BY id"
        ):
            message = {"role": role, "content": content, "at": at}
            if calls:
                message["tool_calls"] = json.loads(calls)
            if call:
                message["tool_call_id"] = call
                message["tool_name"] = name
            loaded.append(message)
        return loaded

    def newest_sessions(self, limit: int) -> list[tuple[Any, ...]]:
        """A list by activity without an index."""
        query = "SELECT id, title, messages, last_active_at FROM session ORDER BY last_active_at DESC LIMIT ?"
        return self._db.execute(query, (limit,)).fetchall()

    def close(self) -> None:
        self._db.close()


def _row(session: int, message: Message, at: int) -> tuple[Any, ...]:
    calls = message.get("tool_calls")
    return (
        session,
        message["role"],
        message["content"],
        json.dumps(calls) if calls else None,
        message.get("tool_call_id"),
        message.get("tool_name"),
        at,
    )


class WordFloor:
    """A bare FTS5 table over texts: newest or best rowids, without owners, sessions, heads or texts."""

    def __init__(self, folder: Path) -> None:
        self._db = apsw.Connection(str(folder / "words.db"))
        self._db.execute("PRAGMA journal_mode=WAL").fetchall()
        self._db.execute("CREATE VIRTUAL TABLE words USING fts5(text, content='')")

    def add(self, texts: Iterable[str]) -> None:
        with self._db:
            self._db.executemany("INSERT INTO words(text) VALUES(?)", ((text,) for text in texts))

    def newest(self, match: str, limit: int) -> list[tuple[Any, ...]]:
        query = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid DESC LIMIT ?"
        return self._db.execute(query, (match, limit)).fetchall()

    def ranked(self, match: str, limit: int) -> list[tuple[Any, ...]]:
        query = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?"
        return self._db.execute(query, (match, limit)).fetchall()

    def close(self) -> None:
        self._db.close()
