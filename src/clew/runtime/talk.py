"""A conversation as a surface holds it: somebody in a place, a session, and at most one turn under way here.

A surface hands over lines and shows what comes back. It owns no history: every answer is read from the ledger.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from clew.domain.conversation.ids import ConversationId, PrincipalId, SessionId
from clew.domain.conversation.text import clean
from clew.domain.ledger.commits import Receive, Received
from clew.domain.ledger.errors import NotFound
from clew.domain.ledger.rows import InboxRow, SessionRow
from clew.domain.tools.policy import ApprovalMode
from clew.domain.turn.prefix import Instructions
from clew.runtime.commands import CommandContext, CommandReply, run_command
from clew.runtime.commands.values import Processes
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.models import ModelSource
from clew.runtime.ports.people import Approver, Watch
from clew.runtime.ports.tools import Tool
from clew.runtime.ports.world import Chance, Clock
from clew.runtime.sessions import Place, SessionDesk
from clew.runtime.turns.opening import NewFile, Opening, Say
from clew.runtime.turns.runner import RunningTurn, TurnJob, TurnRunner

MESSAGE: Final = "message"
EVENT: Final = "event"
Notify = Callable[[str, str], Awaitable[None]]


class SessionTools(Protocol):
    """The tools that a session has here, and the processes they started."""

    @property
    def processes(self) -> Processes | None: ...

    @property
    def problems(self) -> Sequence[str]:
        """Tool servers that did not start, one sentence each."""
        ...

    def tools(self) -> Sequence[Tool]: ...

    async def close(self) -> None: ...


class Toolmaker(Protocol):
    async def open(
        self, session: SessionId, principal: PrincipalId, cwd: Path, notify: Notify
    ) -> SessionTools: ...


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """What every conversation of a process shares."""

    ledger: Ledger
    desk: SessionDesk
    runner: TurnRunner
    models: ModelSource
    clock: Clock
    chance: Chance
    toolmaker: Toolmaker
    instructions: Callable[[Path], Sequence[Instructions]]
    export: Callable[[SessionId, str], Awaitable[str]] | None = None


class QueuedMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of an inbox row: what a person sent, or what happened, before a turn took it."""

    text: str
    cwd: str | None = None
    files: tuple[tuple[str, str, str | None], ...] = ()
    """(media type, base64, name)"""
    event: str = ""


_decode: Final = msgspec.json.Decoder(QueuedMessage).decode


