"""WhatsApp, through Meta's Cloud API: signed webhooks in, a few calls of the Graph API out.

A webhook is believed only by its signature over the raw body, and told 200 only once what it holds is in the inbox; until then
Meta sends it again, for days. Nothing can be changed there after it was sent, and 24 hours after a person's last message only a
template reaches them. Facts are those of developers.facebook.com/documentation/business-messaging/whatsapp.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec

from clew.domain.routing.one_person import Met, address, is_number, is_own, met, spelled
from clew.domain.routing.routes import ChatKind, Route
from clew.domain.routing.splitting import TextLimit
from clew.runtime.ports.endpoints import Answered, Asked, Endpoint
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
from clew.surfaces.gateway.platforms.whatsapp_calls import NOT_TAKEN_IN, WINDOW_CLOSED, Calls, WindowClosed
from clew.surfaces.gateway.platforms.whatsapp_text import files_of, formatted, text_of
from clew.wire.whatsapp import (
    Contact,
    Media,
    Message,
    Named,
    Posted,
    Sent,
    Status,
    Value,
)

T = TypeVar("T")
K = TypeVar("K")
NAME: Final = "whatsapp"
TEXT_MAX: Final = 4096
HOLDS: Final = TextLimit(most=3900)
"""The rest is room for a mark, and for two buttons as lines."""
BUTTON_TEXT_MAX: Final = 1024
BUTTONS_MAX: Final = 3
LABEL_MAX: Final = 20
PICTURE_BYTES_MAX: Final = 5_000_000
SENDS_BYTES_MAX: Final = 100_000_000
PICTURES: Final = {"image/jpeg": b"\xff\xd8\xff", "image/png": b"\x89PNG"}
"""What is shown as a picture, and how its bytes begin."""
DOCUMENTS: Final = frozenset({"text/plain", "application/pdf"})
PLAIN: Final = "text/plain"
"""As what any other file is declared: what is uploaded has to have one of few types."""
WEBHOOK_BYTES_MAX: Final = 3_500_000
"""Meta sends up to 3 MB."""
LOOK_SECONDS: Final = 30
TYPING_SECONDS: Final = 20.0
"""It is shown for 25 s."""
REMEMBERED_MAX: Final = 1000
SIGNATURE: Final = "x-hub-signature-256"
_SILENT: Final = frozenset({"reaction", "revoke", "system", "request_welcome"})
"""Nothing was said."""
_UNSUPPORTED: Final = {"sticker": "sticker", "location": "location", "contacts": "contact", "order": "order"}
Known = Callable[[Sequence[str]], Awaitable[Mapping[str, str]]]
"""The ids of everybody whom one of these names, and the name behind each: `Ledger.known_as`."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A business phone number, and what proves who talks to whom. `template` is a name, with `/language` behind it or not."""

    number_id: str
    token: str
    app_secret: str
    verify_token: str
    path: str = "/whatsapp"
    template: str = ""


