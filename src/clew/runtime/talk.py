"""A conversation as a surface holds it: somebody in a place, a session, and at most one turn under way here.

A surface hands over lines and shows what comes back. It owns no history: every answer is read from the ledger.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakValueDictionary

import msgspec

from clew.domain.conversation.ids import InboxId, PrincipalId, SessionId
from clew.domain.ledger.commits import (
    Received,
)
from clew.domain.ledger.errors import NotFound, Outdated, Refused
from clew.domain.ledger.rows import SessionRow, TurnState
from clew.domain.tools.policy import ApprovalMode
from clew.domain.turn.prefix import Instructions
from clew.runtime.commands import CommandContext, CommandError, CommandReply, run_command
from clew.runtime.commands.values import MISSING, BackgroundWork, Processes
from clew.runtime.memory.desk import MemoryDesk
from clew.runtime.metering import Meter
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.models import ModelSource
from clew.runtime.ports.people import Approver, Noticed, Watch
from clew.runtime.ports.tools import Surroundings, Tool
from clew.runtime.ports.world import Chance, Clock
from clew.runtime.sending import Sender, Sent
from clew.runtime.sessions import LOOKED_ON, Place, SessionDesk
from clew.runtime.turns.opening import LeftOpen
from clew.runtime.turns.openings import Hear, Opening, Recover, Say
from clew.runtime.turns.outbox import NOTICE, Outbox
from clew.runtime.turns.outcome import STOPPED, TurnOutcome, outcome_of
from clew.runtime.turns.recovering import GivenUp
from clew.runtime.turns.runner import RunningTurn, TurnJob, TurnRunner
from clew.runtime.turns.waiting import (
    EVENT,
    MESSAGE,
    BusyMode,
    NewFile,
    QueuedMessage,
    Speaker,
    pack_event,
)
from clew.runtime.unkept import Tab

if TYPE_CHECKING:
    from clew.runtime.jobs import Jobs
    from clew.runtime.reminders import Reminders  # phrases and time zones: 20 ms that no start waits for

__all__ = ["EVENT", "MESSAGE", "Notify", "QueuedMessage", "Services", "SessionTools", "Talk", "Toolmaker"]

UPDATED: Final = "Clew was updated while this ran: start it again. Nothing was lost."
RECEIVED_LOOKED_AT: Final = 200
"""How many of the messages received last are looked through for one that another process took."""
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

    def beside(self) -> SessionTools:
        """The same for who works beside the session in the same directory, with processes of its own. Nothing waits for
        servers: each is started by the first call of a tool of it."""
        ...

    async def close(self) -> None: ...


class Toolmaker(Protocol):
    async def open(
        self, session: SessionId, principal: PrincipalId, cwd: Path, notify: Notify
    ) -> SessionTools: ...

    def within(self, surroundings: Surroundings) -> Toolmaker:
        """The same for sessions of an editor."""
        ...


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
    meter: Meter = msgspec.field(default_factory=Meter)
    is_replaced: Callable[[], bool] = lambda: False
    """Whether the package on disk is another one by now: then no turn begins here any more."""
    reminders: Callable[[], Reminders] | None = None
    """Imported when it is first needed; None where nothing is kept."""
    memory: MemoryDesk | None = None
    """None where nothing is kept."""
    jobs: Jobs | None = None
    """Work for later, which every process that stays does its part of."""
    export: Callable[[SessionId, str], Awaitable[str]] | None = None
    prewarm: Callable[[Path], None] | None = None
    """Begins to start what the first turn in a directory would have to wait for. No turn depends on it."""
    delegate: Callable[[Services, SessionTools], Tool] | None = None
    """Makes the tool by which a turn with these tools hands tasks to subagents."""
    follows: frozenset[str] = frozenset()
    """The kinds of the jobs that an answered turn asks for, in talks of surfaces that stay."""
    talks: WeakValueDictionary[SessionId, Talk] = msgspec.field(default_factory=WeakValueDictionary)
    """Whom to tell here of what such jobs bring."""
    in_memory: Callable[[ModelSource], Services] | None = None
    """Makes services over a ledger that lives in memory only: what is said there is gone with it. Of the caps it keeps the one of
    a session; its models keep the others. Whoever made them closes their compactor."""

    def sender(self, who: PrincipalId, place: Place) -> Sender:
        """One person's way into sessions, from one place."""
        return Sender(self.desk, self.runner, self.clock, self.chance, who, place)


