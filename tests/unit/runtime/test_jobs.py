"""Jobs: done once by whichever process is there, tried again, given up, and taken over from the dead and the silent."""

from __future__ import annotations

import asyncio

import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import ConversationId
from clew.domain.ledger.commits import AddReply, NewJob, Receive
from clew.domain.ledger.rows import JobRow, JobState
from clew.runtime.jobs import ATTEMPTS_MAX, PAUSE_MS, Done, Jobs, Later
from clew.testing.ledgers import ANN, START_MS, begin, job
from clew.testing.world import NamedOwners, StandingClock

NOWHERE = ConversationId(0)
pytestmark = pytest.mark.anyio


class Worker:
    """One process that does jobs of the kind `test`: each attempt ends as the next of `ends` says, then well."""

    def __init__(self, ledger: MemoryLedger, *ends: Exception, me: str = "me") -> None:
        self.owners = NamedOwners(me)
        self.clock = StandingClock(START_MS + 1000)
        self.jobs = Jobs(ledger, self.owners, self.clock, {"test": self._perform}, lease_seconds=30)
        self.done: list[str] = []
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.began = asyncio.Event()
        self._ends = list(ends)

    async def _perform(self, row: JobRow) -> Done:
        self.began.set()
        await self.may_go.wait()
        if self._ends:
            raise self._ends.pop(0)
        self.done.append(row.key)
        return Done()

    async def once(self) -> None:
        await self.jobs.look()
        await self.jobs.settled()


async def kept(ledger: MemoryLedger, key: str = "a") -> JobRow:
    await ledger.add_principal(ANN, "Ann", "user")
    return await ledger.add_job(job(await begin(ledger), None, key), most=9)


async def now(ledger: MemoryLedger, row: JobRow) -> JobRow:
    """The job as it is by now, whatever became of it."""
    new = NewJob(kind=row.kind, key=row.key, owner=row.owner, session=row.session, next_at=0)
    return await ledger.add_job(new, most=0)


async def test_a_job_is_done_once() -> None:
    """Not before its time; and never again, whoever looks."""
    ledger = MemoryLedger()
    row = await kept(ledger)
    one, two = Worker(ledger), Worker(ledger, me="two")
    one.clock.advance(-1)
    await one.once()
    assert one.done == []
    one.clock.advance(1)
    await asyncio.gather(one.once(), two.once())
    await asyncio.gather(one.once(), two.once())
    assert sorted(one.done + two.done) == ["a"]
    assert (await now(ledger, row)).state == JobState.DONE


async def test_it_is_tried_again_more_and_more_rarely_and_given_up() -> None:
    """Each attempt counts and leaves its reason; the pauses double; at the last one it has failed, in a sentence."""
    ledger = MemoryLedger()
    row = await kept(ledger)
    worker = Worker(ledger, *(ValueError(f"no\n{n}") for n in range(ATTEMPTS_MAX)))
    for attempt in range(1, ATTEMPTS_MAX):
        due = worker.clock.now_ms()
        await worker.once()
        row = await now(ledger, row)
        assert (row.state, row.attempts, row.error) == (JobState.QUEUED, attempt, f"no {attempt - 1}")
        assert row.next_at == due + PAUSE_MS * 2 ** (attempt - 1)
        worker.clock.advance((row.next_at - due) / 1000)
    await worker.once()
    row = await now(ledger, row)
    assert (row.state, row.error, worker.done) == (JobState.FAILED, f"no {ATTEMPTS_MAX - 1}", [])


async def test_waiting_for_a_reason_of_others_is_no_attempt() -> None:
    """It waits as long as it is told to, and can do so for ever."""
    ledger = MemoryLedger()
    row = await kept(ledger)
    worker = Worker(ledger)
    worker._ends = [Later("tomorrow", worker.clock.now_ms() + 5)]
    await worker.once()
    assert ((row := await now(ledger, row)).attempts, row.error) == (0, "tomorrow")
    await worker.once()
    assert worker.done == []
    worker.clock.advance(0.005)
    await worker.once()
    assert worker.done == ["a"]


async def test_work_that_ends_its_process_is_given_up() -> None:
    """An attempt counts when it begins; a dead owner's job is taken at once, so often and no more."""
    ledger = MemoryLedger()
    row = await kept(ledger)
    for n in range(ATTEMPTS_MAX):
        dying = Worker(ledger, me=f"dying {n}")
        taken = await ledger.take_job(row, dying.owners.me)
        row = taken or pytest.fail("it is somebody else's")
    last = Worker(ledger, me="last")
    last.owners.dead.add(row.lease_owner or pytest.fail("nobody is at it"))
    await last.once()
    row = await now(ledger, row)
    assert (row.state, last.done) == (JobState.FAILED, [])
    assert row.error == f"Clew ended {ATTEMPTS_MAX} times while it was done"


async def test_a_silent_process_loses_its_job_and_brings_nothing() -> None:
    """It is taken over after a lease without a beat, by the observer's clock; what the first brings later is dropped."""
    ledger = MemoryLedger()
    row = await kept(ledger)
    silent, other = Worker(ledger, me="silent"), Worker(ledger, me="other")
    silent.may_go.clear()
    await silent.jobs.look()
    await silent.began.wait()
    await other.once()
    other.clock.advance(29)
    await other.once()
    assert other.done == []
    other.clock.advance(1)
    await other.once()
    assert other.done == ["a"]
    assert (await now(ledger, row)).state == JobState.DONE
    silent.may_go.set()
    await silent.jobs.settled()
    assert (await now(ledger, row)).attempts == 2


async def test_a_process_that_ends_gives_its_jobs_back() -> None:
    """As if it had never begun them: the next who looks does them at once."""
    ledger = MemoryLedger()
    row = await kept(ledger)
    worker = Worker(ledger)
    worker.may_go.clear()
    running = asyncio.create_task(worker.jobs.run())
    await worker.began.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert ((row := await now(ledger, row)).lease_owner, row.attempts) == (None, 0)
    other = Worker(ledger, me="other")
    await other.once()
    assert other.done == ["a"]


async def test_what_cannot_be_brought_is_an_attempt() -> None:
    """The end and what comes of it are one transaction: neither is there without the other."""
    ledger = MemoryLedger()
    row = await kept(ledger)

    async def brings(_: JobRow) -> Done:
        reply = AddReply(conversation=NOWHERE, turn=0, part=0, kind="notice", key="k", body="b")
        gone = Receive(
            account="a", external_key="k", conversation=NOWHERE, session=row.session, principal=row.owner,
            kind="event", body="b", at=START_MS,
        )  # fmt: skip
        return Done(receive=gone, replies=(reply,))

    worker = Worker(ledger)
    worker.jobs = Jobs(ledger, worker.owners, worker.clock, {"test": brings}, lease_seconds=30)
    await worker.once()
    row = await now(ledger, row)
    assert (row.state, row.attempts) == (JobState.QUEUED, 1)
