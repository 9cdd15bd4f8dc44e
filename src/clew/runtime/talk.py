"""A conversation as a surface holds it: somebody in a place, a session, and at most one turn under way here.

A surface hands over lines and shows what comes back. It owns no history: every answer is read from the ledger.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec

from clew.domain.conversation.ids import ConversationId, PrincipalId, SessionId
from clew.domain.ledger.commits import (
    AddUsage,
    AsObserver,
    Commit,
    NewSession,
    Receive,
    Received,
    UsageState,
)
from clew.domain.ledger.errors import NotFound, Outdated, Refused
from clew.domain.ledger.rows import Origin, SessionRow, TurnState, UsageTotals
from clew.domain.tools.policy import ApprovalMode
from clew.domain.turn.prefix import Instructions
from clew.runtime.commands import CommandContext, CommandError, CommandReply, run_command
from clew.runtime.commands.values import Processes
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.models import ModelSource
from clew.runtime.ports.people import Approver, Noticed, Watch
from clew.runtime.ports.tools import Tool
from clew.runtime.ports.world import Chance, Clock
from clew.runtime.sessions import Place, SessionDesk
from clew.runtime.turns.opening import LeftOpen
from clew.runtime.turns.openings import Opening, Recover, Say
from clew.runtime.turns.outcome import TurnOutcome
from clew.runtime.turns.recovering import NOTICE, GivenUp
from clew.runtime.turns.runner import RunningTurn, TurnJob, TurnRunner
from clew.runtime.turns.waiting import (
    EVENT,
    MESSAGE,
    NewFile,
    QueuedMessage,
    messages_among,
    pack_event,
    pack_message,
    unpack,
    written,
)

__all__ = ["EVENT", "MESSAGE", "Notify", "QueuedMessage", "Services", "SessionTools", "Talk", "Toolmaker"]

UPDATED: Final = "Clew was updated while this ran: start it again. Nothing was lost."
QUEUED_MAX: Final = 100
"""Messages that may wait for one session's turn to end."""
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
    is_replaced: Callable[[], bool] = lambda: False
    """Whether the package on disk is another one by now: then no turn begins here any more."""
    export: Callable[[SessionId, str], Awaitable[str]] | None = None
    in_memory: Callable[[], Services] | None = None
    """Makes services over a ledger that lives in memory only: what is said there is gone with it."""


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a temporary talk goes back to, and the row that its usage is counted under."""

    services: Services
    session: SessionId | None
    counted: SessionId


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
        self._kept: _Kept | None = None

    # -- lines ---------------------------------------------------------------------------------------------------
    async def command(self, text: str) -> CommandReply:
        """Does a command. Raises CommandError with the one clear answer."""
        try:
            reply = await run_command(await self._context(), text)
        finally:
            if self.running is not None:
                self.running.look()  # the command may have ended its turn
        if reply.session is not None:
            self.session = reply.session
        return await self._turn_temporary() if reply.turns_temporary else reply

    async def say(
        self, text: str | bytes, watch: Watch, approver: Approver, files: Sequence[NewFile] = ()
    ) -> RunningTurn:
        """Begins a turn with what a person said; the returned turn is then finished by the caller."""
        return await self.begin(self.saying(text, files), watch, approver)

    def saying(self, text: str | bytes, files: Sequence[NewFile] = ()) -> Say:
        """What a person says here, as the opening of a turn."""
        return Say(text=text, files=tuple(files), cwd=str(self.cwd))

    async def begin(self, opening: Opening, watch: Watch, approver: Approver) -> RunningTurn:
        """Begins a turn, after the one that a process may have left in the middle here.

        Raises Busy, Refused, NotFound, ModelUnavailable, Outdated; then no session was opened for it.
        """
        try:
            return await self._begin(opening, watch, approver)
        except LeftOpen:
            opening = await self._kept_for_later(opening)
            await self.recover(watch, approver)
            return await self._begin(opening, watch, approver)

    async def recover(self, watch: Watch, approver: Approver) -> TurnOutcome | None:
        """Goes on with a turn that a process left in the middle here, to its end; None when there is nothing to go on with.

        Raises Busy when the process that holds the session lives, ModelUnavailable.
        """
        if not await self.is_left_open():
            return None
        try:
            turn = await self._begin(Recover(), watch, approver)
        except GivenUp as given_up:
            await self._tell(watch, str(given_up))
            return None
        await self._tell(watch, "")
        return await turn.finish()

    async def is_left_open(self) -> bool:
        """Whether the newest turn runs: in another process, or in none any more."""
        if self.session is None:
            return False
        turn = await self.services.ledger.turn(self.principal, self.session)
        return turn is not None and turn.state == TurnState.RUNNING

    async def _kept_for_later(self, opening: Opening) -> Opening:
        """On disk before the turn that has to come first: nothing said is lost if that ends us."""
        if not isinstance(opening, Say) or opening.inbox:
            return opening
        received = await self.queue(opening.text, opening.files)
        return msgspec.structs.replace(opening, inbox=(received.id,))

    async def _tell(self, watch: Watch, otherwise: str) -> None:
        """Says the notices that wait for this session, or `otherwise`. One that is on its way to be said is not said twice."""
        ledger, told = self.services.ledger, False
        for reply in await ledger.replies(self.principal, await self.ensure_session()):
            if reply.kind == NOTICE and reply.state == "pending" and reply.body is not None:
                await ledger.settle_reply(reply.id, "sent", None)
                watch(Noticed(reply.body))
                told = True
        if otherwise and not told:
            watch(Noticed(otherwise))

    async def _begin(self, opening: Opening, watch: Watch, approver: Approver) -> RunningTurn:
        self._refuse_outdated()
        known = await self._row() if self.session is not None else None
        model = await self.services.models.choose(known.model if known else None)
        row = known or await self._row()
        tools = await self._tools_of(row.id) if model.profile.takes_tools else None
        job = TurnJob(
            principal=self.principal,
            session=row.id,
            opening=opening,
            conversation=await self.services.desk.conversation_of(self.place, row.id),
            model=model,
            tools=tools.tools() if tools else (),
            cwd=self.cwd,
            instructions=self.services.instructions(self.cwd),
            notify=self._notify_for(row.id),
        )
        self._refuse_outdated()  # again: what was imported for this turn was of the same version
        self.running = await self.services.runner.begin(job, watch, approver)
        return self.running

    @property
    def outdated(self) -> Outdated | None:
        """Why no turn begins here any more: the package was replaced. What is said can still be queued."""
        return Outdated(UPDATED) if self.services.is_replaced() else None

    def _refuse_outdated(self) -> None:
        if (outdated := self.outdated) is not None:
            raise outdated

    async def ensure_session(self) -> SessionId:
        """The session of this conversation; opened if there is none yet."""
        return (await self._row()).id

    # -- what waits ----------------------------------------------------------------------------------------------
    async def queue(self, text: str | bytes, files: Sequence[NewFile] = ()) -> Received:
        """Keeps a message for after the running turn. It is on disk when this returns. Raises Refused over the limit."""
        session = await self.ensure_session()
        waiting = await self.services.ledger.queued(self.principal, session)
        if len(waiting) >= QUEUED_MAX:
            raise Refused(f"{QUEUED_MAX} messages wait already: this one was not taken.")
        return await self._receive(session, MESSAGE, pack_message(text, str(self.cwd), files))

    async def next_queued(self) -> Say | None:
        """The oldest message of this principal's that waits, as the opening of a turn."""
        session = await self.ensure_session()
        for row in messages_among(await self.services.ledger.queued(self.principal, session)):
            if row.principal == self.principal:
                body = unpack(row.body)
                return Say(text=body.said, cwd=body.cwd, files=body.attached, inbox=(row.id,))
        return None

    # -- words that are not kept ---------------------------------------------------------------------------------
    @property
    def is_temporary(self) -> bool:
        return self._kept is not None

    async def _turn_temporary(self) -> CommandReply:
        if self._kept is not None:
            return await self._come_back()
        in_memory = self.services.in_memory
        if in_memory is None:
            raise CommandError("There is no temporary talk here; the chat has it.")
        kept = self.services
        if self.session is not None:
            await self._stop(kept, self.session)
        counted = kept.desk.new_id()
        row = NewSession(
            id=counted, owner=self.principal, surface=self.place.surface, origin=Origin.NEW, temporary=True
        )
        await kept.ledger.open(row, actor=self.principal, at=kept.clock.now_ms())
        self._kept = _Kept(services=kept, session=self.session, counted=counted)
        self.services, self.session = in_memory(), None
        return CommandReply(
            text="Temporary: from here on nothing that is said is kept; only what it used is counted. "
            "It has no title, search or export. /temporary again ends it, and the words are gone.",
            ends_turn=True,
        )

    async def _come_back(self) -> CommandReply:
        """Counts what was used, and lets the words go."""
        kept, self._kept = self._kept, None
        assert kept is not None
        if self.session is not None:
            await self._stop(self.services, self.session)
            await self._close_tools(self.session)
        used = await self.services.ledger.usage(self.principal)
        self.services, self.session = kept.services, kept.session
        await self._count(kept.counted, used)
        where = (
            f"Back in session {self.session}."
            if self.session
            else "What you say next begins a session that is kept."
        )
        return CommandReply(
            text=f"The temporary talk is over, and its words are gone. {where}", ends_turn=True
        )

    async def _count(self, counted: SessionId, used: UsageTotals) -> None:
        ledger = self.services.ledger
        handle = (await ledger.session(self.principal, counted)).handle
        usage = AddUsage(
            turn=0, step=0, attempt=1, task="temporary", model="", state=UsageState.SETTLED, input=used.input,
            output=used.output, cache_read=used.cache_read, cache_write=used.cache_write, cost_usd=used.cost_usd,
        )  # fmt: skip
        fence = AsObserver(version=handle.version, head=handle.head)
        now = self.services.clock.now_ms()
        await ledger.commit(
            Commit(session=counted, actor=self.principal, at=now, fence=fence, usage=(usage,))
        )

    async def _stop(self, services: Services, session: SessionId) -> None:
        await services.desk.stop(self.principal, session)
        if self.running is not None:
            self.running.look()

    async def _close_tools(self, session: SessionId) -> None:
        tools = self._tools.pop(session, None)
        if tools is not None:
            await tools.close()

    async def close(self) -> None:
        """Ends what the tools started, and a temporary talk. Idempotent."""
        try:
            if self._kept is not None:
                await self._come_back()
        finally:
            for tools in self._tools.values():
                await tools.close()
            self._tools.clear()

    # -- pieces --------------------------------------------------------------------------------------------------
    async def problems(self) -> Sequence[str]:
        """Opens the session's tools if they are not open yet; the servers that did not start, a sentence each."""
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
            with suppress(NotFound):  # it was deleted elsewhere: the commands that need it say so
                row = await self.services.ledger.session(self.principal, self.session)
        tools = self._tools.get(row.id) if row else None
        return CommandContext(
            principal=self.principal,
            place=self.place,
            session=row,
            missing=self.session if row is None else None,
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
            if turn is not None and turn.session == session and await turn.record_event(kind, text):
                return
            try:
                await self._receive(session, EVENT, pack_event(kind, text))
            except NotFound:
                return  # the session was deleted, and with it whoever could be told

        return notify

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
                body=written(body),
                at=self.services.clock.now_ms(),
            )
        )