class Talk:
    """One place's conversation."""

    def __init__(
        self,
        services: Services,
        principal: PrincipalId,
        place: Place,
        cwd: Path,
        session: SessionId | None = None,
    ) -> None:
        self.services = services
        self.principal = principal
        self.place = place
        self.cwd = cwd
        self.session = session
        self.running: RunningTurn | None = None
        self._tools: dict[SessionId, SessionTools] = {}

    # -- lines ---------------------------------------------------------------------------------------------------
    async def command(self, text: str) -> CommandReply:
        """Does a command. Raises CommandError with the one clear answer."""
        reply = await run_command(await self._context(), text)
        if reply.session is not None:
            self.session = reply.session
        return reply

    async def say(
        self, text: str | bytes, watch: Watch, approver: Approver, files: Sequence[NewFile] = ()
    ) -> RunningTurn:
        """Begins a turn with what a person said; the returned turn is then finished by the caller."""
        return await self.begin(Say(text=text, files=tuple(files), cwd=str(self.cwd)), watch, approver)

    async def begin(self, opening: Opening, watch: Watch, approver: Approver) -> RunningTurn:
        """Begins a turn. Raises Busy, Refused, ModelUnavailable."""
        row = await self._row()
        model = await self.services.models.choose(row.model)
        tools = await self._tools_of(row.id) if model.profile.takes_tools else None
        job = TurnJob(
            principal=self.principal,
            session=row.id,
            opening=await self._with_events(opening, row.id),
            model=model,
            tools=tools.tools() if tools else (),
            cwd=self.cwd,
            instructions=self.services.instructions(self.cwd),
            notify=self._notify_for(row.id),
        )
        self.running = await self.services.runner.begin(job, watch, approver)
        return self.running

    async def ensure_session(self) -> SessionId:
        """The session of this conversation; opened if there is none yet."""
        return (await self._row()).id

    # -- what waits ----------------------------------------------------------------------------------------------
    async def queue(self, text: str, files: Sequence[NewFile] = ()) -> Received:
        """Keeps a message for after the running turn. It is on disk when this returns."""
        packed = tuple((f.media_type, base64.b64encode(f.bytes).decode(), f.name) for f in files)
        body = QueuedMessage(text=clean(text).text, cwd=str(self.cwd), files=packed)
        return await self._receive(await self.ensure_session(), MESSAGE, body)

    async def next_queued(self) -> Say | None:
        """The oldest message that waits, as the opening of a turn."""
        session = await self.ensure_session()
        for row in await self.services.ledger.queued(self.principal, session):
            if row.kind == MESSAGE:
                body = _decode(row.body)
                files = tuple(
                    NewFile(media_type=m, bytes=base64.b64decode(b), name=n) for m, b, n in body.files
                )
                return Say(text=body.text, cwd=body.cwd, files=files, inbox=(row.id,))
        return None

    async def close(self) -> None:
        """Ends what the tools started. Idempotent."""
        for tools in self._tools.values():
            await tools.close()
        self._tools.clear()

    # -- pieces --------------------------------------------------------------------------------------------------
    async def problems(self) -> Sequence[str]:
        """Tool servers of this session that did not start."""
        return () if self.session is None else (await self._tools_of(self.session)).problems

    async def _row(self) -> SessionRow:
        if self.session is None:
            left = await self.services.desk.open(self.principal, self.place, cwd=str(self.cwd))
            self.session = left.row.id
            return left.row
        return await self.services.ledger.session(self.principal, self.session)

    async def _context(self) -> CommandContext:
        row = None
        if self.session is not None:
            try:
                row = await self.services.ledger.session(self.principal, self.session)
            except NotFound:
                self.session = None  # it was deleted elsewhere
        tools = self._tools.get(row.id) if row else None
        return CommandContext(
            principal=self.principal,
            place=self.place,
            session=row,
            desk=self.services.desk,
            ledger=self.services.ledger,
            clock=self.services.clock,
            models=self.services.models,
            cwd=self.cwd,
            default_mode=ApprovalMode(self.services.runner.settings.approval_mode),
            processes=tools.processes if tools else None,
            export=self.services.export,
        )

    async def _tools_of(self, session: SessionId) -> SessionTools:
        if session not in self._tools:
            self._tools[session] = await self.services.toolmaker.open(
                session, self.principal, self.cwd, self._notify_for(session)
            )
        return self._tools[session]

    def _notify_for(self, session: SessionId) -> Notify:
        async def notify(kind: str, text: str) -> None:
            """A running turn records the event at once; otherwise it waits in the inbox for the next turn."""
            turn = self.running
            if turn is None or turn.session != session or not await turn.record_event(kind, text):
                await self._receive(session, EVENT, QueuedMessage(text=clean(text).text, event=kind))

        return notify

    async def _with_events(self, opening: Opening, session: SessionId) -> Opening:
        if not isinstance(opening, Say):
            return opening
        rows = [r for r in await self.services.ledger.queued(self.principal, session) if r.kind == EVENT]
        events = tuple(_event_of(row) for row in rows)
        return msgspec.structs.replace(
            opening, events=events, inbox=(*(row.id for row in rows), *opening.inbox)
        )

    async def _receive(self, session: SessionId, kind: str, body: QueuedMessage) -> Received:
        conversation: ConversationId = await self.services.desk.conversation_of(self.place, session)
        return await self.services.ledger.receive(
            Receive(
                account=self.place.surface,
                external_key=self.services.chance.token(20),
                conversation=conversation,
                session=session,
                principal=self.principal,
                kind=kind,
                body=msgspec.json.encode(body).decode(),
                at=self.services.clock.now_ms(),
            )
        )


def _event_of(row: InboxRow) -> tuple[str, str]:
    body = _decode(row.body)
    return (body.event, body.text)
