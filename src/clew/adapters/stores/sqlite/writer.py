"""One writer thread per file, with group commit.

Requests that wait together share one transaction and one fsync; each has a savepoint, so that one that is refused
takes nobody with it. A future resolves after the COMMIT that made it durable, never before. The code of a request is
plain synchronous SQL: a transaction is never a sequence of awaits.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import apsw

from clew.adapters.stores.sqlite.connection import check_version, in_words
from clew.adapters.stores.sqlite.migrate import newest
from clew.domain.ledger.errors import LedgerError, StoreUnusable

T = TypeVar("T")
GROUP_REQUESTS_MAX: Final = 64
WAITING_REQUESTS_MAX: Final = 100_000

Work = Callable[[apsw.Connection], T]


class _Request:
    """Work, and where its outcome goes."""

    __slots__ = ("future", "loop", "outcome", "outside", "work")

    def __init__(
        self,
        work: Work[object],
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[object],
        outside: bool = False,
    ) -> None:
        self.outside = outside
        self.work = work
        self.loop = loop
        self.future = future
        self.outcome: object = None


class Writer:
    """Runs work on the file's one writing connection, many requests to a commit."""

    def __init__(self, db: apsw.Connection, path: Path, after_commit: Callable[[], None]) -> None:
        self._db = db
        self._path = path
        self._after_commit = after_commit
        self._known_schema = newest()
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="clew-writer", daemon=True)
        self._thread.start()

    async def do(self, work: Work[T]) -> T:
        """Returns what `work` returned, after it is durable. Raises what it raised; then nothing was written."""
        if self._closed:
            raise StoreUnusable("The ledger is closed.")
        if self._requests.qsize() > WAITING_REQUESTS_MAX:
            raise StoreUnusable("The ledger cannot keep up: too many writes are waiting.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        self._requests.put(_Request(work, loop, future))
        # A caller that is cancelled stops waiting; what it asked for is still done, whole.
        return await future  # type: ignore[return-value]

    async def checkpoint(self) -> None:
        """Moves everything from the write-ahead log into the file and empties the log (after a deletion)."""
        await self._outside(lambda db: db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE))

    async def _outside(self, work: Work[T]) -> T:
        """Runs work on the writer's thread, between transactions."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        self._requests.put(_Request(work, loop, future, outside=True))
        return await future  # type: ignore[return-value]

    def close(self) -> None:
        """Finishes what was accepted, then closes the connection. Idempotent."""
        if not self._closed:
            self._closed = True
            self._requests.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            group, last = self._next_group()
            if group:
                self._commit_group(group)
                _deliver(group)
                self._after_commit()
            if last:
                self._db.close()
                return

    def _next_group(self) -> tuple[list[_Request], bool]:
        """Waits for a request, then takes whatever else is already there."""
        group: list[_Request] = []
        request = self._requests.get()
        while request is not None:
            group.append(request)
            if len(group) >= GROUP_REQUESTS_MAX:
                return group, False
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit_group(self, group: list[_Request]) -> None:
        together = [request for request in group if not request.outside]
        if len(together) < 2 or not self._try_together(together):
            for request in together:
                self._try_alone(request)
        for request in group:
            if request.outside:
                self._try_outside(request)

    def _try_outside(self, request: _Request) -> None:
        try:
            request.outcome = request.work(self._db)
        except apsw.Error as error:
            request.outcome = in_words(error, self._path)

    def _try_together(self, group: list[_Request]) -> bool:
        """False when the shared transaction broke: nothing of it was written, and each is tried again alone."""
        db = self._db
        try:
            self._begin()
            for request in group:
                db.execute("SAVEPOINT request")
                try:
                    request.outcome = request.work(db)
                except (LedgerError, apsw.ConstraintError) as error:
                    request.outcome = _said(error, self._path)
                    db.execute("ROLLBACK TO request")
                db.execute("RELEASE request")
            db.execute("COMMIT")
        except (LedgerError, apsw.Error):
            self._roll_back()
            return False
        return True

    def _try_alone(self, request: _Request) -> None:
        try:
            self._begin()
            request.outcome = request.work(self._db)
            self._db.execute("COMMIT")
        except (LedgerError, apsw.Error) as error:
            self._roll_back()
            request.outcome = _said(error, self._path)
        except BaseException as error:  # noqa: BLE001 - a bug in the work is the caller's to see; the thread must go on
            self._roll_back()
            request.outcome = error

    def _begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        check_version(self._db, self._known_schema, self._path)

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


def _said(error: Exception, path: Path) -> LedgerError:
    return in_words(error, path) if isinstance(error, apsw.Error) else error  # type: ignore[return-value]


def _deliver(group: list[_Request]) -> None:
    """Wakes each event loop once for all of its requests."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Request]] = {}
    for request in group:
        by_loop.setdefault(request.loop, []).append(request)
    for loop, requests in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, requests)


def _resolve(requests: list[_Request]) -> None:
    for request in requests:
        if request.future.cancelled():
            continue
        if isinstance(request.outcome, BaseException):
            request.future.set_exception(request.outcome)
        else:
            request.future.set_result(request.outcome)
