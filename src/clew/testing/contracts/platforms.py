"""The suite of the `Platform` port: an adapter to a chat platform is one when it passes this.

    class TestMyPlatform(PlatformContract):
        @pytest.fixture
        async def bench(self): ...

A `Bench` is the platform's other side: real, or an emulation of it over its own wire.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import Protocol

import pytest

from clew.domain.routing.routes import ChatKind, Route
from clew.runtime.ports.platforms import (
    Attached,
    Button,
    Incoming,
    MaybeSent,
    NeverSent,
    NotSent,
    Platform,
    PlatformRefused,
)

ANN = "42"
BEN = "43"
GROUP = "-1001"
PICTURE = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89\x00\x00\x00\rIDATx\xda"
    b"c\xfc\xcf\xc0P\x0f\x00\x04\x85\x01\x80\x84\xa9\x8c!\x00\x00\x00\x00IEND\xaeB`\x82"
)
"""A PNG of one pixel."""


class Bench(Protocol):
    """People on a platform, and what they see. Whom and where is said in the suite's words: `ANN`, `BEN`, `GROUP`."""

    def sender(self, who: str) -> str:
        """The platform's id of a person."""
        ...

    def chat(self, where: str) -> str:
        """The platform's id of a person's own chat, or of the group."""
        ...

    def connect(self) -> Platform:
        """A new connection to the same account, not opened yet."""
        ...

    async def say(
        self, sender: str, text: str, *, group: str = "", topic: str = "", named: bool = False
    ) -> None:
        """In the person's own chat, or in a group (`named`: our name stands in the text)."""
        ...

    async def send_file(self, sender: str, content: bytes, name: str) -> None: ...

    async def press(self, sender: str, label: str) -> None: ...

    def files_shown(self, chat: str) -> list[tuple[str, bytes]]:
        """Name and content of the files that we sent to a chat; the name may be missing where it shows a picture."""
        ...

    def shown(self, chat: str) -> list[str]:
        """What our messages in a chat say now."""
        ...

    def slow_down(self, seconds: int) -> None:
        """The next message is not taken: it comes too soon."""
        ...

    def lose_answer(self) -> None:
        """The next message is taken, and we are not told."""
        ...

    def revoke(self) -> None:
        """From now on the platform does not take us."""
        ...


