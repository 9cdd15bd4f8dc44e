"""One SQLite file, opened the way the ledger needs it, or refused in a sentence.

Settings that carry durability are read back: a pragma that SQLite ignored is an error here, not a surprise later.

A database file is opened by SQLite alone, never by `open`: closing any descriptor of a file drops all POSIX locks that
the process holds on it (sqlite.org/howtocorrupt.html 2.2). A peek at the header did that; another program that read the
file then thought itself the last one, removed the write-ahead log, and what was acknowledged next was lost.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import apsw
import msgspec

from clew.domain.ledger.errors import (
    Corrupt,
    Fenced,
    HeadMoved,
    LedgerError,
    Outdated,
    Refused,
    StoreUnusable,
)

WAIT_SECONDS_MAX: Final = 5.0
_CHECKPOINT_WAIT_MS: Final = 50
"""Emptying the log keeps other writers out while it waits for readers, so it waits briefly and is tried again."""
_NETWORK_FILESYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "fuse.sshfs", "afs", "ceph", "vboxsf"}
)


def _wait_for_lock(attempt: int) -> bool:
    """Short, jittered waits: two writing processes take turns within milliseconds instead of SQLite's hundreds.

    0.2 ms x 20, 1 ms x 80, then 5 ms; gives up after about WAIT_SECONDS_MAX in all (measured: worst commit of two
    writing processes 22 ms, against 635 ms with SQLite's own handler).
    """
    pause = 0.0002 if attempt < 20 else 0.001 if attempt < 100 else 0.005
    if attempt > 100 + WAIT_SECONDS_MAX / 0.005:
        return False
    time.sleep(pause * random.uniform(0.7, 1.3))
    return True


def fetch(db: apsw.Connection, sql: str, bindings: apsw.Bindings | None = None) -> list[tuple[Any, ...]]:
    """All rows of a query. What a column holds is the schema's promise (STRICT tables), not the type checker's."""
    return db.execute(sql, bindings).fetchall()


def filesystem_of(path: Path) -> str:
    """The type of the filesystem that holds a path; empty where the system does not say."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        inside = str(path) == point or str(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def journal_mode_for(path: Path) -> str:
    """WAL, but DELETE where several machines could share the file: WAL needs shared memory."""
    return "delete" if filesystem_of(path.resolve()) in _NETWORK_FILESYSTEMS else "wal"


def connect(
    path: Path, *, synchronous: str = "FULL", read_only: bool = False, vfs: str = ""
) -> apsw.Connection:
    """Opens an existing or new file. Raises StoreUnusable with a sentence for a person.

    `vfs` names another file layer (tests of failing disks).
    """
    _refuse_unusable(path, read_only)
    if not read_only:
        _make_private(path)
    flags = apsw.SQLITE_OPEN_READWRITE | (0 if read_only else apsw.SQLITE_OPEN_CREATE)
    try:
        db = apsw.Connection(str(path), flags=flags, vfs=vfs or None, statementcachesize=200)
    except apsw.Error as error:
        raise in_words(error, path) from error
    try:
        db.set_busy_handler(_wait_for_lock)
        _configure(db, path, synchronous, read_only)
    except BaseException as error:
        db.close()
        if isinstance(error, apsw.Error):
            raise in_words(error, path) from error
        raise
    return db


def _make_private(path: Path) -> None:
    """A new file can be read by its owner only, from its first byte; its log and shared memory follow it in that."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be made ({error.strerror}); nothing was written.") from error


@contextmanager
def glimpse(path: Path) -> Iterator[apsw.Connection]:
    """An existing file, opened so that not a byte of it changes, whatever it is.

    Raises Corrupt when it is no database, StoreUnusable when it cannot be read.
    """
    log = Path(f"{path}-wal")
    # Without a log the file is all there is, and SQLite need not make the files that readers of a log share.
    still = "" if log.exists() and log.stat().st_size else "&immutable=1"
    name = f"file:{quote(str(path.absolute()))}?mode=ro{still}"
    try:
        with closing(apsw.Connection(name, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)) as db:
            db.set_busy_handler(_wait_for_lock)
            yield db
    except FAILURES as error:
        raise in_words(error, path) from error


def _refuse_unusable(path: Path, read_only: bool) -> None:
    """Says what is wrong with a file before SQLite touches it."""
    if path.is_dir():
        raise StoreUnusable(f"{path} is a directory, not a database.")
    if not path.exists():
        if read_only:
            raise StoreUnusable(f"{path} does not exist.")
        return
    if read_only:
        return
    for place in (path, path.parent):
        if not os.access(place, os.W_OK):
            raise StoreUnusable(
                f"{place} is read-only; nothing was written. Make it writable or set CLEW_HOME elsewhere."
            )


def _configure(db: apsw.Connection, path: Path, synchronous: str, read_only: bool) -> None:
    # Plans do not look at bound values: else every query of a table with a partial index is prepared anew each time
    # (it does not matter to a plan of ours, and took two thirds of the time of a commit).
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    # apsw stops a multi-statement execute at its first result row: one pragma a call, read back.
    _pragma(db, "trusted_schema", "OFF", 0)
    _pragma(db, "foreign_keys", "ON", 1)
    _pragma(db, "secure_delete", "ON", 1)
    if read_only:
        _pragma(db, "query_only", "ON", 1)
        _pragma(db, "cache_size", "-16000", -16000)
        return
    mode = journal_mode_for(path)
    _pragma(db, "journal_mode", mode, mode)
    _pragma(db, "synchronous", synchronous, {"FULL": 2, "NORMAL": 1}[synchronous])
    db.wal_autocheckpoint(1000)


def _pragma(db: apsw.Connection, name: str, value: str, expected: object) -> None:
    fetch(db, f"PRAGMA {name}={value}")
    found = fetch(db, f"PRAGMA {name}")[0][0]
    if found != expected:
        raise StoreUnusable(f"SQLite did not accept {name}={value} (it says {found}).")


FAILURES: Final = (apsw.Error, UnicodeDecodeError, msgspec.MsgspecError)
"""What working on a file raises: SQLite's errors, and a row whose content is not what was once stored."""


def in_words(error: Exception, path: Path | str) -> LedgerError:
    """The sentence for one of FAILURES. Guards speak for themselves; the rest names file and remedy."""
    text = str(error)
    if not isinstance(error, apsw.Error):
        return Corrupt(
            f"{path} holds something unreadable ({text}). See `clew db check`, or restore a backup."
        )
    if "clew: " in text:
        sentence = text.split("clew: ", 1)[1]
        return _GUARDS.get(sentence, Refused)(sentence)
    if isinstance(error, apsw.ConstraintError):
        return Refused(f"The ledger cannot take this ({text}); nothing was written.")
    for kind, said, sentence in _SENTENCES:
        if isinstance(error, kind):
            return said(sentence.format(path=path, error=text))
    return StoreUnusable(f"{path} could not be used ({text}); nothing was written.")


_GUARDS: Final[dict[str, type[LedgerError]]] = {"stale": HeadMoved, "fenced": Fenced}
"""What the guards say of somebody who came too late; everything else they say is about the request itself."""
_SENTENCES: Final[tuple[tuple[type[apsw.Error], type[LedgerError], str], ...]] = (
    (
        apsw.FullError,
        StoreUnusable,
        "The disk that holds {path} is full; nothing was written. Free some space and try again.",
    ),
    (
        apsw.ReadOnlyError,
        StoreUnusable,
        "{path} is read-only; nothing was written. Make it writable or set CLEW_HOME elsewhere.",
    ),
    (
        apsw.CantOpenError,
        StoreUnusable,
        "{path} cannot be opened; nothing was written. Check that its folder exists and may be written.",
    ),
    (
        apsw.PermissionsError,
        StoreUnusable,
        "{path} cannot be opened: permission denied; nothing was written.",
    ),
    (
        apsw.NotADBError,
        Corrupt,
        "{path} is not a Clew database; nothing was written. Move it away, or restore a backup with `clew db restore`.",
    ),
    (
        apsw.CorruptError,
        Corrupt,
        "{path} is damaged ({error}); nothing was written. Restore a backup with `clew db restore`.",
    ),
    (apsw.BusyError, StoreUnusable, "{path} is locked by another program; nothing was written. Try again."),
    (
        apsw.LockedError,
        StoreUnusable,
        "{path} is locked by another program; nothing was written. Try again.",
    ),
    (
        apsw.IOError,
        StoreUnusable,
        "{path} could not be read or written ({error}); nothing was written. Check the disk.",
    ),
)


def check_version(db: apsw.Connection, known: int, path: Path | str) -> None:
    """Raises Outdated when another program has migrated the file beyond what this one knows."""
    refuse_newer(fetch(db, "PRAGMA user_version")[0][0], known, path)


def refuse_migrated(db: apsw.Connection, known: int, path: Path | str) -> None:
    """Raises Outdated when a newer program has migrated the file since this one opened it."""
    found = fetch(db, "PRAGMA user_version")[0][0]
    if found > known:
        raise Outdated(
            f"Clew was updated while this ran ({path} has schema {found}, this program knows {known}):"
            " start it again. Nothing was lost."
        )


def refuse_newer(found: int, known: int, path: Path | str) -> None:
    """Raises Outdated for a schema that this program does not know."""
    if found > known:
        raise Outdated(
            f"{path} was written by a newer Clew (schema {found}, this one knows {known}); nothing was written."
            " Update Clew and restart."
        )


def empty_log(db: apsw.Connection) -> bool:
    """Moves the write-ahead log into the file and empties it. False when somebody reads from it just now."""
    db.set_busy_timeout(_CHECKPOINT_WAIT_MS)
    try:
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError:
        return False
    finally:
        db.set_busy_handler(_wait_for_lock)
    return True


def wal_size(path: Path) -> int:
    """Bytes in the write-ahead log."""
    wal = Path(str(path) + "-wal")
    return os.path.getsize(wal) if wal.exists() else 0


def sync(path: Path) -> None:
    """What a file holds, or which names a directory holds, is on the disk when this returns.

    Not for a file that SQLite has open: closing a descriptor of it drops the locks.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
