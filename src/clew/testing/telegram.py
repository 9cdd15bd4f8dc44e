"""The Telegram Bot API over HTTP, as far as bots need it, with people one can type for and faults one can ask for.

    async with BotApi() as api:
        ann = api.person(42, "Ann")
        api.say(ann, "hello")                  # an update; `times=3` delivers it three times, under new update ids
        await api.until(lambda: api.shown(42) == ["Hi!"])

`base_url` is what a bot is given in place of the public address; the token is `BotApi.TOKEN`. Faults are asked for by method:
`api.fail("sendMessage", Fault(retry_after=3))`. Facts are those of core.telegram.org/bots/api: long polling with offsets, one
poller (an older one is ended with 409), 4096 UTF-16 units in a message, "message is not modified".
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final
from urllib.parse import unquote

import httpx
import msgspec

from clew.testing.wire_server import Json, Upload, WireServer, fields

UNITS_MAX: Final = 4096
DATE: Final = 1_790_000_000
OK: Final = 200
AGAIN_SECONDS: Final = 0.1
"""After an update that was not taken."""
UPLOAD_BYTES_MAX: Final = {"document": 50_000_000, "photo": 10_000_000}
PHOTO_BEGINS: Final = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")
JSON: Final = {"Content-Type": "application/json"}


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one call. `loses_answer`: it is done, and the connection ends without a word of it."""

    status: int = 0
    retry_after: int = 0
    description: str = ""
    loses_answer: bool = False
    loses_call: bool = False
    holds: asyncio.Event | None = None
    """The call waits for this before it is looked at."""


