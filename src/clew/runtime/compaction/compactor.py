"""The one way to a summary: a snapshot from the ledger, a plan, the summary model, one commit that names what it saw.

A compaction reads stored rows only, so no overlay can get into a summary. While the model writes, the conversation goes
on: the commit holds on any later head that still has the covered range. Of two that meet, the ledger lets one win, and
the other adopts its summary. When anything fails, the conversation is as it was, and attempts grow rarer. There is no
child session, no copy, no new id: nothing that could fork.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from clew.domain.compaction.estimate import prefix_tokens
from clew.domain.compaction.policy import Budget, NothingToGain, Plan, plan
from clew.domain.compaction.template import PART_TOKENS_MIN, part_tokens
from clew.domain.compaction.transcript import parts
from clew.domain.conversation.ids import SessionId, SummaryId
from clew.domain.conversation.messages import Message
from clew.domain.ledger.commits import AddUsage, AsObserver, Commit, Compact, Reserve
from clew.domain.ledger.errors import HeadMoved, NotFound
from clew.domain.ledger.jobs import extracting
from clew.domain.ledger.rows import SessionRow, SummaryRow
from clew.domain.models.request import ModelProfile
from clew.runtime.compaction.lease import ElsewhereNow, leased
from clew.runtime.compaction.memory import Memory
from clew.runtime.compaction.summarising import NoSummary, Summariser
from clew.runtime.compaction.values import (
    Compacted,
    CompactionAsk,
    CompactionSettings,
    NotCompacted,
    Outcome,
    Trigger,
    WhyNot,
)
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.models import ModelSource, ModelUnavailable
from clew.runtime.ports.owners import Owners
from clew.runtime.ports.world import Clock

PARTS_MAX: Final = 3
TRIES_MAX: Final = 100
IDLE_SECONDS: Final = 20.0
IDLE_SHARE: Final = 0.8
"""Of the trigger: a session that is nearly as full will need a summary soon."""


class _Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A session at one moment. `fixed` are the tokens of its prefix."""

    row: SessionRow
    path: tuple[Message, ...]
    summary: SummaryRow | None
    fixed: int


