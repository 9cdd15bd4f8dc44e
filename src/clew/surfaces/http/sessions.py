"""The session API: what a web page and other programs stand on. Commands do what they do on every surface."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.responses import Response

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.rows import ApprovalState, Order
from clew.runtime.sessions import Place
from clew.runtime.talk import Services
from clew.surfaces.http import live, views
from clew.surfaces.http.asked import Brought, UserSaid
from clew.surfaces.http.completions import Completions
from clew.surfaces.http.errors import bad_request
from clew.surfaces.http.lines import Lines
from clew.surfaces.http.operations import Asking, Handler, Operation
from clew.surfaces.http.streaming import Client, EventStream

ROOT: Final = "/v1/clew/sessions"
ONE: Final = "/v1/clew/sessions/{session}"
LAST_EVENT: Final = "Last-Event-ID"
Page = Annotated[int, Meta(ge=1, le=200)]
Words = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"\S")]
Name = Annotated[str, Meta(max_length=200)]


class ListQuery(msgspec.Struct, kw_only=True):
    limit: Page = 20
    before: Name | None = None
    archived: bool = False


class MessagesQuery(msgspec.Struct, kw_only=True):
    after: Annotated[int, Meta(ge=0)] = 0
    limit: Page = 100


class SearchQuery(msgspec.Struct, kw_only=True):
    q: Annotated[str, Meta(max_length=1_000)]
    """Four bytes a character, each escaped as three, are less than a request's head may have."""
    limit: Page = 20
    newest: bool = False
    session: Name | None = None


class EventsQuery(msgspec.Struct, kw_only=True):
    after: Annotated[int, Meta(ge=0)] | None = None
    """The version to begin after; `Last-Event-ID` says the same, and counts more."""


class NewSessionBody(msgspec.Struct, kw_only=True):
    title: Words | None = None


class Say(msgspec.Struct, kw_only=True):
    text: Annotated[str, Meta(min_length=1)]


class Undo(msgspec.Struct, kw_only=True):
    turns: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


class Title(msgspec.Struct, kw_only=True):
    title: Words


class Decide(msgspec.Struct, kw_only=True):
    approval: Annotated[str, Meta(pattern="^[0-9A-Za-z-]{1,80}$")] | None = None
    """Not needed where one waits."""


class NoBody(msgspec.Struct, kw_only=True):
    """An empty object, or no body at all."""


