"""Telegram, through python-telegram-bot: long polling or a webhook, where an update is confirmed only after it is durable.

Its updater confirms what it has merely put into a queue, so both ways in are ours. Chats are named by Telegram's ids, a
message by chat and message id (update ids start anew after a week); a change of it adds its time.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from telegram import (
    Bot,
    BotCommand,
    CallbackQuery,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    LinkPreviewOptions,
    Message,
    MessageEntity,
    Update,
)
from telegram.constants import ChatAction, ChatType
from telegram.error import (
    BadRequest,
    ChatMigrated,
    Conflict,
    Forbidden,
    InvalidToken,
    NetworkError,
    RetryAfter,
    TelegramError,
)
from telegram.request import HTTPXRequest

from clew.domain.routing.routes import ChatKind, Route
from clew.domain.routing.splitting import TextLimit, Units
from clew.runtime.commands import COMMANDS
from clew.runtime.ports.endpoints import Answered, Asked, Endpoint
from clew.runtime.ports.platforms import (
    Attached,
    Button,
    ChatMoved,
    Incoming,
    MaybeSent,
    NeverSent,
    NotSent,
    PlatformRefused,
    Take,
    Traits,
    take_in_order,
)
from clew.surfaces.gateway.channel import LOG
from clew.surfaces.gateway.markup import Span, Style, marked

os.environ.setdefault(
    "PTB_TIMEDELTA", "true"
)  # else each RetryAfter warns that it will be a timedelta one day
T = TypeVar("T")
NO_PREVIEW: Final = LinkPreviewOptions(is_disabled=True)
NAME: Final = "telegram"
PUBLIC: Final = "https://api.telegram.org"
HOLDS: Final = TextLimit(most=4000, units=Units.UTF16)
"""Telegram takes 4096 UTF-16 units; the rest is room for a mark."""
SENDS_BYTES_MAX: Final = 50_000_000
PHOTO_BYTES_MAX: Final = 10_000_000
PHOTOS: Final = frozenset({"image/jpeg", "image/png", "image/webp"})
"""What Telegram shows as a picture; other images go as documents."""
SECRET_HEADER: Final = "x-telegram-bot-api-secret-token"
UPDATE_BYTES_MAX: Final = 1_000_000
POLL_SECONDS: Final = 30
CALL_SECONDS: Final = 20.0
CONNECTIONS: Final = 64
CONFLICTS_MAX: Final = 5
"""Polls in a row that somebody else with our token may end, once ours has worked."""
UPDATES: Final = ["message", "edited_message", "callback_query"]
ANSWERS: Final = ("/approve ", "/deny ")
"""What buttons may say."""
UNSUPPORTED: Final = (
    "sticker",
    "location",
    "poll",
    "contact",
    "venue",
    "dice",
    "video_note",
    "game",
    "story",
)
_FILES: Final = (("document", ""), ("voice", "audio/ogg"), ("audio", "audio/mpeg"), ("video", "video/mp4"))


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Where Telegram is to send updates, and what it shows there. The path of `url` is ours to serve."""

    url: str
    secret: str


