"""A few reading connections, so that a long read stops neither the event loop nor a write.

Long reads run on threads. What looks at a few rows by key is done on the spot: the way to a thread and back takes
ten times as long as the read itself. Nobody has to be right about which is which: a glance that takes too long, or
finds something in its way, is given up and goes to a thread like any other read.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import apsw
import msgspec

from clew.adapters.stores.sqlite.connection import FAILURES, connect, in_words, refuse_migrated
from clew.adapters.stores.sqlite.migrate import newest
from clew.domain.ledger.errors import Corrupt, StoreUnusable

T = TypeVar("T")
CONNECTIONS: Final = 3
GLANCE_SECONDS_MAX: Final = 0.002
"""How long a glance may keep the event loop: about as long as one commit."""
_GLANCE_STEPS: Final = 1000
"""How many steps of SQLite's machine lie between two looks at the clock: some 50 microseconds."""
_OF_ANOTHER_SCHEMA: Final = (apsw.SQLError, UnicodeDecodeError, msgspec.MsgspecError, Corrupt)
"""What reading raises when a newer program has changed the tables, or what is in them, among other reasons."""


class Readers:
    """Runs reads, each in one read transaction: what it returns was true at one moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._open: list[apsw.Connection] = []
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="clew-reader")
        self._closed = False
        self._at_hand: apsw.Connection | None = None
        self._glancing = threading.Lock()
        self._glance_until = 0.0

    async def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Raises what the work raised, or StoreUnusable."""
        if self._closed:
            raise StoreUnusable("The ledger is closed.")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, work)

    async def glance(self, work: Callable[[apsw.Connection], T]) -> T:
        """As `read`, for work that is probably short; it may be begun twice, so it must do nothing but read."""
        if self._glancing.acquire(blocking=False):
            try:
                if self._closed:
                    raise StoreUnusable("The ledger is closed.")
                self._glance_until = time.perf_counter() + GLANCE_SECONDS_MAX
                return self._in_transaction(self._connection_at_hand(), work)
            except (apsw.InterruptError, apsw.BusyError):
                pass  # too long, or another process is in the way: a thread can wait
            except FAILURES as error:
                raise in_words(error, self._path) from error
            finally:
                self._glancing.release()
        return await self.read(work)

    def close(self) -> None:
        """Idempotent."""
        with self._glancing:
            if self._closed:
                return
            self._closed = True
        self._pool.shutdown(wait=True)
        for db in self._open:
            db.close()

    def _run(self, work: Callable[[apsw.Connection], T]) -> T:
        try:
            return self._in_transaction(self._connection(), work)
        except FAILURES as error:
            raise in_words(error, self._path) from error

    def _in_transaction(self, db: apsw.Connection, work: Callable[[apsw.Connection], T]) -> T:
        db.execute("BEGIN")
        try:
            return work(db)
        except _OF_ANOTHER_SCHEMA:
            self._deadline_off(db)
            refuse_migrated(db, newest(), self._path)
            raise
        finally:
            # The end must not be cut off by the deadline of what it ends: the connection would stay in a transaction.
            self._deadline_off(db)
            if db.in_transaction:  # a damaged file has ended it already
                db.execute("ROLLBACK")

    def _deadline_off(self, db: apsw.Connection) -> None:
        if db is self._at_hand:
            self._glance_until = float("inf")

    def _connection(self) -> apsw.Connection:
        db: apsw.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = self._connect()
        return db

    def _connection_at_hand(self) -> apsw.Connection:
        if self._at_hand is None:
            db = self._connect()
            db.set_busy_handler(None)
            db.execute(
                "PRAGMA cache_size=-2000"
            ).fetchall()  # it looks at little, and every commit empties it
            db.set_progress_handler(self._is_late, _GLANCE_STEPS)
            self._at_hand = db
        return self._at_hand

    def _is_late(self) -> bool:
        return time.perf_counter() > self._glance_until

    def _connect(self) -> apsw.Connection:
        db = connect(self._path, read_only=True)
        with self._lock:
            self._open.append(db)
        return db
