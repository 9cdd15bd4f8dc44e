"""What people do with sessions: new, undo, redo, retry, branch, resume, title. One implementation for every surface.

Each method decides from what the ledger says now, and commits against exactly that. When somebody was quicker, it looks
again and decides again; it never carries an old decision over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import msgspec

from clew.domain.conversation.ids import SESSION_ID_LENGTH, ConversationId, InboxId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head, Message, Role, Status, ToolBody, ToolCall
from clew.domain.ledger.commits import (
    AddReply,
    AsObserver,
    Commit,
    Committed,
    Expand,
    MoveHead,
    NewSession,
    Note,
    Op,
    PointConversation,
    Receive,
    SessionPatch,
)
from clew.domain.ledger.errors import Busy, HeadMoved, NotFound, Refused
from clew.domain.ledger.jobs import extracting
from clew.domain.ledger.navigation import redo_target
from clew.domain.ledger.rows import CallState, InboxRow, OpKind, OpRow, Origin, SessionRow, TurnState
from clew.domain.routing.splitting import TextLimit
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.world import Chance, Clock
from clew.runtime.turns.outbox import NOTICE
from clew.runtime.turns.outcome import STOPPED
from clew.runtime.turns.waiting import messages_among

P = ParamSpec("P")
T = TypeVar("T")
TRIES_MAX: Final = 100
TITLE_CHARACTERS_MAX: Final = 200
OPS_PAGE: Final = 64


LOOKED_ON: Final = frozenset({"terminal", "acp"})
"""Surfaces where a person looks on: whoever of them is free may answer what waits from any of them."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where somebody talks: its route key and surface.

    `holds` is what one message holds where a gateway delivers what is said; None where a person looks on.
    """

    route_key: str
    surface: str
    holds: TextLimit | None = None


class Rewound(msgspec.Struct, frozen=True, kw_only=True):
    """What an undo took back, oldest first: turns off the path, then messages that were still waiting.

    `calls` are those of the turns that ran, or may have: their effects were not taken back.
    """

    row: SessionRow
    openings: tuple[Message, ...] = ()
    waiting: tuple[InboxRow, ...] = ()
    calls: tuple[ToolCall, ...] = ()


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    row: SessionRow
    messages: int


class LeftBehind(msgspec.Struct, frozen=True, kw_only=True):
    """A session was opened; `cancelled` messages that waited for the old one were not taken along."""

    row: SessionRow
    previous: SessionId | None
    cancelled: int


def _deciding(
    method: Callable[Concatenate[SessionDesk, P], Awaitable[T]],
) -> Callable[Concatenate[SessionDesk, P], Coroutine[Any, Any, T]]:
    """A method that is done again, from its beginning, where somebody was quicker."""

    @wraps(method)
    async def decided(self: SessionDesk, /, *args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(TRIES_MAX):
            try:
                return await method(self, *args, **kwargs)
            except HeadMoved:
                continue  # decide again from what the ledger says now
        raise Busy("This session changes too quickly; try again.", "")

    return decided


class SessionDesk:
    """Changes sessions on behalf of a principal."""

    def __init__(self, ledger: Ledger, clock: Clock, chance: Chance, *, remembers: bool = False) -> None:
        """With `remembers`, facts are looked for in a session that is left."""
        self.ledger = ledger
        self._remembers = remembers
        self._clock = clock
        self._chance = chance

    # -- opening -------------------------------------------------------------------------------------------------
    @_deciding
    async def open(
        self,
        principal: PrincipalId,
        place: Place,
        *,
        leaving: SessionId | None = None,
        title: str | None = None,
        cwd: str | None = None,
        model: str | None = None,
        session: SessionId | None = None,
        notice: str | None = None,
    ) -> LeftBehind:
        """A new session for a place, under a new id or the one given. The one left behind is cut off: a running turn of it
        ends with this commit.

        `notice` is told to the place, by the same commit.
        """
        clean_title = await self.free_title(principal, title) if title else None
        new = NewSession(
            id=session or self.new_id(),
            owner=principal,
            surface=place.surface,
            origin=Origin.NEW if leaving is None else Origin.RESET,
            title=clean_title,
            cwd=cwd,
            model=model,
        )
        point = await self._pointing(place, new.id)
        if leaving is None:
            return LeftBehind(row=await self._opened(principal, new, point), previous=None, cancelled=0)
        row = await self.ledger.session(principal, leaving)
        left = await self._commit(
            row,
            principal,
            Note(kind=OpKind.LEAVE),
            cut=True,
            cut_reason="new",
            cancel_queued=True,
            opens=new,
            conversation=point,
            replies=await self._told(place, row, notice) if notice is not None else (),
            jobs=extracting(row, self._clock.now_ms()) if self._remembers else (),
        )
        opened = await self.ledger.session(principal, new.id)
        return LeftBehind(row=opened, previous=leaving, cancelled=left.cancelled)

    async def _told(self, place: Place, row: SessionRow, notice: str) -> tuple[AddReply, ...]:
        conversation = await self.conversation_of(place, row.id)
        key = f"leave:{row.id}:{row.handle.version}"
        return (AddReply(conversation=conversation, turn=0, part=0, kind=NOTICE, key=key, body=notice),)

    @_deciding
    async def consume(self, principal: PrincipalId, session: SessionId, received: InboxId) -> None:
        """What was received was done. Raises Refused when it no longer waits, NotFound without the session."""
        await self._commit(await self.ledger.session(principal, session), principal, take=(received,))

    @_deciding
    async def withdraw(
        self, principal: PrincipalId, session: SessionId, received: Sequence[InboxId], reason: str = ""
    ) -> tuple[InboxId, ...]:
        """Takes back what still waits of this, and says what did; the rest was taken, or taken back, by somebody else."""
        if not received:
            return ()
        row = await self.ledger.session(principal, session)
        waiting = {one.id for one in await self.ledger.queued(principal, session)}
        if cancel := tuple(number for number in received if number in waiting):
            try:
                await self._commit(row, principal, cancel=cancel, cut_reason=reason)
            except Refused as error:
                raise HeadMoved("One of them was taken just now.") from error
        return cancel

    @_deciding
    async def point(self, place: Place, session: SessionId) -> ConversationId:
        """The place's current session becomes this one."""
        known = await self.ledger.conversation(place.route_key)
        if known is None or known.session != session:
            await self.ledger.point(await self._pointing(place, session))
            known = await self.ledger.conversation(place.route_key)
        if known is None:
            raise HeadMoved("The conversation vanished meanwhile.")
        return known.id

    async def conversation_of(self, place: Place, session: SessionId) -> ConversationId:
        """The id of a place; a place that was never used is pointed at the session."""
        known = await self.ledger.conversation(place.route_key)
        return known.id if known is not None else await self.point(place, session)

    async def in_place(self, principal: PrincipalId, place: Place) -> SessionRow | None:
        """The session that the place is in, if this principal sees it."""
        known = await self.ledger.conversation(place.route_key)
        if known is None or known.session is None:
            return None
        try:
            return await self.ledger.session(principal, known.session)
        except NotFound:
            return None  # it was deleted, or belongs to whoever somebody was before

    async def current(self, principal: PrincipalId, place: Place) -> SessionRow | None:
        """The place's session, or the principal's most recent one; None when there is none."""
        here = await self.in_place(principal, place)
        return here or next(iter(await self.ledger.sessions(principal, limit=1)), None)

    # -- moving the head -----------------------------------------------------------------------------------------
    @_deciding
    async def undo(self, principal: PrincipalId, session: SessionId, count: int = 1) -> Rewound:
        """Takes back the newest things said, in one commit: messages that wait, last first, then turns.

        A running turn goes on when only waiting messages are taken back; otherwise it ends with the commit. Raises
        Refused when there is less to take back; then nothing is.
        """
        row = await self.ledger.session(principal, session)
        own = [m for m in await self._messages_waiting(row, principal) if m.principal == principal]
        waiting = tuple(own[-count:])
        cancel = tuple(message.id for message in waiting)
        turns = count - len(waiting)
        if turns == 0:
            await self._commit(row, principal, cancel=cancel, cut_reason="undo")
            return Rewound(row=row, waiting=waiting)
        starts = await self.ledger.turn_starts(principal, session, turns, row.handle.head)
        if len(starts) < turns:
            raise Refused(_too_many(len(starts), len(waiting)))
        target = await self.ledger.before(principal, session, starts[-1].head)
        undone = await self.ledger.path(principal, session, row.handle.head, above=starts[-1].seq - 1)
        await self._move(row, principal, OpKind.UNDO, target, cancel=cancel)
        return Rewound(
            row=await self.ledger.session(principal, session),
            openings=tuple(reversed(starts)),
            waiting=waiting,
            calls=await self._that_ran(principal, session, undone),
        )

    @_deciding
    async def redo(self, principal: PrincipalId, session: SessionId) -> Restored:
        """Takes back the newest undo that still stands. Raises Refused when there is none."""
        row = await self.ledger.session(principal, session)
        target = await self._redo_target(principal, session)
        if target is None:
            raise Refused("There is nothing to redo.")
        await self._move(row, principal, OpKind.REDO, target)
        return Restored(
            row=await self.ledger.session(principal, session), messages=target.seq - row.handle.head.seq
        )

    @_deciding
    async def rewind_for_retry(
        self,
        principal: PrincipalId,
        session: SessionId,
        again: Callable[[SessionId, Sequence[Message]], Awaitable[tuple[Receive, ...]]] | None = None,
    ) -> Message:
        """Puts the head on the newest message that started a turn, which is not copied, and returns it. Raises Refused.

        By the same commit what people sent into that turn, which is off the path now, is received `again`.
        """
        row = await self.ledger.session(principal, session)
        starts = await self.ledger.turn_starts(principal, session, 1)
        if not starts:
            raise Refused("There is nothing to retry.")
        behind = await self.ledger.path(principal, session, row.handle.head, above=starts[0].seq)
        joined = [m for m in behind if m.role == Role.USER]
        receives = await again(session, joined) if again is not None else ()
        await self._move(row, principal, OpKind.RETRY, starts[0].head, receives=receives)
        return starts[0]

    @_deciding
    async def resume(
        self, principal: PrincipalId, place: Place, to: SessionId, *, leaving: SessionId | None
    ) -> int:
        """The place goes on with another session. A turn that runs in the one left ends with that commit.

        What waits there goes on waiting; returns how many messages do.
        """
        if leaving is None or leaving == to:
            await self.point(place, to)
            return 0
        row = await self.ledger.session(principal, leaving)
        turn = await self.ledger.turn(principal, leaving)
        if turn is not None and turn.state == TurnState.RUNNING:
            point = await self._pointing(place, to)
            leave = Note(kind=OpKind.LEAVE)
            await self._commit(row, principal, leave, cut=True, cut_reason="resume", conversation=point)
        else:
            await self.point(place, to)
        return len(await self._messages_waiting(row, principal))

    @_deciding
    async def resume_at(self, principal: PrincipalId, session: SessionId, tip: Head) -> SessionRow:
        """Puts the head on another tip of the session's tree: nothing that was undone is lost."""
        row = await self.ledger.session(principal, session)
        await self._move(row, principal, OpKind.RESUME, tip)
        return await self.ledger.session(principal, session)

    @_deciding
    async def branch(
        self,
        principal: PrincipalId,
        session: SessionId,
        place: Place,
        *,
        title: str | None = None,
        into: SessionId | None = None,
    ) -> SessionRow:
        """A new session (under a new id, or `into`) that starts where the last closed turn ended. Copies nothing; the old
        one goes on as it was."""
        row = await self.ledger.session(principal, session)
        named = f"{row.title} (branch)" if row.title else None
        free = await self.free_title(principal, title) if title else named
        new = await self._forked(principal, row, Origin.FORK, place.surface, title=free)
        new = msgspec.structs.replace(new, id=into or new.id)
        return await self._opened(principal, new, await self._pointing(place, new.id))

    @_deciding
    async def fork(self, principal: PrincipalId, session: SessionId, surface: str, at: Head) -> SessionRow:
        """A new session that starts at any position of this one's tree; no place points at it."""
        row = await self.ledger.session(principal, session)
        return await self._opened(principal, await self._forked(principal, row, Origin.FORK, surface, at=at))

    @_deciding
    async def side(
        self, principal: PrincipalId, session: SessionId, surface: str, *, title: str, cwd: str
    ) -> SessionRow:
        """A session that works beside this one, from where its last closed turn ended; no place points at it."""
        row = await self.ledger.session(principal, session)
        new = await self._forked(principal, row, Origin.SIDE, surface, title=title)
        return await self._opened(principal, msgspec.structs.replace(new, cwd=cwd))

    async def beside(
        self,
        principal: PrincipalId,
        parent: SessionRow,
        ident: SessionId,
        surface: str,
        title: str,
        *,
        cwd: str,
        at: Head | None = None,
        model: str | None = None,
    ) -> SessionRow:
        """The side session of this id, opened if there is none yet: with the history up to `at`, or with none."""
        try:
            return await self.ledger.session(principal, ident)
        except NotFound:
            new = NewSession(
                id=ident,
                owner=principal,
                surface=surface,
                origin=Origin.SIDE,
                title=title,
                model=model or parent.model,
                cwd=cwd,
                settings=parent.settings,
                parent=parent.id,
                at=at,
                summary=parent.handle.summary if at is not None else None,
            )
            return await self._opened(principal, new)

    async def _forked(  # noqa: PLR0917
        self,
        principal: PrincipalId,
        row: SessionRow,
        origin: Origin,
        surface: str,
        at: Head | None = None,
        title: str | None = None,
    ) -> NewSession:
        """What opens a session at the end of the last closed turn, or `at`. Raises HeadMoved when that moved meanwhile."""
        at = at or await self._last_closed(principal, row)
        if (await self.ledger.session(principal, row.id)).handle != row.handle:
            raise HeadMoved("A turn began or ended meanwhile.")
        return NewSession(
            id=self.new_id(),
            owner=principal,
            surface=surface,
            origin=origin,
            title=title,
            model=row.model,
            cwd=row.cwd,
            settings=row.settings,
            parent=row.id,
            at=at,
            summary=row.handle.summary,
            # The prompt of somebody else's session may hold what is remembered of them.
            prefix=await self.ledger.prefix(principal, row.id) if row.owner == principal else None,
        )

    # -- settings that leave the head alone ----------------------------------------------------------------------
    async def title(self, principal: PrincipalId, session: SessionId, title: str) -> SessionRow:
        """Raises Refused for an empty or taken title."""
        free = await self.free_title(principal, title, session)
        return await self.change(principal, session, SessionPatch(title=free), OpKind.TITLE)

    @_deciding
    async def change(
        self, principal: PrincipalId, session: SessionId, patch: SessionPatch, kind: OpKind = OpKind.SETTINGS
    ) -> SessionRow:
        """Sets columns of the session as one audited op; a running turn goes on and uses them from its next."""
        row = await self.ledger.session(principal, session)
        await self._commit(row, principal, Note(kind=kind), patch=patch)
        return await self.ledger.session(principal, session)

    @_deciding
    async def expand(self, principal: PrincipalId, session: SessionId) -> SessionRow:
        """Takes the summary in force back; the one before it, or none, stands again. Raises Refused without one."""
        row = await self.ledger.session(principal, session)
        await self._commit(row, principal, Expand())
        return await self.ledger.session(principal, session)

    @_deciding
    async def stop(
        self, principal: PrincipalId, session: SessionId, only: int | None = None, reason: str = STOPPED
    ) -> bool:
        """Ends a running turn (or `only` that one) from outside; False when it does not run."""
        row = await self.ledger.session(principal, session)
        turn = await self.ledger.turn(principal, session)
        if turn is None or not turn.state.is_open:
            return False
        if only is not None and turn.turn != only:
            return False
        await self._commit(row, principal, Note(kind=OpKind.STOP), cut=True, cut_reason=reason)
        return True

    def new_id(self) -> SessionId:
        return SessionId(self._chance.token(SESSION_ID_LENGTH))

    # -- shared steps --------------------------------------------------------------------------------------------
    async def _commit(
        self, row: SessionRow, principal: PrincipalId, op: Op | None = None, **rows: object
    ) -> Committed:
        """Against exactly what was seen. `rows` are further ones of the commit."""
        fence = AsObserver(version=row.handle.version, head=row.handle.head)
        work = Commit(session=row.id, actor=principal, at=self._clock.now_ms(), fence=fence, op=op)
        return await self.ledger.commit(msgspec.structs.replace(work, **rows))

    async def _move(
        self, row: SessionRow, principal: PrincipalId, kind: OpKind, to: Head, **rows: object
    ) -> None:
        """A turn that runs ends with it."""
        move = MoveHead(kind=kind, to=to)
        await self._commit(row, principal, move, cut=True, cut_reason=str(kind), **rows)

    async def _opened(
        self, principal: PrincipalId, new: NewSession, point: PointConversation | None = None
    ) -> SessionRow:
        await self.ledger.open(new, actor=principal, at=self._clock.now_ms(), conversation=point)
        return await self.ledger.session(principal, new.id)

    async def _messages_waiting(self, row: SessionRow, principal: PrincipalId) -> list[InboxRow]:
        """Oldest first, of everybody."""
        return sorted(messages_among(await self.ledger.queued(principal, row.id)), key=lambda m: m.id)

    async def _that_ran(
        self, principal: PrincipalId, session: SessionId, messages: Sequence[Message]
    ) -> tuple[ToolCall, ...]:
        """The calls among these messages that ran or may have run: all but those that certainly did not."""
        results = {m.body.call: m.status for m in messages if isinstance(m.body, ToolBody)}
        never = {call for call, status in results.items() if status in (Status.REFUSED, Status.NOT_RUN)}
        for turn in sorted({m.turn for m in messages if m.calls}):
            rows = await self.ledger.calls(principal, session, turn)
            never |= {row.id for row in rows if row.state in (CallState.PLANNED, CallState.NOT_RUN)}
        return tuple(call for m in messages for call in m.calls if call.id not in never)

    async def _pointing(self, place: Place, to: SessionId) -> PointConversation:
        known = await self.ledger.conversation(place.route_key)
        version = 0 if known is None else known.version
        return PointConversation(route_key=place.route_key, surface=place.surface, version=version, to=to)

    async def _redo_target(self, principal: PrincipalId, session: SessionId) -> Head | None:
        seen: list[OpRow] = []
        below: int | None = None
        while page := await self.ledger.ops(
            principal, session, below=below, limit=OPS_PAGE, moving_only=True
        ):
            seen.extend(page)
            target = redo_target(seen)
            closed = any(op.kind not in (OpKind.UNDO, OpKind.REDO) for op in page)
            if target is not None or closed:
                return target
            below = page[-1].version
        return None

    async def _last_closed(self, principal: PrincipalId, row: SessionRow) -> Head:
        """The head, or the position before a turn that is still open."""
        turn = await self.ledger.turn(principal, row.id)
        if turn is None or not turn.state.is_open:
            return row.handle.head
        starts = await self.ledger.turn_starts(principal, row.id, 1, row.handle.head)
        above = starts[0].seq - 1 if starts else 0
        path = await self.ledger.path(principal, row.id, row.handle.head, above=above)
        first = next((message for message in path if message.turn == turn.turn), None)
        return row.handle.head if first is None else await self.ledger.before(principal, row.id, first.head)

    async def free_title(self, principal: PrincipalId, title: str, own: SessionId | None = None) -> str:
        """The title on one line. Raises Refused where there is nothing of it, too much, or another session has it."""
        words = " ".join(title.split())
        if not words:
            raise Refused("A title needs at least one letter.")
        if len(words) > TITLE_CHARACTERS_MAX:
            raise Refused(f"A title has at most {TITLE_CHARACTERS_MAX} characters.")
        try:
            taken = await self.ledger.resolve(principal, words)
        except NotFound:
            return words
        if taken == own:
            return words
        row = await self.ledger.session(principal, taken)
        if (row.title or "").casefold() == words.casefold():
            raise Refused(f"The title “{words}” is already used by session {taken}.")
        return words


def _too_many(turns: int, waiting: int) -> str:
    counted = ((turns, "turn"), (waiting, "waiting message"))
    there = [f"{count} {what}{'' if count == 1 else 's'}" for count, what in counted if count]
    if not there:
        return "There is nothing to undo."
    is_one = turns + waiting == 1
    return f"There {'is' if is_one else 'are'} only {' and '.join(there)} to undo; nothing was done."
