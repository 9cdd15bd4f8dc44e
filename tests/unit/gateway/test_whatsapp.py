"""What WhatsApp's webhooks and errors mean, over the emulated Cloud API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import pytest

from clew.domain.routing.routes import ChatKind, Route
from clew.runtime.ports.endpoints import Asked
from clew.runtime.ports.platforms import (
    Attached,
    Button,
    Incoming,
    MaybeSent,
    NeverSent,
    NotSent,
    PlatformRefused,
)
from clew.surfaces.gateway.platforms.whatsapp import LOOK_SECONDS, WhatsApp
from clew.surfaces.gateway.platforms.whatsapp_text import formatted
from clew.testing.whatsapp import CloudApi, Fault
from tests.unit.gateway.whatsapp_numbers import account, nobody, posted_to

pytestmark = pytest.mark.anyio
ANN: Final = "491701234567"
CLOSED: Final = "24 hours"


class Business:
    """A number that listens, what it took, and how to reach it."""

    def __init__(self, api: CloudApi, platform: WhatsApp) -> None:
        self.api = api
        self.platform = platform
        self.took: list[Incoming] = []
        self.breaks: list[Exception] = []
        self.ann = api.person(ANN, "Ann")
        self.listening: asyncio.Task[None]

    async def take(self, incoming: Incoming) -> None:
        if self.breaks:
            raise self.breaks.pop()
        self.took.append(incoming)

    def to(self, chat: str = ANN) -> Route:
        return Route(platform="whatsapp", account=CloudApi.NUMBER_ID, chat=chat)

    async def said(self, text: str = "", /, **more: Any) -> Incoming | None:
        """What becomes of a message of Ann's."""
        before = len(self.took)
        self.api.say(self.ann, text, **more)
        await self.told()
        return self.took[-1] if len(self.took) > before else None

    async def told(self) -> None:
        """Returns when every webhook was told 200."""
        await self.api.until(lambda: not self.api.unconfirmed)


@asynccontextmanager
async def business(template: str = "") -> AsyncIterator[Business]:
    async def deliver(headers: dict[str, str], body: bytes) -> int:
        return await posted_to(platform, headers, body)

    async with CloudApi(deliver) as api:
        platform = WhatsApp(account(template), nobody, base_url=api.base_url)
        made = Business(api, platform)
        await platform.open()
        made.listening = asyncio.create_task(platform.receive(made.take))
        await asyncio.sleep(0)
        try:
            yield made
        finally:
            made.listening.cancel()
            await asyncio.gather(made.listening, return_exceptions=True)
            await platform.close()


async def test_a_forged_webhook_is_not_even_looked_into() -> None:
    """Neither parsed nor asked about; what is signed and makes no sense is refused, and stops nothing."""
    asked: list[Sequence[str]] = []

    async def known(ids: Sequence[str]) -> Mapping[str, str]:
        asked.append(ids)
        return {}

    api = CloudApi()
    platform = WhatsApp(account(), known, base_url="http://127.0.0.1:9")
    webhook = msgspec.json.encode(api.say(api.person(ANN), "hello", times=0))
    right = api.signed(webhook)["x-hub-signature-256"]
    for shown in ("", "sha256=", right.upper(), right[:-1], right.removeprefix("sha256="), f"{right}\xe9"):
        assert await posted_to(platform, {"x-hub-signature-256": shown}, webhook) == 403
        assert await posted_to(platform, {"x-hub-signature-256": shown}, b"\xff{") == 403
    assert await posted_to(platform, {}, webhook) == 403
    assert asked == []
    assert await posted_to(platform, {"x-hub-signature-256": right}, webhook) == 503  # nobody listens yet
    ask, _ = platform.endpoints
    for query in ({}, {"hub.mode": "subscribe"}, {"hub.mode": "subscribe", "hub.verify_token": "x"}):
        assert (await ask.answer(Asked(headers={}, body=b"", query=query))).status == 403
    await platform.close()


