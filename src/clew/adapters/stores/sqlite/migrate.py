"""Brings a ledger file to this program's schema: numbered SQL files, each in one transaction with its own record."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import apsw

from clew.adapters.stores.sqlite.connection import check_version, fetch, in_words
from clew.domain.ledger.errors import StoreUnusable

APPLICATION_ID = 0x434C4557
""""CLEW" in the file's header: what tells our files from other programs'."""
_RECORD = "CREATE TABLE IF NOT EXISTS migration(number INTEGER PRIMARY KEY, name TEXT NOT NULL, at INTEGER NOT NULL) STRICT"


@cache
def migrations() -> tuple[tuple[int, str, str], ...]:
    """(number, name, SQL) of every migration, in order."""
    folder = resources.files("clew.adapters.stores.sqlite") / "migrations"
    files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple((int(name[:4]), name, (folder / name).read_text(encoding="utf-8")) for name in files)


def _refuse_foreign(db: apsw.Connection, path: Path) -> None:
    known = fetch(db, "PRAGMA application_id")[0][0] == APPLICATION_ID
    if not known and fetch(db, "SELECT EXISTS(SELECT 1 FROM sqlite_master)")[0][0]:
        raise StoreUnusable(f"{path} is a database of another program; nothing was written to it.")


def newest() -> int:
    """The schema number this program knows."""
    return migrations()[-1][0]


def migrate(db: apsw.Connection, path: Path, at: int) -> None:
    """Applies what is missing. Two processes may start together: the loser finds nothing left to do.

    Raises Outdated for a newer file; nothing is written to it.
    """
    try:
        _refuse_foreign(db, path)
        check_version(db, newest(), path)
        for number, name, sql in migrations():
            if fetch(db, "PRAGMA user_version")[0][0] < number:
                _apply(db, number, name, sql, at)
    except apsw.Error as error:
        raise in_words(error, path) from error


def _apply(db: apsw.Connection, number: int, name: str, sql: str, at: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        if fetch(db, "PRAGMA user_version")[0][0] < number:
            db.execute(sql)
            db.execute(_RECORD)
            db.execute("INSERT INTO migration(number, name, at) VALUES(?, ?, ?)", (number, name, at))
            db.execute(f"PRAGMA application_id={APPLICATION_ID:d}")
            db.execute(f"PRAGMA user_version={number:d}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
