"""Brings a ledger file to this program's schema: numbered SQL files, each in one transaction with its own record.

A new ledger is made beside its place and put there whole, so that a file of zero bytes is never ours: it is what is
left of one that was lost, and is refused. Whatever is refused is refused before anything is written.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from clew.adapters.stores.sqlite.connection import (
    check_version,
    connect,
    fetch,
    glimpse,
    in_words,
    journal_mode_for,
    refuse_newer,
    sync,
)
from clew.domain.ledger.errors import StoreUnusable

APPLICATION_ID: Final = 0x434C4557
""""CLEW" in the file's header: what tells our files from other programs'."""
_RECORD: Final = "CREATE TABLE IF NOT EXISTS migration(number INTEGER PRIMARY KEY, name TEXT NOT NULL, at INTEGER NOT NULL) STRICT"


class Migration(NamedTuple):
    """One numbered step of the schema."""

    number: int
    name: str
    sql: str


@cache
def migrations() -> tuple[Migration, ...]:
    """Every migration, in order."""
    folder = resources.files("clew.adapters.stores.sqlite") / "migrations"
    files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(
        Migration(int(name[:4]), name, (folder / name).read_text(encoding="utf-8")) for name in files
    )


def newest() -> int:
    """The schema number this program knows."""
    return migrations()[-1].number


def open_file(path: Path, at: int, steps: tuple[Migration, ...] | None = None) -> apsw.Connection:
    """The writing connection to a ledger of the newest schema, made or migrated where needed.

    Raises StoreUnusable in a sentence, Outdated for a newer file, Corrupt for a damaged one; then nothing was written.
    """
    wanted = migrations() if steps is None else steps
    refuse_unfinished(path)
    if not path.exists():
        _create(path, at, wanted)
    refuse_foreign(path, wanted[-1].number)
    db = connect(path)
    try:
        migrate(db, path, at, wanted)
    except BaseException:
        db.close()
        raise
    return db


def refuse_unfinished(path: Path) -> None:
    """Says it when what is there is half of something, instead of starting a new ledger beside it."""
    restored = Path(f"{path}.restored")
    if restored.exists():
        raise StoreUnusable(
            f"A restore was cut short; nothing was written. Finish it with `clew db restore {restored}`."
        )
    log = Path(f"{path}-wal")
    if not path.exists() and log.exists() and log.stat().st_size:
        raise StoreUnusable(
            f"{path} is gone, but its log {log} is there; nothing was written."
            " Put the file back, or restore a backup with `clew db restore`."
        )


def refuse_foreign(path: Path, known: int) -> None:
    """Raises StoreUnusable, Outdated or Corrupt for a file that is not a ledger this program can open."""
    if path.is_file() and not path.stat().st_size:
        raise StoreUnusable(
            f"{path} is empty (0 bytes), which a ledger never is; nothing was written."
            " Restore a backup with `clew db restore`, or remove the file to start anew."
        )
    if path.is_file() and not os.access(path, os.R_OK):
        raise StoreUnusable(f"{path} may not be read; nothing was written.")
    with glimpse(path) as db:
        application, schema, tables = fetch(
            db,
            "SELECT a.application_id, u.user_version, (SELECT count(*) FROM sqlite_master)"
            " FROM pragma_application_id a, pragma_user_version u",
        )[0]
    if application != APPLICATION_ID:
        whose = "a database of another program" if tables else "an empty database that no Clew made"
        raise StoreUnusable(
            f"{path} is {whose}; nothing was written. Move it away, or set CLEW_HOME elsewhere."
        )
    refuse_newer(schema, known, path)


def migrate(db: apsw.Connection, path: Path, at: int, steps: tuple[Migration, ...] | None = None) -> None:
    """Applies what is missing. Two processes may start together: the loser finds nothing left to do.

    Raises Outdated for a newer file; nothing is written to it.
    """
    wanted = migrations() if steps is None else steps
    try:
        check_version(db, wanted[-1].number, path)
        for step in wanted:
            if _schema_of(db) < step.number:
                _apply(db, step, at)
    except apsw.Error as error:
        raise in_words(error, path) from error


def _create(path: Path, at: int, steps: tuple[Migration, ...]) -> None:
    """Makes a whole ledger and gives it its name last; whoever was quicker has made one just as good.

    A crash before that leaves a `.new-…` file, which nothing reads.
    """
    draft = path.with_name(f"{path.name}.new-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        _make(draft, at, steps)
        _put_in_place(draft, path)
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{draft}{suffix}").unlink(missing_ok=True)


def _make(draft: Path, at: int, steps: tuple[Migration, ...]) -> None:
    """Nobody reads a draft, so it is made without a journal's fsyncs, and synced once when it is whole."""
    db = connect(draft)
    try:
        fetch(db, "PRAGMA journal_mode=MEMORY")
        fetch(db, "PRAGMA synchronous=OFF")
        migrate(db, draft, at, steps)
        fetch(db, f"PRAGMA journal_mode={journal_mode_for(draft)}")
    except apsw.Error as error:
        raise in_words(error, draft) from error
    finally:
        db.close()
    sync(draft)


def _put_in_place(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    except OSError:
        # A filesystem without links. Somebody quicker would be overwritten: look once more, it is the best there is.
        if not path.exists():
            draft.replace(path)
    sync(path.parent)


def _schema_of(db: apsw.Connection) -> int:
    return int(fetch(db, "PRAGMA user_version")[0][0])


def _apply(db: apsw.Connection, step: Migration, at: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        if _schema_of(db) < step.number:
            db.execute(step.sql)
            db.execute(_RECORD)
            db.execute(
                "INSERT INTO migration(number, name, at) VALUES(?, ?, ?)", (step.number, step.name, at)
            )
            db.execute(f"PRAGMA application_id={APPLICATION_ID:d}")
            db.execute(f"PRAGMA user_version={step.number:d}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
