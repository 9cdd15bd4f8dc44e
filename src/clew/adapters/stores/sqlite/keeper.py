"""Administration of the ledger's files, by the owner of the home: check, back up, restore, count.

Nothing here goes through a principal, and nothing changes a conversation.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Final

import apsw

from clew.adapters.stores.sqlite.check import Wrong, broken_promises, damage, index_faults
from clew.adapters.stores.sqlite.connection import (
    FAILURES,
    connect,
    empty_log,
    fetch,
    glimpse,
    in_words,
    sync,
)
from clew.adapters.stores.sqlite.in_use import alone
from clew.adapters.stores.sqlite.migrate import newest, refuse_foreign
from clew.domain.ledger.errors import Corrupt, StoreUnusable
from clew.domain.ledger.rows import Origin

LEDGER: Final = "clew.db"
SEARCH: Final = "clew-search.db"
WEEK_MS: Final = 7 * 86_400_000
BACKUP_PAGES: Final = 500
TABLES: Final = (
    "session", "branch", "message", "op", "turn", "tool_call", "summary", "blob", "inbox", "outbox", "usage", "purge",
)  # fmt: skip


def check(home: Path) -> tuple[Wrong, ...]:
    """Every promise of the ledger that can be verified by reading. Raises StoreUnusable when it cannot be read."""
    path = _existing(home / LEDGER)
    with closing(connect(path, read_only=True)) as db:
        try:
            db.execute("BEGIN")
            damaged = tuple(damage(db))
            return damaged or (*broken_promises(db), *index_faults(db, home / SEARCH))
        except FAILURES as error:
            raise in_words(error, path) from error


def given_up(home: Path, now_ms: int) -> tuple[Wrong, ...]:
    """Jobs that failed for good in the last week: what, whose, why."""
    query = "SELECT kind, id, owner, error FROM job WHERE state = 'failed' AND next_at > ? ORDER BY id"
    with closing(connect(_existing(home / LEDGER), read_only=True)) as db:
        rows = fetch(db, query, (now_ms - WEEK_MS,))
    return tuple(
        Wrong(place="job", sentence=f"{kind} {ident} of {owner} was given up: {error}")
        for kind, ident, owner, error in rows
    )


def unfinished(home: Path) -> tuple[tuple[Wrong, str | None], ...]:
    """Turns that no commit has ended, each with whoever claims it."""
    query = (
        "SELECT t.session_id, t.turn, s.origin, s.surface, s.lease_owner FROM turn t JOIN session s ON s.id = t.session_id"
        " WHERE t.state IN ('running','waiting') AND t.state = 'running' ORDER BY s.created_at, s.id"
    )
    with closing(connect(_existing(home / LEDGER), read_only=True)) as db:
        rows = fetch(db, query)
    found = []
    for session, turn, origin, surface, owner in rows:
        what = f"{surface} session" if origin == Origin.SIDE else "session"
        sentence = f"turn {turn} of {what} {session} was left in the middle: whoever opens it goes on with it"
        found.append((Wrong(place="turn", sentence=sentence), owner))
    return tuple(found)


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
        os.link(draft, target)  # fails if somebody else made the target meanwhile
    except FAILURES as error:
        raise in_words(error, target) from error
    except OSError as error:
        raise StoreUnusable(f"{target} cannot be written ({error.strerror or error}).") from error
    finally:
        draft.unlink(missing_ok=True)
    return target.stat().st_size


def _copy(db: apsw.Connection, draft: Path) -> None:
    """A snapshot of one moment as a single file, on disk when this returns."""
    with closing(apsw.Connection(str(draft))) as copy:
        with copy.backup("main", db, "main") as transfer:
            while not transfer.done:
                transfer.step(BACKUP_PAGES)
        fetch(copy, "PRAGMA journal_mode=DELETE")
    draft.chmod(0o600)
    sync(draft)


def _verify(path: Path) -> None:
    """Raises StoreUnusable for anything but a sound ledger."""
    refuse_foreign(path, newest())
    with glimpse(path) as db:
        if damaged := [wrong.sentence for wrong in damage(db)]:
            raise Corrupt(f"{path} is damaged ({damaged[0]}); nothing was changed.")


def restore(home: Path, source: Path) -> Path | None:
    """Puts a backup in the ledger's place. Returns where the replaced one was put aside, None when there was none.

    Raises StoreUnusable while another process has the ledger open, or when the backup is not sound; then nothing changed.
    Cut short in the middle, it leaves a complete copy of the backup, of which the next start says that it waits.
    """
    _existing(source)
    _verify(source)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(home):
        return _replace(home, source)


def _replace(home: Path, source: Path) -> Path | None:
    ledger = home / LEDGER
    ready = home / f"{LEDGER}.restored"
    if not (ready.exists() and source.samefile(ready)):
        draft = home / f"{LEDGER}.restoring-{os.getpid()}"
        try:
            with glimpse(source) as db:
                _copy(db, draft)
            draft.replace(ready)
        except FAILURES as error:
            raise in_words(error, draft) from error
        except OSError as error:
            raise StoreUnusable(f"{draft} cannot be written ({error.strerror or error}).") from error
        finally:
            draft.unlink(missing_ok=True)
        sync(home)
    # From here on a new ledger waits under its other name, and no Clew starts until it stands in its place.
    for suffix in ("", "-wal", "-shm"):
        (home / f"{SEARCH}{suffix}").unlink(missing_ok=True)
    aside = _put_aside(ledger)
    ready.replace(ledger)
    sync(home)
    return aside


def _put_aside(ledger: Path) -> Path | None:
    """With its log, if that cannot be moved into it: a damaged ledger keeps everything it was."""
    if not ledger.exists():
        return None
    with suppress(apsw.Error, StoreUnusable):
        refuse_foreign(ledger, newest())  # first: SQLite throws the log of a file away that is none
        with closing(connect(ledger)) as db:
            empty_log(db)
    aside = _free_name(ledger)
    ledger.replace(aside)
    log = Path(f"{ledger}-wal")
    if log.exists() and log.stat().st_size:
        log.replace(f"{aside}-wal")
    for suffix in ("-wal", "-shm"):
        Path(f"{ledger}{suffix}").unlink(missing_ok=True)
    return aside


def _free_name(ledger: Path) -> Path:
    stem = f"{ledger.name}.replaced-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    names = (ledger.with_name(stem if n == 0 else f"{stem}-{n}") for n in count())
    return next(name for name in names if not name.exists())


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
    """A file that can be a ledger. Raises StoreUnusable."""
    if path.is_dir():
        raise StoreUnusable(f"{path} is a directory, not a database.")
    if not path.exists():
        raise StoreUnusable(f"There is no ledger at {path}.")
    refuse_foreign(path, newest())
    return path
