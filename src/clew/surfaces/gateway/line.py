"""The turns of one session in one place, one after the other, each shown while it runs.

What a person sent is in the inbox before anything here hears of it, and what is said goes into the outbox by the commit that
says it: a line holds nothing that a crash could lose.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from clew.domain.conversation.ids import SessionId
from clew.domain.ledger.commits import AddReply
from clew.domain.ledger.errors import LedgerError, NotFound, Outdated, Refused
from clew.domain.ledger.rows import ApprovalState
from clew.domain.routing.routes import Route
from clew.domain.routing.splitting import split
from clew.runtime.delivery import raised_at
from clew.runtime.ports.models import ModelUnavailable
from clew.runtime.ports.people import Consent, Noticed, Question, TurnNews
from clew.runtime.talk import Talk
from clew.runtime.turns import TurnOutcome
from clew.runtime.turns.openings import Hear, Opening, Recover, Say
from clew.runtime.turns.outbox import NOTICE, Outbox
from clew.surfaces.gateway.channel import LOG, Channel, log_about, route_of
from clew.surfaces.gateway.preview import Preview

SHUTDOWN: Final = "shutdown"
BROKEN: Final = "An error inside Clew: this was not answered. Say something to try again; /why tells more."
STOPPING: Final = "Clew is being stopped: this answer ends here. /retry asks again."


class Line:
    """Runs what waits for one session. `outdated` is told when no turn can begin in this process any more."""

    def __init__(self, channel: Channel, talk: Talk, outdated: Callable[[Outdated], None]) -> None:
        assert talk.session is not None, "a line is of a session"
        self.session: SessionId = talk.session
        self.talk = talk
        talk.titled = lambda: None  # a chat shows no titles
        self._channel = channel
        self._outdated = outdated
        self._given: deque[Opening] = deque()
        self._task: asyncio.Task[None] | None = None
        self._more = False
        self._stopping = asyncio.Event()
        self._decided = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()

    @property
    def route(self) -> Route:
        """Where its chat is now."""
        return route_of(self.talk.place)

    @property
    def is_busy(self) -> bool:
        return self._task is not None

    @property
    def can_be_closed(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return not self.is_busy and not self._given and not self._telling and not self.talk.has_processes

    def start(self, opening: Opening) -> None:
        """Runs this next."""
        self._given.append(opening)
        self.wake()

    def wake(self) -> None:
        """Something may wait."""
        self._more = True
        if self._task is None and not self._stopping.is_set():
            self.talk.is_occupied = True
            self._task = asyncio.create_task(self._follow())

    def decided(self) -> None:
        """An approval was given or refused."""
        self._decided.set()

    async def stop(self, seconds: float) -> None:
        """Begins nothing more, and lets what runs end in so many seconds; then it is stopped, and the person is told."""
        self._stopping.set()
        if (task := self._task) is None:
            return
        _, left = await asyncio.wait([task], timeout=seconds)
        if left and self.talk.running is not None and not self.talk.running.has_ended:
            self.talk.running.stop(SHUTDOWN)
            await self.tell(STOPPING)
        await task

    async def close(self) -> None:
        if self._telling:
            await asyncio.wait(self._telling)
        await self.talk.close()

    async def tell(self, text: str, key: str | None = None) -> None:
        """Something that is no message of the conversation. The same key is told once."""
        services, outbox = self._channel.services, self._channel.platform.traits.holds
        conversation = await services.desk.conversation_of(self.talk.place, self.session)
        for number, part in enumerate(split(text, outbox)):
            notice = AddReply(
                conversation=conversation,
                turn=0,
                part=number,
                kind=NOTICE,
                key=f"{key or services.chance.token(20)}:{number}",
                body=part,
            )
            await services.ledger.add_reply(self.session, notice, services.clock.now_ms())
        self._channel.delivery.wake()

    # -- turns ---------------------------------------------------------------------------------------------------
    async def _follow(self) -> None:
        """The supervisor of the line's turns: whatever goes wrong in one is said, and the next message finds it usable."""
        log_about(self._channel, self.route, session=self.session)
        preview = Preview(self._channel, self.talk)
        beside = [asyncio.create_task(preview.run()), asyncio.create_task(preview.typing())]
        failed = True
        try:
            while self._more and not self._stopping.is_set():
                self._more = False
                while not self._stopping.is_set() and await self._one(preview):
                    pass
            failed = False
        except Outdated as error:
            self._outdated(error)
        except NotFound:
            LOG.info("session is gone")
        except Exception as error:  # noqa: BLE001 - the supervisor: logged by where it was raised, and said
            LOG.error("turn broke", error=type(error).__name__, at=raised_at(error))
            await self._tell_if_possible(BROKEN)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            self._task = None
            self.talk.is_occupied = False
            self._channel.delivery.wake()
            if self._more and not failed:
                self.wake()  # it came while the preview ended

    async def _one(self, preview: Preview) -> bool:
        """Runs one turn; False when nothing waits, or what waits cannot begin now."""
        opening = await self._next()
        if opening is None:
            return False
        try:
            # Before what waits was looked for, nothing was under way.
            if not (isinstance(opening, Say | Hear) and opening.inbox) and await self.talk.is_busy():
                await self.talk.until_idle()
            if await self._channel.delivery.refusal(self.route, self.session) is not None:
                return False  # whoever looks for what is left takes it back
            began = asyncio.get_running_loop().time()
            outcome = await self._run(opening, preview)
            if outcome is not None:
                self._count(outcome, asyncio.get_running_loop().time() - began)
        except (Outdated, NotFound):
            raise
        except (LedgerError, ModelUnavailable) as error:
            if (
                isinstance(error, Refused)
                and isinstance(opening, Say | Hear)
                and not await self.talk.still_waits(*opening.inbox)
            ):
                return True  # it was taken back, or another process was quicker
            waits = (
                " Your message waits, and is sent before the next one." if isinstance(opening, Say) else ""
            )
            # Looked at again and again as long as it waits, and told once.
            key = (
                f"unsent:{self.session}:{opening.inbox}:{error}" if isinstance(opening, Say | Hear) else None
            )
            await self.tell(f"{error}{waits}", key)
            return False
        if outcome is not None and isinstance(outcome.cause, Outdated):
            raise outcome.cause
        return True

    def _count(self, outcome: TurnOutcome, seconds: float) -> None:
        code = None if outcome.error is None else outcome.error[0]
        cause = (
            {}
            if outcome.cause is None
            else {"cause": type(outcome.cause).__name__, "at": raised_at(outcome.cause)}
        )
        LOG.info(
            "turn", turn=outcome.turn, status=outcome.status, error=code, seconds=round(seconds, 3), **cause
        )
        meter, of = (
            self._channel.services.meter,
            {"platform": self._channel.platform.name, "model": outcome.model},
        )
        meter.count("clew_turns_total", status=outcome.status, **of)
        meter.observe("clew_turn_seconds", seconds, platform=of["platform"])
        for kind in ("input", "output", "cache_read", "cache_write"):
            meter.count("clew_tokens_total", getattr(outcome.usage, kind), kind=kind, **of)
        meter.count("clew_cost_usd_total", outcome.cost_usd or 0.0, **of)

    async def _next(self) -> Opening | None:
        if self._given:
            return self._given.popleft()
        if await self.talk.is_left_open():
            return Recover()
        return await self.talk.next_opening()

    async def _run(self, opening: Opening, preview: Preview) -> TurnOutcome | None:
        def watch(news: TurnNews) -> None:
            preview.watch(news)
            if isinstance(news, Noticed):
                telling = asyncio.create_task(self._tell_if_possible(news.text))
                self._telling.add(telling)
                telling.add_done_callback(self._telling.discard)

        if isinstance(opening, Recover):
            return await self.talk.recover(watch, self)
        turn = await self.talk.begin(opening, watch, self)
        return await turn.finish()

    async def _tell_if_possible(self, text: str) -> None:
        try:
            await self.tell(text)
        except LedgerError as error:
            LOG.error("not told", session=self.session, why=str(error))

    # -- questions -----------------------------------------------------------------------------------------------
    async def ask(self, question: Question) -> Consent | None:
        """`Approver`: the question goes into the outbox with buttons; the answer is a command, from wherever it comes."""
        services = self._channel.services
        conversation = await services.desk.conversation_of(self.talk.place, self.session)
        outbox = Outbox(conversation=conversation, holds=self._channel.platform.traits.holds)
        text = split(f"May I? {question.line}", outbox.holds)[0]
        turn = self.talk.running.turn if self.talk.running is not None else 0
        asks = outbox.asks(self.session, turn, question.approval, text)
        await services.ledger.add_reply(self.session, asks, services.clock.now_ms())
        self._channel.delivery.wake()
        while True:
            self._decided.clear()
            if (consent := await self._answer(question)) is not None:
                return consent
            if self._stopping.is_set():
                return None  # it goes on waiting in the ledger
            waiting = [asyncio.create_task(self._decided.wait()), asyncio.create_task(self._stopping.wait())]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()

    async def _answer(self, question: Question) -> Consent | None:
        services, approval = self._channel.services, question.approval
        for row in await services.ledger.approvals(self.talk.principal, question.session):
            if row.id == approval and row.state == ApprovalState.APPROVED:
                return Consent.ONCE
            if row.id == approval and row.state != ApprovalState.PENDING:
                return Consent.NO
        return None
