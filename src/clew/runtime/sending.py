"""How a person's message gets into a session, whatever happens there at the moment: one way for every surface.

It is on disk, in the inbox, before anything else is done, so that the order of arrival is the order of answering whoever
else sends. Where nothing is under way what waits longest then begins a turn; otherwise its mode says what the message does:
it waits for its own turn, joins the running one, or cuts it. Sender and turn both look once more after their commit (the
sender whether the turn still runs, whoever ran the turn whether something waits), so a message of the last instant is never
left behind; taking it twice is refused by the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from clew.domain.conversation.ids import InboxId, PrincipalId, SessionId
from clew.domain.conversation.messages import Attachment, Message, UserBody
from clew.domain.ledger.commits import Receive, Received
from clew.domain.ledger.errors import Refused
from clew.domain.ledger.rows import InboxRow
from clew.runtime.ports.world import Chance, Clock
from clew.runtime.sessions import LOOKED_ON, Place, SessionDesk
from clew.runtime.turns.openings import Hear, Say
from clew.runtime.turns.runner import TurnRunner
from clew.runtime.turns.waiting import (
    MESSAGE,
    WAKE,
    BusyMode,
    NewFile,
    QueuedMessage,
    Speaker,
    messages_among,
    pack_message,
    unpack,
    written,
)

QUEUED_MAX: Final = 100
"""Messages that may wait for one session's turn to end."""
POLL_SECONDS: Final = 0.2
"""How often the ledger is asked whether another process is done."""
KEEPING_SECONDS_MAX: Final = 1.5
"""How long a turn of another process that was cut may take to keep what it had shown."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a message."""

    mode: BusyMode
    received: InboxId
    """The row of the inbox that it was put into."""
    opening: Say | None = None
    """Nothing is under way: begin a turn with this, the message itself or one that waited longer."""