class Compactor:
    """Makes summaries. One serves a whole process."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        owners: Owners,
        models: ModelSource,
        clock: Clock,
        settings: CompactionSettings | None = None,
    ) -> None:
        self.settings = settings or CompactionSettings()
        self._ledger = ledger
        self._owners = owners
        self._models = models
        self._clock = clock
        self._timers: dict[SessionId, asyncio.TimerHandle] = {}
        self._idling: set[asyncio.Task[None]] = set()
        self._at_it: weakref.WeakValueDictionary[SessionId, asyncio.Lock] = weakref.WeakValueDictionary()
        self.memory = Memory(self.settings.cooldown_seconds, lambda: asyncio.get_running_loop().time())

    def budget(self, session: SessionId, model: ModelProfile) -> Budget:
        """The window in estimated tokens: larger than it is by as much as the estimate was found too high."""
        window = int(model.context_window / self.memory.ratio(session))
        return Budget.of(msgspec.structs.replace(model, context_window=window), self.settings.shares)

    async def preview(self, ask: CompactionAsk) -> Plan | NothingToGain:
        """What `compact` would cover now; nothing is done."""
        return self._planned(ask, await self._snapshot(ask))

    async def compact(self, ask: CompactionAsk) -> Outcome:
        """Puts a summary in force, or says why not. Raises NotFound, StoreUnusable.

        Safe to call from everywhere at once, and to cancel at any time.
        """
        seen = await self._snapshot(ask)
        decided = self._decided(ask, seen)
        if not isinstance(decided, Plan):
            return decided
        try:
            async with self._alone(ask) as remark:
                now = await self._ledger.session(ask.principal, ask.session)
                if now.handle != seen.row.handle:  # somebody was quicker, or said something meanwhile
                    decided = self._decided(ask, await self._snapshot(ask))
                    if not isinstance(decided, Plan):
                        return decided
                return await self._made(ask, decided, now.model, remark)
        except ElsewhereNow:
            return NotCompacted(why=WhyNot.ELSEWHERE, sentence="Another process is summarising this session.")

    # -- in quiet ----------------------------------------------------------------------------------------------------
    def turn_ended(self, ask: CompactionAsk, tokens: int) -> None:
        """After a while without another turn, makes the summary that the next turn would have to wait for."""
        if not self.settings.enabled or tokens <= IDLE_SHARE * self.budget(ask.session, ask.model).trigger:
            return
        self.turn_begins(ask.session)
        timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._begin_idle, ask)
        self._timers[ask.session] = timer

    def turn_begins(self, session: SessionId) -> None:
        """It is not quiet any more. What is being summarised already goes on, and is waited for where it is needed."""
        timer = self._timers.pop(session, None)
        if timer is not None:
            timer.cancel()

    def _begin_idle(self, ask: CompactionAsk) -> None:
        self._timers.pop(ask.session, None)
        task = asyncio.create_task(self._idle(ask))
        self._idling.add(task)
        task.add_done_callback(self._idling.discard)

    async def _idle(self, ask: CompactionAsk) -> None:
        try:
            await self.compact(ask)
        except Exception:  # noqa: BLE001 - the supervisor: nobody waits for it, and the next turn finds the same trouble
            self.memory.failed(ask.session)

    async def close(self) -> None:
        """Ends what goes on in quiet. Idempotent."""
        for session in list(self._timers):
            self.turn_begins(session)
        for task in list(self._idling):
            task.cancel()
        if self._idling:
            await asyncio.wait(set(self._idling))

    # -- steps -------------------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def _alone(self, ask: CompactionAsk) -> AsyncIterator[str]:
        """One at a time here, by a lock; and everywhere, by the lease. Yields a remark when that could not be had."""
        lock = self._at_it.setdefault(ask.session, asyncio.Lock())
        lease_seconds, waits = self.settings.lease_seconds, ask.trigger != Trigger.IDLE
        async with lock:
            async with leased(
                self._ledger, self._owners, ask.session, lease_seconds=lease_seconds, waits=waits
            ) as error:
                yield f" (Without a lease: {error})" if error is not None else ""

    def _decided(self, ask: CompactionAsk, seen: _Snapshot) -> Plan | Outcome:
        """What to cover, if anything should be covered now. A person who asks is not told to wait."""
        if seen.row.handle.summary != ask.saw:
            return _superseded(seen.summary)
        by_hand = ask.trigger == Trigger.COMMAND
        if not by_hand and not self.settings.enabled:
            return NotCompacted(why=WhyNot.DISABLED, sentence="Compaction is switched off.")
        if not by_hand and (
            self.memory.rests(ask.session) or not self.memory.calls_left(ask.session, ask.turn)
        ):
            untold = "" if ask.trigger == Trigger.IDLE else self.memory.untold(ask.session)
            sentence = untold or "Summarising failed a short while ago."
            return NotCompacted(why=WhyNot.RESTING, sentence=sentence, is_news=bool(untold))
        planned = self._planned(ask, seen)
        if isinstance(planned, NothingToGain):
            return NotCompacted(why=WhyNot.NOTHING_TO_GAIN, sentence=planned.sentence)
        needs_need = ask.trigger in (Trigger.PREFLIGHT, Trigger.MID_TURN)
        if needs_need and planned.tokens_before <= self.budget(ask.session, ask.model).trigger:
            return NotCompacted(why=WhyNot.NOT_NEEDED, sentence="There is room enough.")
        return planned

    def _planned(self, ask: CompactionAsk, seen: _Snapshot) -> Plan | NothingToGain:
        budget, deep = self.budget(ask.session, ask.model), ask.trigger in (Trigger.COMMAND, Trigger.OVERFLOW)
        return plan(seen.path, seen.summary, fixed=seen.fixed, budget=budget, deep=deep)

    async def _made(self, ask: CompactionAsk, planned: Plan, model: str | None, remark: str) -> Outcome:
        try:
            summariser = await self._summariser(ask, planned, model)
            text = await self._written(ask, planned, summariser)
        except (ModelUnavailable, NoSummary) as error:
            sentence = f"The conversation was not summarised, and is as it was: {error}"
            is_heard = ask.trigger != Trigger.IDLE
            is_news = self.memory.failed(ask.session, unheard="" if is_heard else sentence)
            return NotCompacted(
                why=WhyNot.FAILED, sentence=sentence, is_news=is_news or ask.trigger == Trigger.COMMAND
            )
        self.memory.succeeded(ask.session)
        return await self._recorded(ask, planned, text, summariser, remark)

    async def _summariser(self, ask: CompactionAsk, planned: Plan, model: str | None) -> Summariser:
        choice = await self._models.choose(self.settings.summary_model or model)
        tokens = min(planned.summary_tokens, choice.profile.context_window // 8)
        if part_tokens(choice.profile, tokens) < PART_TOKENS_MIN:
            window = choice.profile.context_window
            raise NoSummary(
                f"The window of {choice.profile.name}, {window} tokens, is too small for summaries."
            )
        return Summariser(
            choice,
            lambda reserve, spent: self._set_aside(ask, reserve, spent),
            caps=self.settings.caps.today(self._clock.now_ms()),
            turn=ask.turn,
            key=f"{ask.session}-summary-{planned.upto.branch}-{planned.upto.seq}",
            summary_tokens=tokens,
            call_seconds=self.settings.call_seconds,
        )

    async def _written(self, ask: CompactionAsk, planned: Plan, summariser: Summariser) -> str:
        """Raises NoSummary. Whatever the calls came to, they are counted."""
        texts = parts(
            planned.covered,
            part_tokens=summariser.part_tokens,
            parts_max=min(PARTS_MAX, self.memory.calls_left(ask.session, ask.turn) or 1),
        )
        try:
            text = await summariser.write(texts, planned.previous.text if planned.previous else "", ask.focus)
            if planned.tokens_after(text) >= planned.tokens_before:
                raise NoSummary("The summary was no shorter than what it stood for.")
        except BaseException:
            await self._count(ask, summariser.paid.rows())
            raise
        finally:
            self.memory.called(ask.session, ask.turn, summariser.asked)
        return text

    async def _recorded(
        self, ask: CompactionAsk, planned: Plan, text: str, summariser: Summariser, remark: str
    ) -> Outcome:
        after, ratio = planned.tokens_after(text), self.memory.ratio(ask.session)
        op = Compact(
            upto=planned.upto,
            text=text,
            focus=ask.focus,
            model=summariser.model,
            tokens_before=int(planned.tokens_before * ratio),
            tokens_after=int(after * ratio),
        )
        previous = None if planned.previous is None else planned.previous.id
        try:
            made = await self._commit(ask, summariser.paid.rows(), op, previous)
        except HeadMoved:
            await self._count(ask, summariser.paid.rows())
            now = (await self._snapshot(ask)).summary
            return _superseded(None if now is None or now.id == previous else now)
        if after > self.budget(ask.session, ask.model).target and ask.trigger != Trigger.COMMAND:
            remark += " What is left is still above the target."
        summary = next(s for s in await self._summaries(ask) if s.id == made)
        return Compacted(summary=summary, covered=len(planned.covered), remark=remark)

    async def _commit(
        self,
        ask: CompactionAsk,
        spent: Sequence[AddUsage],
        op: Compact | None = None,
        previous: SummaryId | None = None,
        reserve: Reserve | None = None,
    ) -> SummaryId | None:
        """On whatever head the session has by now. Raises HeadMoved when another summary than `previous` is in force,
        or the covered range left the path."""
        for _ in range(TRIES_MAX):
            row = await self._ledger.session(ask.principal, ask.session)
            handle, at = row.handle, self._clock.now_ms()
            if op is not None and handle.summary != previous:
                raise HeadMoved("Another summary is in force by now.")
            work = Commit(
                session=ask.session,
                actor=ask.principal,
                at=at,
                fence=AsObserver(version=handle.version, head=handle.head),
                op=op,
                usage=tuple(spent),
                reserve=reserve,
                jobs=extracting(row, at) if op is not None and self.settings.remembers else (),
            )
            try:
                return (await self._ledger.commit(work)).handle.summary
            except HeadMoved:
                if (await self._ledger.session(ask.principal, ask.session)).handle == handle:
                    raise  # nothing moved: the range itself is not on the path any more
        raise HeadMoved("This session changes too quickly to be summarised.")

    async def _set_aside(self, ask: CompactionAsk, reserve: Reserve, spent: Sequence[AddUsage]) -> None:
        await self._commit(ask, spent, reserve=reserve)

    async def _count(self, ask: CompactionAsk, spent: Sequence[AddUsage]) -> None:
        """What was paid for is counted; in a session that was deleted meanwhile there is nothing to count it under."""
        if not spent:
            return
        try:
            await self._commit(ask, spent)
        except NotFound:
            return

    async def _snapshot(self, ask: CompactionAsk) -> _Snapshot:
        row = await self._ledger.session(ask.principal, ask.session)
        return _Snapshot(
            row=row,
            path=await self._ledger.path(ask.principal, ask.session, row.handle.head),
            summary=next((s for s in await self._summaries(ask) if s.id == row.handle.summary), None),
            fixed=prefix_tokens(await self._ledger.prefix(ask.principal, ask.session)),
        )

    async def _summaries(self, ask: CompactionAsk) -> tuple[SummaryRow, ...]:
        return await self._ledger.summaries(ask.principal, ask.session)


def _superseded(summary: SummaryRow | None) -> Outcome:
    """Somebody was quicker: their summary is in force, or the range is gone and ours would stand for nothing."""
    if summary is None:
        sentence = "The conversation was changed meanwhile; nothing was summarised."
        return NotCompacted(why=WhyNot.CHANGED, sentence=sentence)
    return Compacted(summary=summary, covered=0, adopted=True)