class Sessions:
    def __init__(
        self, services: Services, lines: Lines, completions: Completions, *, events_seconds: float
    ) -> None:
        self._services = services
        self._lines = lines
        self._completions = completions
        self._events_seconds = events_seconds

        def get(
            path: str, summary: str, answer: type[msgspec.Struct] | None, handle: Handler, **more: object
        ) -> Operation:
            return Operation(
                method="GET", path=path, summary=summary, answer=answer, handle=handle, **more  # type: ignore[arg-type]
            )  # fmt: skip

        def post(
            path: str,
            summary: str,
            body: type[msgspec.Struct],
            handle: Handler,
            answer: type[msgspec.Struct] = views.Done,
        ) -> Operation:
            return Operation(
                method="POST", path=path, summary=summary, body=body, answer=answer, handle=handle
            )

        self.operations = (
            get(ROOT, "Sessions by last activity.", views.SessionList, self._list, query=ListQuery),
            post(ROOT, "Opens a session.", NewSessionBody, self._open, views.Session),
            get("/v1/clew/search", "Searches all that was said.", views.FoundList, self._search, query=SearchQuery),
            get(ONE, "One session.", views.Session, self._one),
            get(f"{ONE}/messages", "What was said, on the path.", views.MessageList, self._messages, query=MessagesQuery),
            post(f"{ONE}/messages", "Says something; the answer comes by /events.", Say, self._say, views.Accepted),
            get(f"{ONE}/tree", "Branches and children.", views.Tree, self._tree),
            get(f"{ONE}/approvals", "Calls that wait for a yes.", views.ApprovalList, self._approvals),
            get(
                f"{ONE}/events", "What happens in it from now, or from an event, on.", None, self._events, query=EventsQuery,
                events=(views.OpEvent, views.TurnEvent, views.DeltaEvent, views.GoneEvent), headers=(LAST_EVENT,),
            ),
            post(f"{ONE}/branch", "Opens a session that starts where the last turn ended.", NewSessionBody, self._branch),
            post(f"{ONE}/undo", "Takes back the last turns.", Undo, self._undo),
            post(f"{ONE}/redo", "Takes back the last undo.", NoBody, self._command("redo")),
            post(f"{ONE}/retry", "Answers the last message again.", NoBody, self._command("retry")),
            post(f"{ONE}/stop", "Ends the running turn.", NoBody, self._command("stop")),
            post(f"{ONE}/title", "Sets the title.", Title, self._title),
            post(f"{ONE}/approve", "Lets a waiting call run.", Decide, self._approve),
            post(f"{ONE}/deny", "Refuses a waiting call.", Decide, self._deny),
        )  # fmt: skip

    # -- reading -------------------------------------------------------------------------------------------------
    async def _list(self, asking: Asking) -> views.SessionList:
        query: ListQuery = asking.query
        rows = await self._services.ledger.sessions(
            asking.caller.who, limit=query.limit, before=_page(query.before), archived=query.archived
        )
        last = rows[-1] if len(rows) == query.limit else None
        return views.SessionList(
            data=[views.session(row) for row in rows],
            next=None if last is None else f"{last.last_active_at}.{last.id}",
        )

    async def _search(self, asking: Asking) -> views.FoundList:
        query: SearchQuery = asking.query
        found = await self._services.ledger.search(
            asking.caller.who,
            query.q,
            limit=query.limit,
            order=Order.NEWEST if query.newest else Order.RANKED,
            session=None if query.session is None else SessionId(query.session),
        )
        return views.FoundList(
            data=[views.found(hit) for hit in found.hits], incomplete_since=found.incomplete_since
        )

    async def _one(self, asking: Asking) -> views.Session:
        return await self._view(asking.caller.who, _session(asking))

    async def _messages(self, asking: Asking) -> views.MessageList:
        query: MessagesQuery = asking.query
        who, session, ledger = asking.caller.who, _session(asking), self._services.ledger
        head = (await ledger.session(who, session)).handle.head
        path = await ledger.path(who, session, head, above=min(query.after, head.seq))
        page = path[: query.limit]
        return views.MessageList(
            data=[views.message(message) for message in page],
            next=page[-1].seq if len(page) < len(path) else None,
        )

    async def _tree(self, asking: Asking) -> views.Tree:
        who, session, ledger = asking.caller.who, _session(asking), self._services.ledger
        return views.Tree(
            session=await self._view(who, session),
            branches=[views.branch(row) for row in await ledger.branches(who, session)],
            children=[views.session(row) for row in await ledger.children(who, session)],
        )

    async def _approvals(self, asking: Asking) -> views.ApprovalList:
        rows = await self._services.ledger.approvals(asking.caller.who, _session(asking))
        waiting = [views.approval(row) for row in rows if row.state == ApprovalState.PENDING]
        return views.ApprovalList(data=waiting)

    async def _events(self, asking: Asking) -> Response:
        query: EventsQuery = asking.query
        who, session = asking.caller.who, _session(asking)
        said = asking.request.headers.get(LAST_EVENT)
        if said is not None and not (said.isascii() and said.isdigit() and len(said) < 16):
            raise bad_request("The id of an event is a number.", LAST_EVENT)
        last = query.after if said is None else int(said)
        ledger = self._services.ledger
        seen = await live.first_version(ledger, who, session, last)
        events = live.follow(ledger, self._lines, who, session, seen, seconds=self._events_seconds)

        async def nothing() -> None:
            """Whoever only looked on leaves nothing behind."""

        return EventStream(
            Client(asking.request.receive), (event.encoded() async for event in events), nothing
        )

    # -- changing ------------------------------------------------------------------------------------------------
    async def _open(self, asking: Asking) -> views.Session:
        body: NewSessionBody = asking.body
        row = await self._completions.open(asking.caller)
        if body.title is not None:
            row = await self._services.desk.title(asking.caller.who, row.id, body.title)
        return views.session(row)

    async def _say(self, asking: Asking) -> views.Accepted:
        body: Say = asking.body
        who, session = asking.caller.who, _session(asking)
        await self._completions.writable(who, session)
        line = await self._lines.line(who, session, asking.caller.surface)
        exchange = await line.say([UserSaid(text=body.text)], Brought())
        assert exchange.received is not None
        return views.Accepted(received=exchange.received, session=await self._view(who, session))

    async def _branch(self, asking: Asking) -> views.Done:
        body: NewSessionBody = asking.body
        who, session = asking.caller.who, _session(asking)
        surface, into = asking.caller.surface, self._services.desk.new_id()
        place = Place(route_key=f"{surface}:{into}", surface=surface)
        row = await self._services.desk.branch(who, session, place, title=body.title, into=into)
        text = f"Branched from {session} into {row.id}; the old one stays as it is."
        return views.Done(text=text, session=views.session(row))

    async def _undo(self, asking: Asking) -> views.Done:
        body: Undo = asking.body
        return await self._done(asking, f"/undo {body.turns}")

    async def _title(self, asking: Asking) -> views.Done:
        body: Title = asking.body
        return await self._done(asking, f"/title {body.title}")

    async def _approve(self, asking: Asking) -> views.Done:
        body: Decide = asking.body
        return await self._done(asking, f"/approve {body.approval or ''}")

    async def _deny(self, asking: Asking) -> views.Done:
        body: Decide = asking.body
        return await self._done(asking, f"/deny {body.approval or ''}")

    def _command(self, name: str) -> Handler:
        async def handle(asking: Asking) -> views.Done:
            return await self._done(asking, f"/{name}")

        return handle

    async def _done(self, asking: Asking, command: str) -> views.Done:
        who, session = asking.caller.who, _session(asking)
        await self._completions.writable(who, session)
        line = await self._lines.line(who, session, asking.caller.surface)
        reply = await line.talk.command(command)
        if reply.opening is not None:
            line.start(reply.opening)
        return views.Done(text=reply.text, session=await self._view(who, session))

    async def _view(self, who: PrincipalId, session: SessionId) -> views.Session:
        return views.session(await self._services.ledger.session(who, session))


def _session(asking: Asking) -> SessionId:
    return SessionId(asking.path["session"])


def _page(before: str | None) -> tuple[int, str] | None:
    if before is None:
        return None
    at, _, session = before.partition(".")
    if not (at.isascii() and at.isdigit() and len(at) < 16 and session):
        raise bad_request("`before` is the `next` of the page before.", "before")
    return int(at), session
