"""One SQLite file, opened the way the ledger needs it, or refused in a sentence.

Settings that carry durability are read back: a pragma that SQLite ignored is an error here, not a surprise later.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any, Final

import apsw

from clew.domain.ledger.errors import LedgerError, Outdated, Refused, StoreUnusable

WAIT_SECONDS_MAX: Final = 5.0
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


def connect(path: Path, *, synchronous: str = "FULL", read_only: bool = False) -> apsw.Connection:
    """Opens an existing or new file. Raises StoreUnusable with a sentence for a person."""
    _refuse_unusable(path, read_only)
    flags = apsw.SQLITE_OPEN_READWRITE | (0 if read_only else apsw.SQLITE_OPEN_CREATE)
    try:
        db = apsw.Connection(str(path), flags=flags, statementcachesize=200)
        db.set_busy_handler(_wait_for_lock)
        _configure(db, path, synchronous, read_only)
    except apsw.Error as error:
        raise in_words(error, path) from error
    return db


def _refuse_unusable(path: Path, read_only: bool) -> None:
    """Says what is wrong with a file before SQLite touches it, so that nothing is written to a foreign one."""
    if path.is_dir():
        raise StoreUnusable(f"{path} is a directory, not a database.")
    if not path.exists():
        if read_only:
            raise StoreUnusable(f"{path} does not exist.")
        return
    if not read_only and not os.access(path, os.W_OK):
        raise StoreUnusable(
            f"{path} is read-only; nothing was written. Make it writable or set CLEW_HOME elsewhere."
        )
    with path.open("rb") as file:
        start = file.read(16)
    if start and start != b"SQLite format 3\0":
        raise StoreUnusable(
            f"{path} is not a Clew database. Move it away, or restore a backup with `clew db restore`."
        )


def _configure(db: apsw.Connection, path: Path, synchronous: str, read_only: bool) -> None:
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


def in_words(error: apsw.Error, path: Path | str) -> LedgerError:
    """The sentence for an SQLite error. Guards speak for themselves; the rest names file and remedy."""
    text = str(error)
    if "clew: " in text:
        return Refused(text.split("clew: ", 1)[1])
    for kind, sentence in _SENTENCES:
        if isinstance(error, kind):
            return StoreUnusable(sentence.format(path=path, error=text))
    return StoreUnusable(f"{path} could not be used: {text}.")


_SENTENCES: Final[tuple[tuple[type[apsw.Error], str], ...]] = (
    (
        apsw.FullError,
        "The disk that holds {path} is full; nothing was written. Free some space and try again.",
    ),
    (
        apsw.ReadOnlyError,
        "{path} is read-only; nothing was written. Make it writable or set CLEW_HOME elsewhere.",
    ),
    (apsw.CantOpenError, "{path} cannot be opened: check that its folder exists and may be written."),
    (apsw.PermissionsError, "{path} cannot be opened: permission denied."),
    (
        apsw.NotADBError,
        "{path} is not a Clew database. Move it away, or restore a backup with `clew db restore`.",
    ),
    (
        apsw.CorruptError,
        "{path} is damaged ({error}). Restore a backup with `clew db restore`; nothing was written.",
    ),
    (apsw.BusyError, "{path} was locked by another program for {error}; try again."),
    (apsw.IOError, "{path} could not be read or written ({error}); nothing was written. Check the disk."),
)


def check_version(db: apsw.Connection, known: int, path: Path | str) -> None:
    """Raises Outdated when another program has migrated the file beyond what this one knows."""
    found = fetch(db, "PRAGMA user_version")[0][0]
    if found > known:
        raise Outdated(
            f"{path} was written by a newer Clew (schema {found}, this one knows {known}): update and restart."
        )


def wal_size(path: Path) -> int:
    """Bytes in the write-ahead log."""
    wal = Path(str(path) + "-wal")
    return os.path.getsize(wal) if wal.exists() else 0
