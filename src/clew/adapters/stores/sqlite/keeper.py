"""Administration of the ledger's files, by the owner of the home: check, back up, restore, count.

Nothing here goes through a principal, and nothing changes a conversation.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from clew.adapters.stores.sqlite.connection import connect, fetch, in_words
from clew.adapters.stores.sqlite.in_use import alone
from clew.adapters.stores.sqlite.migrate import newest
from clew.adapters.stores.sqlite.paths import on_path, segments
from clew.domain.conversation.messages import Head
from clew.domain.ledger.errors import StoreUnusable

LEDGER: Final = "clew.db"
SEARCH: Final = "clew-search.db"
BACKUP_PAGES: Final = 500
TABLES: Final = (
    "session", "branch", "message", "op", "turn", "tool_call", "summary", "blob", "inbox", "outbox", "usage", "purge",
)  # fmt: skip


class Wrong(NamedTuple):
    """Where something is not as it should be, and what."""

    place: str
    sentence: str


def check(home: Path) -> tuple[Wrong, ...]:
    """Every promise of the ledger that can be verified by reading. Raises StoreUnusable when it cannot be read."""
    path = _existing(home / LEDGER)
    with closing(connect(path, read_only=True)) as db:
        try:
            db.execute("BEGIN")
            damaged = tuple(_damage(db))
            return damaged if damaged else tuple(_broken_promises(db))
        except apsw.Error as error:
            raise in_words(error, path) from error


def _damage(db: apsw.Connection) -> Iterator[Wrong]:
    for (sentence,) in fetch(db, "PRAGMA integrity_check(20)"):
        if sentence != "ok":
            yield Wrong("file", sentence)
    for table, row, parent, _ in fetch(db, "PRAGMA foreign_key_check"):
        yield Wrong(f"{table} {row}", f"names a row of {parent} that is not there")


def _broken_promises(db: apsw.Connection) -> Iterator[Wrong]:
    yield from _op_chains(db)
    for session, branch, seq, summary in fetch(
        db,
        "SELECT id, head_branch, head_seq, summary_id FROM session"
        " WHERE NOT EXISTS (SELECT 1 FROM purge WHERE session_id = session.id) ORDER BY id",
    ):
        yield from _path(db, session, Head(branch, seq), summary)
    yield from _blobs(db)


_CHAIN: Final = """
-- ops that do not go on where the one before ended, and sessions that do not stand where their last op left them
SELECT o.session_id, o.version FROM op o LEFT JOIN op p ON p.session_id = o.session_id AND p.version = o.version - 1
WHERE (o.version > 1 AND (p.version IS NULL OR p.to_branch IS NOT o.from_branch OR p.to_seq <> o.from_seq
       OR p.to_summary IS NOT o.from_summary))