class WhatsApp:
    """`Platform` for one business phone number. `known` tells who is behind an id, and `preferred` are the ids that the settings
    name people by. `endpoints` are to be served by whoever listens for HTTP."""

    name = NAME

    def __init__(
        self, account: Account, known: Known, *, preferred: Collection[str] = (), base_url: str = ""
    ) -> None:
        self.traits = Traits(
            holds=HOLDS, edits=False, typing_seconds=TYPING_SECONDS, sends_bytes_max=SENDS_BYTES_MAX
        )
        self.account = ""
        self._posted_at = -math.inf
        self._own = account
        self._known = known
        self._preferred = preferred
        self._take: Take | None = None
        self._broken: asyncio.Future[None] | None = None
        """Where an update that was posted could not be taken, or we are refused; raised by `receive`."""
        self._warned = False
        self._taken: OrderedDict[str, None] = OrderedDict()
        """Messages that were taken since we began: also of those that leave nothing in the ledger each is answered once."""
        self._unread: asyncio.Queue[str] = asyncio.Queue(REMEMBERED_MAX)
        self._newest: OrderedDict[str, str] = OrderedDict()
        """The last message of each chat: what typing is shown behind."""
        self._closed: OrderedDict[str, bool] = OrderedDict()
        """Chats that take templates alone, and whether they got one."""
        self._doubted: OrderedDict[str, str] = OrderedDict()
        """Keys of messages that are on their way, or may have gone out; and their ids once a status tells."""
        self._calls = Calls(account.token, base_url, self._break)
        self.endpoints = (
            Endpoint(method="GET", path=account.path, answer=self._verified),
            Endpoint(method="POST", path=account.path, answer=self._posted, bytes_max=WEBHOOK_BYTES_MAX),
        )

    @property
    def contact(self) -> float:
        return max(self._posted_at, self._calls.contact)

    async def open(self) -> None:
        await self._look()
        self.account = self._own.number_id

    async def receive(self, take: Take) -> None:
        """Takes what is posted. Looks after the token: a webhook would not tell that it was revoked."""
        self._take, self._broken = take, asyncio.get_running_loop().create_future()
        reading = asyncio.create_task(self._read_marks())
        try:
            while not self._broken.done():
                await self._look()
                await asyncio.wait([self._broken], timeout=LOOK_SECONDS)
            self._broken.result()
        finally:
            self._take = None
            self._broken.cancel()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _look(self) -> None:
        try:
            await self._calls.call(Named, "GET", self._own.number_id, params={"fields": "id"})
        except NeverSent as error:
            raise PlatformRefused(f"WhatsApp has no such phone_number_id for this token: {error}") from error
        except MaybeSent as error:
            raise NotSent(str(error)) from error

    async def _read_marks(self) -> None:
        """A convenience: whatever goes wrong with it is left alone."""
        while True:
            message = await self._unread.get()
            with suppress(PlatformError):
                await self._message(status="read", message_id=message)

    # -- webhooks ------------------------------------------------------------------------------------------------
    async def _verified(self, asked: Asked) -> Answered:
        """Meta asks once, when the address is entered there."""
        shown = asked.query.get("hub.verify_token", "")
        if asked.query.get("hub.mode") != "subscribe" or not _same(shown, self._own.verify_token):
            return Answered(status=403, body=b"Wrong token.\n")
        return Answered(body=asked.query.get("hub.challenge", "").encode())

    async def _posted(self, asked: Asked) -> Answered:
        """The supervisor of a webhook: what it was not told 200 for comes again."""
        digest = hmac.new(self._own.app_secret.encode(), asked.body, hashlib.sha256).hexdigest()
        if not _same(asked.headers.get(SIGNATURE, ""), f"sha256={digest}"):
            if not self._warned:
                LOG.warning("wrong signature", platform=NAME)
                self._warned = True
            return Answered(status=403, body=b"Wrong signature.\n")
        try:
            posted = msgspec.json.decode(asked.body, type=Posted)
        except msgspec.DecodeError:
            return Answered(status=400, body=b"No webhook.\n")
        if self._take is None or self._broken is None:
            return Answered(status=503, body=b"Not yet.\n")
        try:
            changes = [change for entry in posted.entry for change in entry.changes]
            values = [_decoded(change.value, Value) for change in changes if change.field == "messages"]
            incoming = [one for value in values if value is not None for one in await self._heard(value)]
            await take_in_order(self._take, incoming)
        except Exception as error:  # noqa: BLE001 - `receive` raises it
            self._break(error)
            return Answered(status=503, body=b"Not now.\n")
        self._posted_at = asyncio.get_running_loop().time()
        for message in incoming:
            _remember(self._taken, message.key, None)
            if not message.undelivered:
                _remember(self._newest, message.chat.chat, message.key)
                with suppress(asyncio.QueueFull):
                    self._unread.put_nowait(message.key)
        return Answered()

    def _break(self, error: Exception) -> None:
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)

    async def _heard(self, value: Value) -> list[Incoming]:
        """What a webhook holds for us. One message that nobody understands keeps no other."""
        if value.metadata.phone_number_id != self._own.number_id:
            return []
        messages = [_decoded(raw, Message) for raw in value.messages]
        statuses = [_decoded(raw, Status) for raw in value.statuses]
        found = [await self._said(message, value) for message in messages if message is not None]
        found += [await self._came_of(status, value) for status in statuses if status is not None]
        return [incoming for incoming in found if incoming is not None and incoming.key not in self._taken]

    async def _said(self, message: Message, value: Value) -> Incoming | None:
        contact = _contact(value, message.from_user_id, message.number)
        who = await self._met(message.from_user_id, message.number, contact.user_id, contact.wa_id)
        if who is None or message.type in _SILENT:
            return None
        content = message.edit.message if message.edit is not None else message
        text, files = text_of(content), files_of(content)
        own = spelled(value.metadata.display_phone_number)
        named = text.startswith("/") or f"@{own}" in text or spelled(message.context.sender) == own
        unsupported = "" if text or files else _UNSUPPORTED.get(content.type, "message of this kind")
        chat = message.group_id or who.name
        self._closed.pop(who.name, None)
        return Incoming(
            key=message.id,
            chat=self._route(chat),
            kind=ChatKind.GROUP if message.group_id else ChatKind.DM,
            sender=who.name,
            sender_name=contact.profile.name,
            also=who.also,
            text=text,
            files=files,
            addressed=named,
            edits=message.edit.original_message_id if message.edit is not None else "",
            unsupported=unsupported,
        )

    async def _met(self, *ids: str) -> Met | None:
        shown = [spelled(ident) for ident in ids if ident]
        return met(shown, await self._known(shown), self._preferred) if shown else None

    async def _came_of(self, status: Status, value: Value) -> Incoming | None:
        """What WhatsApp tells of a message of ours. That it went out ends a doubt; that it did not arrive is told."""
        if status.status != "failed":
            if status.biz_opaque_callback_data in self._doubted:
                self._doubted[status.biz_opaque_callback_data] = status.id
            return None
        is_group = status.recipient_type == "group"
        contact = _contact(value, status.recipient_user_id, status.recipient_id)
        who = await self._met(status.recipient_user_id, status.recipient_id, contact.user_id, contact.wa_id)
        if who is None:
            return None
        name = status.recipient_id if is_group else who.name
        if any(error.code == WINDOW_CLOSED for error in status.errors):
            self._closed.setdefault(name, False)
            why = NOT_TAKEN_IN
        else:
            why = "; ".join(error.why for error in status.errors) or "WhatsApp does not say why."
        return Incoming(
            key=f"failed:{status.id}",
            chat=self._route(name),
            kind=ChatKind.GROUP if is_group else ChatKind.DM,
            sender="" if is_group else name,
            text=why,
            undelivered=status.id,
        )

    def _route(self, chat: str) -> Route:
        return Route(platform=NAME, account=self._own.number_id, chat=chat)

    # -- what goes out -------------------------------------------------------------------------------------------
    async def fetch(self, file: Attached) -> bytes:
        try:
            media = await self._calls.call(
                Media, "GET", file.reference, params={"phone_number_id": self._own.number_id}
            )
            if media.file_size > self.traits.file_bytes_max:
                raise NeverSent(f"it is larger than {self.traits.file_bytes_max // 1_000_000} MB")
            return await self._calls.called("GET", media.url, most=self.traits.file_bytes_max)
        except MaybeSent as error:
            raise NotSent(str(error)) from error

    async def send(
        self, to: Route, text: str, *, markdown: bool = False, buttons: Sequence[Button] = (), key: str = ""
    ) -> str:
        shown = formatted(text) if markdown else text
        if len(shown) > TEXT_MAX or not shown.strip():
            shown = text
        if not shown.strip():
            raise NeverSent("There is nothing in it.")
        if buttons and len(shown) <= BUTTON_TEXT_MAX:
            rows = [
                {"type": "reply", "reply": {"id": b.command, "title": b.label[:LABEL_MAX]}}
                for b in buttons[:BUTTONS_MAX]
            ]
            asks = {"type": "button", "body": {"text": shown}, "action": {"buttons": rows}}
            return await self._send(to.chat, "interactive", asks, key)
        lines = [f"{button.label}: {button.command}" for button in buttons]
        body = {"body": "\n".join([shown, *lines]), "preview_url": False}
        return await self._send(to.chat, "text", body, key)

    async def send_file(self, to: Route, name: str, media_type: str, content: bytes, *, key: str = "") -> str:
        begins = PICTURES.get(media_type)
        picture = begins is not None and content.startswith(begins) and len(content) <= PICTURE_BYTES_MAX
        declared = media_type if picture or media_type in DOCUMENTS else PLAIN
        try:
            media = await self._calls.call(
                Named,
                "POST",
                f"{self._own.number_id}/media",
                data={"messaging_product": "whatsapp", "type": declared},
                files={"file": (name, content, declared)},
            )
        except MaybeSent as error:
            raise NotSent(str(error)) from error  # an upload is no message yet
        if picture:
            return await self._send(to.chat, "image", {"id": media.id}, key)
        return await self._send(to.chat, "document", {"id": media.id, "filename": name}, key)

    async def edit(self, to: Route, message: str, text: str, *, markdown: bool = False) -> None:
        raise NeverSent("WhatsApp changes no message.")

    async def typing(self, to: Route) -> None:
        if (message := self._newest.get(to.chat)) is not None:
            await self._message(status="read", message_id=message, typing_indicator={"type": "text"})

    async def close(self) -> None:
        await self._calls.close()

    async def _send(self, chat: str, kind: str, content: Mapping[str, Any], key: str) -> str:
        if known := self._doubted.pop(key, ""):
            return known  # it went out after all
        if self._own.template and self._closed.get(chat) is False:
            return await self._instead(chat)
        if key:
            _remember(self._doubted, key, "")  # its status may come before its answer
        try:
            sent = await self._out(chat, kind, content, biz_opaque_callback_data=key)
        except (MaybeSent, asyncio.CancelledError):
            raise
        except WindowClosed:
            self._doubted.pop(key, None)
            if not self._own.template or self._closed.get(chat):
                raise
            return await self._instead(chat)
        except PlatformError:
            self._doubted.pop(key, None)
            raise
        self._doubted.pop(key, None)
        return sent

    async def _instead(self, chat: str) -> str:
        """The template, once, where a chat takes nothing else."""
        name, _, language = self._own.template.partition("/")
        sent = await self._out(chat, "template", {"name": name, "language": {"code": language or "en_US"}})
        _remember(self._closed, chat, True)
        return sent

    async def _out(self, chat: str, kind: str, content: Mapping[str, Any], **more: str) -> str:
        to = address(chat, await self._known([chat]))
        where = {"recipient": to} if is_own(to) else {"to": to}
        whom = "individual" if is_own(to) or is_number(to) else "group"
        sent = await self._message(
            recipient_type=whom, **where, type=kind, **{kind: content}, **{k: v for k, v in more.items() if v}
        )
        try:
            return msgspec.json.decode(sent, type=Sent).messages[0].id
        except (msgspec.DecodeError, IndexError) as error:
            raise MaybeSent("WhatsApp's answer names no message") from error

    async def _message(self, **body: Any) -> bytes:
        body = {"messaging_product": "whatsapp", **body}
        return await self._calls.called("POST", f"{self._own.number_id}/messages", json=body)


def _same(shown: str, right: str) -> bool:
    """Compared in constant time; nothing is never right."""
    return bool(right) and hmac.compare_digest(shown.encode("utf-8", "surrogatepass"), right.encode())


def _decoded(raw: msgspec.Raw, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        LOG.warning("not understood", platform=NAME, why=str(error))
        return None


def _contact(value: Value, *ids: str) -> Contact:
    """Whose ids these are; with none, the one person that is spoken of."""
    theirs = {ident for ident in ids if ident}
    found = [c for c in value.contacts if theirs & {c.wa_id, c.user_id}]
    if not theirs and len(value.contacts) == 1:
        found = value.contacts
    return found[0] if found else Contact()


def _remember(rows: OrderedDict[str, K], key: str, value: K) -> None:
    rows[key] = value
    rows.move_to_end(key)
    while len(rows) > REMEMBERED_MAX:
        rows.popitem(last=False)