class Telegram:
    """`Platform` for one bot. `endpoints` are there with a webhook: whoever listens for HTTP serves them."""

    name = NAME

    def __init__(
        self, token: str, *, base_url: str = "", base_file_url: str = "", webhook: Webhook | None = None
    ) -> None:
        api = (base_url or PUBLIC).rstrip("/")
        files = (base_file_url or f"{api}/file").rstrip("/")
        self.traits = Traits(
            holds=HOLDS, edits=True, edit_seconds=1.0, typing_seconds=4.0, sends_bytes_max=SENDS_BYTES_MAX
        )
        self.account = ""
        self.contact = -math.inf
        self._polled = False
        self._webhook = webhook
        self._take: Take | None = None
        self._broken: asyncio.Future[None] | None = None
        """Where an update that was posted could not be taken; raised by `receive`."""
        self._warned = False
        self.endpoints: tuple[Endpoint, ...] = ()
        if webhook is not None:
            path = urlsplit(webhook.url).path or "/"
            self.endpoints = (
                Endpoint(method="POST", path=path, answer=self._posted, bytes_max=UPDATE_BYTES_MAX),
            )
        try:
            self._bot = Bot(
                token,
                base_url=f"{api}/bot",
                base_file_url=f"{files}/bot",
                request=HTTPXRequest(
                    connection_pool_size=CONNECTIONS, read_timeout=CALL_SECONDS, write_timeout=CALL_SECONDS
                ),
                get_updates_request=HTTPXRequest(read_timeout=CALL_SECONDS),
            )
        except InvalidToken as error:
            raise PlatformRefused(f"Telegram's token is no token: {error}") from error

    async def open(self) -> None:
        try:
            await _called(self._bot.initialize())
        except (MaybeSent, NeverSent) as error:
            raise NotSent(str(error)) from error
        self.account = str(self._bot.id)
        self.contact = asyncio.get_running_loop().time()
        menu = [
            BotCommand(command.name, command.summary[:256]) for command in COMMANDS if "-" not in command.name
        ]
        with suppress(NotSent, MaybeSent, NeverSent):  # a menu is a convenience
            await _called(self._bot.set_my_commands(menu))

    async def receive(self, take: Take) -> None:
        if self._webhook is None:
            await self._poll(take)
        else:
            await self._listen(take, self._webhook)

    async def _listen(self, take: Take, webhook: Webhook) -> None:
        """Takes what is posted, one update at a time, so that they come in order. Looks after the address: it can be taken."""
        self._take, self._broken = take, asyncio.get_running_loop().create_future()
        try:
            hooked = self._bot.set_webhook(
                webhook.url, secret_token=webhook.secret, allowed_updates=UPDATES, max_connections=1
            )
            try:
                await _called(hooked)
            except NeverSent as error:
                raise PlatformRefused(
                    f"Telegram does not take gateway.telegram.webhook_url: {error}"
                ) from error
            except MaybeSent as error:
                raise NotSent(str(error)) from error
            while not self._broken.done():
                found = await _polled(self._bot.get_webhook_info())
                if found.url != webhook.url:
                    raise PlatformRefused(
                        "Another program uses the same Telegram token: it took the webhook away."
                    )
                self.contact = asyncio.get_running_loop().time()
                await asyncio.wait([self._broken], timeout=POLL_SECONDS)
            self._broken.result()
        finally:
            self._take = None
            self._broken.cancel()

    async def _posted(self, asked: Asked) -> Answered:
        """The supervisor of an update that Telegram posts: what it was not told 200 for comes again."""
        shown = asked.headers.get(SECRET_HEADER, "")
        if self._webhook is None or not hmac.compare_digest(shown.encode(), self._webhook.secret.encode()):
            if not self._warned:
                LOG.warning("wrong webhook secret", platform=NAME)
                self._warned = True
            return Answered(status=403, body=b"Wrong secret.\n")
        try:
            update = Update.de_json(msgspec.json.decode(asked.body), self._bot)
            incoming = self._read(update)
        except (msgspec.DecodeError, TypeError, ValueError, KeyError, AttributeError):
            return Answered(status=400, body=b"No update.\n")
        if self._take is None or self._broken is None:
            return Answered(status=503, body=b"Not yet.\n")
        try:
            if incoming is not None:
                await self._take(incoming)
        except Exception as error:  # noqa: BLE001 - `receive` raises it
            if not self._broken.done():
                self._broken.set_exception(error)
            return Answered(status=503, body=b"Not now.\n")
        self.contact = asyncio.get_running_loop().time()
        if update.callback_query is not None:
            await self._answered(update.callback_query)
        return Answered()

    async def _poll(self, take: Take) -> None:
        await _polled(self._bot.delete_webhook())  # with one set nobody can poll
        offset: int | None = None
        conflicts = 0
        while True:
            try:
                updates = await _polled(
                    self._bot.get_updates(offset=offset, timeout=POLL_SECONDS, allowed_updates=UPDATES)
                )
            except Conflict as error:
                conflicts += 1
                if not self._polled or conflicts > CONFLICTS_MAX:
                    raise PlatformRefused(
                        f"Another program uses the same Telegram token: {error.message}"
                    ) from error
                await asyncio.sleep(conflicts)
                continue
            self._polled, conflicts = True, 0
            self.contact = asyncio.get_running_loop().time()
            await _taken(take, [found for update in updates if (found := self._read(update)) is not None])
            if updates:
                offset = updates[-1].update_id + 1
            for update in updates:
                if update.callback_query is not None:
                    await self._answered(update.callback_query)

    async def fetch(self, file: Attached) -> bytes:
        try:
            found = await _called(self._bot.get_file(file.reference))
            return bytes(await _called(found.download_as_bytearray()))
        except MaybeSent as error:
            raise NotSent(str(error)) from error
        except PlatformRefused as error:
            raise NeverSent("Telegram has no such file.") from error  # a 404 looks like a wrong token

    async def send(
        self, to: Route, text: str, *, markdown: bool = False, buttons: Sequence[Button] = (), key: str = ""
    ) -> str:
        markup = None
        if buttons:
            row = [InlineKeyboardButton(button.label, callback_data=button.command) for button in buttons]
            markup = InlineKeyboardMarkup([row])

        def call(plain: str, entities: Sequence[MessageEntity]) -> Coroutine[Any, Any, Message]:
            return self._bot.send_message(
                int(to.chat),
                plain,
                entities=entities,
                message_thread_id=int(to.thread) if to.thread else None,
                reply_markup=markup,
                link_preview_options=NO_PREVIEW,
            )

        return str((await _formatted(call, text, markdown)).message_id)

    async def send_file(self, to: Route, name: str, media_type: str, content: bytes, *, key: str = "") -> str:
        chat, thread = int(to.chat), int(to.thread) if to.thread else None
        if media_type in PHOTOS and len(content) <= PHOTO_BYTES_MAX:
            with suppress(NeverSent):  # too wide, say: then it goes as a document
                photo = self._bot.send_photo(chat, content, message_thread_id=thread, filename=name)
                return str((await _called(photo)).message_id)
        document = self._bot.send_document(
            chat, content, message_thread_id=thread, filename=name, disable_content_type_detection=True
        )
        return str((await _called(document)).message_id)

    async def edit(self, to: Route, message: str, text: str, *, markdown: bool = False) -> None:
        def call(plain: str, entities: Sequence[MessageEntity]) -> Coroutine[Any, Any, Message | bool]:
            return self._bot.edit_message_text(
                plain, int(to.chat), int(message), entities=entities, link_preview_options=NO_PREVIEW
            )

        try:
            await _formatted(call, text, markdown)
        except NeverSent as error:
            if "not modified" not in str(error):
                raise

    async def typing(self, to: Route) -> None:
        thread = int(to.thread) if to.thread else None
        await _called(self._bot.send_chat_action(int(to.chat), ChatAction.TYPING, message_thread_id=thread))

    async def close(self) -> None:
        with suppress(TelegramError):  # it says goodbye to nobody
            await self._bot.shutdown()

    # -- what arrives --------------------------------------------------------------------------------------------
    def _read(self, update: Update) -> Incoming | None:
        if update.callback_query is not None:
            return self._pressed(update.callback_query)
        message = update.edited_message or update.message
        if message is not None and (message.migrate_to_chat_id or message.migrate_from_chat_id):
            return self._moved(message)
        if message is None or message.from_user is None or message.from_user.is_bot:
            return None
        text, unsupported = message.text or message.caption or "", ""
        files = _attached(message)
        if not text and not files:
            unsupported = next((kind for kind in UNSUPPORTED if getattr(message, kind, None)), "")
            if not unsupported:
                return None  # somebody joined, a title changed: nothing was said
        own, text = self._without_name(text)
        key = f"{message.chat.id}:{message.message_id}"
        changed = update.edited_message is not None and message.edit_date is not None
        return Incoming(
            key=f"{key}:{int(message.edit_date.timestamp())}" if changed and message.edit_date else key,
            chat=self._route(message),
            kind=_kind(message),
            sender=str(message.from_user.id),
            sender_name=message.from_user.full_name,
            text=text,
            files=files,
            addressed=own and (text.startswith("/") or self._is_addressed(message)),
            edits=key if changed else "",
            unsupported=unsupported.replace("_", " "),
        )

    def _moved(self, message: Message) -> Incoming:
        """A group became a supergroup: said in both of them, each in its own words."""
        old, new = (
            message.migrate_from_chat_id or message.chat.id,
            message.migrate_to_chat_id or message.chat.id,
        )
        return Incoming(
            key=f"{message.chat.id}:{message.message_id}",
            chat=Route(platform=NAME, account=self.account, chat=str(new)),
            kind=ChatKind.GROUP,
            sender="",
            text="",
            moved_from=str(old),
        )

    def _pressed(self, query: CallbackQuery) -> Incoming | None:
        message = query.message
        if not isinstance(message, Message) or query.data is None or not query.data.startswith(ANSWERS):
            return None
        return Incoming(
            key=f"press:{query.id}",
            chat=self._route(message),
            kind=_kind(message),
            sender=str(query.from_user.id),
            sender_name=query.from_user.full_name,
            text=query.data,
            addressed=True,
        )

    async def _answered(self, query: CallbackQuery) -> None:
        """The button stops spinning, and cannot be pressed again."""
        with suppress(NotSent, MaybeSent, NeverSent):
            await _called(self._bot.answer_callback_query(query.id))
            if isinstance(query.message, Message):
                await _called(query.message.edit_reply_markup(None))

    def _route(self, message: Message) -> Route:
        thread = str(message.message_thread_id) if message.is_topic_message else None
        return Route(platform=NAME, account=self.account, chat=str(message.chat.id), thread=thread)

    def _without_name(self, text: str) -> tuple[bool, str]:
        """Whether a command is ours, and the text without our name behind it: `/undo@clew_bot 2` is `/undo 2`."""
        first, space, rest = text.partition(" ")
        command, at, name = first.partition("@")
        if not text.startswith("/") or not at:
            return True, text
        return name.casefold() == (self._bot.username or "").casefold(), f"{command}{space}{rest}"

    def _is_addressed(self, message: Message) -> bool:
        answered = message.reply_to_message
        if answered is not None and answered.from_user is not None and answered.from_user.id == self._bot.id:
            return True
        name = f"@{self._bot.username}".casefold()
        named = {**message.parse_entities(["mention"]), **message.parse_caption_entities(["mention"])}
        return any(mention.casefold() == name for mention in named.values())


