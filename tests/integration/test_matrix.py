"""The Matrix adapter keeps the promises of its port towards a real homeserver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from clew.domain.routing.routes import ChatKind, Route
from clew.runtime.ports.platforms import Incoming, Platform, PlatformRefused
from clew.surfaces.gateway.platforms.matrix import ENCRYPTED, OVERLAP_MS, PAGE, POSITION, Matrix
from clew.testing.contracts.platforms import (
    ANN,
    BEN,
    GROUP,
    Bench,
    PlatformContract,
    chat,
    opened,
    received,
)
from tests.integration.homeserver import Homeserver, Proxy, Someone, relates

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]  # one of them waits until the homeserver is up


async def heard(platform: Platform, last: str) -> list[str]:
    """What is said until somebody says this."""
    got: asyncio.Queue[Incoming] = asyncio.Queue()
    listening = asyncio.create_task(platform.receive(got.put))
    said: list[str] = []
    try:
        async with asyncio.timeout(30):
            while last not in said:
                said.append((await got.get()).text)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    return said


class MatrixBench:
    """Ann, Ben and the bot, each pair in a room of their own, and all of them in one: each made when it is first needed."""

    def __init__(self, server: Homeserver, proxy: Proxy) -> None:
        self.proxy = proxy
        self.bot = server.person("clew")
        self.connected: list[Platform] = []
        self._server = server
        self._people: dict[str, Someone] = {}
        self._rooms: dict[str, str] = {}
        self.strangers: set[str] = set()
        self.invited_by: list[tuple[str, bool]] = []

    def person(self, who: str) -> Someone:
        if who not in self._people:
            self._people[who] = self._server.person({ANN: "ann", BEN: "ben"}[who])
        return self._people[who]

    def sender(self, who: str) -> str:
        return self.person(who).id

    def chat(self, where: str) -> str:
        if where not in self._rooms:
            others = (self.person(BEN),) if where == GROUP else ()
            room = self.person(ANN if others else where).room(self.bot, *others, direct=not others)
            for someone in (self.bot, *others):
                someone.join(room)
            self._rooms[where] = room
        return self._rooms[where]

    def close(self) -> None:
        for someone in (self.bot, *self._people.values()):
            someone.close()

    def connect(self) -> Platform:
        self.connected.append(Matrix(self.bot.token, self.proxy.base_url, self._welcomes))
        return self.connected[-1]

    async def _welcomes(self, sender: str, is_direct: bool) -> bool:
        self.invited_by.append((sender, is_direct))
        return sender not in self.strangers

    async def say(
        self, sender: str, text: str, *, group: str = "", topic: str = "", named: bool = False
    ) -> None:
        person, room = self.person(sender), self.chat(group or sender)
        thread = relates("m.thread", self.bot.say(room, topic)) if topic else {}
        person.say(room, f"{self.bot.id}: {text}" if named else text, thread)

    async def send_file(self, sender: str, content: bytes, name: str) -> None:
        self.person(sender).send_file(self.chat(sender), content, name)

    async def press(self, sender: str, label: str) -> None:
        """Says what is written behind it: Matrix has no buttons."""
        lines = self.shown(sender)[-1].split("\n")
        (command,) = [line.removeprefix(f"{label}: ") for line in lines if line.startswith(f"{label}: ")]
        self.person(sender).say(self.chat(sender), command)

    def files_shown(self, chat: str) -> list[tuple[str, bytes]]:
        return self.person(chat).files(self.chat(chat), self.bot)

    def shown(self, chat: str) -> list[str]:
        return self.person(chat).shown(self.chat(chat), self.bot)

    def slow_down(self, seconds: int) -> None:
        self.proxy.pause_ms = seconds * 1000

    def lose_answer(self) -> None:
        self.proxy.loses_answer = True

    def revoke(self) -> None:
        self.chat(ANN)  # while it can still join
        self.bot.log_out()


@pytest.fixture
async def matrix(homeserver: Homeserver) -> AsyncIterator[MatrixBench]:
    async with Proxy(homeserver.url) as proxy:
        bench = MatrixBench(homeserver, proxy)
        yield bench
        for platform in bench.connected:
            await platform.close()
        bench.close()


class TestMatrix(PlatformContract):
    """Synapse."""

    @pytest.fixture
    async def bench(self, matrix: MatrixBench) -> Bench:
        return matrix


async def test_messages_of_every_kind(matrix: MatrixBench) -> None:
    """Answers, changes and threads are what they are; what a program says, or what changes somebody else's words, is nothing."""
    platform = await opened(matrix)
    ann, ben, room = matrix.person(ANN), matrix.person(BEN), matrix.chat(GROUP)
    ours = await platform.send(chat(platform, room), "ours")
    first = ann.say(room, "one")
    ben.change(room, first, "forged")
    ann.say(room, "a robot", {"msgtype": "m.notice"})
    ann.change(room, first, "One")
    answer = {"m.relates_to": {"m.in_reply_to": {"event_id": ours}}}
    ann.say(room, f"> <{matrix.bot.id}> ours\n\nthe answer", answer)
    ann.say(room, "!undo 2")
    ann.say(room, "!important")
    ann.say(room, "hey Clew, you there?")
    ann.say(room, "pilled", {"m.mentions": {"user_ids": [matrix.bot.id]}})
    ann.say(room, "a map", {"msgtype": "m.location", "geo_uri": "geo:0,0"})
    ann.say(room, "a cat", {"url": "mxc://localhost/cat", "info": {}}, kind="m.sticker")
    ann.say(room, "broken", {"m.relates_to": "nothing", "url": 7})
    ann.redact(room, ann.say(room, "never mind"))
    ann.send_file(room, b"OggS", "Voice message", {"msgtype": "m.audio", "info": {"mimetype": "audio/ogg"}})
    ann.send_file(room, b"x", "what is in it?", {"filename": "a.txt"})
    got = await received(platform, 11)
    assert [incoming.text for incoming in got] == [
        "one", "One", "the answer", "/undo 2", "!important", "hey Clew, you there?", "pilled", "", "",
        "", "what is in it?",
    ]  # fmt: skip
    assert (got[1].edits, got[1].key != got[0].key) == (first, True)
    assert [incoming.addressed for incoming in got[:7]] == [False, False, True, True, False, True, True]
    assert [incoming.unsupported for incoming in got[7:9]] == ["location", "sticker"]
    assert (got[0].sender_name, got[0].kind) == ("Ann", ChatKind.GROUP)
    assert (got[9].files[0].media_type, got[9].files[0].name) == ("audio/ogg", "Voice message")