class Person(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str
    chat: int
    chat_type: str = "private"
    thread: int | None = None

    def at(self, chat: int, chat_type: str = "supergroup", thread: int | None = None) -> Person:
        """The same person in a group, or in a topic of one."""
        return msgspec.structs.replace(self, chat=chat, chat_type=chat_type, thread=thread)


class Refusal(Exception):
    """An error of the Bot API."""

    def __init__(self, status: int, description: str, retry_after: int = 0) -> None:
        super().__init__(description)
        self.status = status
        self.parameters = {"retry_after": retry_after} if retry_after else {}


class BotApi(WireServer):
    """One bot. `calls` are the methods called, in order; `messages` what each chat holds, by id."""

    TOKEN: Final = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"

    def __init__(self) -> None:
        super().__init__()
        self.me: Json = {"id": 110201543, "is_bot": True, "first_name": "Clew", "username": "clew_bot",
                         "can_join_groups": True, "can_read_all_group_messages": False,
                         "supports_inline_queries": False}  # fmt: skip
        self.calls: list[tuple[str, Json]] = []
        self.messages: dict[int, dict[int, Json]] = {}
        self.revoked = False
        self.moved: dict[int, int] = {}
        """Groups that are supergroups by now, and their ids."""
        self._files: dict[str, bytes] = {}
        self._updates: list[Json] = []
        self._next_update = 1
        self._next_message = 1
        self._faults: dict[str, list[Fault]] = {}
        self._poller: asyncio.Event | None = None
        self._came = asyncio.Event()
        self.webhook: Json = {"url": ""}
        """As it was set; `posted` holds what each post was answered with."""
        self.posted: list[int] = []
        self._posting: asyncio.Task[None] | None = None

    # -- what people do and see ----------------------------------------------------------------------------------
    def person(self, ident: int, name: str) -> Person:
        """Somebody, in their own chat with the bot."""
        return Person(id=ident, name=name, chat=ident)

    def say(self, who: Person, text: str = "", *, times: int = 1, **more: Any) -> Json:
        """A message; `more` are further fields of it, such as `reply_to_message` or `sticker`."""
        message = self._message(who, {"id": who.id, "is_bot": False, "first_name": who.name}, text, more)
        self.repeat(message, times=times)
        return message

    def repeat(self, message: Json, *, times: int = 1) -> None:
        """Delivers a message again, under new update ids."""
        for _ in range(times):
            self._update({"message": message})

    def change(self, message: Json, text: str) -> None:
        """The person edits a message."""
        edited = message | {"text": text, "edit_date": DATE + self._next_update, "entities": _entities(text)}
        self._update({"edited_message": edited})

    def migrate(self, who: Person, new: int) -> Person:
        """The person's group becomes a supergroup, which has another id; the old one takes nothing any more."""
        before, after = msgspec.structs.replace(who, chat_type="group"), who.at(new)
        sender = {"id": 1087968824, "is_bot": True, "first_name": "Group", "username": "GroupAnonymousBot"}
        self._update({"message": self._message(before, sender, "", {"migrate_to_chat_id": new})})
        self._update({"message": self._message(after, sender, "", {"migrate_from_chat_id": who.chat})})
        self.moved[who.chat] = new
        return after

    def press(self, who: Person, label: str) -> None:
        """Presses the newest button with this label in the person's chat."""
        for message in reversed(self.messages.get(who.chat, {}).values()):
            for row in message.get("reply_markup", {}).get("inline_keyboard", []):
                for button in row:
                    if button["text"] == label:
                        sender = {"id": who.id, "is_bot": False, "first_name": who.name}
                        self._update({"callback_query": {
                            "id": str(self._next_update * 1000), "from": sender, "message": message,
                            "chat_instance": str(who.chat), "data": button["callback_data"]}})  # fmt: skip
                        return
        raise AssertionError(f"no button “{label}” in chat {who.chat}")

    def give(self, content: bytes, name: str, media_type: str) -> Json:
        """A file that a message can hold as `document=`."""
        ident = f"file{len(self._files)}"
        self._files[ident] = content
        return {"file_id": ident, "file_unique_id": ident, "file_name": name, "mime_type": media_type,
                "file_size": len(content)}  # fmt: skip

    def shown(self, chat: int) -> list[str]:
        """What the bot's messages in a chat say now, oldest first."""
        return [m["text"] for m in self._said(chat) if "text" in m]

    def files_shown(self, chat: int) -> list[tuple[str, bytes]]:
        """Name and content of the files that the bot sent; a photo has no name."""
        said = [(m.get("document"), *m.get("photo", [])[-1:]) for m in self._said(chat)]
        files = [file for found in said for file in found if file is not None]
        return [(file.get("file_name", ""), self._files[file["file_id"]]) for file in files]

    def _said(self, chat: int) -> list[Json]:
        return [m for m in self.messages.get(chat, {}).values() if m["from"] == self.me]

    def fail(self, method: str, *faults: Fault) -> None:
        """The next calls of a method meet these, one each."""
        self._faults.setdefault(method, []).extend(faults)

    def forgive(self, method: str) -> None:
        """The faults of a method that were not met yet are taken back."""
        self._faults.pop(method, None)

    @property
    def unconfirmed(self) -> int:
        """Updates that the bot has not confirmed by an offset."""
        return len(self._updates)

    # -- updates -------------------------------------------------------------------------------------------------
    def _update(self, content: Json) -> None:
        self._updates.append({"update_id": self._next_update, **content})
        self._next_update += 1
        if self._poller is not None:
            self._poller.set()
        self._came.set()

    def _hook(self, asked: Json) -> bool:
        self.webhook = asked
        if self._posting is not None:
            self._posting.cancel()
            self._posting = None
        if asked["url"]:
            self._posting = self._beside(asyncio.create_task(self._post(asked)))
        return True

    async def _post(self, hook: Json) -> None:
        """Posts each update until it is answered with 200, one at a time, as with max_connections=1."""
        headers = {"X-Telegram-Bot-Api-Secret-Token": hook.get("secret_token", "")}
        async with httpx.AsyncClient(headers=headers, timeout=60) as client:
            while True:
                self._came.clear()
                while self._updates:
                    try:
                        answer = await client.post(hook["url"], content=msgspec.json.encode(self._updates[0]))
                    except httpx.TransportError:
                        answer = httpx.Response(502)  # nobody listens, or was killed
                    self.posted.append(answer.status_code)
                    if answer.status_code == OK:
                        del self._updates[0]
                    else:
                        await asyncio.sleep(AGAIN_SECONDS)
                    await self.note()
                await self._came.wait()

    def _message(self, where: Person, sender: Json, text: str, more: Json) -> Json:
        chat: Json = {"id": where.chat, "type": where.chat_type}
        chat |= {"first_name": where.name} if where.chat_type == "private" else {"title": "A group"}
        message: Json = {"message_id": self._next_message, "date": DATE + self._next_message, "chat": chat,
                         "from": sender} | more  # fmt: skip
        if text:
            message |= {"text": text, "entities": _entities(text)}
        if where.thread is not None:
            message |= {"message_thread_id": where.thread, "is_topic_message": True}
        self._next_message += 1
        self.messages.setdefault(where.chat, {})[message["message_id"]] = message
        return message

    async def _get_updates(self, asked: Json) -> Any:
        if self.webhook["url"]:
            raise Refusal(409, "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to "
                               "delete the webhook first")  # fmt: skip
        if self._poller is not None:
            poller, self._poller = self._poller, None
            poller.set()
        offset, limit = int(asked.get("offset", 0)), int(asked.get("limit", 100))
        self._updates = [update for update in self._updates if update["update_id"] >= offset]
        mine = self._poller = asyncio.Event()
        if not self._updates:
            try:
                async with asyncio.timeout(float(asked.get("timeout", 0))):
                    await mine.wait()
            except TimeoutError:
                pass  # nothing came
        if self._poller is not mine:
            raise Refusal(409, "Conflict: terminated by other getUpdates request; make sure that only one bot "
                               "instance is running")  # fmt: skip
        self._poller = None
        return self._updates[:limit]

    # -- methods -------------------------------------------------------------------------------------------------
    def _method(self, method: str, asked: Json) -> Any:
        match method:
            case "getMe":
                return self.me
            case "sendMessage":
                return self._send(asked)
            case "sendDocument" | "sendPhoto":
                return self._send_file(asked, "photo" if method == "sendPhoto" else "document")
            case "editMessageText":
                return self._edit(asked)
            case "editMessageReplyMarkup":
                message = self._found(asked)
                message.pop("reply_markup", None)
                return message
            case "deleteMessage":
                self._found(asked)
                del self.messages[int(asked["chat_id"])][int(asked["message_id"])]
                return True
            case "getFile":
                ident = asked["file_id"]
                if ident not in self._files:
                    raise Refusal(400, "Bad Request: wrong file_id or the file is temporarily unavailable")
                return {"file_id": ident, "file_unique_id": ident, "file_path": f"documents/{ident}"}
            case "setWebhook":
                return self._hook(asked)
            case "deleteWebhook":
                return self._hook({"url": ""})
            case "getWebhookInfo":
                return {"url": self.webhook["url"], "has_custom_certificate": False,
                        "pending_update_count": len(self._updates)}  # fmt: skip
            case "sendChatAction" | "answerCallbackQuery" | "setMyCommands":
                return True
            case _:
                raise Refusal(404, f"Not Found: method {method} is not here")

    def _where(self, asked: Json) -> Person:
        chat = int(asked["chat_id"])
        if chat in self.moved:
            moved = Refusal(400, "Bad Request: group chat was upgraded to a supergroup chat")
            moved.parameters = {"migrate_to_chat_id": self.moved[chat]}
            raise moved
        return Person(id=chat, name="", chat=chat, chat_type="private" if chat > 0 else "supergroup",
                      thread=int(asked["message_thread_id"]) if "message_thread_id" in asked else None)  # fmt: skip

    def _send_file(self, asked: Json, kind: str) -> Json:
        content: Upload = asked[kind]
        if len(content.bytes) > UPLOAD_BYTES_MAX[kind]:
            raise Refusal(413, "Request Entity Too Large")
        if kind == "photo" and not content.bytes.startswith(PHOTO_BEGINS):
            raise Refusal(400, "Bad Request: IMAGE_PROCESS_FAILED")
        file = self.give(content.bytes, content.name, content.media_type)
        shown: Any = file
        if kind == "photo":
            shown = [
                {"width": 1, "height": 1} | {k: file[k] for k in ("file_id", "file_unique_id", "file_size")}
            ]
        return self._message(self._where(asked), self.me, "", {kind: shown})

    def _send(self, asked: Json) -> Json:
        where = self._where(asked)
        _check_text(asked)
        more = {"reply_markup": asked["reply_markup"]} if "reply_markup" in asked else {}
        sent = self._message(where, self.me, asked["text"].strip(), more)
        if "entities" in asked:
            sent["entities"] = asked["entities"]
        return sent

    def _edit(self, asked: Json) -> Json:
        message = self._found(asked)
        _check_text(asked)
        text = asked["text"].strip()
        if message["text"] == text:
            raise Refusal(400, "Bad Request: message is not modified: specified new message content and reply markup "
                               "are exactly the same as a current content and reply markup of the message")  # fmt: skip
        message |= {"text": text, "edit_date": DATE + self._next_update}
        message["entities"] = asked.get("entities", [])
        return message

    def _found(self, asked: Json) -> Json:
        message = self.messages.get(int(asked["chat_id"]), {}).get(int(asked["message_id"]))
        if message is None:
            raise Refusal(400, "Bad Request: message to edit not found")
        return message

    # -- HTTP ----------------------------------------------------------------------------------------------------
    async def answer(self, head: str, body: bytes) -> tuple[int, Json, bytes] | None:
        path = unquote(head.split(" ", 2)[1].partition("?")[0])
        if path.startswith(f"/file/bot{self.TOKEN}/"):
            content = self._files.get(path.rpartition("/")[2])
            return (404, {}, b"") if content is None else (200, {}, content)
        token, _, method = path.removeprefix("/bot").rpartition("/")
        asked = fields(head, body)
        self.calls.append((method, asked))
        await self.note()
        fault = self._faults[method].pop(0) if self._faults.get(method) else Fault()
        if fault.holds is not None:
            await fault.holds.wait()
        if fault.loses_call:
            return None
        try:
            result = await self._called(token, method, asked, fault)
        except Refusal as error:
            wrong: Json = {"ok": False, "error_code": error.status, "description": str(error)}
            if error.parameters:
                wrong["parameters"] = error.parameters
            return error.status, JSON, msgspec.json.encode(wrong)
        await self.note()
        if fault.loses_answer:
            return None
        return 200, JSON, msgspec.json.encode({"ok": True, "result": result})

    async def _called(self, token: str, method: str, asked: Json, fault: Fault) -> Any:
        if token != self.TOKEN or self.revoked:
            raise Refusal(401, "Unauthorized")
        if fault.retry_after:
            sentence = f"Too Many Requests: retry after {fault.retry_after}"
            raise Refusal(429, sentence, fault.retry_after)
        if fault.status:
            raise Refusal(fault.status, fault.description or "Bad Gateway")
        return await self._get_updates(asked) if method == "getUpdates" else self._method(method, asked)


def _entities(text: str) -> list[Json]:
    """The commands and mentions that Telegram would find."""
    found = []
    for match in re.finditer(r"(?<!\S)(/\w+(?:@\w+)?|@\w+)", text):
        kind = "bot_command" if match[0].startswith("/") else "mention"
        before = len(text[: match.start()].encode("utf-16-le")) // 2
        found.append({"type": kind, "offset": before, "length": len(match[0])})
    return found


def _check_text(asked: Json) -> None:
    text = asked.get("text", "")
    units = len(text.encode("utf-16-le", "surrogatepass")) // 2
    if not text.strip():
        raise Refusal(400, "Bad Request: message text is empty")
    if units > UNITS_MAX:
        raise Refusal(400, "Bad Request: message is too long")
    for entity in asked.get("entities", []):
        if entity["offset"] < 0 or entity["length"] <= 0 or entity["offset"] + entity["length"] > units:
            raise Refusal(400, f"Bad Request: entity {entity} is beyond the text")
