"""One writer thread per file, with group commit.

Requests that wait together share one transaction and one fsync; each has a savepoint, so that one that is refused
takes nobody with it. A future resolves after the COMMIT that made it durable, never before. The code of a request is
plain synchronous SQL: a transaction is never a sequence of awaits.

When something breaks a shared transaction, nothing of it was written, and each request is tried again alone, so that
only the one at fault hears of it. When a COMMIT itself fails, the file says what became of it: see `_after_failed_commit`.
Nothing a request raises ends the thread.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import apsw

from clew.adapters.stores.sqlite.connection import empty_log, fetch, in_words, refuse_migrated
from clew.adapters.stores.sqlite.migrate import newest
from clew.domain.ledger.errors import LedgerError, Refused, StoreUnusable

T = TypeVar("T")
GROUP_REQUESTS_MAX: Final = 64
GROUP_SECONDS_MAX: Final = 0.010
"""How long one transaction collects work before it commits what it has: other processes wait for it."""
WAITING_REQUESTS_MAX: Final = 100_000

Work = Callable[[apsw.Connection], T]
ReadBack = Callable[[apsw.Connection], T | None]


class _Request:
    """Work, and where its outcome goes."""

    __slots__ = ("future", "loop", "outcome", "outside", "read_back", "work")

    def __init__(
        self,
        work: Work[object],
        read_back: ReadBack[object] | None,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[object],
        outside: bool,
    ) -> None:
        self.work = work
        self.read_back = read_back
        self.loop = loop
        self.future = future
        self.outside = outside
        self.outcome: object = None


class Writer:
    """Runs work on the file's one writing connection, many requests to a commit."""

    def __init__(self, db: apsw.Connection, path: Path, after_commit: Callable[[], None]) -> None:
        self._db = db
        self._path = path
        self._after_commit = after_commit
        self._known_schema = newest()
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._accepting = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="clew-writer", daemon=True)
        self._thread.start()

    async def do(self, work: Work[T], read_back: ReadBack[T] | None = None) -> T:
        """Returns what `work` returned, after it is durable. Raises what it raised; then nothing was written.

        `read_back` finds in the file what the same work left there before, or None: it is asked when a COMMIT failed.
        """
        return await self._accept(work, read_back, outside=False)

    async def checkpoint(self) -> bool:
        """Moves everything from the write-ahead log into the file and empties the log (after a deletion).

        False when somebody still reads from the log.
        """
        return await self._accept(empty_log, None, outside=True)

    async def _accept(self, work: Work[T], read_back: ReadBack[T] | None, *, outside: bool) -> T:
        if self._requests.qsize() > WAITING_REQUESTS_MAX:
            raise StoreUnusable("The ledger cannot keep up: too many writes are waiting.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        with self._accepting:
            if self._closed:
                raise StoreUnusable("The ledger is closed.")
            self._requests.put(_Request(work, read_back, loop, future, outside))
        # A caller that is cancelled stops waiting; what it asked for is still done, whole.
        return await future  # type: ignore[return-value]

    def close(self) -> None:
        """Finishes what was accepted, then closes the connection. Idempotent."""
        with self._accepting:
            if not self._closed:
                self._closed = True
                self._requests.put(None)
        self._thread.join()

    # -- on the thread -------------------------------------------------------------------------------------------
    def _run(self) -> None:
        last = False
        while not last:
            group, last = self._next_group()
            while group:
                settled = self._supervised(group)
                _deliver(group[:settled])
                group = group[settled:]
                self._after_commit()
        self._db.close()

    def _supervised(self, group: list[_Request]) -> int:
        """As `_settle_some`; a bug in it is told to everybody who waits, and the thread goes on."""
        try:
            return self._settle_some(group)
        except Exception as error:  # noqa: BLE001 - recorded as the outcome of each
            self._roll_back()
            for request in group:
                request.outcome = error
            return len(group)

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

    def _settle_some(self, group: list[_Request]) -> int:
        """Gives the first requests of the group their outcomes. Returns how many."""
        if group[0].outside:
            self._try_outside(group[0])
            return 1
        together = next((n for n, request in enumerate(group) if request.outside), len(group))
        try:
            self._begin()
        except (LedgerError, apsw.Error) as error:
            self._roll_back()
            for request in group[:together]:
                request.outcome = _said(error, self._path)
            return together
        if together == 1:
            self._do_alone(group[0])
            return 1
        done = self._do_together(group[:together])
        if done:
            return done
        for request in group[:together]:
            self._try_alone(request)
        return together

    def _try_outside(self, request: _Request) -> None:
        try:
            request.outcome = request.work(self._db)
        except Exception as error:  # noqa: BLE001 - the caller hears it; the thread must go on
            request.outcome = _said(error, self._path)

    def _do_together(self, group: list[_Request]) -> int:
        """How many are committed; 0 when the shared transaction broke: nothing of it was written."""
        db = self._db
        deadline = time.perf_counter() + GROUP_SECONDS_MAX
        done = 0
        try:
            for request in group:
                db.execute("SAVEPOINT request")
                try:
                    request.outcome = request.work(db)
                except (LedgerError, apsw.ConstraintError, UnicodeEncodeError) as error:
                    request.outcome = _said(error, self._path)
                    db.execute("ROLLBACK TO request")
                db.execute("RELEASE request")
                done += 1
                if time.perf_counter() > deadline:
                    break
            db.execute("COMMIT")
        except Exception:  # noqa: BLE001 - each is tried again alone, and the one at fault hears of it
            self._roll_back()
            return 0
        return done

    def _try_alone(self, request: _Request) -> None:
        try:
            self._begin()
        except (LedgerError, apsw.Error) as error:
            self._roll_back()
            request.outcome = _said(error, self._path)
        else:
            self._do_alone(request)

    def _do_alone(self, request: _Request) -> None:
        """In a transaction that has begun."""
        try:
            request.outcome = request.work(self._db)
        except Exception as error:  # noqa: BLE001 - a bug in the work is the caller's to see; the thread must go on
            self._roll_back()
            request.outcome = _said(error, self._path)
            return
        try:
            self._db.execute("COMMIT")
        except apsw.Error as error:
            self._roll_back()
            request.outcome = self._after_failed_commit(request, error)

    def _after_failed_commit(self, request: _Request, error: apsw.Error) -> object:
        """What became of it: its outcome if the file has it after all, else the error.

        A log that could not be synced may hold the whole transaction, and a crash would bring it to life after its
        writer was told that nothing was written. Another transaction in the same place of the log buries it.
        """
        if isinstance(error, apsw.FullError | apsw.BusyError):
            return in_words(error, self._path)  # it never came to the mark that ends a transaction
        read_back = request.read_back
        try:
            self._begin()
            found = read_back(self._db) if read_back is not None else None
            schema = fetch(self._db, "PRAGMA user_version")[0][0]
            self._db.execute(f"PRAGMA user_version={schema:d}")
            self._db.execute("COMMIT")
        except (LedgerError, apsw.Error):
            self._roll_back()
            read_back = found = None
        if read_back is None:
            return StoreUnusable(
                f"{self._path} failed in the middle of a write ({error}). Whether it was written is not known:"
                " look again before you repeat it, and check the disk."
            )
        return found if found is not None else in_words(error, self._path)

    def _begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        refuse_migrated(self._db, self._known_schema, self._path)

    def _roll_back(self) -> None:
        """After this no transaction is open: an error may have ended it already."""
        if self._db.in_transaction:
            # A rollback writes nothing that counts: if it fails, SQLite itself has given the transaction up.
            with suppress(apsw.Error):
                self._db.execute("ROLLBACK")


def _said(error: Exception, path: Path) -> Exception:
    match error:
        case apsw.Error():
            return in_words(error, path)
        case UnicodeEncodeError():
            return Refused("A text that is no valid Unicode (half of a surrogate pair) cannot be stored.")
        case _:
            return error


def _deliver(group: list[_Request]) -> None:
    """Wakes each event loop once for all of its requests."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Request]] = {}
    for request in group:
        by_loop.setdefault(request.loop, []).append(request)
    for loop, requests in by_loop.items():
        with suppress(RuntimeError):  # the loop was closed: nobody is left to hear it
            loop.call_soon_threadsafe(_resolve, requests)


def _resolve(requests: list[_Request]) -> None:
    for request in requests:
        if request.future.cancelled():
            continue
        if isinstance(request.outcome, BaseException):
            request.future.set_exception(request.outcome)
        else:
            request.future.set_result(request.outcome)