class Sender:
    """One person's way into sessions, from one place."""

    def __init__(  # noqa: PLR0917
        self,
        desk: SessionDesk,
        runner: TurnRunner,
        clock: Clock,
        chance: Chance,
        who: PrincipalId,
        place: Place,
    ) -> None:
        self._desk = desk
        self._ledger = desk.ledger
        self._runner = runner
        self._clock = clock
        self._chance = chance
        self._who = who
        self._place = place

    async def send(
        self, session: SessionId, said: Say, mode: BusyMode | None = None, *, occupied: bool = False
    ) -> Sent:
        """Sends a message by `mode`, or by the setting `turn.busy`. With `occupied` something is about to begin here.

        Raises Refused when too many wait already; then it was not taken.
        """
        chosen = mode or self._runner.settings.busy
        received = await self.keep(session, said, chosen)
        if chosen == BusyMode.INTERRUPT:
            await self.interrupt(session, received.id)
        if occupied or await self.is_busy(session):
            return Sent(mode=chosen, received=received.id)
        return Sent(mode=chosen, opening=await self.next(session), received=received.id)

    async def is_busy(self, session: SessionId) -> bool:
        """Whether a turn is under way, in whatever living process."""
        return await self._runner.under_way(self._who, session) is not None

    async def keep(self, session: SessionId, said: Say, mode: BusyMode = BusyMode.QUEUE) -> Received:
        """Puts it into the inbox; it is on disk when this returns. Raises Refused over the limit."""
        if len(await self._waiting(session)) >= QUEUED_MAX:
            raise Refused(f"{QUEUED_MAX} messages wait already: this one was not taken.")
        return await self.receive(
            session, MESSAGE, pack_message(said.text, said.cwd, said.files, mode, speaker=said.speaker)
        )

    async def receive(
        self,
        session: SessionId,
        kind: str,
        body: QueuedMessage,
        key: str | None = None,
        sent_by: str | None = None,
    ) -> Received:
        """Puts something into the inbox; the same key is taken once. `sent_by` is the account on a chat platform."""
        return await self._ledger.receive(await self._receiving(session, kind, body, key, sent_by))

    async def _receiving(
        self,
        session: SessionId,
        kind: str,
        body: QueuedMessage,
        key: str | None = None,
        sent_by: str | None = None,
    ) -> Receive:
        return Receive(
            account=self._place.surface,
            external_key=key or self._chance.token(20),
            conversation=await self._desk.conversation_of(self._place, session),
            session=session,
            principal=self._who,
            kind=kind,
            body=written(body),
            at=self._clock.now_ms(),
            sent_by=sent_by,
        )

    async def again(self, session: SessionId, joined: Sequence[Message]) -> tuple[Receive, ...]:
        """What receives once more what was sent into a turn that is tried again: each joins the new one where it stood.

        One whose place the new turn never comes to starts the next turn.
        """
        receives = []
        for message in joined:
            body = message.body if isinstance(message.body, UserBody) else UserBody()
            files = [await self._file(session, attachment) for attachment in message.attachments]
            text: str | bytes = message.text
            if body.original is not None:
                text = (await self._ledger.blob(self._who, session, body.original)).bytes
            speaker = Speaker(who=PrincipalId(message.actor), name=body.sender) if body.sender else None
            steering = pack_message(
                text, body.cwd, files, BusyMode.STEER, not_before=message.step, speaker=speaker
            )
            receives.append(await self._receiving(session, MESSAGE, steering))
        return tuple(receives)

    async def _file(self, session: SessionId, attachment: Attachment) -> NewFile:
        blob = await self._ledger.blob(self._who, session, attachment.sha256)
        return NewFile(media_type=attachment.media_type, bytes=blob.bytes, name=attachment.name)

    async def next(self, session: SessionId) -> Say | None:
        """The message of this person's whose turn is next, as its opening."""
        return _said(await self._ours(session))

    async def next_opening(self, session: SessionId) -> Say | Hear | None:
        """That, or what starts a turn by itself and belongs here."""
        ours = await self._ours(session)
        heard = tuple(row.id for row in ours if row.kind == WAKE)
        return _said(ours) or (Hear(inbox=heard) if heard else None)

    async def still_waits(self, session: SessionId, received: Sequence[InboxId]) -> bool:
        """Whether nobody has taken or cancelled these rows."""
        return set(received) <= {row.id for row in await self._ledger.queued(self._who, session)}

    async def interrupt(self, session: SessionId, received: InboxId) -> None:
        """Cuts the turn that runs, whenever it began, for a message that waits; not the turn that has taken it by now."""
        running = await self._runner.under_way(self._who, session)
        if running is not None and await self.still_waits(session, (received,)):
            await self.cut(session, running)

    async def cut(self, session: SessionId, turn: int) -> None:
        """Ends this turn, and no other. In another process by a commit; what it had shown it may then still keep."""
        if await self._runner.stop_here(self._who, session, turn):
            return
        if await self._desk.stop(self._who, session, turn):
            await self._let_keep(session)

    async def until_idle(self, session: SessionId, turn: int | None = None) -> None:
        """Returns when no turn of the session, or not that one, is under way in another process."""
        while (now := await self._runner.under_way(self._who, session)) is not None and turn in (None, now):  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    async def _let_keep(self, session: SessionId) -> None:
        version = (await self._ledger.session(self._who, session)).handle.version
        loop = asyncio.get_running_loop()
        until = loop.time() + KEEPING_SECONDS_MAX
        while loop.time() < until:
            await asyncio.sleep(POLL_SECONDS)
            if (await self._ledger.session(self._who, session)).handle.version != version:
                return

    async def _ours(self, session: SessionId) -> list[InboxRow]:
        """What waits of this person and can be answered from here: a reply goes to the place that its message came from."""
        waiting = [row for row in await self._ledger.queued(self._who, session) if row.principal == self._who]
        if self._place.holds is None:
            return [row for row in waiting if row.account in LOOKED_ON | {self._place.surface}]
        here = await self._ledger.conversation(self._place.route_key) if waiting else None
        return [row for row in waiting if here is not None and row.conversation == here.id]

    async def _waiting(self, session: SessionId) -> list[InboxRow]:
        return messages_among(await self._ledger.queued(self._who, session))


def _said(rows: list[InboxRow]) -> Say | None:
    """The first of the messages, as an opening."""
    row = next(iter(messages_among(rows)), None)
    if row is None:
        return None
    body = unpack(row.body)
    return Say(text=body.said, cwd=body.cwd, files=body.attached, inbox=(row.id,), speaker=body.speaker)
