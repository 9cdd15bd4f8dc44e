"""Matrix, through matrix-nio: rooms and threads of one account, without end-to-end encryption.

A homeserver does not remember what we took of a sync. So the position up to which everything is in the inbox is kept with the
account (account data), written after the inbox has it: what came later comes again after a crash, wherever we start. The same
data names the gateway that listens; a second one asks, and ends when it is answered. A message is named by its event id.

Where the homeserver does not know our position any more, all rooms are read back to the time of what was taken last: the
inbox knows what of that it has.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import msgspec
from nio import AsyncClient, AsyncClientConfig, InviteMemberEvent, MessageDirection

from clew.domain.routing.routes import ChatKind, Route
from clew.domain.routing.splitting import TextLimit, Units
from clew.runtime.ports.platforms import (
    Attached,
    Button,
    Incoming,
    MaybeSent,
    NeverSent,
    NotSent,
    PlatformError,
    PlatformRefused,
    Take,
    Traits,
    take_in_order,
)
from clew.surfaces.gateway.channel import LOG
from clew.surfaces.gateway.platforms.matrix_calls import (
    Absent,
    Outcome,
    Rejected,
    called,
    error_of,
    first_of,
    polled,
    reason_of,
    retried,
)
from clew.surfaces.gateway.platforms.matrix_events import (
    FILES,
    NAME,
    UNSUPPORTED,
    Content,
    Event,
    Json,
    Relation,
    converted,
    in_thread,
    parsed_events,
    said,
    written,
)

logging.getLogger("nio").setLevel(logging.CRITICAL + 1)  # it logs what it could not read, word for word

HOLDS: Final = TextLimit(most=9000, units=Units.BYTES)
"""An event is at most 65,536 bytes of JSON, and an edit holds the text twice, and once more as HTML."""
FALLBACK_MAX: Final = 1000
"""Characters of an edit that are repeated for those whose program does not know edits."""
SENDS_BYTES_MAX: Final = 50_000_000
FETCHED_BYTES_MAX: Final = 20_000_000
POLL_SECONDS: Final = 30
CALL_SECONDS: Final = 20.0
UPLOAD_SECONDS: Final = 500.0
TYPING_SECONDS: Final = 4.0
PAGE: Final = 100
INVITATIONS_MAX: Final = 1000
"""Of strangers, that are remembered in case somebody pairs them."""
PAGES_MAX: Final = 20
"""How many pages of a room that we missed are read; what is before them is left, and logged."""
ASK_SECONDS: Final = 3.0
"""Time that another gateway has to say that it is there."""
CLOSE_SECONDS: Final = 5.0
OVERLAP_MS: Final = 300_000
"""How far the clocks of homeservers may be apart: so much of what was taken is read again where our position was lost."""
POSITION: Final = "clew.position"
OWNER: Final = "clew.gateway"
ASKING: Final = "clew.gateway.asking"
TAKEN: Final = "Another program already answers for this Matrix account."
ENCRYPTED: Final = (
    "This room is encrypted, and I cannot read encrypted messages. Invite me to a room without encryption."
)
Welcomes = Callable[[str, bool], Awaitable[bool]]
"""Whether somebody may invite us: their id, and whether it is to a talk of two."""


class Matrix:
    """`Platform` for one account. `welcomes` decides whose invitations are accepted."""

    name = NAME

    def __init__(self, token: str, homeserver: str, welcomes: Welcomes) -> None:
        self.traits = Traits(
            holds=HOLDS,
            edits=True,
            edit_seconds=3.0,  # each is an event for ever, and homeservers allow one in five seconds, ten in a row
            typing_seconds=TYPING_SECONDS,
            takes_key=True,
            file_bytes_max=FETCHED_BYTES_MAX,
            sends_bytes_max=SENDS_BYTES_MAX,
        )
        self.account = ""
        self.contact = -math.inf
        config = AsyncClientConfig(
            encryption_enabled=False, max_limit_exceeded=0, max_timeouts=0, request_timeout=CALL_SECONDS
        )
        self._client = AsyncClient(homeserver.rstrip("/"), config=config)
        self._client.access_token = token
        self._welcomes = welcomes
        self._me = uuid4().hex
        """This gateway, among those that may use the account."""
        self._listens = False
        self._position = ""
        self._until_ms = 0
        """The time of the newest event that was taken; 0 where it is not known."""
        self._rejected = ""
        """The last position that the homeserver did not know, and when we began anew."""
        self._anew_at = -math.inf
        self._invitations: dict[str, tuple[str, bool]] = {}
        self._people: dict[str, dict[str, str]] = {}
        """Names of those who are in a room, or are invited to it, by their id."""
        self._encrypted: set[str] = set()

    async def open(self) -> None:
        me = await polled(self._client.whoami())
        self.account = self._client.user_id = str(me.user_id)
        self.contact = asyncio.get_running_loop().time()
        if not self._position:
            kept = await self._kept(POSITION)
            self._position, until = str(kept.get("next_batch", "")), kept.get("until", 0)
            self._until_ms = until if isinstance(until, int) else 0
        if not self._position:  # the first time: what was said before is not answered
            first = await polled(self._client.sync(0, self._filter(1)))
            self._note_invitations(first)
            self._position, self._until_ms = first.next_batch, int(time.time() * 1000)
            await retried(self._keep_position())

    async def receive(self, take: Take) -> None:
        await self._claim()
        while True:
            synced = await self._synced()
            self.contact = asyncio.get_running_loop().time()
            await self._look_for_others(synced.account_data_events)
            self._note_invitations(synced)
            incoming: list[Incoming] = []
            foreign = bool(synced.rooms.invite) or not self._position
            until_ms, now_ms = self._until_ms, int(time.time() * 1000)
            for room, info in synced.rooms.join.items():
                events = await self._events(room, info)
                # Another server's clock may be far ahead: nothing is taken later than now.
                until_ms = max((until_ms, *(min(event.origin_server_ts, now_ms) for event in events)))
                foreign = foreign or any(event.sender != self.account for event in events)
                incoming += [
                    found for event in events if (found := await self._read(room, event)) is not None
                ]
            for at in range(0, len(incoming), PAGE):
                await take_in_order(take, incoming[at : at + PAGE])
            await self._accept()
            self._position, self._until_ms = synced.next_batch, until_ms
            if foreign:
                with suppress(NotSent, MaybeSent, NeverSent):  # what was taken may come again
                    await self._keep_position()

    async def _synced(self) -> Any:
        """What happened since our position; without one, what all rooms hold. Raises NotSent, PlatformRefused."""
        since, now = self._position, asyncio.get_running_loop().time()
        call = self._client.sync(POLL_SECONDS * 1000 if since else 0, self._filter(PAGE), since)
        try:
            return await retried(called(call))
        except Rejected as error:
            if not since or now - self._anew_at < POLL_SECONDS:
                raise NotSent(str(error)) from error
            if since != self._rejected:
                LOG.warning(
                    "position unknown to the homeserver: rooms are read anew", platform=NAME, why=str(error)
                )
            self._rejected, self._anew_at = since, now
        except NeverSent as error:
            raise NotSent(str(error)) from error
        self._position = self._client.next_batch = ""
        return await self._synced()

    async def _keep_position(self) -> None:
        await self._keep(POSITION, {"next_batch": self._position, "until": self._until_ms})

    async def fetch(self, file: Attached) -> bytes:
        server, slash, media = file.reference.removeprefix("mxc://").partition("/")
        if not slash or not file.reference.startswith("mxc://"):
            raise NeverSent("this is not the address of a file on Matrix")
        path = f"/_matrix/client/v1/media/download/{quote(server, safe='')}/{quote(media, safe='')}"
        try:
            return await self._asked("GET", path, most=self.traits.file_bytes_max)
        except MaybeSent as error:
            raise NeverSent(str(error)) from error  # the server that has it does not give it

    async def send(
        self, to: Route, text: str, *, markdown: bool = False, buttons: Sequence[Button] = (), key: str = ""
    ) -> str:
        shown = "\n".join((text, *(f"{button.label}: {button.command}" for button in buttons)))
        content = written(shown, markdown) | in_thread(to)
        return await self._put(to, content, key)

    async def send_file(self, to: Route, name: str, media_type: str, content: bytes, *, key: str = "") -> str:
        kind = media_type.partition("/")[0]
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                uploading = self._client.upload(
                    lambda *_: io.BytesIO(content), media_type, name, filesize=len(content)
                )
                uploaded = await called(first_of(uploading))
        except (MaybeSent, TimeoutError) as error:
            raise NotSent(f"the file was not uploaded: {error}") from error  # nobody sees it yet
        described = {
            "msgtype": f"m.{kind}" if f"m.{kind}" in FILES else "m.file",
            "body": name,
            "filename": name,
            "url": uploaded.content_uri,
            "info": {"mimetype": media_type, "size": len(content)},
        }
        return await self._put(to, described | in_thread(to), key)

    async def edit(self, to: Route, message: str, text: str, *, markdown: bool = False) -> None:
        event = await self._event(to.chat, message)
        if event is None or event.sender != self.account or event.content.msgtype is None:
            raise NeverSent("there is no such message of ours, or no more")
        content = written(text, markdown)
        await self._put(to, {
            "msgtype": "m.text",
            "body": f"* {content['body'][:FALLBACK_MAX]}",
            "m.new_content": content,
            "m.relates_to": {"rel_type": "m.replace", "event_id": message},
        })  # fmt: skip

    async def typing(self, to: Route) -> None:
        await called(self._client.room_typing(to.chat, True, int(TYPING_SECONDS * 1500)))

    async def close(self) -> None:
        if self._listens:
            self._listens = False
            with suppress(PlatformError, TimeoutError):  # then the next one asks, and is not answered
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._keep(OWNER, {})
        await self._client.close()

    async def _put(self, to: Route, content: Json, key: str = "") -> str:
        transaction = hashlib.sha256(key.encode()).hexdigest() if key else uuid4().hex
        sent = await called(self._client.room_send(to.chat, "m.room.message", content, transaction))
        return str(sent.event_id)

    # -- one gateway an account ----------------------------------------------------------------------------------
    async def _claim(self) -> None:
        """Makes this the gateway that listens. Raises PlatformRefused when there is another that lives."""
        owner = (await self._kept(OWNER)).get("owner", self._me)
        if owner != self._me:
            await retried(self._keep(ASKING, {"gateway": self._me}))
            with suppress(TimeoutError):  # it does not live: nobody answers
                async with asyncio.timeout(ASK_SECONDS):
                    while True:
                        if (await self._kept(OWNER)).get("answered") == self._me:
                            raise PlatformRefused(TAKEN)
                        await asyncio.sleep(ASK_SECONDS / 15)
        await retried(self._keep(OWNER, {"owner": self._me}))
        self._listens = True

    async def _look_for_others(self, events: Sequence[Any]) -> None:
        """Answers a gateway that asks, and ends when another one took over: while we could not be reached, say."""
        told = {e.type: e.content for e in events if getattr(e, "type", None) in {OWNER, ASKING}}
        # Asked for, because a sync may be the answer to an older request.
        if OWNER in told and (await self._kept(OWNER)).get("owner", self._me) != self._me:
            self._listens = False
            raise PlatformRefused(TAKEN)
        asking = told.get(ASKING, {}).get("gateway", self._me)
        if asking != self._me:
            await retried(self._keep(OWNER, {"owner": self._me, "answered": asking}))

    async def _kept(self, kind: str) -> Json:
        """What is kept with the account under a name; nothing where there is nothing. Raises NotSent, PlatformRefused."""
        try:
            kept = msgspec.json.decode(await retried(self._asked("GET", self._data_path(kind))))
        except Absent:
            return {}
        except NeverSent as error:
            raise NotSent(str(error)) from error
        return kept if isinstance(kept, dict) else {}

    async def _keep(self, kind: str, content: Json) -> None:
        await self._asked("PUT", self._data_path(kind), content)

    def _data_path(self, kind: str) -> str:
        return f"/_matrix/client/v3/user/{quote(self.account, safe='')}/account_data/{kind}"

    async def _asked(self, method: str, path: str, content: Json | None = None, most: int = 0) -> bytes:
        """A call that nio does not know, or would not bound. Raises as `called`."""
        data = None if content is None else msgspec.json.encode(content).decode()
        headers = {"Authorization": f"Bearer {self._client.access_token}"}
        with Outcome():
            async with await self._client.send(method, path, data, headers) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if most and len(body) > most:
                        raise NeverSent(f"it is larger than {most // 1_000_000} MB")
        self.contact = asyncio.get_running_loop().time()
        if response.status >= 400:
            raise error_of(response.status, *reason_of(bytes(body)))
        return bytes(body)

    # -- what arrives --------------------------------------------------------------------------------------------
    def _filter(self, limit: int) -> Json:
        nothing: Json = {"types": []}
        timeline = {"limit": limit, "lazy_load_members": True}
        state = {"types": ["m.room.member"], "lazy_load_members": True}
        return {
            "presence": nothing,
            "account_data": {"types": [OWNER, ASKING]},
            "room": {"timeline": timeline, "state": state, "ephemeral": nothing, "account_data": nothing},
        }

    def _note_invitations(self, synced: Any) -> None:
        for room, info in synced.rooms.invite.items():
            for event in info.invite_state:
                if isinstance(event, InviteMemberEvent) and event.state_key == self.account:
                    self._invitations[room] = (event.sender, event.content.get("is_direct") is True)
                    LOG.info("invited", platform=NAME, room=room, sender=event.sender)
        while len(self._invitations) > INVITATIONS_MAX:
            del self._invitations[next(iter(self._invitations))]

    async def _accept(self) -> None:
        """Joins where somebody invited us who may. Other invitations stay: their sender may be paired yet."""
        for room, (sender, is_direct) in list(self._invitations.items()):
            if not await self._welcomes(sender, is_direct):
                continue
            try:
                await called(self._client.join(room))
            except NeverSent as error:
                LOG.warning("not joined", platform=NAME, room=room, why=str(error))
            except (NotSent, MaybeSent):
                continue  # at the next poll
            del self._invitations[room]

    async def _events(self, room: str, info: Any) -> list[Event]:
        """What happened in a room since the last sync; in a new one, since we were invited."""
        events, state = parsed_events(info.timeline.events), parsed_events(info.state)
        if any(event.type == "m.room.member" for event in (*events, *state)):
            self._people.pop(room, None)
        invited = [at for at, event in enumerate(events) if event.moves(self.account, "invite")]
        if invited:
            events = events[invited[-1] + 1 :]
        is_cut = (
            not invited
            and info.timeline.limited
            and not any(event.moves(self.account, "invite") for event in state)
        )
        if is_cut and (self._position or not events or self._is_new(events[0])):
            events = await self._missed(room, info.timeline.prev_batch) + events
        return events if self._position else [event for event in events if self._is_new(event)]

    def _is_new(self, event: Event) -> bool:
        """Where our position was lost: whether it may be of after that."""
        return 0 < self._until_ms < event.origin_server_ts + OVERLAP_MS

    async def _missed(self, room: str, until: str) -> list[Event]:
        """What happened between our position and a later one."""
        missed: list[Event] = []
        for _ in range(PAGES_MAX):
            call = self._client.room_messages(room, until, self._position, MessageDirection.back, PAGE)
            try:
                page = await retried(called(call))
            except NeverSent as error:  # we may not look (any more)
                LOG.warning("not read", platform=NAME, room=room, why=str(error))
                break
            self.contact = asyncio.get_running_loop().time()
            missed += parsed_events(page.chunk)
            if not page.chunk or not page.end or not (self._position or self._is_new(missed[-1])):
                break
            until = page.end
        else:
            LOG.warning("too much was missed to read all of it", platform=NAME, room=room, read=len(missed))
        return missed[::-1]

    async def _read(self, room: str, event: Event) -> Incoming | None:
        content, changed = event.content, ""
        if event.sender == self.account or not event.event_id:
            return None
        if event.type == "m.room.encrypted":
            await self._say_encrypted(room)
            return None
        if event.type != "m.room.message" and event.type not in UNSUPPORTED:
            return None
        relates = content.relates or Relation()
        if relates.rel_type == "m.replace":
            original = await self._event(room, relates.event_id or "")
            if original is None or original.sender != event.sender or content.new is None:
                return None  # nobody changes what others said
            content, changed = content.new, relates.event_id or ""
            relates = original.content.relates or Relation()
        text, files, unsupported = said(content, event.type, relates)
        if not text.strip() and not files and not unsupported:
            return None  # a program's notice, a redaction
        thread = relates.event_id if relates.rel_type == "m.thread" else None
        people = await self._members(room)
        return Incoming(
            key=event.event_id,
            chat=Route(platform=NAME, account=self.account, chat=room, thread=thread),
            kind=ChatKind.DM if len(people) == 2 else ChatKind.THREAD if thread else ChatKind.GROUP,
            sender=event.sender,
            sender_name=people.get(event.sender) or event.sender,
            text=text,
            files=files,
            addressed=await self._is_addressed(room, text, content, relates, people),
            edits=changed,
            unsupported=unsupported,
        )

    async def _is_addressed(
        self, room: str, text: str, content: Content, relates: Relation, people: dict[str, str]
    ) -> bool:
        """A command, our name, or an answer to us."""
        if text.startswith("/") or (content.mentions and self.account in (content.mentions.user_ids or ())):
            return True
        own = (self.account, self.account.partition(":")[0], people.get(self.account) or self.account)
        names = "|".join(re.escape(name) for name in own)
        if re.search(rf"(?i)(?<!\w)(?:{names})(?!\w)", text):
            return True
        if relates.in_reply_to is None or relates.is_falling_back:
            return False
        answered = await self._event(room, relates.in_reply_to.event_id)
        return answered is not None and answered.sender == self.account

    async def _say_encrypted(self, room: str) -> None:
        """Once: with a key of its own, so that it is not said again after a restart either."""
        if room not in self._encrypted:
            self._encrypted.add(room)
            with suppress(NotSent, MaybeSent, NeverSent):
                to = Route(platform=NAME, account=self.account, chat=room)
                await self.send(to, ENCRYPTED, key=f"encrypted:{room}")

    async def _event(self, room: str, ident: str) -> Event | None:
        """An event that was named; None where there is none that we may see. Raises NotSent, PlatformRefused."""
        path = f"/_matrix/client/v3/rooms/{quote(room, safe='')}/event/{quote(ident, safe='')}"
        try:
            return msgspec.json.decode(await retried(self._asked("GET", path)), type=Event)
        except (NeverSent, msgspec.DecodeError):
            return None

    async def _members(self, room: str) -> dict[str, str]:
        if room not in self._people:
            path = f"/_matrix/client/v3/rooms/{quote(room, safe='')}/members?not_membership=leave"
            try:
                found = msgspec.json.decode(await retried(self._asked("GET", path)))
            except NeverSent:
                return {}  # we were sent away meanwhile
            self._people[room] = {
                event.state_key: event.content.displayname or ""
                for event in converted(found.get("chunk", []))
                if event.state_key and event.content.membership in {"join", "invite"}
            }
        return self._people[room]