async def test_what_is_sent_means_what_it_says(matrix: MatrixBench) -> None:
    """Markdown is HTML too, in what is sent and what is changed; HTML in it is text. In a thread it is in the thread."""
    platform = await opened(matrix)
    ann, room = matrix.person(ANN), matrix.chat(ANN)
    text = "**bold** <b>no</b>\n![cat](https://example.org/cat.png)\n\n```py\n1 < 2\n```"
    html = (
        '<p><strong>bold</strong> &lt;b&gt;no&lt;/b&gt;<br />\n<a href="https://example.org/cat.png">cat</a></p>\n'
        '<pre><code class="language-py">1 &lt; 2\n</code></pre>'
    )
    root = ann.say(room, "a thread")
    to = Route(platform=platform.name, account=platform.account, chat=room, thread=root)
    message = await platform.send(to, "plain *text*", key="one")
    (shown,) = ann.messages(room, matrix.bot)
    assert (shown["body"], "formatted_body" in shown) == ("plain *text*", False)
    assert shown["m.relates_to"]["event_id"] == root
    await platform.edit(to, message, text, markdown=True)
    (shown,) = ann.messages(room, matrix.bot)
    assert (shown["body"], shown["formatted_body"], shown["format"]) == (text, html, "org.matrix.custom.html")
    widest = "<" * platform.traits.holds.most
    await platform.edit(to, message, widest, markdown=True)
    assert ann.shown(room, matrix.bot) == [widest]