UNION ALL
SELECT s.id, s.version FROM session s LEFT JOIN op o ON o.session_id = s.id AND o.version = s.version
WHERE o.version IS NULL OR o.to_branch IS NOT s.head_branch OR o.to_seq <> s.head_seq OR o.to_summary IS NOT s.summary_id
"""


def _op_chains(db: apsw.Connection) -> Iterator[Wrong]:
    for session, version in fetch(db, _CHAIN):
        yield Wrong(f"session {session}", f"its op {version} does not follow from the one before")


def _path(db: apsw.Connection, session: str, head: Head, summary: int | None) -> Iterator[Wrong]:
    held = 0
    for branch, low, high in segments(db, head):
        held += fetch(
            db, "SELECT count(*) FROM message WHERE branch = ? AND seq > ? AND seq <= ?", (branch, low, high)
        )[0][0]
    if held != head.seq:
        yield Wrong(f"session {session}", f"holds {held} of the {head.seq} messages on its path")
    if summary is not None:
        found = fetch(db, "SELECT branch, upto_seq FROM summary WHERE id = ?", (summary,))
        if not found or not on_path(db, head, Head(*found[0])):
            yield Wrong(f"session {session}", "its summary does not stand on its path")


def _blobs(db: apsw.Connection) -> Iterator[Wrong]:
    for sha256, content in db.execute("SELECT sha256, bytes FROM blob"):
        if not isinstance(content, bytes) or hashlib.sha256(content).hexdigest() != sha256:
            yield Wrong(f"attachment {str(sha256)[:12]}", "does not have the content it is named after")


def backup(home: Path, target: Path) -> int:
    """A verified copy, also of a ledger in use. Returns its bytes. Never overwrites; leaves nothing half-written."""
    source = _existing(home / LEDGER)
    if target.exists():
        raise StoreUnusable(f"{target} is there already; nothing was written.")
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with closing(connect(source, read_only=True)) as db:
            _copy(db, draft)
        _verify(draft)
        draft.chmod(0o600)
        os.link(draft, target)  # fails if somebody else made the target meanwhile
    except apsw.Error as error:
        raise in_words(error, target) from error
    except OSError as error:
        raise StoreUnusable(f"{target} cannot be written ({error.strerror or error}).") from error
    finally:
        draft.unlink(missing_ok=True)
    return target.stat().st_size


def _copy(db: apsw.Connection, draft: Path) -> None:
    with closing(apsw.Connection(str(draft))) as copy:
        with copy.backup("main", db, "main") as transfer:
            while not transfer.done:
                transfer.step(BACKUP_PAGES)
        fetch(copy, "PRAGMA journal_mode=DELETE")


def _verify(path: Path) -> None:
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        version = fetch(db, "PRAGMA user_version")[0][0]
        if not version or not fetch(db, "SELECT 1 FROM sqlite_master WHERE name = 'message'"):
            raise StoreUnusable(f"{path} is not a ledger of Clew.")
        if version > newest():
            raise StoreUnusable(f"{path} was written by a newer Clew: update this one first.")
        if damaged := [wrong.sentence for wrong in _damage(db)]:
            raise StoreUnusable(f"{path} is damaged ({damaged[0]}).")


def restore(home: Path, source: Path) -> Path | None:
    """Puts a backup in the ledger's place. Returns where the replaced one was put aside, None when there was none.

    Raises StoreUnusable while another process has the ledger open, or when the backup is not sound; then nothing changed.
    """
    _existing(source)
    try:
        _verify(source)
    except apsw.Error as error:
        raise in_words(error, source) from error
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(home):
        return _replace(home, source)


def _replace(home: Path, source: Path) -> Path | None:
    ledger = home / LEDGER
    draft = home / f".{LEDGER}.{os.getpid()}"
    try:
        with closing(apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY)) as db:
            _copy(db, draft)
        draft.chmod(0o600)
        aside = _put_aside(ledger)
        draft.replace(ledger)
    finally:
        draft.unlink(missing_ok=True)
    for suffix in ("", "-wal", "-shm"):
        (home / f"{SEARCH}{suffix}").unlink(missing_ok=True)
    return aside


def _put_aside(ledger: Path) -> Path | None:
    if not ledger.exists():
        return None
    with closing(apsw.Connection(str(ledger))) as db:
        db.wal_checkpoint(
            mode=apsw.SQLITE_CHECKPOINT_TRUNCATE
        )  # the log goes into the file before it is moved
    aside = ledger.with_name(f"{ledger.name}.replaced-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    ledger.replace(aside)
    for suffix in ("-wal", "-shm"):
        Path(f"{ledger}{suffix}").unlink(missing_ok=True)
    return aside


def stats(home: Path) -> Mapping[str, int]:
    """Rows of each table and bytes of each file."""
    path = _existing(home / LEDGER)
    counted: dict[str, int] = {}
    with closing(connect(path, read_only=True)) as db:
        for table in TABLES:
            counted[f"{table} rows"] = fetch(db, f"SELECT count(*) FROM {table}")[0][0]
    for name in (LEDGER, f"{LEDGER}-wal", SEARCH, f"{SEARCH}-wal"):
        file = home / name
        counted[f"{name} bytes"] = file.stat().st_size if file.exists() else 0
    return counted


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise StoreUnusable(f"There is no ledger at {path}.")
    return path
