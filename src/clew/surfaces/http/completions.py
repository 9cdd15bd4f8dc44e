"""The operations of OpenAI's wire: a request with a session carries it on, one without meets nothing but itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec
from starlette.responses import Response

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.messages import Head, Role
from clew.domain.ledger.commits import AsObserver, Commit, NewSession, SessionPatch
from clew.domain.ledger.errors import HeadMoved, NotFound
from clew.domain.ledger.rows import Origin, SessionRow, TurnState
from clew.runtime.talk import Services
from clew.surfaces.http import chat, responses
from clew.surfaces.http.access import Caller
from clew.surfaces.http.asked import Asked, check_order, newest
from clew.surfaces.http.errors import SESSION, ApiError, bad_request, not_found
from clew.surfaces.http.exchange import Batches, Began, Ended, Exchange, Piece
from clew.surfaces.http.lines import Lines
from clew.surfaces.http.models import Offered
from clew.surfaces.http.operations import Asking, Operation
from clew.surfaces.http.stateless import Stateless
from clew.surfaces.http.streaming import Client, EventStream
from clew.surfaces.http.surroundings import client_tool_names
from clew.wire import openai_chat, openai_responses
from clew.wire.openai_chat import ErrorBody

NEW: Final = "new"
FIRST_SECONDS: Final = 10.0
"""For so long the status of a stream waits for its first word: an error before it is an error, not a stream."""
DONE: Final = "[DONE]"
LAST: Final = b"data: %s\n\n" % DONE.encode()
Leave = Callable[[], Awaitable[None]]


class Answering(NamedTuple):
    """An answer under way: where it began, what comes, and what to do when nobody wants it any more."""

    began: Began
    batches: Batches
    model: str
    session: SessionId | None
    leave: Leave


class Completions:
    def __init__(self, services: Services, lines: Lines, tool_seconds: float, *, stops: bool) -> None:
        """`stops`: a session's turn whose client leaves is stopped."""
        self._services = services
        self._lines = lines
        self._stops = stops
        self.stateless = Stateless(services, tool_seconds)
        self._offered = Offered(services.models)
        self._carrying = asyncio.Lock()
        self.operations = (
            Operation(
                method="GET", path="/v1/models", summary="The models that can be named.",
                answer=openai_chat.ModelList, handle=self._models,
            ),
            Operation(
                method="POST", path="/v1/chat/completions", summary="An answer; with X-Clew-Session, a turn of that session.",
                body=openai_chat.ChatRequest, answer=openai_chat.ChatCompletion, handle=self._chat,
                events=(openai_chat.Chunk, ErrorBody), end=DONE, headers=(SESSION,),
            ),
            Operation(
                method="POST", path="/v1/responses", summary="An answer in a session that previous_response_id carries on.",
                body=openai_responses.ResponsesRequest, answer=openai_responses.Response, handle=self._responses,
                events=(openai_responses.StreamEvent,), headers=(SESSION,),
            ),
        )  # fmt: skip

    async def _models(self, asking: Asking) -> openai_chat.ModelList:
        return openai_chat.ModelList(
            data=[openai_chat.Model(id=name) for name in await self._offered.names()]
        )

    async def _chat(self, asking: Asking) -> msgspec.Struct | Response:
        body: openai_chat.ChatRequest = asking.body
        asked = chat.read(body)
        named = asking.request.headers.get(SESSION)
        client = Client(asking.request.receive)
        answering = await client.unless_gone(self._begin(asking.caller, asked, named), _nothing)
        frame = chat.Frame(
            id=f"chatcmpl-{answering.began.ident}",
            created=self._services.clock.now_ms() // 1000,
            model=answering.model,
        )
        if not body.stream:
            whole = await client.unless_gone(chat.whole(answering.batches, frame), answering.leave)
            return _json(whole, answering.session)
        chunks = chat.Chunks(
            frame, with_usage=bool(body.stream_options and body.stream_options.include_usage)
        )

        def encoded(these: Sequence[msgspec.Struct]) -> bytes:
            return b"".join(b"data: %s\n\n" % msgspec.json.encode(chunk) for chunk in these)

        async def events() -> AsyncGenerator[bytes, None]:
            sent = encoded(chunks.begin())
            async for batch in answering.batches:
                sent += b"".join(encoded(chunks.take(piece)) for piece in batch)
                yield sent + LAST if batch and isinstance(batch[-1], Ended) else sent
                sent = b""

        return EventStream(client, events(), answering.leave, _headers(answering.session))

    async def _responses(self, asking: Asking) -> msgspec.Struct | Response:
        body: openai_responses.ResponsesRequest = asking.body
        asked = responses.read(body)
        named, previous = asking.request.headers.get(SESSION), body.previous_response_id
        if named is not None and previous is not None:
            why = "A session and a previous response are not both named."
            raise bad_request(why, "previous_response_id")
        if named is None and previous is None and body.store is not False:
            named = NEW
        begin = self._begin(asking.caller, asked, named, previous)
        client = Client(asking.request.receive)
        answering = await client.unless_gone(begin, _nothing)
        answer = responses.Answer(
            openai_responses.Response(
                id=responses.response_id(answering.began),
                created_at=self._services.clock.now_ms() // 1000,
                status="in_progress",
                model=answering.model,
                output=[],
                previous_response_id=body.previous_response_id,
                instructions=body.instructions,
                max_output_tokens=body.max_output_tokens,
                tools=body.tools or [],
                store=answering.session is not None,
            )
        )
        if not body.stream:
            whole = await client.unless_gone(answer.run(answering.batches), answering.leave)
            return _json(whole, answering.session)

        def encoded(these: Sequence[openai_responses.StreamEvent]) -> bytes:
            """At once: each holds the response as it is now."""
            return b"".join(
                b"event: %s\ndata: %s\n\n" % (e.type.encode(), msgspec.json.encode(e)) for e in these
            )

        async def events() -> AsyncGenerator[bytes, None]:
            sent = encoded(answer.begin())
            async for batch in answering.batches:
                yield sent + b"".join(encoded(answer.take(piece)) for piece in batch)
                sent = b""

        return EventStream(client, events(), answering.leave, _headers(answering.session))

    # -- sessions ------------------------------------------------------------------------------------------------
    async def open(self, caller: Caller, title: str | None = None) -> SessionRow:
        new = NewSession(
            id=self._services.desk.new_id(),
            owner=caller.who,
            surface=caller.surface,
            origin=Origin.NEW,
            title=title,
        )
        await self._services.ledger.open(new, actor=caller.who, at=self._services.clock.now_ms())
        return await self._services.ledger.session(caller.who, new.id)

    async def writable(self, who: PrincipalId, session: SessionId) -> SessionRow:
        """Raises NotFound also for who may only read: the ledger says so to an empty commit."""
        row = await self._services.ledger.session(who, session)
        if row.temporary:
            raise NotFound(f"There is no session {session}.")
        if row.owner != who:
            fence = AsObserver(version=row.handle.version, head=row.handle.head)
            with suppress(HeadMoved):  # whether one may is asked before that is seen
                await self._services.ledger.commit(
                    Commit(session=session, actor=who, at=self._services.clock.now_ms(), fence=fence)
                )
        return row

    async def _begin(
        self, caller: Caller, asked: Asked, named: str | None, previous: str | None = None
    ) -> Answering:
        """Raises ApiError for whatever goes wrong before the first word; then nothing was opened, and nothing taken."""
        model = await self._offered.named(asked.model)
        if named is None and previous is None:
            check_order(asked.said)
            exchange = self.stateless.begin(caller.who, caller.surface, asked.said, asked.brought, model)

            async def left() -> None:
                self.stateless.leave(exchange)

            return await _opened(exchange, model or await self._offered.default(), None, left)
        newest(asked.said)
        if previous is None:
            row = (
                await self.open(caller)
                if named == NEW
                else await self.writable(caller.who, SessionId(named or ""))
            )
            return await _opened(*await self._said(caller, asked, row, model))
        async with self._carrying:  # until it is on disk: whoever names the same response next sees it
            row = await self._session_of(caller, previous, asked)
            begun = await self._said(caller, asked, row, model)
        return await _opened(*begun)

    async def _said(
        self, caller: Caller, asked: Asked, row: SessionRow, model: str | None
    ) -> tuple[Exchange, str, SessionId, Leave]:
        """What is new is on disk when this returns."""
        line = await self._lines.line(caller.who, row.id, caller.surface)
        row = await self._with_model(caller, row, model)
        results, users = newest(asked.said)
        if results:
            exchange = await line.answer_calls(results, users, asked.brought)
        else:
            exchange = await line.say(users, asked.brought)

        async def leave() -> None:
            if self._stops:
                await line.leave(exchange)

        return exchange, row.model or await self._offered.default(), row.id, leave

    async def _with_model(self, caller: Caller, row: SessionRow, model: str | None) -> SessionRow:
        """A client that names another model than the session's changes it, as /model does."""
        if model is None or model == (row.model or await self._offered.default()):
            return row
        return await self._services.desk.change(caller.who, row.id, SessionPatch(model=model))

    async def _session_of(self, caller: Caller, previous: str, asked: Asked) -> SessionRow:
        """The response's own session where it is the newest of it, and a fork from the response where it is not."""
        named = responses.named(previous)
        gone = not_found(f"There is no response {previous[:60]!r}.")
        if named is None:
            raise gone
        session = named.session
        try:
            row = await self.writable(caller.who, session)
        except NotFound:
            raise gone from None
        ledger = self._services.ledger
        results, _ = newest(asked.said)
        if results:
            return row  # its turn waits for them
        turn, last_step = await ledger.turn(caller.who, session), await self._handed_over(caller.who, named)
        is_newest = turn is not None and turn.turn == named.turn and turn.state != TurnState.RUNNING
        if is_newest and last_step is None and not await ledger.queued(caller.who, session):
            last = await ledger.path(caller.who, session, above=max(row.handle.head.seq - 1, 0))
            if last and last[-1].turn == named.turn:
                return row
        end = await self._end_of(caller.who, named, last_step)
        if end is None:
            raise gone
        return await self._services.desk.fork(caller.who, session, caller.surface, end)

    async def _handed_over(self, who: PrincipalId, response: Began) -> int | None:
        """The step whose calls the response ended with, where it ended with calls that the client ran."""
        ledger = self._services.ledger
        theirs = client_tool_names(await ledger.prefix(who, response.session))
        calls = await ledger.calls(who, response.session, response.turn)
        steps = (c.step for c in calls if c.step > response.after and c.name in theirs and c.started_at)
        return min(steps, default=None)

    async def _end_of(self, who: PrincipalId, response: Began, step: int | None) -> Head | None:
        """The last message of a response, on the path or off it: what asks for the calls of this step, or the turn's last."""
        ledger, session = self._services.ledger, response.session
        branches = reversed(await ledger.branches(who, session))
        own = [branch.id for branch in branches if branch.session == session]
        for branch in (None, *own):
            messages = (
                await ledger.path(who, session)
                if branch is None
                else await ledger.segment(who, session, branch)
            )
            of_turn = [m for m in messages if m.turn == response.turn]
            if step is not None:
                of_turn = [m for m in of_turn if m.step == step and m.role is Role.ASSISTANT]
            if of_turn:
                return of_turn[-1].head
        return None


