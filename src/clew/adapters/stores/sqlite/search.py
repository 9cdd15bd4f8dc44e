"""Search in a derived file of its own, kept by a thread of its own: it slows no turn, and may be dropped and rebuilt.

A watermark on `message.id` says how far the index is; every query first catches up, so a message is found as soon as
it is committed. What is indexed is every message; what is found is only what stands on a living path that the
principal may see, checked against the ledger after ranking. A broken index blocks nothing: it is thrown away and
rebuilt, and until then the answer says from when on it is incomplete.
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

from clew.adapters.stores.sqlite.connection import FAILURES, connect, in_words
from clew.adapters.stores.sqlite.scrub import scrub
from clew.adapters.stores.sqlite.search_file import SearchFile
from clew.adapters.stores.sqlite.search_query import Seeker
from clew.domain.conversation.ids import MessageId, PrincipalId, SessionId
from clew.domain.ledger.errors import Corrupt, LedgerError, StoreUnusable
from clew.domain.ledger.rows import Order, SearchResult

CATCH_UP_SECONDS_MAX: Final = 2.0
"""How long a query waits for the index; then it answers with what there is, and says so."""
FOLLOW_SECONDS: Final = 0.25
"""How long the index lets messages gather before it follows: sixty-four in one step cost a third of one by one."""
REST_SHARE: Final = 2.0
"""After a step it rests so many times as long: turns go on meanwhile, and need the interpreter and the disk."""

_DAMAGED: Final = (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, Corrupt)
"""What says that the file is broken. Anything else (a full disk, a lock) is no reason to throw it away."""

Job = Callable[[], None]
T = TypeVar("T")


class SearchIndex:
    """Answers queries and follows the ledger. All SQL runs on its own thread."""

    def __init__(self, path: Path, ledger_path: Path) -> None:
        self._path = path
        self._ledger_path = ledger_path
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._nudged = threading.Event()
        self._more = True
        self._step_due = 0.0
        self._file: SearchFile | None = None
        self._ledger: apsw.Connection | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def nudge(self) -> None:
        """Something was committed. Cheap; called after every group, and wakes the thread for the first one only."""
        if not self._nudged.is_set():
            self._nudged.set()
            self._start()
            self._jobs.put(self._notice)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name="clew-search", daemon=True)
                thread.start()
                self._thread = thread

    async def search(
        self, principal: PrincipalId, typed: str, limit: int, order: Order, session: SessionId | None
    ) -> SearchResult:
        """Raises StoreUnusable when the ledger itself cannot be read."""
        return await self._do(lambda: self._search(principal, typed, limit, order, session))

    async def remove(self, messages: list[MessageId]) -> None:
        """Forgets messages before the ledger does: a crash between leaves them unfindable, never the other way round."""
        await self._do(lambda: self._mended(lambda file, ledger: file.remove(ledger, messages)))

    async def scrub(self) -> bool:
        """Leaves no word of what was removed in any byte of the file. False when somebody kept reading from its log."""
        more = await self._do(lambda: self._mended(lambda file, _: file.begin_rewrite()))
        while more:
            more = await self._do(lambda: self._mended(lambda file, _: file.rewrite_a_little()))
        return await self._do(lambda: self._mended(lambda *_: scrub(self._path)))

    async def rebuild(self) -> None:
        """Drops the index and builds it anew, all of it."""
        await self._do(self._rebuild)

    def close(self) -> None:
        """Idempotent."""
        with self._starting:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._jobs.put(None)
            thread.join()

    async def _do(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            try:
                result = work()
            except FAILURES as error:
                _settle(loop, future, in_words(error, self._path), None)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the caller hears it; the thread goes on
                _settle(loop, future, error, None)
            else:
                _settle(loop, future, None, result)

        self._start()
        if self._closed:
            raise StoreUnusable("The ledger is closed.")
        self._jobs.put(job)
        return await future

    # -- on the thread -------------------------------------------------------------------------------------------
    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._seconds_to_step())
            except queue.Empty:
                self._step()
                continue
            if job is None:
                break
            job()
        self._drop_connections()

    def _seconds_to_step(self) -> float | None:
        """None when there is nothing to keep up."""
        if self._nudged.is_set() or self._more or (self._file is not None and self._file.needs_upkeep):
            return max(0.0, self._step_due - time.monotonic())
        return None

    def _notice(self) -> None:
        if not self._more:
            self._step_due = time.monotonic() + FOLLOW_SECONDS

    def _step(self) -> None:
        """One short piece of upkeep, then a rest in which questions are answered."""
        started = time.monotonic()
        try:
            file, ledger = self._opened()
            if self._nudged.is_set() or self._more:
                self._catch_up(file, ledger)
            else:
                file.tend()
        except _DAMAGED:
            # The index is derived: start over. If the ledger itself is at fault, the next query says so.
            self._throw_away()
            self._more = False
        except (*FAILURES, LedgerError):
            self._more = (
                False  # a full disk, a lock, an unreadable row: the next query tries again, and says so
            )
        ended = time.monotonic()
        self._step_due = ended + REST_SHARE * (ended - started)

    def _catch_up(self, file: SearchFile, ledger: apsw.Connection) -> None:
        self._nudged.clear()  # first: what is committed from here on nudges again
        self._more = file.catch_up(ledger)

    def _opened(self) -> tuple[SearchFile, apsw.Connection]:
        if self._ledger is None:
            self._ledger = connect(self._ledger_path, read_only=True)
        if self._file is None:
            try:
                self._file = SearchFile(self._path)
                self._file.refuse_another(self._ledger)
            except _DAMAGED:
                if self._file is not None:
                    self._file.db.close()
                _unlink(self._path)
                self._file = SearchFile(self._path)
        return self._file, self._ledger

    def _search(
        self, principal: PrincipalId, typed: str, limit: int, order: Order, session: SessionId | None
    ) -> SearchResult:
        return self._mended(lambda *_: self._search_once(principal, typed, limit, order, session))

    def _mended(self, work: Callable[[SearchFile, apsw.Connection], T]) -> T:
        """The work done with the open file; with a new one when this is damaged."""
        try:
            return work(*self._opened())
        except _DAMAGED:
            self._throw_away()
            return work(*self._opened())

    def _search_once(
        self, principal: PrincipalId, typed: str, limit: int, order: Order, session: SessionId | None
    ) -> SearchResult:
        file, ledger = self._opened()
        deadline = time.monotonic() + CATCH_UP_SECONDS_MAX
        self._catch_up(file, ledger)
        while self._more and time.monotonic() < deadline:
            self._catch_up(file, ledger)
        found = Seeker(file.db, ledger, principal).find(typed, limit, order, session)
        if not self._more:
            return found
        return SearchResult(
            hits=found.hits, ranked_newest=found.ranked_newest, incomplete_since=file.indexed_until(ledger)
        )

    def _rebuild(self) -> None:
        self._throw_away()
        file, ledger = self._opened()
        self._more = True
        while self._more:
            self._catch_up(file, ledger)

    def _throw_away(self) -> None:
        self._drop_connections()
        _unlink(self._path)

    def _drop_connections(self) -> None:
        if self._file is not None:
            self._file.db.close()
            self._file = None
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None


def _settle(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], error: BaseException | None, result: T | None
) -> None:
    def settle() -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    with suppress(RuntimeError):  # the loop was closed: nobody is left to hear it
        loop.call_soon_threadsafe(settle)


def _unlink(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(str(path) + suffix).unlink(missing_ok=True)
