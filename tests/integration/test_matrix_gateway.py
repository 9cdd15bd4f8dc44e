"""What people on Matrix see of `clew serve`, as a process, over a real homeserver, also when it is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clew.runtime.delivery import POSSIBLY_REPEATED
from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, Served, echo
from clew.testing.telegram import BotApi
from tests.acceptance.serving import SECONDS_MAX, Ended, asked_of
from tests.integration.homeserver import Homeserver, Proxy, Someone, relates

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]  # one of them waits until the homeserver is up


class Serving(Ended):
    """One account's gateway, and people."""

    def __init__(self, home: Path, server: Homeserver, proxy: Proxy, model: ModelServer) -> None:
        super().__init__()
        self.bot, self.ann, self.ben = (server.person(name) for name in ("clew", "ann", "ben"))
        self.server = server
        self.proxy = proxy
        self.model = model
        self.clew = self.command_line(home)

    def command_line(self, home: Path) -> CommandLine:
        """`clew` in a home of its own, for the same account."""
        clew = CommandLine(home, self.model.base_url)
        clew.environ |= {
            "MATRIX_ACCESS_TOKEN": self.bot.token,
            "CLEW__GATEWAY__MATRIX__BASE_URL": self.proxy.base_url,
            "CLEW__GATEWAY__MATRIX__ALLOW": f'["{self.ann.id}", "{self.ben.id}"]',
            "CLEW__HTTP__ENABLED": "false",
        }
        return clew

    async def start(self, **environ: str) -> None:
        """Returns when it is open: the position is known, and what comes after it is answered."""
        opened = self.calls("account_data/clew.position")
        self.process = await self.clew.start("serve", environ=environ)
        async with asyncio.timeout(SECONDS_MAX):
            while self.calls("account_data/clew.position") == opened:
                await self.proxy.called.wait()

    def calls(self, end: str) -> int:
        return sum(call.endswith(end) for call in self.proxy.calls)

    async def until(self, person: Someone, holds: Callable[[], bool]) -> None:
        """Returns when it holds; a gateway that never gets there fails the test with its log."""
        try:
            await person.until(holds)
        except TimeoutError:
            await self.kill()
            raise AssertionError(f"it never came to that; {asked_of(self.model)}\n{self.log}") from None

    async def shows(self, person: Someone, room: str, *texts: str) -> None:
        """Returns when the bot's messages in a room say this."""
        await self.until(person, lambda: person.shown(room, self.bot) == list(texts))


@asynccontextmanager
async def serving(home: Path, server: Homeserver, model: ModelServer) -> AsyncIterator[Serving]:
    """A home with a gateway that is not running yet; killed at the end."""
    async with Proxy(server.url) as proxy, model:
        served = Serving(home, server, proxy, model)
        try:
            yield served
        finally:
            await served.kill()
            for someone in (served.bot, served.ann, served.ben):
                someone.close()


async def test_a_conversation_goes_on_after_a_kill(tmp_path: Path, homeserver: Homeserver) -> None:
    """Killed in the middle of an answer, and when nobody knows whether one arrived: nothing is lost, nothing is said twice."""
    model = ModelServer([
        Served(text="Hello Ann."),
        Served(when="story", deltas=("Once ", "upon "), pause_after=1),
        Served(when="story", text="Once upon a time."),
        Served(when="then", text="The end."),
        Served(when="again", text="A story."),
    ])  # fmt: skip
    async with serving(tmp_path / "home", homeserver, model) as served:
        ann, bot = served.ann, served.bot
        await served.start()
        room = ann.room(bot, direct=True)
        ann.say(room, "hello")
        await served.shows(ann, room, "Hello Ann.")
        ann.say(room, "a story")
        await served.until(ann, lambda: len(ann.shown(room, bot)) == 2)  # the preview
        await served.kill()
        ann.say(room, "and then?")
        await served.start()
        await served.shows(ann, room, "Hello Ann.", "Once upon a time.", "The end.")
        served.proxy.loses_answer = True
        ann.say(room, "again: what was it?")
        await served.until(ann, lambda: ann.shown(room, bot)[-1] == "A story.")
        await served.kill()
        await served.start()
        ann.say(room, "/status")
        await served.until(ann, lambda: len(ann.shown(room, bot)) == 5)
        said = ["Hello Ann.", "Once upon a time.", "The end.", "A story."]
        assert ann.shown(room, bot)[:4] == said
        assert asked_of(model)[-1] == [
            "hello", said[0], "a story", said[1], "and then?", said[2], "again: what was it?",
        ]  # fmt: skip
        assert await served.stop() == 0, served.log
        assert not any(word in served.log for word in ("story", "Once", bot.token)), served.log


