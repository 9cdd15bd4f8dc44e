"""A few reading connections, each on a thread of its own, so that a long read stops neither the event loop nor a write."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import apsw

from clew.adapters.stores.sqlite.connection import connect, in_words
from clew.domain.ledger.errors import StoreUnusable

T = TypeVar("T")
CONNECTIONS: Final = 3


class Readers:
    """Runs reads, each in one read transaction: what it returns was true at one moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._open: list[apsw.Connection] = []
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="clew-reader")
        self._closed = False

    async def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Raises what the work raised, or StoreUnusable."""
        if self._closed:
            raise StoreUnusable("The ledger is closed.")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, work)

    def close(self) -> None:
        """Idempotent."""
        if not self._closed:
            self._closed = True
            self._pool.shutdown(wait=True)
            for db in self._open:
                db.close()

    def _run(self, work: Callable[[apsw.Connection], T]) -> T:
        db = self._connection()
        try:
            db.execute("BEGIN")
            try:
                return work(db)
            finally:
                db.execute("ROLLBACK")
        except apsw.Error as error:
            raise in_words(error, self._path) from error

    def _connection(self) -> apsw.Connection:
        db: apsw.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = connect(self._path, read_only=True)
            with self._lock:
                self._open.append(db)
            self._local.db = db
        return db
