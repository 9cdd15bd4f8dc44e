"""The turns of one session, one after the other, for the clients of the API.

What a client says is in the inbox before anything is begun, so a client that vanishes finds its answer under the session. A
line holds nothing that a crash could lose but whom it answers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from clew.domain.conversation.ids import CallId, InboxId, PrincipalId, SessionId
from clew.domain.ledger.errors import LedgerError, NotFound, Outdated, Refused
from clew.domain.ledger.rows import CallRow, CallState, TurnState
from clew.domain.routing.keys import WITH_TOOLS
from clew.runtime.delivery import raised_at
from clew.runtime.ports.models import ModelUnavailable
from clew.runtime.ports.people import NobodyToAsk, TurnNews
from clew.runtime.sessions import Place
from clew.runtime.talk import Services, Talk
from clew.runtime.turns.openings import Opening, Recover, Say
from clew.runtime.turns.waiting import BusyMode
from clew.surfaces.http.asked import Brought, ToolSaid, UserSaid
from clew.surfaces.http.errors import ApiError, as_answer, bad_request
from clew.surfaces.http.exchange import Exchange
from clew.surfaces.http.surroundings import Surroundings, client_tool_names

LOG: Final = structlog.get_logger("clew.http")
WENT_ON: Final = "the client went on without the results of its tools"
SHUTDOWN: Final = "shutdown"
STOPPING: Final = "Clew is being stopped: what was not begun waits in the session."
_OVER: Final = (CallState.FINISHED, CallState.NOT_RUN)
Watcher = Callable[[SessionId, TurnNews], None]


class Line:
    """Runs what waits for one session on one surface. `watch` is told everything; `outdated` that no turn can begin."""

    def __init__(
        self,
        services: Services,
        who: PrincipalId,
        session: SessionId,
        surface: str,
        *,
        tool_seconds: float,
        watch: Watcher,
        outdated: Callable[[Outdated], None],
    ) -> None:
        self.session = session
        self._surroundings = Surroundings(services, self._waits_for, tool_seconds, own=surface == WITH_TOOLS)
        place = Place(route_key=f"{surface}:{session}", surface=surface)
        self.talk = Talk(self._surroundings.services, who, place, Path.cwd(), session)
        self._watch = watch
        self._outdated = outdated
        self._exchanges: dict[InboxId, tuple[Exchange, Brought]] = {}
        self._given: deque[Opening] = deque()
        self._current: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._more = False
        self._is_stopping = False
        self._taking = asyncio.Lock()

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return self._task is None and not self._given and not self.talk.has_processes

    # -- what clients do -----------------------------------------------------------------------------------------
    async def say(self, users: Sequence[UserSaid], brought: Brought) -> Exchange:
        """Begins a turn with these, or has them wait for one: on disk when this returns. Raises Refused over the limit.

        A turn that waits for the client's tools ends: the client went on.
        """
        if self._is_stopping:
            raise Outdated(STOPPING)
        if self._surroundings.results.is_waited_for and self.talk.running is not None:
            self.talk.running.stop(WENT_ON)
        exchange = _exchange(brought)
        async with self._taking:
            first, *joining = users
            received = await self.talk.queue(first.text, first.files)
            exchange.received = received.id
            self._exchanges[received.id] = exchange, brought
            for said in joining:
                await self.talk.queue(said.text, said.files, BusyMode.STEER)
        self.wake()
        return exchange

    async def answer_calls(
        self, results: Sequence[ToolSaid], users: Sequence[UserSaid], brought: Brought
    ) -> Exchange:
        """The turn that waits for these results goes on. Raises ApiError when none does, or for other ones."""
        ledger, who = self.talk.services.ledger, self.talk.principal
        turn = await ledger.turn(who, self.session)
        waiting: dict[str, CallRow] = {}
        if turn is not None and turn.state == TurnState.RUNNING:
            theirs = client_tool_names(await ledger.prefix(who, self.session))
            calls = await ledger.calls(who, self.session, turn.turn)
            waiting = {call.id: call for call in calls if call.name in theirs and call.state not in _OVER}
        sent = {said.call for said in results}
        if unasked := sent - set(waiting):
            raise bad_request(f"No call {min(unasked)!r} of this session waits for a result.", "messages")
        if missing := set(waiting) - sent:
            raise bad_request(f"The result of call {min(missing)!r} is not among them.", "messages")
        await self._surroundings.restore(who, self.session)
        for user in users:
            await self.talk.queue(user.text, user.files, BusyMode.STEER)
        exchange = self._current = _exchange(brought)
        assert turn is not None
        exchange.began(self.session, turn.turn, max(call.step for call in waiting.values()))
        for said in results:
            self._surroundings.results.deliver(said)
        self.wake()
        return exchange

    async def leave(self, exchange: Exchange) -> None:
        """Nobody wants this answer any more: its turn is stopped, or its message taken back."""
        if exchange is self._current and self.talk.running is not None:
            self.talk.running.stop("disconnected")
        elif exchange.received is not None:
            self._exchanges.pop(exchange.received, None)
            await self.talk.services.desk.withdraw(
                self.talk.principal, self.session, (exchange.received,), "disconnected"
            )

    def start(self, opening: Opening) -> None:
        """Runs this next."""
        self._given.append(opening)
        self.wake()

    def wake(self) -> None:
        """Something may wait."""
        self._more = True
        if self._task is None and not self._is_stopping:
            self._task = asyncio.create_task(self._follow())

    async def stop(self, seconds: float) -> None:
        """Begins nothing more, and lets what runs end in so many seconds; then it is stopped."""
        self._is_stopping = True
        if (task := self._task) is None:
            return
        _, left = await asyncio.wait(
            [task], timeout=0 if self._surroundings.results.is_waited_for else seconds
        )
        if left and self.talk.running is not None and not self.talk.running.has_ended:
            self.talk.running.stop(SHUTDOWN)
        await task

    async def close(self) -> None:
        await self.talk.close()

    # -- turns ---------------------------------------------------------------------------------------------------
    async def _follow(self) -> None:
        """The supervisor of the line's turns: whatever goes wrong in one is its client's answer."""
        failed: Exception | None = None
        try:
            while self._more and not self._is_stopping:
                self._more = False
                if await self._one():
                    self._more = True
        except Exception as error:  # noqa: BLE001 - the supervisor: logged by where it was raised, and answered with
            failed = error
            if isinstance(error, Outdated):
                self._outdated(error)
            elif not isinstance(error, NotFound):
                at = raised_at(error)
                LOG.error("turn broke", session=self.session, error=type(error).__name__, at=at)
        finally:
            self._task = None
            self._drop_current()
            if failed is not None or self._is_stopping:
                self._let_go(failed or Outdated(STOPPING))
            elif self._more:
                self.wake()  # it came while the last turn ended

    def _let_go(self, error: Exception) -> None:
        """Answers whoever still waits."""
        answer = as_answer(error) or ApiError(500, "internal_error", "An error inside Clew.")
        for exchange, _ in self._exchanges.values():
            exchange.fail(answer)
        self._exchanges.clear()

    async def _one(self) -> bool:
        """Runs one turn; False when nothing waits, or what waits cannot begin now."""
        async with self._taking:
            opening, may_be_busy = await self._next()
        if opening is None:
            return False
        said = opening.inbox[0] if isinstance(opening, Say) and opening.inbox else None
        exchange, brought = (None, None) if said is None else self._exchanges.pop(said, (None, None))
        try:
            if may_be_busy and await self.talk.is_busy():
                await self.talk.until_idle()
            if isinstance(opening, Recover):
                await self._surroundings.restore(self.talk.principal, self.session)
            elif brought is not None:
                self._surroundings.bring(brought)
            await self._run(opening, exchange)
        except (Outdated, NotFound) as error:
            if exchange is not None and (answer := as_answer(error)) is not None:
                exchange.fail(answer)
            raise
        except (LedgerError, ModelUnavailable) as error:
            return await self._not_begun(opening, exchange, error)
        return True

    async def _not_begun(self, opening: Opening, exchange: Exchange | None, error: Exception) -> bool:
        """What the client is told was not taken is taken back; what nobody waits for goes on waiting."""
        answer = as_answer(error)
        assert answer is not None
        if (
            isinstance(opening, Say)
            and isinstance(error, Refused)
            and not await self.talk.still_waits(*opening.inbox)
        ):
            outcome = await self.talk.answered_elsewhere(opening.inbox[0])
            if exchange is not None:
                exchange.fail(answer) if outcome is None else exchange.end(outcome)
            return True
        LOG.warning("not begun", session=self.session, why=answer.code)
        if exchange is None or not isinstance(opening, Say):
            return False
        await self.talk.taken_back(opening)
        exchange.fail(answer)
        return True

    async def _next(self) -> tuple[Opening | None, bool]:
        """What is run next, and whether another turn may be under way."""
        if self._given:
            return self._given.popleft(), True
        is_open = await self.talk.is_left_open()
        if is_open and not await self.talk.is_busy():
            return Recover(), False
        return await self.talk.next_opening(), is_open

    async def _run(self, opening: Opening, exchange: Exchange | None) -> None:
        if exchange is not None or not isinstance(
            opening, Recover
        ):  # else: whoever sent results sees it go on
            self._drop_current()
            self._current = exchange

        def watch(news: TurnNews) -> None:
            if self._current is not None:
                self._current.watch(news)
            self._watch(self.session, news)

        if isinstance(opening, Recover):
            outcome = await self.talk.recover(watch, NobodyToAsk())
        else:
            turn = await self.talk.begin(opening, watch, NobodyToAsk())
            if exchange is not None:
                exchange.began(self.session, turn.turn)
            outcome = await turn.finish()
        if outcome is not None and self._current is not None:
            self._current.end(outcome)
        self._drop_current()
        if outcome is not None and isinstance(outcome.cause, Outdated):
            raise outcome.cause

    def _drop_current(self) -> None:
        if self._current is not None:
            self._current.fail(ApiError(409, "turn_over", "The turn that this belongs to is over."))
        self._current = None

    def _waits_for(self, call: CallId) -> None:
        if self._current is not None:
            self._current.waits_for(call)


def _exchange(brought: Brought) -> Exchange:
    return Exchange(frozenset(tool.name for tool in brought.tools), is_kept=True)