async def reached(api: BotApi, served: Serving, holds: Callable[[], bool]) -> None:
    """Returns when it holds on Telegram; a gateway that never gets there fails the test with its log."""
    try:
        async with asyncio.timeout(SECONDS_MAX):
            await api.until(holds)
    except TimeoutError:
        await served.kill()
        raise AssertionError(f"it never came to that; {api.messages}\n{served.log}") from None


async def test_one_process_talks_on_two_platforms_and_goes_on_after_a_kill(
    tmp_path: Path, homeserver: Homeserver
) -> None:
    """Ann on Matrix and Cat on Telegram are both in the middle of an answer: neither loses a word, hears one twice, or hears
    the other's."""
    model = ModelServer([
        Served(when="tale", deltas=("A ", "tale."), pause_after=1),
        Served(when="song", deltas=("A ", "song."), pause_after=1),
        Served(when="tale", text="A tale."),
        Served(when="song", text="A song."),
        Served(when="more", text="More of the tale."),
        Served(when="louder", text="The song, louder."),
    ])  # fmt: skip
    async with BotApi() as api, serving(tmp_path / "home", homeserver, model) as served:
        served.clew.environ |= {
            "TELEGRAM_BOT_TOKEN": BotApi.TOKEN,
            "CLEW__GATEWAY__TELEGRAM__BASE_URL": api.base_url,
            "CLEW__GATEWAY__TELEGRAM__ALLOW": '["42"]',
        }
        ann, bot, cat = served.ann, served.bot, api.person(42, "Cat")
        await served.start()
        room = ann.room(bot, direct=True)
        ann.say(room, "a tale")
        await served.until(ann, lambda: len(ann.shown(room, bot)) == 1)  # the preview
        api.say(cat, "a song", times=3)
        await reached(api, served, lambda: len(api.shown(42)) == 1)
        await served.kill()
        ann.say(room, "more")
        api.say(cat, "louder", times=3)
        await served.start()
        await served.shows(ann, room, "A tale.", "More of the tale.")
        await reached(api, served, lambda: api.shown(42)[-1] == "The song, louder.")
        # Killed before the id of a preview was on disk, it stands there, and the answer says what it is.
        assert api.shown(42)[:-1] in (["A song."], ["A", f"{POSSIBLY_REPEATED}A song."])
        asked = asked_of(model)
        assert ["a tale", "A tale.", "more"] in asked
        assert ["a song", "A song.", "louder"] in asked
        assert not any("tale" in "".join(said) and "song" in "".join(said) for said in asked)


async def test_rooms_and_threads_are_places(tmp_path: Path, homeserver: Homeserver) -> None:
    """In a group each person has a talk of their own, in a thread all have one, and where the settings say so in the group;
    only what is meant for it is answered, and only to people it knows."""
    async with serving(tmp_path / "home", homeserver, ModelServer(echo)) as served:
        ann, ben, bot = served.ann, served.ben, served.bot
        eve = served.server.person("eve")
        await served.start()
        room = ann.room(bot, ben, eve)
        ben.join(room)
        eve.join(room)
        await served.until(ann, lambda: bot.id in ann.members(room))
        for number in range(2):
            ann.say(room, f"Clew: apple {number}")
            ben.say(room, f"Clew: banana {number}")
            eve.say(room, f"Clew: cherry {number}")
            ann.say(room, "between us")
        await served.until(ann, lambda: len(ann.shown(room, bot)) == 4)
        for asked in asked_of(served.model):
            assert not ("apple" in " ".join(asked) and "banana" in " ".join(asked))
        root = ann.say(room, "a thread")
        ann.say(room, "Clew: plum", relates("m.thread", root))
        await served.until(ann, lambda: len(ann.shown(room, bot)) == 5)
        ben.say(room, "Clew: and you?", relates("m.thread", root))
        await served.until(ann, lambda: len(ann.shown(room, bot)) == 6)
        assert ["plum" in text for text in asked_of(served.model)[-1]] == [True, True, False]
        threads = [message.get("m.relates_to", {}).get("event_id") for message in ann.messages(room, bot)]
        assert threads == [None] * 4 + [root] * 2
        assert await served.stop() == 0, served.log
        await served.start(CLEW__GATEWAY__GROUP_SESSIONS_PER_USER="false")
        ann.say(room, "Clew: melon")
        await served.until(ann, lambda: len(ann.shown(room, bot)) == 7)
        ben.say(room, "Clew: and now?")
        await served.until(ann, lambda: len(ann.shown(room, bot)) == 8)
        assert ["melon" in text for text in asked_of(served.model)[-1]] == [True, True, False]
        assert not any("cherry" in " ".join(asked) for asked in asked_of(served.model))
        eve.close()