async def test_invitations_are_accepted_from_those_who_may(matrix: MatrixBench) -> None:
    """And what was said from the invitation on is taken, nothing of before. An encrypted room is told once that it is one."""
    platform = await opened(matrix)
    ann, ben = matrix.person(ANN), matrix.person(BEN)
    matrix.strangers.add(ben.id)
    refused = ben.room(matrix.bot, direct=True)
    old = ann.room(ben)
    ben.join(old)
    ann.say(old, "between us")
    ann.invite(old, matrix.bot)
    ann.say(old, "since then")
    secret = ann.room(matrix.bot, direct=True, encrypted=True)
    for _ in range(2):
        ann.say(secret, "", {"algorithm": "m.megolm.v1.aes-sha2"}, kind="m.room.encrypted")
    fresh = ann.room(matrix.bot, direct=True)
    ann.say(fresh, "hello")
    got = await received(platform, 2)
    assert {(incoming.chat.chat, incoming.text) for incoming in got} == {
        (old, "since then"),
        (fresh, "hello"),
    }
    again = await opened(matrix)
    ann.say(secret, "", {"algorithm": "m.megolm.v1.aes-sha2"}, kind="m.room.encrypted")
    ann.say(fresh, "bye")
    await heard(again, "bye")
    assert ann.shown(secret, matrix.bot) == [ENCRYPTED]
    assert matrix.bot.id not in ben.members(refused)
    assert (ben.id, True) in matrix.invited_by


async def test_what_was_said_while_nobody_listened_is_read_in_full(matrix: MatrixBench) -> None:
    """More than a sync holds; in order, each once, and nothing that was taken before, wherever we start."""
    platform = await opened(matrix)
    ann, room = matrix.person(ANN), matrix.chat(ANN)
    for text in ("before", "just now"):  # the position is kept before the next poll
        ann.say(room, text)
        await heard(platform, text)
    await platform.close()
    said = [str(number) for number in range(PAGE + 20)]
    for text in said:
        ann.say(room, text)
    again = await opened(matrix)
    assert await heard(again, said[-1]) in (said, ["just now", *said])


@pytest.mark.parametrize("wrong", ["nonsense", "unknown"])
async def test_a_position_that_the_homeserver_does_not_know_is_begun_anew(
    matrix: MatrixBench, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was said since comes in full and in order, nothing of long before does, and the log says it once."""
    platform = await opened(matrix)
    ann, room = matrix.person(ANN), matrix.chat(ANN)
    for text in ("before", "just now"):  # the position is kept before the next poll
        ann.say(room, text)
        await heard(platform, text)
    await platform.close()
    kept = matrix.bot.account_data(POSITION)
    before = ann.events(room)[-1]["origin_server_ts"]
    assert kept["until"] >= ann.events(room)[-2]["origin_server_ts"]
    if wrong == "nonsense":
        kept["next_batch"] = wrong
    else:
        matrix.proxy.rejects_position = True
    matrix.bot.set_account_data(POSITION, kept | {"until": before + OVERLAP_MS})
    said = [str(number) for number in range(PAGE + 20 if wrong == "nonsense" else 2)]
    for text in said:
        ann.say(room, text)
    again, got = await opened(matrix), asyncio.Queue[Incoming]()
    listening = asyncio.create_task(again.receive(got.put))
    async with asyncio.timeout(30):
        assert [(await got.get()).text for _ in said] == said
        ann.say(room, "after")  # once it comes, the position before it is kept
        assert (await got.get()).text == "after"
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await again.close()
    ann.say(room, "at last")
    assert await heard(await opened(matrix), "at last") in (["at last"], ["after", "at last"])
    assert capsys.readouterr().out.count("position unknown") == 1


async def test_of_two_gateways_the_second_stops(matrix: MatrixBench) -> None:
    """The first goes on; when it is gone, the next one listens."""
    first, second = await opened(matrix), await opened(matrix)
    ann, room = matrix.person(ANN), matrix.chat(ANN)
    got: asyncio.Queue[Incoming] = asyncio.Queue()
    listening = asyncio.create_task(first.receive(got.put))
    ann.say(room, "one")
    assert (await asyncio.wait_for(got.get(), 20)).text == "one"
    with pytest.raises(PlatformRefused, match="Another program"):
        await received(second, 1)
    ann.say(room, "two")
    assert (await asyncio.wait_for(got.get(), 20)).text == "two"
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await first.close()
    ann.say(room, "three")
    assert (await heard(second, "three"))[-2:] == ["two", "three"]


async def test_typing_is_seen(matrix: MatrixBench) -> None:
    """By whoever is in the room."""
    platform = await opened(matrix)
    room = matrix.chat(ANN)
    await platform.typing(chat(platform, room))
    assert matrix.person(ANN).typing(room) == [matrix.bot.id]