async def _opened(exchange: Exchange, model: str, session: SessionId | None, leave: Leave) -> Answering:
    """Waits until the turn began, and a while for its first word. Raises ApiError when it ends in one before."""
    try:
        return await _waited(exchange, model, session, leave)
    except asyncio.CancelledError:
        await leave()
        raise


async def _waited(exchange: Exchange, model: str, session: SessionId | None, leave: Leave) -> Answering:
    began, *batch = await exchange.taken()
    if isinstance(began, Ended):
        raise began.error or ApiError(500, "internal_error", "It ended before it began.")
    assert isinstance(began, Began)
    if not batch:
        with suppress(TimeoutError):  # its first word is late: the stream begins without
            async with asyncio.timeout(FIRST_SECONDS):
                batch = [*await exchange.taken()]
    if batch and isinstance(ended := batch[0], Ended) and ended.error is not None:
        raise ended.error

    async def batches() -> Batches:
        taken: Sequence[Piece] = batch
        yield taken
        while not (taken and isinstance(taken[-1], Ended)):
            taken = await exchange.taken()
            yield taken

    return Answering(began, batches(), model, session, leave)


async def _nothing() -> None:
    """What is done where the client left before anything began."""


def _headers(session: SessionId | None) -> dict[str, str]:
    return {} if session is None else {SESSION: session}


def _json(answer: msgspec.Struct, session: SessionId | None) -> Response:
    return Response(msgspec.json.encode(answer), 200, _headers(session), "application/json")
