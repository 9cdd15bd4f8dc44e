"""The ledger in one SQLite file: each method of the port is a function of SQL, run by the writer or by a reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw

from clew.adapters.stores.sqlite import outbox, read, small_writes
from clew.adapters.stores.sqlite import people as who
from clew.adapters.stores.sqlite.commit import commit, committed_before
from clew.adapters.stores.sqlite.facts import facts, forget_facts, forgotten_upto, keep_facts, quiet_sessions
from clew.adapters.stores.sqlite.in_use import InUse
from clew.adapters.stores.sqlite.jobs import (
    add_job,
    beat_job,
    done_jobs,
    due_jobs,
    job_before,
    jobs,
    move_job,
    take_job,
)
from clew.adapters.stores.sqlite.migrate import open_file
from clew.adapters.stores.sqlite.open_session import open_session, opened_before, point_conversation
from clew.adapters.stores.sqlite.purge import Purger, was_forgotten
from clew.adapters.stores.sqlite.readers import Readers
from clew.adapters.stores.sqlite.search import SearchIndex
from clew.adapters.stores.sqlite.writer import Writer
from clew.domain.conversation.ids import FactId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head, Message
from clew.domain.ledger.commits import (
    Commit,
    Committed,
    NewJob,
    NewSession,
    PointConversation,
    Receive,
    Received,
)
from clew.domain.ledger.errors import StoreUnusable
from clew.domain.ledger.rows import Forgotten, Handle, JobRow, Order, SearchResult
from clew.domain.memory.facts import Trace
from clew.runtime.ports.world import Clock

P = ParamSpec("P")
T = TypeVar("T")
_Sql = Callable[Concatenate[apsw.Connection, P], T]
_Method = Callable[Concatenate["SqliteLedger", P], Coroutine[Any, Any, T]]
LEDGER_FILE = "clew.db"
SEARCH_FILE = "clew-search.db"
GLANCED_MESSAGES_MAX = 200
"""A path of so many messages is read where it is asked for: it takes less time than the way to a thread and back, or
little more. A glance that turns out to be long is given up."""


def _written(work: _Sql[P, T]) -> _Method[P, T]:
    """A method that writes."""

    async def method(self: SqliteLedger, /, *args: P.args, **kwargs: P.kwargs) -> T:
        def write(db: apsw.Connection) -> T:
            return work(db, *args, **kwargs)

        write.__name__ = work.__name__  # whoever watches the writer knows a write by it
        return await self._writer.do(write)

    return method


def _glanced(look: _Sql[P, T]) -> _Method[P, T]:
    """A method that reads a few rows by key."""

    async def method(self: SqliteLedger, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._readers.glance(lambda db: look(db, *args, **kwargs))

    return method


def _read(look: _Sql[P, T]) -> _Method[P, T]:
    """A method that may read much, on a thread."""

    async def method(self: SqliteLedger, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._readers.read(lambda db: look(db, *args, **kwargs))

    return method


class SqliteLedger:
    """`Ledger` over `clew.db`, with its derived search file beside it. Safe to open in several processes at once."""

    def __init__(
        self, home: Path, writer: Writer, readers: Readers, index: SearchIndex, in_use: InUse
    ) -> None:
        self._in_use = in_use
        self._writer = writer
        self._readers = readers
        self._index = index
        self._purger = Purger(writer, readers, index, home / LEDGER_FILE)

    async def resume_purges(self) -> None:
        """Finishes what a crash left of a deletion."""
        await self._purger.resume()

    async def rebuild_search(self) -> None:
        """Drops the derived search file and builds it anew, whole."""
        await self._index.rebuild()

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close()
        self._readers.close()
        self._index.close()
        self._in_use.release()

    # -- writing -------------------------------------------------------------------------------------------------
    async def open(
        self,
        session: NewSession,
        *,
        actor: PrincipalId,
        at: int,
        conversation: PointConversation | None = None,
    ) -> Handle:
        def open_and_point(db: apsw.Connection) -> Handle:
            handle = open_session(db, session, actor, at)
            if conversation is not None:
                point_conversation(db, conversation)
            return handle

        return await self._writer.do(open_and_point, partial(opened_before, new=session, at=at))

    async def commit(self, work: Commit) -> Committed:
        read_back = partial(committed_before, work=work) if work.idempotency_key is not None else None
        return await self._writer.do(partial(commit, work=work), read_back)

    async def receive(self, item: Receive) -> Received:
        read_back = partial(small_writes.received_before, item=item)
        return await self._writer.do(partial(small_writes.receive, item=item), read_back)

    decide = _written(small_writes.decide)
    settle_reply = _written(outbox.settle_reply)
    take_reply = _written(outbox.take_reply)
    add_reply = _written(outbox.add_reply)
    offer_pairing = _written(who.offer_pairing)
    offer_link = _written(who.offer_link)
    pair = _written(who.pair)
    unpair = _written(who.unpair)
    unlink = _written(who.unlink)
    set_role = _written(who.set_role)
    move_chat = _written(outbox.move_chat)
    know_as = _written(who.know_as)
    point = _written(point_conversation)
    share = _written(small_writes.share)
    add_principal = _written(small_writes.add_principal)
    beat = _written(small_writes.beat)
    lease_compaction = _written(small_writes.lease_compaction)
    end_compaction = _written(small_writes.end_compaction)
    move_job = _written(move_job)
    take_job = _written(take_job)
    beat_job = _written(beat_job)
    keep_facts = _written(keep_facts)
    _forget_facts = _written(forget_facts)

    async def add_job(self, job: NewJob, *, most: int) -> JobRow:
        read_back = partial(job_before, job=job)
        return await self._writer.do(partial(add_job, job=job, most=most), read_back)

    async def forget_facts(
        self, principal: PrincipalId, ids: tuple[FactId, ...], traces: tuple[Trace, ...], at: int
    ) -> None:
        await self._forget_facts(principal, ids, traces, at)
        await self._purger.scrub_facts()

    async def forget(
        self, principal: PrincipalId, session: SessionId, at: int, *, with_forks: bool = False
    ) -> Forgotten:
        return await self._purger.forget(principal, session, at, with_forks)

    # -- reading -------------------------------------------------------------------------------------------------
    async def path(
        self, principal: PrincipalId, session: SessionId, at: Head | None = None, *, above: int = 0
    ) -> tuple[Message, ...]:
        head = at if at is not None else (await self.session(principal, session)).handle.head
        look = self._readers.glance if head.seq - above <= GLANCED_MESSAGES_MAX else self._readers.read
        return await look(partial(read.path, principal=principal, session=session, at=at, above=above))

    session = _glanced(read.visible)
    resolve = _glanced(read.resolve)
    turn_starts = _glanced(read.turn_starts)
    before = _glanced(read.before)
    summaries = _glanced(read.summaries)
    compaction = _glanced(read.compaction)
    ops = _glanced(read.ops)
    turn = _glanced(read.turn)
    calls = _glanced(read.calls)
    approvals = _glanced(read.approvals)
    queued = _glanced(read.queued)
    received = _glanced(read.received)
    replies = _glanced(read.replies)
    has_key = _glanced(read.has_key)
    unfinished = _glanced(read.unfinished)
    branches = _read(read.branches)
    segment = _read(read.segment)
    prefix = _glanced(read.prefix)
    blob = _read(read.blob)
    sessions = _glanced(read.sessions)
    children = _glanced(read.children)
    undelivered = _glanced(outbox.undelivered)
    waiting = _glanced(outbox.waiting)
    backlog = _glanced(outbox.backlog)
    is_received = _glanced(outbox.is_received)
    last_received = _glanced(outbox.last_received)
    identified = _glanced(who.identified)
    pairing_is_open = _glanced(who.pairing_is_open)
    people = _glanced(who.people)
    person = _glanced(who.person)
    group_of = _glanced(outbox.group_of)
    known_as = _glanced(who.known_as)
    jobs = _glanced(jobs)
    due_jobs = _glanced(due_jobs)
    done_jobs = _glanced(done_jobs)
    quiet_sessions = _read(quiet_sessions)
    facts = _glanced(facts)
    forgotten_upto = _glanced(forgotten_upto)
    conversation = _glanced(read.conversation)
    was_forgotten = _glanced(was_forgotten)
    usage = _read(read.usage)
    spent = _read(read.spending)

    async def search(
        self,
        principal: PrincipalId,
        typed: str,
        *,
        limit: int = 20,
        order: Order = Order.RANKED,
        session: SessionId | None = None,
    ) -> SearchResult:
        return await self._index.search(principal, typed, limit, order, session)


async def open_ledger(home: Path, clock: Clock) -> SqliteLedger:
    """Opens or creates the files in a folder, and finishes what a crash left of a deletion.

    Raises StoreUnusable in a sentence; then nothing was written.
    """
    path = home / LEDGER_FILE
    in_use, db = await asyncio.to_thread(_prepare, home, clock.now_ms())
    index = SearchIndex(home / SEARCH_FILE, path)
    ledger = SqliteLedger(home, Writer(db, path, index.nudge), Readers(path), index, in_use)
    try:
        await ledger.resume_purges()
    except BaseException:
        await ledger.close()
        raise
    return ledger


def _prepare(home: Path, at: int) -> tuple[InUse, apsw.Connection]:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnusable(f"{home} cannot be made ({error.strerror}): set CLEW_HOME elsewhere.") from error
    in_use = InUse(home)
    try:
        db = open_file(home / LEDGER_FILE, at)
    except BaseException:
        in_use.release()
        raise
    return in_use, db