async def test_what_is_said_in_whatever_form() -> None:
    """Words, captions, buttons and changes are said; stickers and the like are named; reactions are nothing."""
    async with business() as b:
        file = {"id": "7", "mime_type": "audio/ogg; codecs=opus"}
        assert (await b.said("hi")) == Incoming(
            key="wamid.000001",
            chat=b.to(),
            kind=ChatKind.DM,
            sender=ANN,
            sender_name="Ann",
            also=(b.ann.user_id, ANN),
            text="hi",
        )
        image = await b.said(image={"id": "6", "mime_type": "image/jpeg", "caption": "look"})
        assert image is not None
        assert (image.text, image.files) == ("look", (Attached(reference="6", media_type="image/jpeg"),))
        voice = await b.said(audio=file)
        assert voice is not None
        assert (voice.text, voice.files[0].media_type) == ("", "audio/ogg")
        pressed = {"type": "list_reply", "list_reply": {"id": "/undo", "title": "a title"}}
        forms: tuple[tuple[dict[str, Any], str], ...] = (
            ({"interactive": pressed}, "a title"),
            ({"button": {"payload": "p", "text": "Yes please"}}, "Yes please"),
            (
                {"edit": {"original_message_id": "m1", "message": {"type": "text", "text": {"body": "b"}}}},
                "b",
            ),
        )
        for more, text in forms:
            said = await b.said("", **more)
            assert said is not None
            assert (said.text, said.edits) == (text, "m1" if "edit" in more else "")
        for kind, name in (
            ("sticker", "sticker"),
            ("location", "location"),
            ("contacts", "contact"),
            ("unsupported", "message of this kind"),
        ):
            shown = await b.said("", **{kind: {"id": "1"} if kind == "sticker" else []})
            assert shown is not None
            assert shown.unsupported == name
        for silent in ("reaction", "system"):
            assert await b.said("", **{silent: {"emoji": "👍"}}) is None


async def test_each_message_is_taken_once_and_no_other_waits_for_a_broken_one() -> None:
    """Posted again and again it is one; what nobody understands is let go; what could not be taken comes again."""
    async with business() as b:
        webhook = b.api.say(b.ann, "one", times=3)
        value = webhook["entry"][0]["changes"][0]["value"]
        broken = {"contacts": [], "messages": [{"id": 5}, "x", *value["messages"]], "statuses": [{}, 1]}
        b.api.repeat(b.api.webhook(broken))
        nobodys = b.api.webhook({"messages": [{"id": "w", "type": "text", "text": {"body": "whose?"}}]})
        b.api.repeat(nobodys)
        others = msgspec.json.encode(b.api.say(b.ann, "to another number", times=0))
        b.api.repeat(msgspec.json.decode(others.replace(CloudApi.NUMBER_ID.encode(), b"999")))
        await b.told()
        assert [one.text for one in b.took] == ["one"]
        await b.api.until(lambda: b.api.read == ["wamid.000001"])
        b.breaks.append(KeyError("the disk is full"))
        body = msgspec.json.encode(b.api.say(b.ann, "two", times=0))
        assert await posted_to(b.platform, b.api.signed(body), body) == 503
        assert b.took[1:] == []


REFUSED: Final = {190: 401, 10: 400, 200: 403, 131031: 400}


@pytest.mark.parametrize(
    ("fault", "error", "after"),
    [
        (Fault(code=131056, retry_after=9), NotSent, 9),
        (Fault(code=131056), NotSent, 6),
        (Fault(code=130429, status=429), NotSent, 1),
        (Fault(code=77, status=429), NotSent, 0),
        (Fault(code=131016, status=500), NotSent, 0),
        (Fault(code=131000, status=500), MaybeSent, None),
        (Fault(garbage=True), MaybeSent, None),
        (Fault(code=131026), NeverSent, None),
        (Fault(code=131047), NeverSent, None),
        *((Fault(code=code, status=status), PlatformRefused, None) for code, status in REFUSED.items()),
    ],
)
async def test_each_error_says_what_may_be_done_next(
    fault: Fault, error: type[Exception], after: float | None
) -> None:
    """Again, once more with a mark, never, or not with this token; pauses are kept."""
    async with business() as b:
        b.api.fail("messages", fault)
        with pytest.raises(error) as caught:
            await b.platform.send(b.to(), "hello")
        assert after is None or getattr(caught.value, "after", None) == after
        assert CloudApi.TOKEN not in str(caught.value)


async def test_a_platform_that_cannot_be_reached_did_not_send() -> None:
    """Neither a message nor an upload; a number that is not there is refused."""
    away = WhatsApp(account(), nobody, base_url="http://127.0.0.1:9")
    to = Route(platform="whatsapp", account="1", chat=ANN)
    with pytest.raises(NotSent):
        await away.send(to, "hello")
    with pytest.raises(NotSent):
        await away.open()
    await away.close()
    async with business() as b:
        b.api.fail("media", Fault(loses_answer=True))
        with pytest.raises(NotSent):
            await b.platform.send_file(b.to(), "a.txt", "text/plain", b"a")
        other = WhatsApp(msgspec.structs.replace(account(), number_id="999"), nobody, base_url=b.api.base_url)
        with pytest.raises(PlatformRefused, match="phone_number_id"):
            await other.open()
        await other.close()


