"""Every platform passes the one suite of its port; Telegram's through the unmodified python-telegram-bot, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from clew.domain.routing.routes import ChatKind
from clew.runtime.ports.endpoints import Asked
from clew.runtime.ports.platforms import (
    Attached,
    ChatMoved,
    Incoming,
    NotSent,
    Platform,
    PlatformRefused,
)
from clew.surfaces.gateway.platforms.telegram import Telegram, Webhook
from clew.surfaces.gateway.platforms.whatsapp import WhatsApp
from clew.testing.contracts.platforms import ANN, GROUP, Bench, PlatformContract, opened, received
from clew.testing.fake_platform import FakeChats, FakePlatform
from clew.testing.telegram import BotApi, Fault, Person
from clew.testing.whatsapp import CloudApi
from clew.testing.whatsapp import Fault as CloudFault
from clew.testing.whatsapp import Person as CloudPerson
from tests.unit.gateway.whatsapp_numbers import account, nobody, posted_to


class FakeBench:
    def __init__(self, *, takes_key: bool = False) -> None:
        self._chats = FakeChats()
        self._takes_key = takes_key

    def sender(self, who: str) -> str:
        return who

    def chat(self, where: str) -> str:
        return where

    def connect(self) -> Platform:
        return FakePlatform(self._chats, takes_key=self._takes_key)

    async def say(
        self, sender: str, text: str, *, group: str = "", topic: str = "", named: bool = False
    ) -> None:
        kind = ChatKind.THREAD if topic else ChatKind.GROUP if group else ChatKind.DM
        await self._chats.say(sender, text, chat=group, kind=kind, thread=topic or None, addressed=named)

    async def send_file(self, sender: str, content: bytes, name: str) -> None:
        self._chats.files[name] = content
        file = Attached(reference=name, media_type="application/octet-stream", name=name)
        await self._chats.say(sender, "", files=(file,))

    async def press(self, sender: str, label: str) -> None:
        await self._chats.press(sender, label)

    def shown(self, chat: str) -> list[str]:
        return self._chats.shown(chat)

    def files_shown(self, chat: str) -> list[tuple[str, bytes]]:
        return self._chats.files_shown.get(chat, [])

    def slow_down(self, seconds: int) -> None:
        self._chats.failing.append(NotSent("Too soon.", seconds))

    def lose_answer(self) -> None:
        self._chats.answer_lost = True

    def revoke(self) -> None:
        self._chats.refuses = "No such account."


class TestFakePlatform(PlatformContract):
    """The one in memory."""

    @pytest.fixture
    async def bench(self) -> Bench:
        return FakeBench()


class TestFakePlatformWithKeys(PlatformContract):
    """The one in memory, where it takes our keys."""

    @pytest.fixture
    async def bench(self) -> Bench:
        return FakeBench(takes_key=True)


class TelegramBench:
    def __init__(self, api: BotApi) -> None:
        self._api = api
        self.connected: list[Platform] = []

    def sender(self, who: str) -> str:
        return who

    def chat(self, where: str) -> str:
        return where

    def connect(self) -> Platform:
        self.connected.append(Telegram(BotApi.TOKEN, base_url=self._api.base_url))
        return self.connected[-1]

    async def say(
        self, sender: str, text: str, *, group: str = "", topic: str = "", named: bool = False
    ) -> None:
        self._api.say(self._person(sender, group, topic), f"@clew_bot {text}" if named else text)

    async def send_file(self, sender: str, content: bytes, name: str) -> None:
        file = self._api.give(content, name, "application/octet-stream")
        self._api.say(self._person(sender), document=file)

    async def press(self, sender: str, label: str) -> None:
        self._api.press(self._person(sender), label)

    def shown(self, chat: str) -> list[str]:
        return self._api.shown(int(chat))

    def files_shown(self, chat: str) -> list[tuple[str, bytes]]:
        return self._api.files_shown(int(chat))

    def slow_down(self, seconds: int) -> None:
        self._api.fail("sendMessage", Fault(retry_after=seconds))

    def lose_answer(self) -> None:
        for method in ("sendMessage", "sendDocument"):
            self._api.fail(method, Fault(loses_answer=True))

    def revoke(self) -> None:
        self._api.revoked = True

    def _person(self, sender: str, group: str = "", topic: str = "") -> Person:
        person = self._api.person(int(sender), "Ann")
        return person.at(int(group), thread=int(topic) if topic else None) if group else person


async def nobody_takes(incoming: Incoming) -> None:
    raise AssertionError(incoming.key)


class TestTelegram(PlatformContract):
    """The Bot API emulated over HTTP."""

    @pytest.fixture
    async def bench(self) -> AsyncIterator[Bench]:
        async with BotApi() as api:
            bench = TelegramBench(api)
            yield bench
            for platform in bench.connected:
                await platform.close()

    async def test_a_webhook_that_somebody_else_takes_ends_us(self) -> None:
        """Whoever came last has it; the one before says so, and posts to it are taken by nobody."""
        async with BotApi() as api:
            hook = Webhook(url="http://127.0.0.1:9/hook", secret="s")
            platform = Telegram(BotApi.TOKEN, base_url=api.base_url, webhook=hook)
            await platform.open()
            looks = asyncio.Event()
            api.fail("getWebhookInfo", Fault(holds=looks))
            receiving = asyncio.create_task(platform.receive(nobody_takes))
            await api.until(lambda: api.calls[-1][0] == "getWebhookInfo")
            assert api.webhook["secret_token"] == "s"
            api.webhook = {"url": "https://other.example.org"}
            looks.set()
            with pytest.raises(PlatformRefused, match="Another program"):
                await receiving
            (endpoint,) = platform.endpoints
            body = b'{"update_id": 1}'
            late = await endpoint.answer(Asked(headers={"x-telegram-bot-api-secret-token": "s"}, body=body))
            assert late.status == 503
            await platform.close()

    async def test_a_group_that_becomes_a_supergroup_is_the_same_chat(self) -> None:
        """Said in the old chat and in the new, in order among what is said there; a send to the old id names the new one."""
        async with BotApi() as api:
            platform = Telegram(BotApi.TOKEN, base_url=api.base_url)
            await platform.open()
            ann = api.person(42, "Ann").at(-7, "group")
            api.say(ann, "before")
            api.say(api.migrate(ann, -1007), "after")
            before, left, came, after = await received(platform, 4)
            assert (before.chat.chat, after.chat.chat) == ("-7", "-1007")
            assert [(m.moved_from, m.chat.chat) for m in (left, came)] == [("-7", "-1007")] * 2
            with pytest.raises(ChatMoved) as caught:
                await platform.send(before.chat, "to whom?")
            assert caught.value.to == "-1007"
            await platform.close()


class WhatsAppBench:
    """Whoever connected last is posted to, as if the address led there."""

    def __init__(self) -> None:
        self.api = CloudApi(self._deliver)
        self.connected: list[WhatsApp] = []

    async def _deliver(self, headers: dict[str, str], body: bytes) -> int:
        return await posted_to(self.connected[-1], headers, body) if self.connected else 502

    def sender(self, who: str) -> str:
        return {GROUP: "group-1"}.get(who, f"4917000{who}")

    def chat(self, where: str) -> str:
        return self.sender(where)

    def connect(self) -> Platform:
        self.connected.append(WhatsApp(account(), nobody, base_url=self.api.base_url))
        return self.connected[-1]

    async def say(
        self, sender: str, text: str, *, group: str = "", topic: str = "", named: bool = False
    ) -> None:
        self.api.say(self._person(sender, group), f"@{CloudApi.NUMBER} {text}" if named else text)

    async def send_file(self, sender: str, content: bytes, name: str) -> None:
        file = self.api.give(content, name, "application/octet-stream")
        self.api.say(self._person(sender), document=file)

    async def press(self, sender: str, label: str) -> None:
        self.api.press(self._person(sender), label)

    def shown(self, chat: str) -> list[str]:
        return self.api.shown(self.chat(chat))

    def files_shown(self, chat: str) -> list[tuple[str, bytes]]:
        return self.api.files_shown(self.chat(chat))

    def slow_down(self, seconds: int) -> None:
        self.api.fail("messages", CloudFault(code=131056, retry_after=seconds))

    def lose_answer(self) -> None:
        self.api.fail("messages", CloudFault(loses_answer=True))

    def revoke(self) -> None:
        self.api.revoked = True

    def _person(self, sender: str, group: str = "") -> CloudPerson:
        person = self.api.person(self.sender(sender), "Ann")
        return msgspec.structs.replace(person, group=self.sender(group) if group else "")


class TestWhatsApp(PlatformContract):
    """The Cloud API emulated over HTTP."""

    @pytest.fixture
    async def bench(self) -> AsyncIterator[Bench]:
        bench = WhatsAppBench()
        async with bench.api:
            yield bench
            for platform in bench.connected:
                await platform.close()

    async def test_groups_and_topics_are_places_of_their_own(self, bench: Bench) -> None:
        """There are no topics on WhatsApp; a group is no direct message, and being named is seen."""
        platform = await opened(bench)
        await bench.say(ANN, "to everybody", group=GROUP)
        await bench.say(ANN, "to us", group=GROUP, named=True)
        aside, named = await received(platform, 2)
        assert (aside.kind, aside.addressed, named.addressed) == (ChatKind.GROUP, False, True)
        assert aside.chat == named.chat
        assert (aside.chat.chat, aside.sender) == (bench.chat(GROUP), bench.sender(ANN))
