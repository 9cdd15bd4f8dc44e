"""WhatsApp's Cloud API over HTTP, as far as businesses need it, with people one can type for and faults one can ask for.

    async with CloudApi() as api:
        api.hook = "http://127.0.0.1:8787/whatsapp"       # where signed webhooks are posted, until they are told 200
        ann = api.person("491701234567", "Ann")
        api.say(ann, "hello")                             # `times=3` posts it three times
        await api.until(lambda: api.shown(ann.number) == ["Hi!"])

`base_url` is what takes the place of graph.facebook.com. Facts are those of
developers.facebook.com/documentation/business-messaging/whatsapp: 4096 characters in a text, 1024 beside buttons, three of
them with 20 characters each; a closed window is told by a status, after the message was taken.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote

import httpx
import msgspec

from clew.testing.wire_server import Json, Upload, WireServer, fields

OK: Final = 200
AGAIN_SECONDS: Final = 0.05
"""After a webhook that was not taken."""
TEXT_MAX: Final = 4096
BUTTON_TEXT_MAX: Final = 1024
TYPES: Final = frozenset({"audio/aac", "audio/mpeg", "audio/ogg", "video/mp4", "image/jpeg", "image/png", "image/webp",
                          "text/plain", "application/pdf", "application/msword", "application/vnd.ms-excel"})  # fmt: skip
MEDIA_BEGINS: Final = {"image/png": b"\x89PNG", "image/jpeg": b"\xff\xd8\xff"}
JSON: Final = {"Content-Type": "application/json"}


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one call. `loses_answer`: it is done, and the connection ends without a word of it."""

    status: int = 400
    code: int = 0
    retry_after: int = 0
    loses_answer: bool = False
    garbage: bool = False


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody, by their number and by the id that this business knows them by; either may be hidden."""

    number: str
    user_id: str
    name: str = ""
    group: str = ""


class Refusal(Exception):
    """An error of the Graph API."""

    def __init__(self, status: int, code: int, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


Deliver = Callable[[dict[str, str], bytes], Awaitable[int]]


class CloudApi(WireServer):
    """One business phone number. `calls` are what was asked, in order; `messages` what each person was sent, by number."""

    NUMBER_ID: Final = "106540352242922"
    NUMBER: Final = "15550783881"
    TOKEN: Final = "EAAtoken"
    APP_SECRET: Final = "an app's secret"
    VERIFY_TOKEN: Final = "a verify token"

    def __init__(self, deliver: Deliver | None = None) -> None:
        super().__init__()
        self.hook = ""
        self.calls: list[tuple[str, Json]] = []
        self.messages: dict[str, list[Json]] = {}
        self.read: list[str] = []
        self.revoked = False
        self.closed: set[str] = set()
        """Numbers that did not write for 24 hours."""
        self.refuses_at_once = False
        """A closed window is told by the call, and not by a status."""
        self.tells = True
        """Statuses are posted."""
        self.posted: list[int] = []
        self._people: dict[str, str] = {}
        """Numbers by the ids of one business."""
        self._deliver = deliver or self._post
        self._media: dict[str, Upload] = {}
        self._webhooks: list[Json] = []
        self._faults: dict[str, list[Fault]] = {}
        self._next = 0
        self._came = asyncio.Event()

    # -- what people do and see ----------------------------------------------------------------------------------
    def person(self, number: str, name: str = "") -> Person:
        person = Person(number=number, user_id=f"US.{number}0001", name=name or f"+{number}")
        self._people[person.user_id] = number
        return person

    def say(self, who: Person, text: str = "", *, times: int = 1, shows: str = "both", **more: Any) -> Json:
        """A message; `shows` is `both` ids of the person, the `number` or the `user_id`; `more` are further fields of it, such
        as `sticker`."""
        self.closed.discard(who.number)
        message: Json = {"id": self._wamid(), "timestamp": "1790000000"}
        contact: Json = {"profile": {"name": who.name}}
        if shows != "user_id":
            message["from"] = contact["wa_id"] = who.number
        if shows != "number":
            message["from_user_id"] = contact["user_id"] = who.user_id
        if who.group:
            message["group_id"] = who.group
        kind = more.pop("type", next(iter(more), "text"))
        message |= {"type": kind, **({"text": {"body": text}} if text else {}), **more}
        webhook = self.webhook({"contacts": [contact], "messages": [message]})
        self.repeat(webhook, times=times)
        return webhook

    def repeat(self, webhook: Json, *, times: int = 1) -> None:
        self._webhooks += [webhook] * times
        if self._server is not None and not self._came.is_set():
            self._came.set()
            self._beside(asyncio.create_task(self._posting()))

    def webhook(self, value: Json) -> Json:
        metadata = {"display_phone_number": self.NUMBER, "phone_number_id": self.NUMBER_ID}
        value = {"messaging_product": "whatsapp", "metadata": metadata, **value}
        change = {"field": "messages", "value": value}
        return {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}

    def signed(self, body: bytes, secret: str = APP_SECRET) -> dict[str, str]:
        """The headers of a webhook."""
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return {"content-type": "application/json", "x-hub-signature-256": f"sha256={digest}"}

    def press(self, who: Person, label: str) -> None:
        """Presses the newest button with this label that the person was sent."""
        for message in reversed(self.messages.get(who.number, [])):
            for button in message.get("interactive", {}).get("action", {}).get("buttons", []):
                if button["reply"]["title"] == label:
                    pressed = {"type": "button_reply", "button_reply": button["reply"]}
                    self.say(who, interactive=pressed)
                    return
        raise AssertionError(f"no button “{label}” for {who.number}")

    def give(self, content: bytes, name: str, media_type: str) -> Json:
        """A file that a message can hold as `document=`."""
        ident = self._kept(Upload(name=name, media_type=media_type, bytes=content))
        return {"id": ident, "mime_type": media_type, "filename": name, "sha256": "x"}

    def shown(self, number: str) -> list[str]:
        """What the business's messages to somebody say, oldest first; a template in brackets."""
        return [text for message in self.messages.get(number, []) if (text := _shown(message))]

    def files_shown(self, number: str) -> list[tuple[str, bytes]]:
        """Name and content of the files that somebody was sent; a picture has no name."""
        files = [m[m["type"]] for m in self.messages.get(number, []) if m["type"] in ("image", "document")]
        return [(file.get("filename", ""), self._media[file["id"]].bytes) for file in files]

    def fail(self, call: str, *faults: Fault) -> None:
        """The next calls (`messages`, `media`, `number`) meet these, one each."""
        self._faults.setdefault(call, []).extend(faults)

    @property
    def unconfirmed(self) -> int:
        """Webhooks that were not told 200."""
        return len(self._webhooks)

    # -- webhooks ------------------------------------------------------------------------------------------------
    async def _posting(self) -> None:
        """Posts what there is, each until it is told 200."""
        while self._webhooks:
            body = msgspec.json.encode(self._webhooks[0])
            status = await self._deliver(self.signed(body), body)
            self.posted.append(status)
            if status == OK:
                del self._webhooks[0]
            else:
                await asyncio.sleep(AGAIN_SECONDS)
            await self.note()
        self._came.clear()

    async def _post(self, headers: dict[str, str], body: bytes) -> int:
        try:
            async with httpx.AsyncClient(timeout=60) as client:
                return (await client.post(self.hook, content=body, headers=headers)).status_code
        except httpx.TransportError:
            return 502  # nobody listens, or was killed

    def tell(self, message: str, status: str, number: str, *, code: int = 0, key: str = "") -> None:
        """A status of a message of the business."""
        told: Json = {"id": message, "status": status, "timestamp": "1790000001", "recipient_id": number}
        if code:
            told["errors"] = [{"code": code, "title": "Not delivered", "error_data": {"details": "as asked"}}]
        if key:
            told["biz_opaque_callback_data"] = key
        own = next((ident for ident, other in self._people.items() if other == number), "")
        contact = {"profile": {"name": number}, "wa_id": number, "user_id": own}
        self.repeat(self.webhook({"contacts": [contact], "statuses": [told | {"recipient_user_id": own}]}))

    def _wamid(self) -> str:
        self._next += 1
        return f"wamid.{self._next:06d}"

    # -- the Graph API -------------------------------------------------------------------------------------------
    async def answer(self, head: str, body: bytes) -> tuple[int, Json, bytes] | None:
        method, target, _ = head.split(" ", 2)
        path = re.sub(r"^/v\d+\.\d+/", "/", unquote(target.partition("?")[0])).strip("/")
        asked = fields(head, body) if body else {}
        name = path.rpartition("/")[2] if method == "POST" else "number" if path == self.NUMBER_ID else "get"
        self.calls.append((name, asked))
        fault = self._faults[name].pop(0) if self._faults.get(name) else None
        try:
            if f"authorization: bearer {self.TOKEN}".lower() not in head.lower() or self.revoked:
                raise Refusal(401, 190, "Error validating access token: it was revoked")
            if fault is not None and not fault.loses_answer and not fault.garbage:
                raise Refusal(fault.status, fault.code, "As asked", fault.retry_after)
            content = self._file(path) if path.startswith("file/") else self._method(method, path, asked)
        except Refusal as error:
            await self.note()
            wrong = {"message": str(error), "type": "OAuthException", "code": error.code, "fbtrace_id": "A"}
            wait = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
            return error.status, JSON | wait, msgspec.json.encode({"error": wrong})
        await self.note()
        if fault is not None and fault.loses_answer:
            return None
        return OK, JSON, b"<html>" if fault is not None else content

    def _method(self, method: str, path: str, asked: Json) -> bytes:
        if method == "GET" and path == self.NUMBER_ID:
            return msgspec.json.encode({"id": path, "display_phone_number": self.NUMBER})
        if method == "GET" and path in self._media:
            kept = self._media[path]
            told = {"url": f"{self.base_url}/file/{path}", "mime_type": kept.media_type, "id": path}
            told |= {"sha256": hashlib.sha256(kept.bytes).hexdigest(), "messaging_product": "whatsapp"}
            return msgspec.json.encode(told | {"file_size": len(kept.bytes)})
        if method == "POST" and path == f"{self.NUMBER_ID}/media":
            return msgspec.json.encode({"id": self._upload(asked)})
        if method == "POST" and path == f"{self.NUMBER_ID}/messages":
            return msgspec.json.encode(self._message(asked))
        raise Refusal(400, 100, f"Unsupported {method} request. Object '{path}' does not exist")

    def _file(self, path: str) -> bytes:
        return self._media[path.removeprefix("file/")].bytes

    def _upload(self, asked: Json) -> str:
        file: Upload = asked["file"]
        begins = MEDIA_BEGINS.get(file.media_type, b"")
        if file.media_type not in TYPES or not file.bytes.startswith(begins):
            raise Refusal(400, 100, "Param file must be a file with one of the following types: ...")
        return self._kept(file)

    def _kept(self, file: Upload) -> str:
        ident = f"media{len(self._media)}"
        self._media[ident] = file
        return ident

    def _message(self, asked: Json) -> Json:
        if asked["messaging_product"] != "whatsapp":
            raise Refusal(400, 100, "messaging_product is missing")
        if asked.get("status") == "read":
            self.read.append(asked["message_id"])
            return {"success": True}
        to = self._people.get(asked.get("recipient", ""), asked.get("to", ""))
        if not to:
            raise Refusal(400, 131009, "Parameter value is not valid: recipient")
        _check(asked)
        ident = self._wamid()
        key = asked.get("biz_opaque_callback_data", "")
        if to in self.closed and asked["type"] != "template":
            if self.refuses_at_once:
                raise Refusal(400, 131047, "Re-engagement message")
            self.tell(ident, "failed", to, code=131047, key=key)
        else:
            self.messages.setdefault(to, []).append(asked | {"id": ident})
            if self.tells:
                self.tell(ident, "sent", to, key=key)
        contact = {"input": to, "wa_id": to}
        return {"messaging_product": "whatsapp", "contacts": [contact], "messages": [{"id": ident}]}


def _shown(message: Json) -> str:
    if message["type"] == "template":
        return f"[{message['template']['name']}]"
    if message["type"] == "interactive":
        return str(message["interactive"]["body"]["text"])
    return str(message.get("text", {}).get("body", ""))


def _check(asked: Json) -> None:
    """Raises Refusal for what WhatsApp does not take."""
    match asked["type"]:
        case "text":
            text, most = asked["text"]["body"], TEXT_MAX
        case "interactive":
            text, most = asked["interactive"]["body"]["text"], BUTTON_TEXT_MAX
            replies = [button["reply"] for button in asked["interactive"]["action"]["buttons"]]
            if not 1 <= len(replies) <= 3 or any(len(r["title"]) > 20 or len(r["id"]) > 256 for r in replies):
                raise Refusal(400, 131009, "Parameter value is not valid: buttons")
        case _:
            return
    if not text.strip() or len(text) > most:
        raise Refusal(400, 100, f"(#100) Param body must be between 1 and {most} characters")
