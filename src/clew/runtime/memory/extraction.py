"""Looks for facts in what was said: a job for (session, up-to message), whose words are read from the ledger.

It is asked for by the commit that leaves a session or puts a summary in force, and by whoever finds a session quiet; so
nothing waits for it, and nothing loses it. What it reads is committed and never changes. What it found is kept by the
transaction that ends the job: after a crash the model is asked again, and the facts are there once. What a model says
that is no list of facts is an attempt; a fact that somebody said later stands (see `domain.memory.facts.admitted`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clew.domain.compaction.transcript import parts
from clew.domain.conversation.ids import PrincipalId
from clew.domain.conversation.messages import Message, Role
from clew.domain.ledger.commits import DAY_MS, AddUsage, AsObserver, Caps, Commit, Reserve
from clew.domain.ledger.errors import HeadMoved, NotFound
from clew.domain.ledger.jobs import extracting, upto
from clew.domain.ledger.rows import JobRow, SessionRow
from clew.domain.memory.facts import EXTRACT, FACTS_MAX, NewFact
from clew.domain.models.answer import Failure
from clew.runtime.compaction.summarising import answer_to
from clew.runtime.jobs import Done, Hopeless, refusal
from clew.runtime.memory.reading import (
    ANSWER_TOKENS,
    PART_TOKENS_MIN,
    Garbage,
    facts_in,
    part_tokens,
    request,
)
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.models import ModelSource
from clew.runtime.ports.world import Clock
from clew.runtime.spending import PaidCalls

TASK: Final = "memory"
"""What its calls of the model are made for, in the rows of what they used."""
PARTS_MAX: Final = 4
CALL_SECONDS: Final = 120.0
GARBAGE_MAX: Final = 3
"""Attempts after which a model that answers with garbage is not asked any more."""
IDLE_SECONDS: Final = 600
"""A session in which nothing was said for so long is quiet."""
LOOK_BACK_MS: Final = 7 * DAY_MS
SWEEP_SECONDS: Final = 60.0
WAITING_MAX: Final = 1_000
"""Jobs of one person that may wait."""
TRIES_MAX: Final = 100


class Extraction:
    """Does jobs of the kind `extract`, and keeps those of sessions that went quiet."""

    def __init__(
        self, ledger: Ledger, models: ModelSource, clock: Clock, *, model: str | None, caps: Caps
    ) -> None:  # fmt: skip
        """`model` is asked, or the session's own."""
        self._ledger = ledger
        self._models = models
        self._clock = clock
        self._model = model
        self._caps = caps
        self._swept_at: float | None = None

    async def sweep(self) -> None:
        """Keeps jobs for quiet sessions; a look once a minute."""
        now = self._clock.monotonic()
        if self._swept_at is not None and 0 <= now - self._swept_at < SWEEP_SECONDS:
            return
        self._swept_at = now
        at = self._clock.now_ms()
        quiet = await self._ledger.quiet_sessions(EXTRACT, at - LOOK_BACK_MS, at - IDLE_SECONDS * 1000)
        for row in quiet:
            for job in extracting(row, at):
                await self._ledger.add_job(job, most=WAITING_MAX)

    async def perform(self, job: JobRow) -> Done:
        """The facts of what no job before it has read."""
        try:
            row = await self._ledger.session(job.owner, job.session)
            messages = await self._unread(job, row)
            if not any(message.role == Role.USER for message in messages):
                return Done()
            return Done(facts=await self._found(job, row, messages))
        except NotFound:
            return Done()  # it was deleted, at the latest before something was set aside for the next call

    async def _unread(self, job: JobRow, row: SessionRow) -> Sequence[Message]:
        """What people and the model said since the job before, in this session: what it was forked with is another's.

        Nothing from before a fact was forgotten: a model could take it for something said since.
        """
        head = upto(job.payload)
        done = sorted(upto(row.payload) for row in await self._ledger.done_jobs(EXTRACT, job.session))
        read = {
            at.branch: at.seq for at in done
        }  # of each branch, how far; what is below on the path was read with it
        above = min(read.get(head.branch, 0), head.seq)
        path = await self._ledger.path(job.owner, job.session, head, above=above)
        start = max((n for n, m in enumerate(path, 1) if m.seq <= read.get(m.branch, 0)), default=0)
        before = await self._ledger.forgotten_upto(job.owner)
        messages = [
            m for m in path[start:]
            if m.role in (Role.USER, Role.ASSISTANT) and m.text.strip() and m.id > before
        ]  # fmt: skip
        if row.parent is None:
            return messages
        own = {b.id for b in await self._ledger.branches(job.owner, row.id) if b.session == row.id}
        return [message for message in messages if message.branch in own]

    async def _found(self, job: JobRow, row: SessionRow, messages: Sequence[Message]) -> tuple[NewFact, ...]:
        """Raises Garbage, Later, Hopeless, ModelUnavailable, ConnectionError. Whatever the calls came to is counted."""
        person = await self._ledger.person(job.owner)
        who = job.owner if person is None else person.id
        if len(await self._ledger.facts(who)) >= FACTS_MAX:
            raise Hopeless(f"{FACTS_MAX} facts are remembered, and there is no room for more")
        choice = await self._models.choose(self._model or row.model)
        if choice.profile.is_demo or choice.within is not None:
            return ()  # a demo model finds nothing, and another agent works where a session does
        size = part_tokens(choice.profile)
        if size < PART_TOKENS_MIN:
            raise Hopeless(f"the window of {choice.profile.name} is too small to look for facts with")
        caps = self._caps.today(self._clock.now_ms())

        async def set_aside(reserve: Reserve, used: tuple[AddUsage, ...]) -> None:
            await self._count(job.owner, row, used, reserve)

        paid = PaidCalls(choice, set_aside, caps=caps, turn=0, step=job.id, task=TASK)
        said = {message.seq: message for message in messages if message.role == Role.USER}
        facts: list[NewFact] = []
        try:
            for n, part in enumerate(parts(messages, part_tokens=size, parts_max=PARTS_MAX)):
                # For each part anew: something may be forgotten meanwhile.
                asked = request(choice.profile, await self._ledger.facts(who), part)
                key = f"{job.key}-{job.attempts}-{n}"
                answer = await answer_to(paid, asked, key, tokens=ANSWER_TOKENS, seconds=CALL_SECONDS)
                if isinstance(answer, Failure):
                    raise refusal(answer.kind, answer.message, self._clock.now_ms())
                facts += facts_in(answer.text, said, row.id)
        except Garbage as error:
            if job.attempts < GARBAGE_MAX:
                raise
            raise Hopeless(str(error)) from error
        finally:
            await self._count(job.owner, row, paid.rows())
        return tuple(facts)

    async def _count(
        self, owner: PrincipalId, row: SessionRow, used: Sequence[AddUsage], reserve: Reserve | None = None
    ) -> None:
        """On whatever head the session has by now. Raises NotFound when it was deleted."""
        if not used and reserve is None:
            return
        for _ in range(TRIES_MAX):
            try:
                handle = (await self._ledger.session(owner, row.id)).handle
                fence = AsObserver(version=handle.version, head=handle.head)
                at = self._clock.now_ms()
                work = Commit(
                    session=row.id, actor=owner, at=at, fence=fence, usage=tuple(used), reserve=reserve
                )
                await self._ledger.commit(work)
            except HeadMoved:
                continue
            return
        raise HeadMoved("This session changes too quickly to count what was used.")
