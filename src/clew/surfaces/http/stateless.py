"""Requests without a session: the client brings the whole talk, and takes its answer along.

Rule: nothing of such a request meets another. Each runs on a ledger of its own, in memory, that ends with it; not a word is
kept. What it uses is counted as it is used. A client that leaves stops its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final, assert_never

import msgspec
import structlog

from clew.domain.conversation.ids import CallId, PrincipalId, SessionId, call_id
from clew.domain.conversation.messages import AssistantBody, NewMessage, Role, ToolBody, ToolCall, UserBody
from clew.domain.conversation.text import clean
from clew.domain.ledger.commits import (
    Append,
    AsObserver,
    Commit,
    NewBlob,
    NewSession,
    OpenTurn,
    SetTurn,
)
from clew.domain.ledger.rows import Handle, Origin, TurnState
from clew.domain.routing.keys import PLAIN, WITH_TOOLS
from clew.runtime.delivery import raised_at
from clew.runtime.ports.people import Consent, Question
from clew.runtime.talk import Services
from clew.runtime.turns.job import TurnJob
from clew.runtime.turns.openings import GoOn
from clew.runtime.turns.running import RunningTurn
from clew.runtime.turns.waiting import message_of_person
from clew.runtime.unkept import Tab
from clew.surfaces.http.asked import AssistantSaid, Brought, Said, ToolSaid, UserSaid
from clew.surfaces.http.errors import ApiError, as_answer
from clew.surfaces.http.exchange import Exchange
from clew.surfaces.http.surroundings import Surroundings

LOG: Final = structlog.get_logger("clew.http")
HANDED_OVER: Final = "the client runs its tools"
LEFT: Final = "disconnected"
HISTORY: Final = 1
ASKED: Final = 2
"""The turn that is run; what came before it is one that is over."""


class Stateless:
    """Answers such requests, each as a task of its own."""

    def __init__(self, services: Services, tool_seconds: float) -> None:
        assert services.in_memory is not None, "what serves the API has room for words that are not kept"
        self._kept = services
        self._in_memory = services.in_memory
        self._tool_seconds = tool_seconds
        self._tabs: dict[PrincipalId, Tab] = {}
        self._turns: dict[Exchange, RunningTurn] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(
        self, who: PrincipalId, surface: str, said: Sequence[Said], brought: Brought, model: str | None
    ) -> Exchange:
        exchange = Exchange(frozenset(tool.name for tool in brought.tools), is_kept=False)
        task = asyncio.create_task(self._answer(exchange, who, surface, said, brought, model))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return exchange

    def leave(self, exchange: Exchange) -> None:
        """Nobody wants this answer any more."""
        exchange.fail(ApiError(409, LEFT, "The client left."))
        if (turn := self._turns.get(exchange)) is not None:
            turn.stop(LEFT)

    async def drain(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for exchange in list(self._turns):
            self.leave(exchange)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _answer(  # noqa: PLR0917
        self,
        exchange: Exchange,
        who: PrincipalId,
        surface: str,
        said: Sequence[Said],
        brought: Brought,
        model: str | None,
    ) -> None:
        """The supervisor of one request: whatever goes wrong is its answer."""
        try:
            memory = self._in_memory(self._tab(who).models(self._kept.models))
            try:
                await self._run(memory, exchange, who, surface, said, brought, model)
            finally:
                await memory.runner.compactor.close()
        except Exception as error:  # noqa: BLE001 - the supervisor: logged by where it was raised, and answered with
            answer = as_answer(error)
            if answer is None:
                LOG.error("not answered", error=type(error).__name__, at=raised_at(error))
            exchange.fail(answer or ApiError(500, "internal_error", "An error inside Clew."))
        finally:
            self._turns.pop(exchange, None)

    def _tab(self, who: PrincipalId) -> Tab:
        if who not in self._tabs:
            kept, caps = self._kept, self._kept.runner.settings.caps
            self._tabs[who] = Tab(kept.desk, kept.clock, caps, who=who, surface=PLAIN, task="stateless")
        return self._tabs[who]

    async def _run(  # noqa: PLR0917
        self,
        memory: Services,
        exchange: Exchange,
        who: PrincipalId,
        surface: str,
        said: Sequence[Said],
        brought: Brought,
        model: str | None,
    ) -> None:
        def asked(call: CallId) -> None:
            exchange.waits_for(call)
            if exchange.is_ended:
                self._turns[exchange].stop(HANDED_OVER)

        # A client that brings tools gets none of ours beside: of their calls it would know nothing the next time.
        own = surface == WITH_TOOLS and not brought.tools
        around = Surroundings(memory, asked, self._tool_seconds, own=own)
        around.bring(brought)
        services = around.services
        choice = await services.models.choose(model)
        session = services.desk.new_id()
        if choice.within is not None:
            choice = choice.within(session, Path.cwd())
        await _write(services, who, surface, session, said, choice.profile.name)
        tools = await services.toolmaker.open(session, who, Path.cwd(), _nobody_hears)
        try:
            job = TurnJob(
                principal=who,
                session=session,
                opening=GoOn(),
                model=choice,
                tools=(*tools.tools(), *choice.tools) if choice.profile.takes_tools else (),
                cwd=Path.cwd(),
                instructions=services.instructions(Path.cwd()),
                notify=_nobody_hears,
            )
            turn = self._turns[exchange] = await services.runner.begin(job, exchange.watch, _Refuses())
            if exchange.is_ended:
                turn.stop(LEFT)
            exchange.began(session, ASKED)
            exchange.end(await turn.finish())
        finally:
            await tools.close()


class _Refuses:
    """An approver for what nobody can be asked about."""

    async def ask(self, question: Question) -> Consent | None:
        return Consent.NO


async def _nobody_hears(kind: str, text: str) -> None:
    """What happens beside a talk that ends with its answer is told to nobody."""


def _seen(handle: Handle) -> AsObserver:
    return AsObserver(version=handle.version, head=handle.head)


async def _write(  # noqa: PLR0917
    services: Services, who: PrincipalId, surface: str, session: SessionId, said: Sequence[Said], model: str
) -> None:
    """The talk as a session whose newest turn waits to be gone on with."""
    ledger, now = services.ledger, services.clock.now_ms()
    await ledger.add_principal(who, who, "user")
    new = NewSession(id=session, owner=who, surface=surface, origin=Origin.IMPORT, temporary=True)
    handle = await ledger.open(new, actor=who, at=now)
    last = max((n for n, one in enumerate(said) if isinstance(one, UserSaid)), default=0)
    while last and isinstance(said[last - 1], UserSaid):
        last -= 1
    for turn, part in ((HISTORY, said[:last]), (ASKED, said[last:])):
        if not part:
            continue
        messages, blobs = _messages(part, session, turn, who)
        work = Commit(
            session=session, actor=who, at=now, fence=_seen(handle), blobs=blobs,
            op=Append(messages=messages, turn=turn),
        )  # fmt: skip
        if turn == ASKED:
            opened = OpenTurn(turn=turn, principal=who, model=model)
            work = msgspec.structs.replace(
                work, open_turn=opened, set_turn=SetTurn(turn=turn, state=TurnState.WAITING)
            )
        handle = (await ledger.commit(work)).handle


def _messages(
    said: Sequence[Said], session: SessionId, turn: int, who: PrincipalId
) -> tuple[tuple[NewMessage, ...], tuple[NewBlob, ...]]:
    messages: list[NewMessage] = []
    blobs: list[NewBlob] = []
    step, ids, names = 0, dict[str, CallId](), dict[str, str]()
    for one in said:
        match one:
            case UserSaid():
                message, own = message_of_person(one.text, one.files, None, actor=who, step=step)
                blobs += own
            case AssistantSaid():
                step += 1
                calls = []
                for n, (ident, function) in enumerate(one.calls):
                    ids[ident], names[ident] = call_id(session, turn, step, n), function.name
                    calls.append(
                        ToolCall(
                            id=ids[ident], name=function.name, arguments=function.arguments, provider_id=ident
                        )
                    )
                body = AssistantBody(calls=tuple(calls)) if calls else None
                message = NewMessage(
                    role=Role.ASSISTANT, text=clean(one.text).text, step=step, actor="", body=body
                )
            case ToolSaid():
                carried, own = message_of_person(one.text, one.files, None, actor=who, step=step)
                blobs += own
                attachments = carried.body.attachments if isinstance(carried.body, UserBody) else ()
                result = ToolBody(call=ids[one.call], name=names[one.call], attachments=attachments)
                message = NewMessage(
                    role=Role.TOOL, text=carried.text, step=step, actor=names[one.call], body=result
                )
            case _:
                assert_never(one)
        messages.append(message)
    return tuple(messages), tuple(dict.fromkeys(blobs))
