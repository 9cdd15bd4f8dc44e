"""Work that waits for its time: claimed by one process, kept alive, tried again, given up.

A job is claimed as a session's turn is: by a lease with beats. Another process takes it over from an owner that is
certainly dead, or that it has seen silent for a lease of its own clock. That saves work; what makes it safe is that a job
ends from exactly the state in which it was taken, with all that it brings, in one transaction. So whatever crashes, what
it brings is there once. An attempt is counted when it begins: work that ends its process is given up like any other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

import msgspec

from clew.domain.conversation.ids import JobId
from clew.domain.ledger.commits import DAY_MS, AddReply, MoveJob, Receive
from clew.domain.ledger.errors import LedgerError
from clew.domain.ledger.rows import JobRow, JobState
from clew.domain.memory.facts import NewFact
from clew.domain.models.answer import FailureKind
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.owners import Owners
from clew.runtime.ports.world import Clock
from clew.runtime.turns.leases import Holder, LeaseWatch

ATTEMPTS_MAX: Final = 10
PAUSE_MS: Final = 30_000
"""After the first attempt that came to nothing; it doubles: the last is made more than four hours after the first."""
AT_ONCE_MAX: Final = 4
"""Of one kind, in one process."""
LOOK_SECONDS: Final = 5.0
"""How often a process looks for what is due: other processes keep jobs too."""
ERROR_CHARACTERS_MAX: Final = 500


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What a job brings, by the same transaction that ends it."""

    receive: Receive | None = None
    replies: tuple[AddReply, ...] = ()
    facts: tuple[NewFact, ...] = ()


class Hopeless(Exception):
    """It will never be done: it is given up at once."""


class Later(Exception):
    """It cannot be done before `at`, for a reason that is not its own: the attempt does not count."""

    def __init__(self, why: str, at: int) -> None:
        super().__init__(why)
        self.at = at


def refusal(kind: str, why: str, now_ms: int) -> Exception:
    """What it means for a job that the model refused: `kind` is a FailureKind's, `why` a sentence."""
    if kind == FailureKind.CAP:
        return Later(why, now_ms - now_ms % DAY_MS + DAY_MS)
    return Hopeless(why) if kind == FailureKind.UNPRICED else ConnectionError(why)


Perform = Callable[[JobRow], Awaitable[Done]]
"""Does the work of a job. Whatever it raises is an attempt that came to nothing, and is noted with the job."""


class Jobs:
    """Does what is due, of the kinds it knows. Any number of processes may do so over one ledger."""

    def __init__(
        self,
        ledger: Ledger,
        owners: Owners,
        clock: Clock,
        kinds: Mapping[str, Perform],
        *,
        lease_seconds: float,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`before` each look more jobs may be kept."""
        self._before = before
        self._ledger = ledger
        self._owners = owners
        self._clock = clock
        self._kinds = kinds
        self._lease_seconds = lease_seconds
        self._watch = LeaseWatch(owners, clock, lease_seconds)
        self._at_it: dict[JobId, asyncio.Task[None]] = {}
        self._busy = Counter[str]()
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Something may be due: look now instead of later."""
        self._nudged.set()

    async def run(self) -> None:
        """Until it is cancelled: then what is under way here is given back, for whoever looks next."""
        try:
            while True:
                self._nudged.clear()
                with suppress(LedgerError):  # it cannot be read just now: looked at again
                    await self.look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._nudged.wait()
        finally:
            under_way = tuple(self._at_it.values())
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def look(self) -> None:
        """Begins what is due, as far as there is room for it here."""
        if self._before is not None:
            await self._before()
        for kind in self._kinds:
            for row in await self._ledger.due_jobs(kind, None, self._clock.now_ms()):
                if self._busy[kind] >= AT_ONCE_MAX:
                    break
                if row.id not in self._at_it and self._is_free(row):
                    self._busy[kind] += 1
                    self._at_it[row.id] = asyncio.create_task(self._taken(row))

    async def settled(self) -> None:
        """Returns when nothing is under way here."""
        while self._at_it:
            await asyncio.wait(tuple(self._at_it.values()))

    def _is_free(self, row: JobRow) -> bool:
        return self._watch.look(row.id, row.lease_owner, row.attempts, row.beat) != Holder.LIVING

    async def _taken(self, row: JobRow) -> None:
        try:
            taken = await self._ledger.take_job(row, self._owners.me)
            if taken is not None:
                await self._attempted(taken)
        except LedgerError:
            return  # it cannot be written just now: the job is as it was, and nobody is at it
        finally:
            del self._at_it[row.id]
            self._busy[row.kind] -= 1
            self.nudge()

    async def _attempted(self, job: JobRow) -> None:
        if job.attempts > ATTEMPTS_MAX:
            crashed = f"Clew ended {ATTEMPTS_MAX} times while it was done"
            return await self._failed(job, job.error or crashed)
        work = asyncio.create_task(_coroutine(self._kinds[job.kind], job))
        beating = asyncio.create_task(self._beat(job))
        try:
            await asyncio.wait([work, beating], return_when=asyncio.FIRST_COMPLETED)
            if work.done():  # else it is somebody else's by now
                await self._ended(job, work)
        except asyncio.CancelledError:
            await self._move(job, JobState.QUEUED, attempts=job.attempts - 1, error=job.error)
            raise
        finally:
            for task in (work, beating):
                task.cancel()
            await asyncio.gather(work, beating, return_exceptions=True)

    async def _ended(self, job: JobRow, work: asyncio.Task[Done]) -> None:
        try:
            done = work.result()
            brought = msgspec.structs.asdict(done)
            await self._move(job, JobState.DONE, **brought)
        except Later as later:
            attempts, at = job.attempts - 1, max(job.next_at, later.at)
            await self._move(job, JobState.QUEUED, attempts=attempts, next_at=at, error=_words(later))
        except Hopeless as error:
            await self._move(job, JobState.FAILED, error=_words(error))
        except Exception as error:  # noqa: BLE001 - the supervisor: it becomes what is known of the attempt
            await self._failed(job, _words(error))

    async def _failed(self, job: JobRow, why: str) -> None:
        if job.attempts >= ATTEMPTS_MAX:
            await self._move(job, JobState.FAILED, attempts=job.attempts, error=why)
        else:
            at = max(job.next_at, self._clock.now_ms()) + PAUSE_MS * 2 ** (job.attempts - 1)
            await self._move(job, JobState.QUEUED, attempts=job.attempts, next_at=at, error=why)

    async def _move(self, job: JobRow, state: JobState, **rest: object) -> None:
        """Whoever has taken it over meanwhile is left alone."""
        now = self._clock.now_ms()
        move = MoveJob(
            job=job, state=state, at=now, payload=job.payload, next_at=job.next_at, attempts=job.attempts
        )
        await self._ledger.move_job(msgspec.structs.replace(move, **rest))

    async def _beat(self, job: JobRow) -> None:
        """Until it is not ours any more."""
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            with suppress(LedgerError):  # a missed beat proves nothing
                if not await self._ledger.beat_job(job):
                    return


async def _coroutine(perform: Perform, job: JobRow) -> Done:
    return await perform(job)


def _words(error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= ERROR_CHARACTERS_MAX else f"{said[: ERROR_CHARACTERS_MAX - 1]}…"