async def _taken(take: Take, incoming: Sequence[Incoming]) -> None:
    """Chats side by side; but one has its new id only for what came after that was said."""
    together: list[Incoming] = []
    for message in incoming:
        if message.moved_from:
            await take_in_order(take, together)
            together.clear()
            await take(message)
        else:
            together.append(message)
    await take_in_order(take, together)


def _kind(message: Message) -> ChatKind:
    if message.chat.type == ChatType.PRIVATE:
        return ChatKind.DM
    return ChatKind.THREAD if message.is_topic_message else ChatKind.GROUP


def _attached(message: Message) -> tuple[Attached, ...]:
    found = []
    if message.photo:
        largest = message.photo[-1]
        found.append(
            Attached(reference=largest.file_id, media_type="image/jpeg", size=largest.file_size, name=None)
        )
    for kind, media_type in _FILES:
        file = getattr(message, kind, None)
        if file is not None:
            found.append(
                Attached(
                    reference=file.file_id,
                    media_type=file.mime_type or media_type or "application/octet-stream",
                    size=file.file_size,
                    name=getattr(file, "file_name", None),
                )
            )
    return tuple(found)


async def _formatted(
    call: Callable[[str, Sequence[MessageEntity]], Coroutine[Any, Any, T]], text: str, markdown: bool
) -> T:
    """With its formatting; without it, as it was written, where Telegram does not take the formatting."""
    if not markdown:
        return await _called(call(text, ()))
    shown = marked(text)
    if not shown.text.strip():
        return await _called(call(text, ()))
    try:
        return await _called(call(shown.text, [_entity(span) for span in shown.spans]))
    except NeverSent as error:
        if "entit" not in str(error).lower():
            raise
    return await _called(call(text, ()))