async def test_changes_files_and_questions(tmp_path: Path, homeserver: Homeserver) -> None:
    """Changing the last message answers anew, changing an older one is said to change nothing; a file comes along; a call is
    approved by what the question says."""
    effect = tmp_path / "effect"
    async with serving(tmp_path / "home", homeserver, ModelServer(echo)) as served:
        ann, bot = served.ann, served.bot
        await served.start()
        room = ann.room(bot, direct=True)
        first = ann.say(room, "one")
        await served.shows(ann, room, "echo: one")
        last = ann.say(room, "tow")
        await served.until(ann, lambda: ann.shown(room, bot)[-1] == "echo: tow")
        ann.change(room, last, "two")
        await served.until(ann, lambda: ann.shown(room, bot)[-1] == "echo: two")
        assert asked_of(served.model)[-1] == ["one", "echo: one", "two"]
        ann.change(room, first, "eno")
        await served.until(ann, lambda: "chang" in ann.shown(room, bot)[-1])
        assert len(asked_of(served.model)) == 3
        ann.send_file(room, b"a secret word", "what is in it?", {
            "filename": "a.txt", "info": {"mimetype": "text/plain", "size": 13},
        })  # fmt: skip
        await served.until(ann, lambda: ann.shown(room, bot)[-1].startswith("echo: what is in it?"))
        assert "a secret word" in asked_of(served.model)[-1][-1]
        ann.say(room, f'please\nCALL_TOOL shell {{"command": "echo once >> {effect}"}}')
        await served.until(ann, lambda: "May I?" in ann.shown(room, bot)[-1])
        ann.say(room, ann.shown(room, bot)[-1].partition("Allow once: ")[2].split("\n")[0])
        await served.until(ann, lambda: "the tool said" in ann.shown(room, bot)[-1])
        assert effect.read_text() == "once\n"
        (tmp_path / "a report.pdf").write_bytes(b"%PDF-1.7 \x00\xff")
        served.proxy.loses_answer = True  # also to this: it is sent again, and is there once
        ann.say(room, f'CALL_TOOL send_file {{"path": "{tmp_path / "a report.pdf"}"}}')
        await served.until(ann, lambda: ann.files(room, bot) != [])
        ann.say(room, "last")
        await served.until(ann, lambda: ann.shown(room, bot)[-1] == "echo: last")
        assert ann.files(room, bot) == [("a report.pdf", b"%PDF-1.7 \x00\xff")]


async def test_strangers_pair_and_a_second_gateway_stops(tmp_path: Path, homeserver: Homeserver) -> None:
    """An invitation from somebody unknown is accepted only while a pairing code is open; then it makes them known. Another
    gateway on the account ends with a sentence, and the first goes on. `--check` says what is wrong."""
    async with serving(tmp_path / "home", homeserver, ModelServer(echo)) as served:
        bot, eve = served.bot, served.server.person("eve")
        await served.start()
        refused = eve.room(bot, direct=True)
        ann_room = served.ann.room(bot, direct=True)
        await served.until(served.ann, lambda: bot.id in served.ann.members(ann_room))
        assert bot.id not in eve.members(refused)
        code = (await served.clew.run("pair", "eve")).out.strip()
        room = eve.room(bot, direct=True)
        await served.until(eve, lambda: bot.id in eve.members(room))
        eve.say(room, "let me in")
        await served.until(
            eve, lambda: "pairing code" in eve.shown(room, bot)[-1:][0] if eve.shown(room, bot) else False
        )
        eve.say(room, code.replace("/", "!"))
        await served.until(eve, lambda: eve.shown(room, bot)[-1].startswith("Paired"))
        eve.say(room, "now?")
        await served.until(eve, lambda: eve.shown(room, bot)[-1] == "echo: now?")
        assert asked_of(served.model) == [["now?"]]
        second = await served.command_line(tmp_path / "other").run("serve")
        assert second.code == 1
        assert "Another program already answers for this Matrix account." in second.err
        eve.say(room, "still?")
        await served.until(eve, lambda: eve.shown(room, bot)[-1] == "echo: still?")
        good = await served.clew.run("serve", "--check")
        assert (good.code, f"ok  matrix as {bot.id}" in good.out) == (0, True)
        bad = await served.clew.run("serve", "--check", environ={"MATRIX_ACCESS_TOKEN": "no"})
        assert (bad.code, "does not know this access token" in bad.out) == (1, True)
        nowhere = await served.clew.run("serve", "--check", environ={"CLEW__GATEWAY__MATRIX__BASE_URL": ""})
        assert (nowhere.code, "gateway.matrix.base_url" in nowhere.err) == (2, True)
        eve.close()