async def test_a_closed_window_is_one_template_or_a_sentence() -> None:
    """Told at once or by a status; the template goes out once until the person writes."""
    async with business() as plain:
        plain.api.closed.add(ANN)
        plain.api.refuses_at_once = True
        for _ in range(2):
            with pytest.raises(NeverSent, match=CLOSED):
                await plain.platform.send(plain.to(), "hello")
    async with business("back") as b:
        b.api.closed.add(ANN)
        sent = await b.platform.send(b.to(), "hello")
        await b.told()
        (lost,) = b.took
        assert (lost.undelivered, lost.sender, CLOSED in lost.text) == (sent, ANN, True)
        for _ in range(2):
            await b.platform.send(b.to(), "still there?")
            await b.told()
        assert b.api.shown(ANN) == ["[back]"]
        await b.said("I am")
        await b.platform.send(b.to(), "hello")
        assert b.api.shown(ANN) == ["[back]", "hello"]
        b.api.closed.add(ANN)
        await b.platform.send(b.to(), "and now?")
        await b.told()
        await b.platform.send(b.to(), "hello?")
        assert b.api.shown(ANN) == ["[back]", "hello", "[back]"]


async def test_a_status_ends_a_doubt() -> None:
    """Whether a message went out is known as soon as WhatsApp tells of it: it is not repeated. Other failures are told."""
    async with business() as b:
        b.api.fail("messages", Fault(loses_answer=True))
        with pytest.raises(MaybeSent):
            await b.platform.send(b.to(), "hello", key="s:1")
        await b.told()
        assert await b.platform.send(b.to(), "(possibly repeated)\nhello", key="s:1") == "wamid.000001"
        assert await b.platform.send(b.to(), "bye", key="s:1") != "wamid.000001"
        assert b.api.shown(ANN) == ["hello", "bye"]
        for _ in range(2):
            b.api.tell("wamid.000001", "failed", ANN, code=131026)
        await b.told()
        (lost,) = b.took
        assert (lost.undelivered, "131026" in lost.text) == ("wamid.000001", True)


async def test_whoever_hides_their_number_is_answered() -> None:
    """By the id of their own."""
    async with business() as b:
        said = await b.said("hi", shows="user_id")
        assert said is not None
        assert said.sender == b.ann.user_id
        await b.platform.send(said.chat, "hello")
        assert b.api.calls[-1][1]["recipient"] == b.ann.user_id
        assert b.api.shown(ANN) == ["hello"]
        await b.platform.typing(said.chat)
        assert b.api.calls[-1][1] == {
            "messaging_product": "whatsapp",
            "status": "read",
            "message_id": said.key,
            "typing_indicator": {"type": "text"},
        }


async def test_a_long_question_names_its_answers() -> None:
    """Where buttons take no more words: the whole question is shown, and what can be said."""
    async with business() as b:
        buttons = [Button("Allow once", "/approve x"), Button("Refuse", "/deny x")]
        await b.platform.send(b.to(), "x" * 1024, buttons=buttons)
        await b.platform.send(b.to(), "x" * 1025, buttons=buttons)
        short, long = b.api.messages[ANN]
        assert (short["type"], long["type"]) == ("interactive", "text")
        assert long["text"]["body"].endswith("\nAllow once: /approve x\nRefuse: /deny x")


async def test_a_file_that_is_too_large_is_not_fetched() -> None:
    """Whatever its size was said to be."""
    async with business() as b:
        b.platform.traits = msgspec.structs.replace(b.platform.traits, file_bytes_max=10)
        large = b.api.give(b"x" * 11, "a.bin", "text/plain")
        with pytest.raises(NeverSent, match="larger"):
            await b.platform.fetch(Attached(reference=large["id"], media_type="text/plain"))


async def test_a_revoked_token_ends_listening_at_once() -> None:
    """Whichever call hears of it first; a webhook that comes then is not taken."""
    async with business() as b:
        await b.api.until(
            lambda: sum(name == "number" for name, _ in b.api.calls) == 2
        )  # opened, and looked at once
        b.api.revoked = True
        with pytest.raises(PlatformRefused):
            await b.platform.send(b.to(), "hello")
        with pytest.raises(PlatformRefused):
            async with asyncio.timeout(LOOK_SECONDS / 2):  # it would find out by itself after all of them
                await b.listening
        body = msgspec.json.encode(b.api.say(b.ann, "hello?", times=0))
        assert await posted_to(b.platform, b.api.signed(body), body) == 503


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("**bold** and *it* and ~~gone~~ and `x = 1`", "*bold* and _it_ and ~gone~ and `x = 1`"),
        ("***both***", "_*both*_"),
        ("# A **head**ing", "*A heading*"),
        ("- a\n- b", "• a\n• b"),
        ("> quoted", "> quoted"),
        ("[Clew](https://clew.example)", "Clew (https://clew.example)"),
        ("<https://clew.example>", "https://clew.example"),
        ("```py\nx = '😀'\n```\nafter **it**", "```\nx = '😀'\n```\nafter *it*"),
        ("😀 **😀** 2 * 3 * 4", "😀 *😀* 2 * 3 * 4"),
        ("no marks_at_all * here", "no marks_at_all * here"),
    ],
)
def test_formatting_is_whatsapps_own(markdown: str, shown: str) -> None:
    """Nothing is dropped, and emoji do not shift the marks."""
    assert formatted(markdown) == shown