class PlatformContract:
    """What runtime and gateway rely on."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def bench(self) -> Bench:
        """To be given by the subclass."""
        raise NotImplementedError

    async def test_it_knows_its_account_once_it_is_open(self, bench: Bench) -> None:
        """Two connections to one account have one name, and may be closed twice."""
        first, second = await opened(bench), await opened(bench)
        assert first.account == second.account != ""
        await first.close()
        await first.close()

    async def test_it_knows_when_it_last_heard_of_the_platform(self, bench: Bench) -> None:
        """Never, before it is opened; then whenever it is answered, also where there is nothing to be told."""
        loop, platform = asyncio.get_running_loop(), bench.connect()
        assert platform.contact == -math.inf
        await platform.open()
        opened_at = platform.contact
        await bench.say(ANN, "hello")
        await received(platform, 1)
        assert opened_at <= platform.contact <= loop.time()
        assert opened_at > -math.inf

    async def test_what_is_said_arrives(self, bench: Bench) -> None:
        """With its sender, in the chat of the person, word for word, in order."""
        platform = await opened(bench)
        await bench.say(ANN, "héllo 😀\n\nthere")
        await bench.say(ANN, "and more")
        first, second = await received(platform, 2)
        assert (first.text, second.text) == ("héllo 😀\n\nthere", "and more")
        assert (first.sender, first.kind, first.chat.chat) == (
            bench.sender(ANN),
            ChatKind.DM,
            bench.chat(ANN),
        )
        assert (first.chat.platform, first.chat.account) == (platform.name, platform.account)
        assert first.chat == second.chat
        assert first.key != second.key

    async def test_what_was_not_taken_comes_again(self, bench: Bench) -> None:
        """An error of whoever takes it is raised, and the same message comes again under the same key."""
        platform = await opened(bench)
        await bench.say(ANN, "hello")
        seen: list[str] = []

        async def refuse(incoming: Incoming) -> None:
            seen.append(incoming.key)
            raise KeyError("the disk is full")

        with pytest.raises(KeyError):
            await platform.receive(refuse)
        again = await opened(bench)
        (incoming,) = await received(again, 1)
        assert [incoming.key] == seen

    async def test_groups_and_topics_are_places_of_their_own(self, bench: Bench) -> None:
        """A group is no direct message; a topic of it is another place; being named is seen."""
        platform = await opened(bench)
        await bench.say(ANN, "to everybody", group=GROUP)
        await bench.say(ANN, "to us", group=GROUP, named=True)
        await bench.say(ANN, "in a topic", group=GROUP, topic="7")
        aside, named, topic = await received(platform, 3)
        assert (aside.kind, aside.addressed, named.addressed) == (ChatKind.GROUP, False, True)
        assert aside.chat == named.chat != topic.chat
        assert (topic.kind, topic.chat.chat) == (ChatKind.THREAD, aside.chat.chat)
        assert topic.chat.thread

    async def test_a_message_is_sent_and_changed(self, bench: Bench) -> None:
        """To the chat that was named; changing it to what it is already is no error."""
        platform = await opened(bench)
        message = await platform.send(chat(platform, bench.chat(ANN)), "hello")
        await platform.send(chat(platform, bench.chat(BEN)), "ben's")
        if platform.traits.edits:
            await platform.edit(chat(platform, bench.chat(ANN)), message, "hello there")
            await platform.edit(chat(platform, bench.chat(ANN)), message, "hello there")
            assert bench.shown(ANN) == ["hello there"]
            with pytest.raises(NeverSent):
                await platform.edit(chat(platform, bench.chat(ANN)), "999999", "nothing")
        assert bench.shown(BEN) == ["ben's"]

    async def test_a_message_as_long_as_promised_is_taken(self, bench: Bench) -> None:
        """`holds` is what one message holds, with room for a mark; also of the widest characters."""
        platform = await opened(bench)
        holds = platform.traits.holds
        text = "😀" * holds.prefix("😀" * holds.most, holds.most)
        assert holds.fits(text)
        await platform.send(chat(platform, bench.chat(ANN)), "(possibly repeated)\n" + text)
        assert bench.shown(ANN) == ["(possibly repeated)\n" + text]

    async def test_pressing_a_button_says_its_command(self, bench: Bench) -> None:
        """On behalf of whoever pressed."""
        platform = await opened(bench)
        await platform.send(
            chat(platform, bench.chat(ANN)),
            "May I?",
            buttons=[Button("Yes", "/approve x"), Button("No", "/deny x")],
        )
        await bench.press(ANN, "No")
        (pressed,) = await received(platform, 1)
        assert (pressed.text, pressed.sender, pressed.chat) == (
            "/deny x",
            bench.sender(ANN),
            chat(platform, bench.chat(ANN)),
        )

    async def test_files_are_fetched_when_they_are_wanted(self, bench: Bench) -> None:
        """Byte for byte; one that is not there is an error."""
        platform = await opened(bench)
        await bench.send_file(ANN, b"\x00\xffdata", "a.bin")
        (incoming,) = await received(platform, 1)
        (file,) = incoming.files
        assert (await platform.fetch(file), file.name) == (b"\x00\xffdata", "a.bin")
        with pytest.raises(NeverSent):
            await platform.fetch(Attached(reference="nothing", media_type="text/plain"))

    async def test_a_file_is_sent(self, bench: Bench) -> None:
        """Byte for byte and under its name, whatever its type; a picture may be shown without one."""
        platform = await opened(bench)
        if not platform.traits.sends_bytes_max:
            return
        to = chat(platform, bench.chat(ANN))
        sent = [await platform.send_file(to, "ä b.bin", "application/octet-stream", b"\x00\xffdata\r\n")]
        sent.append(await platform.send_file(to, "dot.png", "image/png", PICTURE))
        sent.append(await platform.send_file(to, "no.png", "image/png", b"no picture at all"))
        assert len(set(sent)) == 3
        first, picture, other = bench.files_shown(ANN)
        assert first == ("ä b.bin", b"\x00\xffdata\r\n")
        assert (picture[1], other) == (PICTURE, ("no.png", b"no picture at all"))
        bench.lose_answer()
        with pytest.raises(MaybeSent):
            await platform.send_file(to, "again.txt", "text/plain", b"again")
        assert bench.files_shown(ANN)[3:] == [("again.txt", b"again")]

    async def test_a_message_that_came_too_soon_did_not_go_out(self, bench: Bench) -> None:
        """And the platform's own pause is told."""
        platform = await opened(bench)
        bench.slow_down(7)
        with pytest.raises(NotSent) as caught:
            await platform.send(chat(platform, bench.chat(ANN)), "hello")
        assert caught.value.after == 7
        assert bench.shown(ANN) == []

    async def test_nobody_knows_when_the_answer_is_lost(self, bench: Bench) -> None:
        """It may have gone out: that is neither sent nor not sent."""
        platform = await opened(bench)
        bench.lose_answer()
        with pytest.raises(MaybeSent):
            await platform.send(chat(platform, bench.chat(ANN)), "hello")
        assert bench.shown(ANN) == ["hello"]

    async def test_the_same_key_is_one_message(self, bench: Bench) -> None:
        """Where the platform takes our key: sent again it is the message that is there, also when nobody knew of it."""
        platform = await opened(bench)
        if not platform.traits.takes_key:
            return
        to = chat(platform, bench.chat(ANN))
        bench.lose_answer()
        with pytest.raises(MaybeSent):
            await platform.send(to, "hello", key="a:1")
        again = await platform.send(to, "hello again", key="a:1")
        assert bench.shown(ANN) == ["hello"]
        await platform.edit(to, again, "hello there")
        other = await platform.send(to, "bye", key="a:2")
        assert bench.shown(ANN) == ["hello there", "bye"]
        assert await platform.send(to, "bye", key="a:2") == other != again

    async def test_an_empty_message_is_refused_for_good(self, bench: Bench) -> None:
        """What can never be sent is not tried again."""
        platform = await opened(bench)
        with pytest.raises(NeverSent):
            await platform.send(chat(platform, bench.chat(ANN)), " ")

    async def test_a_platform_that_does_not_take_us_says_so(self, bench: Bench) -> None:
        """When it is opened, and when our token is taken back while we listen."""
        platform = await opened(bench)
        bench.revoke()
        await bench.say(ANN, "hello?")
        with pytest.raises(PlatformRefused):
            await received(platform, 2)  # a platform that posts may still bring the first
        with pytest.raises(PlatformRefused):
            await bench.connect().open()


async def opened(bench: Bench) -> Platform:
    platform = bench.connect()
    await platform.open()
    return platform


def chat(platform: Platform, ident: str) -> Route:
    return Route(platform=platform.name, account=platform.account, chat=ident)


async def received(platform: Platform, count: int) -> list[Incoming]:
    """The next so many messages, taken."""
    got: list[Incoming] = []
    enough = asyncio.Event()

    async def take(incoming: Incoming) -> None:
        got.append(incoming)
        if len(got) >= count:
            enough.set()

    receiving = asyncio.create_task(platform.receive(take))
    waiting = asyncio.create_task(enough.wait())
    try:
        async with asyncio.timeout(20):
            await asyncio.wait({receiving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        receiving.cancel()
        with suppress(asyncio.CancelledError):
            await receiving
    return got
