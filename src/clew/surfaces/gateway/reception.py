"""Takes what people send: who is it, which place, which session, and into the inbox before anybody is told that we have it.

The messages of one place are taken one after the other, each with what the one before has done (a `/new` decides where the
next message belongs). The same message delivered again is found in the inbox, and nothing happens.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec

from clew.domain.conversation.ids import InboxId, PrincipalId, SessionId
from clew.domain.conversation.text import clean
from clew.domain.ledger.errors import LedgerError, NotFound, Refused
from clew.domain.ledger.rows import SessionRow
from clew.domain.reset.policy import in_words, reset_due
from clew.domain.routing.pairing import pairing_code
from clew.domain.routing.routes import Route, Sharing, is_meant
from clew.runtime.commands import CommandError, command_name, is_command
from clew.runtime.delivery import raised_at
from clew.runtime.ports.platforms import Attached, Incoming, NeverSent, PlatformError
from clew.runtime.sessions import Place
from clew.runtime.turns import NewFile
from clew.runtime.turns.outbox import NOTICE
from clew.runtime.turns.waiting import (
    EVENT,
    MESSAGE,
    BusyMode,
    Speaker,
    bystanders_among,
    pack_bystander,
    pack_message,
    unpack,
)
from clew.surfaces.gateway.access import Access
from clew.surfaces.gateway.channel import LOG, Channel, log_about
from clew.surfaces.gateway.edits import make_way
from clew.surfaces.gateway.line import Line
from clew.surfaces.gateway.resets import reset_policy
from clew.surfaces.gateway.turned_away import asker

COMMAND: Final = "command"
NAME_CHARACTERS_MAX: Final = 80
INTERRUPTED_COMMAND: Final = "Clew stopped while it did “{}”, and does not do it again by itself. /history and /status show where things are."
OF_THE_ASKER: Final = frozenset({"approve", "deny", "retry"})
OF_ADMINS: Final = frozenset({"delete"})
NOT_YOURS: Final = "That is for whoever asked to decide, or an admin."
GREETING: Final = "Hello. Say something, or /help for what else I understand."
NOT_TAKEN: Final = "An error inside Clew: this message was not taken. The log tells more."
NOT_ARRIVED: Final = "A message of mine did not reach you: {} /history has its words."
TRIES_MAX: Final = 3
"""How often a message may break us; then it is given up, so that those after it are taken."""
BROKE_MAX: Final = 100
FindLine = Callable[[Place, PrincipalId, SessionId], Coroutine[Any, Any, Line]]
MoveChat = Callable[[Route, str], Coroutine[Any, Any, Route]]


class Reception:
    """The way in of one platform. `line` finds or makes the line of a session; `move` is told of chats with another id."""

    def __init__(self, channel: Channel, access: Access, line: FindLine, move: MoveChat) -> None:
        gateway = channel.settings.gateway
        self._channel = channel
        self._access = access
        self._line = line
        self._move = move
        self._sharing = Sharing(
            group_per_user=gateway.group_sessions_per_user, thread_per_user=gateway.thread_sessions_per_user
        )
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._handling: set[asyncio.Task[None]] = set()
        self._broke: dict[str, int] = {}
        self._taking = 0
        self._took_at = -math.inf

    def place(self, route: Route) -> Place:
        platform = self._channel.platform
        return Place(route_key=route.key, surface=platform.name, holds=platform.traits.holds)

    async def take(self, incoming: Incoming) -> None:
        """Returns once it is in the inbox, or is known not to belong there; what it asks for is then done beside."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._supervised(incoming, durable))
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)
        self._taking += 1
        try:
            await durable
        finally:
            self._taking -= 1
            self._took_at = asyncio.get_running_loop().time()

    @property
    def took_at(self) -> float:
        """When something was last being taken, by the clock of the event loop."""
        return asyncio.get_running_loop().time() if self._taking else self._took_at

    async def settled(self) -> None:
        """Returns when everything that was taken was handed on."""
        while self._handling:
            await asyncio.wait(self._handling)

    async def _supervised(self, incoming: Incoming, durable: asyncio.Future[None]) -> None:
        """Until it is durable an error is the platform's: the message comes again, and is given up where that does not help.
        After that it is logged."""
        route = self._sharing.route(incoming.chat, incoming.kind, incoming.sender)
        log_about(self._channel, route, message=incoming.key)
        try:
            async with self._locks.setdefault(route.key, asyncio.Lock()):
                await self._handle(incoming, route, durable)
        except Exception as error:  # noqa: BLE001 - the supervisor: the platform's, or logged in full
            known = isinstance(error, LedgerError | PlatformError)
            last = durable.done() or (not known and self._tried(incoming.key) >= TRIES_MAX)
            if not known:
                LOG.error(
                    "not taken",
                    error=type(error).__name__,
                    at=raised_at(error),
                    given_up=last,
                )
            if not last:
                durable.set_exception(error)
            elif not durable.done():
                await self._say(incoming, NOT_TAKEN)
        finally:
            if not durable.done():
                durable.set_result(None)

    def _tried(self, key: str) -> int:
        """Counts how often a message broke us."""
        self._broke[key] = self._broke.pop(key, 0) + 1
        while len(self._broke) > BROKE_MAX:
            del self._broke[next(iter(self._broke))]
        return self._broke[key]

    async def _handle(self, incoming: Incoming, route: Route, durable: asyncio.Future[None]) -> None:
        if incoming.moved_from:
            old = msgspec.structs.replace(incoming.chat, chat=incoming.moved_from)
            await self._move(old, incoming.chat.chat)
            return
        person = await self._access.who(incoming.sender, incoming.sender_name)
        if incoming.undelivered:
            await self._undelivered(incoming, route, person)
            return
        code = pairing_code(incoming.text)
        if code is not None:
            await self._say(incoming, await self._access.pair(incoming, code[0], sure=code[1]))
            person = await self._access.who(incoming.sender, incoming.sender_name)
        if person is not None and incoming.also:
            await self._channel.services.ledger.know_as(
                self._channel.platform.name, incoming.sender, incoming.also
            )
        if code is not None:
            return
        if person is None:
            LOG.info("stranger", sender=incoming.sender)
            await self._say(incoming, self._access.greeting(incoming))
            return
        require = self._channel.settings.gateway.require_mention
        shared = self._sharing.is_shared(incoming.kind)
        if not is_meant(incoming.kind, addressed=incoming.addressed, require_mention=require):
            if shared and self._channel.settings.gateway.bystanders:
                await self._overhear(incoming, route, person)
            return
        if incoming.unsupported:
            await self._say(incoming, f"I can read text, photos and files, not a {incoming.unsupported}.")
            return
        if incoming.text.split(maxsplit=1)[:1] == ["/start"]:
            await self._say(incoming, GREETING)
            return
        who = await self._access.group(route.key) if shared else person
        await self._receive(incoming, route, who, person, durable)

    async def _say(self, incoming: Incoming, text: str | None) -> None:
        """To somebody who has no place in the ledger (yet): nothing is kept, and it is not tried again."""
        if text is None:
            return
        try:
            await self._channel.platform.send(incoming.chat, text)
        except PlatformError as error:
            LOG.warning("not said", why=str(error))

    async def _undelivered(self, incoming: Incoming, route: Route, person: PrincipalId | None) -> None:
        """Tells the person once that something did not arrive; not of a notice, so that none follows another."""
        LOG.warning("did not arrive", reply=incoming.undelivered, why=incoming.text)
        services, place = self._channel.services, self.place(route)
        row = await services.desk.in_place(person, place) if person is not None else None
        if person is None or row is None:
            return
        for reply in await services.ledger.replies(person, row.id):
            if reply.platform_id == incoming.undelivered and reply.kind != NOTICE:
                line = await self._line(place, person, row.id)
                await line.tell(NOT_ARRIVED.format(incoming.text), f"undelivered:{incoming.undelivered}")

    # -- known people --------------------------------------------------------------------------------------------
    async def _receive(
        self,
        incoming: Incoming,
        route: Route,
        who: PrincipalId,
        person: PrincipalId,
        durable: asyncio.Future[None],
    ) -> None:
        """`who` owns the session: the person, or the group."""
        services, place = self._channel.services, self.place(route)
        key = f"{self._channel.platform.account}/{incoming.key}"
        if await services.ledger.is_received(place.surface, key):
            return
        if incoming.edits and self._channel.settings.gateway.edits == "ignore":
            return
        files, problems = await self._fetched(incoming.files)
        session = await self._session(incoming, place, who)
        line = await self._line(place, who, session)
        if incoming.edits:
            original = f"{self._channel.platform.account}/{incoming.edits}"
            stays = await make_way(services, who, session, original)
            if stays is not None:
                await line.tell(stays.why, f"edit:{key}")
                return
        sender = services.sender(who, place)
        is_a_command = not files and not incoming.edits and is_command(incoming.text)
        busy = BusyMode.QUEUE if is_a_command else services.runner.settings.busy
        speaker = Speaker(who=person, name=_name(incoming)) if who != person else None
        body = pack_message(incoming.text, str(self._channel.cwd), files, busy, speaker=speaker)
        kind = COMMAND if is_a_command else MESSAGE
        received = await sender.receive(session, kind, body, key, sent_by=incoming.sender)
        durable.set_result(None)
        LOG.info("received", session=session, row=received.id, duplicate=received.duplicate)
        if received.duplicate:
            return
        for problem in problems:
            await line.tell(problem, f"file:{received.id}")
        if is_a_command:
            if who != person and not await self._may(person, line, incoming.text):
                await line.tell(NOT_YOURS, f"command:{received.id}")
                await self._consume(who, session, received.id)
            else:
                await self._command(line, place, incoming.text, received.id, speaker)
            return
        line.wake()
        if busy == BusyMode.INTERRUPT:
            await sender.interrupt(session, received.id)

    async def _overhear(self, incoming: Incoming, route: Route, person: PrincipalId) -> None:
        """Keeps what the people of a shared place say to each other: the newest lines, until a message is for us."""
        if incoming.edits or not incoming.text.strip():
            return
        services, most = self._channel.services, self._channel.settings.gateway.bystanders
        place, who = self.place(route), await self._access.group(route.key)
        session = await services.desk.in_place(who, place)
        session = session or (await services.desk.open(who, place, cwd=str(self._channel.cwd))).row
        sender = services.sender(who, place)
        key = f"{self._channel.platform.account}/{incoming.key}"
        await sender.receive(
            session.id, EVENT, pack_bystander(Speaker(who=person, name=_name(incoming)), incoming.text), key
        )
        waiting = bystanders_among(await services.ledger.queued(who, session.id))
        await services.desk.withdraw(who, session.id, [row.id for row in waiting[:-most]])

    async def _fetched(self, files: tuple[Attached, ...]) -> tuple[tuple[NewFile, ...], list[str]]:
        """The files, and a sentence for each that could not be had. Raises NotSent: then the message comes again."""
        fetched, problems = [], []
        most = self._channel.platform.traits.file_bytes_max
        for file in files:
            if file.size is not None and file.size > most:
                problems.append(
                    f"{file.name or 'The file'} is larger than {most // 1_000_000} MB: I did not get it."
                )
                continue
            try:
                content = await self._channel.platform.fetch(file)
            except NeverSent as error:
                problems.append(f"{file.name or 'The file'} could not be fetched: {error}")
            else:
                fetched.append(NewFile(media_type=file.media_type, bytes=content, name=file.name))
        return tuple(fetched), problems

    async def _session(self, incoming: Incoming, place: Place, who: PrincipalId) -> SessionId:
        """The place's session; a new one if it has none that this person sees, or if the reset policy says so."""
        services, cwd = self._channel.services, str(self._channel.cwd)
        row = await services.desk.in_place(who, place)
        if row is None:
            return (await services.desk.open(who, place, cwd=cwd)).row.id
        reason = await self._reset(incoming, place, row, who)
        if reason is None:
            return row.id
        notice = f"A new session began: {reason}. /resume {row.id} goes on with the one before."
        left = await services.desk.open(who, place, leaving=row.id, cwd=cwd, model=row.model, notice=notice)
        self._channel.delivery.wake()
        return left.row.id

    async def _reset(self, incoming: Incoming, place: Place, row: SessionRow, who: PrincipalId) -> str | None:
        """Why a new session begins, in words. Never while a turn is under way, or something waits."""
        services, settings = self._channel.services, self._channel.settings.reset
        policy = reset_policy(settings, self._channel.platform.name, incoming.kind)
        now = services.clock.now_ms()
        if (
            reset_due(policy, last_active_ms=row.last_active_at, now_ms=now) is None
            or row.handle.head.seq == 0
        ):
            return None
        # A session that was resumed is as fresh as the place: what was said last counts, not where.
        heard = await services.ledger.last_received(place.route_key)
        last = max(row.last_active_at, 0 if heard is None else heard.at)
        reason = reset_due(policy, last_active_ms=last, now_ms=now)
        if reason is None:
            return None
        queued = await services.ledger.queued(who, row.id)
        waits = len(queued) > len(bystanders_among(queued))
        if waits or await services.runner.under_way(who, row.id) is not None:
            return None
        return in_words(reason, policy.zone)

    async def _may(self, person: PrincipalId, line: Line, text: str) -> bool:
        """In a shared place, decisions about a turn and its repetition are for whoever began it, and deleting for nobody;
        admins may both."""
        name = command_name(text)
        if name not in OF_THE_ASKER | OF_ADMINS or await self._access.is_admin(person):
            return True
        if name in OF_ADMINS:
            return False
        ledger, who = self._channel.services.ledger, line.talk.principal
        if (turn := await ledger.turn(who, line.session)) is None:
            return True
        return person == await asker(ledger, who, line.session, turn.turn)

    # -- commands ------------------------------------------------------------------------------------------------
    async def _command(
        self, line: Line, place: Place, text: str, received: InboxId, speaker: Speaker | None
    ) -> None:
        """Does a command and tells its answer, then settles its row: a crash in between is said, see `left_over`."""
        talk, session = line.talk, line.session
        target = line
        try:
            reply = await talk.command(text, speaker)
        except CommandError as error:
            await line.tell(str(error), f"command:{received}")
        else:
            moved, talk.session = talk.session, session
            if moved is not None and moved != session:
                target = await self._line(place, talk.principal, moved)
            if reply.text:
                await target.tell(reply.text, f"command:{received}")
            line.decided()
            if reply.opening is not None:
                target.start(reply.opening)
            elif reply.waits or reply.session is not None or reply.ends_turn:
                target.wake()
        await self._consume(talk.principal, session, received)

    async def left_over(self, line: Line) -> None:
        """Commands that another process was doing when it ended. Whether they took effect is not known, and is said."""
        services = self._channel.services
        for row in await services.ledger.queued(line.talk.principal, line.session):
            if row.kind == COMMAND:
                await line.tell(INTERRUPTED_COMMAND.format(_first_word(row.body)), f"command:{row.id}")
                await self._consume(line.talk.principal, line.session, row.id)

    async def _consume(self, who: PrincipalId, session: SessionId, received: InboxId) -> None:
        try:
            await self._channel.services.desk.consume(who, session, received)
        except (NotFound, Refused):
            pass  # `/delete` took it along, or `/new` cancelled it: it is settled either way
        except LedgerError as error:
            LOG.error("command not settled", session=session, why=str(error))


def _name(incoming: Incoming) -> str:
    """What somebody calls themselves, in one line."""
    return " ".join(clean(incoming.sender_name or incoming.sender).text.split())[:NAME_CHARACTERS_MAX]


def _first_word(body: str) -> str:
    return unpack(body).text.split(maxsplit=1)[0][:40]