class _BeforeTemporary(msgspec.Struct, frozen=True, kw_only=True):
    """What a temporary talk goes back to."""

    services: Services
    session: SessionId | None


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
        self.is_occupied = False
        """Set by a surface as long as it runs turns and looks into the inbox after each."""
        self.kept: Say | None = None
        """The message that was last to begin a turn, if it was put into the inbox before: then it must not be sent anew."""
        self.background: BackgroundWork | None = None
        """Set by a surface that stays."""
        self.titled: Callable[[], None] | None = None
        """Set by a surface that stays, so that finished turns are followed; called when the session was given a title."""
        self._beginning = 0
        """How many turns are being begun here: looked for by a stop, which then has nothing in the ledger to end."""
        self._stops = 0
        """How often somebody stopped here: a turn whose beginning saw it grow begins no work."""
        self._tools: dict[SessionId, SessionTools] = {}
        self._before_temporary: _BeforeTemporary | None = None

    # -- lines ---------------------------------------------------------------------------------------------------
    async def command(self, text: str, speaker: Speaker | None = None) -> CommandReply:
        """Does a command. Raises CommandError with the one clear answer."""
        try:
            context = msgspec.structs.replace(await self._context(), speaker=speaker)
            reply = await run_command(context, text)
        finally:
            if self.running is not None:
                self.running.look()  # the command may have ended its turn
            self._nudge()  # or asked for work that nobody waits for
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
        self._beginning += 1
        self.kept = None
        try:
            return await self._begin(opening, watch, approver)
        except LeftOpen:
            opening = await self.keep(opening)
            await self.recover(watch, approver)
            return await self._begin(opening, watch, approver)
        finally:
            self._beginning -= 1

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
        except Refused:
            if await self.is_left_open():
                raise
            return None  # its own process has ended it meanwhile
        await self._tell(watch, "")
        return await turn.finish()

    async def is_left_open(self) -> bool:
        """Whether the newest turn runs: in another process, or in none any more."""
        if self.session is None:
            return False
        turn = await self.services.ledger.turn(self.principal, self.session)
        return turn is not None and turn.state == TurnState.RUNNING

    async def has_to_wait(self) -> bool:
        """Whether something comes before a message that is sent now: a turn that runs or was left open, or one that waits."""
        return self.session is not None and (
            await self.is_left_open() or await self.next_queued() is not None
        )

    async def keep(self, opening: Opening) -> Opening:
        """On disk before the turn that has to come first: nothing said is lost if that ends us."""
        if not isinstance(opening, Say) or opening.inbox:
            return opening
        # Steering would join the turn that comes first.
        mode = BusyMode.QUEUE if self.busy == BusyMode.STEER else self.busy
        received = await self.queue(opening.text, opening.files, mode)
        self.kept = msgspec.structs.replace(opening, inbox=(received.id,))
        return self.kept

    async def _tell(self, watch: Watch, otherwise: str) -> None:
        """Says the notices of this session that wait where people look on, and `otherwise` if it is none of them.

        Of several processes, one does. Those for a chat platform's place are its gateway's.
        """
        if self.place.holds is not None:
            return  # a gateway delivers them
        ledger = self.services.ledger
        replies = await ledger.replies(self.principal, await self.ensure_session())
        here = LOOKED_ON | {self.place.surface}
        notices = [reply for reply in replies if reply.kind == NOTICE and reply.surface in here]
        for notice in notices:
            if notice.state == "pending":
                with suppress(Refused):  # somebody else was quicker to say it
                    await ledger.settle_reply(notice.id, "sent", None)
                    watch(Noticed(notice.body or ""))
        if otherwise and all(notice.body != otherwise for notice in notices):
            watch(Noticed(otherwise))

    async def _begin(self, opening: Opening, watch: Watch, approver: Approver) -> RunningTurn:
        self._refuse_outdated()
        stops = self._stops
        known = await self._row() if self.session is not None else None
        model = await self.services.models.choose(known.model if known else None)
        row = known or await self._row()
        follows = frozenset[str]()
        if self.titled is not None:
            follows, self.services.talks[row.id] = self.services.follows, self
        if model.within is not None:
            model = model.within(row.id, self.cwd)
        tools = await self._tools_of(row.id) if model.profile.takes_tools else None
        conversation = await self.services.desk.conversation_of(self.place, row.id)
        holds = self.place.holds
        job = TurnJob(
            principal=self.principal,
            session=row.id,
            opening=opening,
            conversation=conversation,
            outbox=None if holds is None else Outbox(conversation=conversation, holds=holds),
            model=model,
            tools=(*tools.tools(), *self._delegate(tools), *model.tools) if tools else (),
            cwd=self.cwd,
            instructions=self.services.instructions(self.cwd),
            notify=self._notify_for(row.id),
            follows=follows,
            asked=self._nudge,
        )
        if self._stops != stops:
            raise Refused("Stopped before it was sent.")
        self._refuse_outdated()  # again: what was imported for this turn was of the same version
        self.running = await self.services.runner.begin(job, watch, approver)
        if self._stops != stops:
            self.running.stop(STOPPED)
        return self.running

    def _delegate(self, tools: SessionTools) -> tuple[Tool, ...]:
        make = self.services.delegate
        return () if make is None else (make(self.services, tools),)

    def _nudge(self) -> None:
        if self.services.jobs is not None:
            self.services.jobs.nudge()

    async def stop(self) -> bool:
        """Ends the running turn, wherever it runs, and keeps one that is beginning here from its work.

        False when there is neither.
        """
        self._stops += 1
        stopped = self.session is not None and await self.services.desk.stop(self.principal, self.session)
        return stopped or self._beginning > 0

    @property
    def outdated(self) -> Outdated | None:
        """Why no turn begins here any more: the package was replaced. What is said can still be queued."""
        return Outdated(UPDATED) if self.services.is_replaced() else None

    def _refuse_outdated(self) -> None:
        if (outdated := self.outdated) is not None:
            raise outdated

    async def ensure_session(self) -> SessionId:
        """The session of this conversation; opened if there is none yet. Raises NotFound when it was deleted."""
        return (await self._row()).id

    async def _any_session(self) -> SessionId:
        """The same for what looks by itself whether it was deleted."""
        return self.session or await self.ensure_session()

    # -- what waits ----------------------------------------------------------------------------------------------
    async def send(
        self, text: str | bytes, files: Sequence[NewFile] = (), mode: BusyMode | None = None
    ) -> Sent:
        """Sends a message, whatever is under way: the answer says whether to begin a turn now.

        It is on disk, and waits, joins the running turn or has cut it: by `mode`, or the setting `turn.busy`. Raises
        Refused when too many wait already.
        """
        session = await self._any_session()
        return await self._sender.send(session, self.saying(text, files), mode, occupied=self._is_occupied)

    async def queue(
        self, text: str | bytes, files: Sequence[NewFile] = (), mode: BusyMode = BusyMode.QUEUE
    ) -> Received:
        """Keeps a message that cannot begin a turn now. It is on disk when this returns. Raises Refused over the limit."""
        return await self._sender.keep(await self._any_session(), self.saying(text, files), mode)

    async def next_queued(self) -> Say | None:
        """The message of this principal's that is next, as the opening of a turn."""
        return await self._sender.next(await self._any_session())

    async def next_opening(self) -> Say | Hear | None:
        """What is next: a message of this principal's, or a reminder that has a turn of its own."""
        return await self._sender.next_opening(await self._any_session())

    async def is_busy(self) -> bool:
        """Whether a turn of the session is under way, in whatever living process."""
        return await self._sender.is_busy(await self._any_session())

    async def until_idle(self) -> None:
        """Returns when no turn of the session is under way in another process."""
        await self._sender.until_idle(await self._any_session())

    async def still_waits(self, *received: InboxId) -> bool:
        """Whether nobody has taken a message that waited, or taken it back."""
        return await self._sender.still_waits(await self._any_session(), received)

    async def taken_back(self, said: Say) -> bool:
        """Takes back a message that waits; False when a turn has it by now, or somebody was quicker."""
        session = await self.ensure_session()
        return bool(await self.services.desk.withdraw(self.principal, session, said.inbox, ""))

    async def answered_elsewhere(self, received: InboxId) -> TurnOutcome | None:
        """How the turn came out that another process took a message into, once it does not run any more.

        None when no turn took it: it waits, or was taken back. Raises NotFound when the session was deleted.
        """
        session = await self.ensure_session()
        rows = await self.services.ledger.received(self.principal, session, RECEIVED_LOOKED_AT)
        turn = next((row.turn for row in rows if row.id == received and row.turn is not None), None)
        if turn is None:
            return None
        await self._sender.until_idle(session, turn)
        return await outcome_of(self.services.ledger, self.principal, session, turn)

    @property
    def busy(self) -> BusyMode:
        """What a message does here that arrives while a turn runs, unless it says otherwise."""
        return self.services.runner.settings.busy

    @property
    def _is_occupied(self) -> bool:
        """Whether what is sent has to wait, even though the ledger knows of no turn."""
        return self.is_occupied or self.outdated is not None

    @property
    def _sender(self) -> Sender:
        return self.services.sender(self.principal, self.place)

    # -- words that are not kept ---------------------------------------------------------------------------------
    @property
    def is_temporary(self) -> bool:
        return self._before_temporary is not None

    async def _turn_temporary(self) -> CommandReply:
        if self._before_temporary is not None:
            return await self._come_back()
        in_memory = self.services.in_memory
        if in_memory is None:
            raise CommandError("There is no temporary talk here; the chat has it.")
        kept = self.services
        if self.session is not None:
            await self._stop(kept, self.session)
        tab = Tab(
            kept.desk, kept.clock, kept.runner.settings.caps,
            who=self.principal, surface=self.place.surface, task="temporary",
        )  # fmt: skip
        self._before_temporary = _BeforeTemporary(services=kept, session=self.session)
        self.services, self.session = in_memory(tab.models(kept.models)), None
        return CommandReply(
            text="Temporary: from here on nothing that is said is kept; only what it used is counted. "
            "It has no title, search or export. /temporary again ends it, and the words are gone.",
            ends_turn=True,
        )

    async def _come_back(self) -> CommandReply:
        """Lets the words go."""
        kept, self._before_temporary = self._before_temporary, None
        assert kept is not None
        if self.session is not None:
            await self._stop(self.services, self.session)
            await self._close_tools(self.session)
        await self.services.runner.compactor.close()
        self.services, self.session = kept.services, kept.session
        where = (
            f"Back in session {self.session}."
            if self.session
            else "What you say next begins a session that is kept."
        )
        return CommandReply(
            text=f"The temporary talk is over, and its words are gone. {where}", ends_turn=True
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
            if self._before_temporary is not None:
                await self._come_back()
        finally:
            for tools in self._tools.values():
                await tools.close()
            self._tools.clear()

    @property
    def has_processes(self) -> bool:
        """Whether tools hold processes, running or ended, that somebody may still want to hear of."""
        return any(tools.processes is not None and tools.processes.listed() for tools in self._tools.values())

    # -- pieces --------------------------------------------------------------------------------------------------
    async def problems(self) -> Sequence[str]:
        """Opens the session's tools if they are not open yet; the servers that did not start, a sentence each."""
        return () if self.session is None else (await self._tools_of(self.session)).problems

    async def _row(self) -> SessionRow:
        if self.session is None:
            left = await self.services.desk.open(self.principal, self.place, cwd=str(self.cwd))
            self.session = left.row.id
            return left.row
        try:
            return await self.services.ledger.session(self.principal, self.session)
        except NotFound:
            raise NotFound(MISSING.format(self.session)) from None

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
            compactor=self.services.runner.compactor,
            cwd=self.cwd,
            default_mode=ApprovalMode(self.services.runner.settings.approval_mode),
            caps=self.services.runner.settings.caps,
            sender=self._sender,
            stop=self.stop,
            is_occupied=self._is_occupied,
            reminders=self.services.reminders,
            memory=self.services.memory,
            background=None if self.is_temporary else self.background,
            processes=tools.processes if tools else None,
            export=self.services.export,
        )

    async def _tools_of(self, session: SessionId) -> SessionTools:
        if session not in self._tools:
            self._tools[session] = await self.services.toolmaker.open(
                session, self.principal, self.cwd, self._notify_for(session)
            )
        return self._tools[session]

    async def happened(self, kind: str, text: str) -> None:
        """Tells the model of something that happened outside the talk: an event of the running turn, or of the next."""
        await self._notify_for(await self.ensure_session())(kind, text)

    def _notify_for(self, session: SessionId) -> Notify:
        async def notify(kind: str, text: str) -> None:
            """A running turn records the event at once; otherwise it waits in the inbox for the next turn."""
            turn = self.running
            if turn is not None and turn.session == session and await turn.record_event(kind, text):
                return
            try:
                await self._sender.receive(session, EVENT, pack_event(kind, text))
            except NotFound:
                return  # the session was deleted, and with it whoever could be told

        return notify