def _entity(span: Span) -> MessageEntity:
    detail = span.detail or None
    return MessageEntity(
        span.style,
        span.at,
        span.length,
        url=detail if span.style == Style.LINK else None,
        language=detail if span.style == Style.BLOCK else None,
    )


async def _called(call: Coroutine[Any, Any, T]) -> T:
    """What became of a call, in the words of the port; Conflict stays what it is."""
    try:
        return await call
    except Conflict:
        raise
    except RetryAfter as error:
        after = error.retry_after
        raise NotSent(
            error.message, after.total_seconds() if isinstance(after, timedelta) else after
        ) from error
    except InvalidToken as error:
        raise PlatformRefused("Telegram does not know this token (any more).") from error
    except ChatMigrated as error:
        raise ChatMoved(error.message, str(error.new_chat_id)) from error
    except (BadRequest, Forbidden) as error:
        raise NeverSent(error.message) from error
    except NetworkError as error:
        if isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
            raise NotSent(f"Telegram cannot be reached: {error.message}") from error
        raise MaybeSent(error.message) from error
    except TelegramError as error:
        raise NeverSent(error.message) from error


async def _polled(call: Coroutine[Any, Any, T]) -> T:
    """A poll changes nothing, so that whatever broke it can be tried again. Raises Conflict, NotSent, PlatformRefused."""
    try:
        return await _called(call)
    except (MaybeSent, NeverSent) as error:
        raise NotSent(str(error)) from error
