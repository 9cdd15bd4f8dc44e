"""A few reading connections, so that a long read stops neither the event loop nor a write.

Long reads run on threads. What looks at a few rows by key is done on the spot: the way to a thread and back takes
ten times as long as the read itself. Nobody has to be right about which is which: a glance that takes too long, or
finds something in its way, is given up and goes to a thread like any other read.

Beginning and ending a read transaction takes twice as long as such a look, so those of one round of the event loop share
one, for a moment. It ends before anything is done that the next round brings; and whatever a task can wait for, a commit or
a word from another process, it hears of in a later round than it happened. So who heard of a write also finds it.
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
MOMENT_SECONDS_MAX: Final = 0.002
"""How old what a glance finds may be, however long the round takes."""
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
        self._round: asyncio.AbstractEventLoop | None = None
        """The event loop in whose round the glances' transaction is open."""
        self._moment = 0.0
        """When that began."""

    async def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Raises what the work raised, or StoreUnusable."""
        if self._closed:
            raise StoreUnusable("The ledger is closed.")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, work)

    async def glance(self, work: Callable[[apsw.Connection], T]) -> T:
        """As `read`, for work that is probably short; it may be begun twice, so it must do nothing but read."""
        loop = asyncio.get_running_loop()
        if self._glancing.acquire(blocking=False):
            try:
                if self._closed:
                    raise StoreUnusable("The ledger is closed.")
                if self._round in (None, loop):
                    return self._glanced(loop, work)
            except (apsw.InterruptError, apsw.BusyError):
                pass  # too long, or another process is in the way: a thread can wait
            except FAILURES as error:
                raise in_words(error, self._path) from error
            finally:
                self._glancing.release()
        return await self.read(work)

    def _glanced(self, loop: asyncio.AbstractEventLoop, work: Callable[[apsw.Connection], T]) -> T:
        db, now = self._connection_at_hand(), time.perf_counter()
        if now - self._moment > MOMENT_SECONDS_MAX:
            _end(db)
        if self._round is None:
            self._round = loop
            loop.call_soon(self._round_ended)
        if not db.in_transaction:
            db.execute("BEGIN")
            self._moment = now
        self._glance_until = now + GLANCE_SECONDS_MAX
        try:
            return self._looked(db, work)
        finally:
            # The end must not be cut off by the deadline of what it ends: the connection would stay in a transaction.
            self._glance_until = float("inf")

    def _round_ended(self) -> None:
        with self._glancing:
            self._round = None
            if not self._closed and self._at_hand is not None:
                _end(self._at_hand)

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
            return self._looked(db, work)
        finally:
            _end(db)

    def _looked(self, db: apsw.Connection, work: Callable[[apsw.Connection], T]) -> T:
        try:
            return work(db)
        except _OF_ANOTHER_SCHEMA:
            refuse_migrated(db, newest(), self._path)
            raise

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


def _end(db: apsw.Connection) -> None:
    if db.in_transaction:  # a damaged file has ended it already
        db.execute("ROLLBACK")
