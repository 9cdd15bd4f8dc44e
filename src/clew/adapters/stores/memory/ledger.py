"""The port's methods over the state: a write puts a changed copy in place, a read looks at what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from clew.adapters.stores.memory import outbox, reads, small_writes
from clew.adapters.stores.memory import people as who
from clew.adapters.stores.memory.commit import commit
from clew.adapters.stores.memory.facts import facts, forget_facts, forgotten_upto, keep_facts, quiet_sessions
from clew.adapters.stores.memory.jobs import add_job, beat_job, done_jobs, due_jobs, jobs, move_job, take_job
from clew.adapters.stores.memory.opening import open_session, point
from clew.adapters.stores.memory.purge import forget, was_forgotten
from clew.adapters.stores.memory.search import search
from clew.adapters.stores.memory.state import Disk, State
from clew.domain.conversation.ids import PrincipalId
from clew.domain.ledger.commits import NewSession, PointConversation
from clew.domain.ledger.errors import StoreUnusable
from clew.domain.ledger.rows import Handle
from clew.runtime.ports.ledger import Ledger

P = ParamSpec("P")
T = TypeVar("T")
_Function = Callable[Concatenate[State, P], T]
_Method = Callable[Concatenate["MemoryLedger", P], Coroutine[Any, Any, T]]


def _written(change: _Function[P, T]) -> _Method[P, T]:
    """A method that writes."""

    async def method(self: MemoryLedger, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._write(change.__name__, lambda state: change(state, *args, **kwargs))

    return method


def _read(look: _Function[P, T]) -> _Method[P, T]:
    """A method that reads."""

    async def method(self: MemoryLedger, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return look(await self._now(), *args, **kwargs)

    return method


class MemoryLedger(Ledger):
    """Everything the port promises but durability: a `Disk` lives as long as its process."""

    def __init__(self, disk: Disk | None = None) -> None:
        self._disk = disk if disk is not None else Disk()
        self._closed = False

    async def _now(self) -> State:
        """The state, after letting others run: a store that never waited would hide every race."""
        await asyncio.sleep(0)
        if self._closed:
            raise StoreUnusable("The ledger is closed.")
        return self._disk.state

    async def _write(self, shape: str, work: Callable[[State], T]) -> T:
        """All of it or nothing: nobody else runs between the copy and its taking effect. `shape` names the write."""
        draft = (await self._now()).copy()
        result = work(draft)
        self._disk.state = draft
        return result

    async def close(self) -> None:
        self._closed = True

    # -- writing ---------------------------------------------------------------------------------------------
    async def open(
        self,
        session: NewSession,
        *,
        actor: PrincipalId,
        at: int,
        conversation: PointConversation | None = None,
    ) -> Handle:
        def work(state: State) -> Handle:
            handle = open_session(state, session, actor, at)
            if conversation is not None:
                point(state, conversation)
            return handle

        return await self._write("open", work)

    commit = _written(commit)
    receive = _written(small_writes.receive)
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
    point = _written(point)
    share = _written(small_writes.share)
    add_principal = _written(small_writes.add_principal)
    beat = _written(small_writes.beat)
    lease_compaction = _written(small_writes.lease_compaction)
    end_compaction = _written(small_writes.end_compaction)
    add_job = _written(add_job)
    move_job = _written(move_job)
    take_job = _written(take_job)
    beat_job = _written(beat_job)
    keep_facts = _written(keep_facts)
    forget_facts = _written(forget_facts)
    forget = _written(forget)

    # -- reading ---------------------------------------------------------------------------------------------
    session = _read(State.visible)
    resolve = _read(reads.resolve)
    path = _read(reads.path)
    turn_starts = _read(reads.turn_starts)
    before = _read(reads.before)
    summaries = _read(reads.summaries)
    compaction = _read(reads.compaction)
    ops = _read(reads.ops)
    turn = _read(reads.turn)
    calls = _read(reads.calls)
    approvals = _read(reads.approvals)
    queued = _read(reads.queued)
    received = _read(reads.received)
    replies = _read(reads.replies)
    has_key = _read(reads.has_key)
    unfinished = _read(reads.unfinished)
    branches = _read(reads.branches)
    segment = _read(reads.segment)
    prefix = _read(reads.prefix)
    blob = _read(reads.blob)
    sessions = _read(reads.sessions)
    children = _read(reads.children)
    undelivered = _read(outbox.undelivered)
    waiting = _read(outbox.waiting)
    backlog = _read(outbox.backlog)
    is_received = _read(outbox.is_received)
    last_received = _read(outbox.last_received)
    identified = _read(who.identified)
    pairing_is_open = _read(who.pairing_is_open)
    people = _read(who.people)
    person = _read(who.person)
    group_of = _read(outbox.group_of)
    known_as = _read(who.known_as)
    jobs = _read(jobs)
    due_jobs = _read(due_jobs)
    done_jobs = _read(done_jobs)
    quiet_sessions = _read(quiet_sessions)
    facts = _read(facts)
    forgotten_upto = _read(forgotten_upto)
    conversation = _read(reads.conversation)
    search = _read(search)
    was_forgotten = _read(was_forgotten)
    usage = _read(reads.usage)
    spent = _read(reads.spending)
