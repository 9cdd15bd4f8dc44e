"""What people on Telegram see of `clew serve`, as a process, also when it is killed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from clew.testing.contracts.platforms import PICTURE
from clew.testing.model_server import ModelServer, Served, echo
from clew.testing.telegram import Fault
from tests.acceptance.serving import gateway

pytestmark = pytest.mark.anyio


async def test_a_conversation_goes_on_after_a_kill(tmp_path: Path) -> None:
    """Killed in the middle of an answer and started again, it answers once, and remembers everything."""
    model = ModelServer([
        Served(text="Hello Ann."),
        Served(when="story", deltas=("Once ", "upon "), pause_after=1),
        Served(when="story", text="Once upon a time."),
        Served(text="A story."),
    ])  # fmt: skip
    async with gateway(tmp_path / "home", model) as served:
        ann = served.api.person(42, "Ann")
        served.api.say(ann, "hello", times=3)
        await served.start()
        await served.shows(42, "Hello Ann.")
        served.api.say(ann, "a story", times=3)
        await served.until(lambda: len(served.api.shown(42)) == 2)  # the preview
        await served.kill()
        await served.start()
        await served.until(lambda: any("Once upon a time." in text for text in served.api.shown(42)))
        served.api.say(ann, "what was it?", times=3)
        await served.until(lambda: served.api.shown(42)[-1] == "A story.")
        assert served.asked()[-1] == ["hello", "Hello Ann.", "a story", "Once upon a time.", "what was it?"]
        assert sum("Once upon" in text for text in served.api.shown(42)) == 1
        assert await served.stop() == 0, served.log


async def test_two_people_do_not_hear_each_other(tmp_path: Path) -> None:
    """Two people talk at the same time: no request of one holds a word of the other, and no list or search shows it."""
    async with gateway(tmp_path / "home", ModelServer(echo)) as served:
        ann, ben = served.api.person(42, "Ann"), served.api.person(43, "Ben")
        await served.start()
        for number in range(3):
            served.api.say(ann, f"apple {number}")
            served.api.say(ben, f"banana {number}")
        await served.shows(42, *(f"echo: apple {n}" for n in range(3)))
        await served.shows(43, *(f"echo: banana {n}" for n in range(3)))
        for asked in served.asked():
            text = " ".join(asked)
            assert not ("apple" in text and "banana" in text)
        served.api.say(ben, "/search apple")
        served.api.say(ben, "/sessions")
        await served.until(lambda: len(served.api.shown(43)) == 5)
        assert served.api.shown(43)[3] == "Nothing was found."
        assert "apple" not in served.api.shown(43)[4]


async def test_undo_retry_and_new_do_what_they_say(tmp_path: Path) -> None:
    """The next request holds exactly what was not taken back, also when everything is delivered three times and after a kill."""
    model = ModelServer([Served(text=text) for text in ("one", "two", "three", "two again", "new")])
    async with gateway(tmp_path / "home", model) as served:
        ann = served.api.person(42, "Ann")
        await served.start()
        for text, answer in (("a", "one"), ("b", "two"), ("c", "three")):
            served.api.say(ann, text, times=3)
            await served.until(lambda answer=answer: served.api.shown(42)[-1:] == [answer])
        served.api.say(ann, "/undo", times=3)
        await served.until(lambda: "Undone" in served.api.shown(42)[-1])
        await served.kill()
        await served.start()
        served.api.say(ann, "/retry", times=3)
        await served.until(lambda: served.api.shown(42)[-1] == "two again")
        assert served.asked()[-1] == ["a", "one", "b"]
        served.api.say(ann, "/new", times=3)
        served.api.say(ann, "d", times=3)
        await served.until(lambda: served.api.shown(42)[-1] == "new")
        assert served.asked()[-1] == ["d"]
        assert len(served.asked()) == 5


async def test_what_follows_a_reset_is_in_the_new_session(tmp_path: Path) -> None:
    """Also when message, reset and message come in one batch, and after a kill: no turn is written to the session of yesterday."""
    async with gateway(tmp_path / "home", ModelServer(echo)) as served:
        ann = served.api.person(42, "Ann")
        for text in ("old", "/reset", "new"):
            served.api.say(ann, text, times=2)
        await served.start()
        await served.until(lambda: "echo: new" in served.api.shown(42))
        served.api.say(ann, "and on")
        await served.until(lambda: "echo: and on" in served.api.shown(42))
        assert served.asked()[-1] == ["new", "echo: new", "and on"]
        await served.kill()
        await served.start()
        served.api.say(ann, "still")
        await served.until(lambda: "echo: still" in served.api.shown(42))
        assert served.asked()[-1] == ["new", "echo: new", "and on", "echo: and on", "still"]
        assert all(said == ["old"] for said in served.asked() if "old" in said)


async def test_strangers_cost_nothing(tmp_path: Path) -> None:
    """Somebody unknown is told once what to do; no model is asked. With a code from `clew pair` they are known."""
    async with gateway(tmp_path / "home", ModelServer(echo)) as served:
        eve = served.api.person(99, "Eve")
        await served.start()
        for _ in range(3):
            served.api.say(eve, "let me in")
        await served.until(lambda: len(served.api.shown(99)) == 1)
        paired = await served.clew.run("pair", "eve")
        code = paired.out.strip()
        assert paired.code == 0
        served.api.say(eve, "/pair wrong-code")
        served.api.say(eve, code)
        await served.until(lambda: served.api.shown(99)[-1].startswith("Paired"))
        served.api.say(eve, "now?")
        await served.until(lambda: served.api.shown(99)[-1] == "echo: now?")
        served.api.say(served.api.person(98, "Mallory"), code)
        await served.until(lambda: len(served.api.shown(98)) == 1)
        assert "no such pairing code" in served.api.shown(98)[0]
        assert served.asked() == [["now?"]]


async def test_an_answer_in_doubt_is_repeated_with_a_mark(tmp_path: Path) -> None:
    """Telegram takes the answer and the connection ends: it is said once more, and says so."""
    async with gateway(tmp_path / "home", ModelServer([Served(text="42")])) as served:
        served.api.fail("sendMessage", Fault(loses_answer=True))
        served.api.say(served.api.person(42, "Ann"), "the answer?")
        await served.start()
        await served.shows(42, "42", "(possibly repeated)\n42")


async def test_a_penalty_is_waited_for(tmp_path: Path) -> None:
    """Told to wait in one chat, it waits there, and the other chat is answered at once."""
    async with gateway(tmp_path / "home", ModelServer(echo)) as served:
        ann, ben = served.api.person(42, "Ann"), served.api.person(43, "Ben")
        served.api.fail("sendMessage", Fault(retry_after=3))
        served.api.say(ann, "a")
        await served.start()
        await served.until(lambda: any(method == "sendMessage" for method, _ in served.api.calls))
        served.api.say(ben, "b")
        await served.shows(43, "echo: b")
        assert served.api.shown(42) == []
        await served.shows(42, "echo: a")


async def test_changing_the_last_message_answers_anew(tmp_path: Path) -> None:
    """The answer is taken back and the changed message answered, once; changing an older one changes nothing, and is said."""
    async with gateway(tmp_path / "home", ModelServer(echo)) as served:
        ann = served.api.person(42, "Ann")
        await served.start()
        first = served.api.say(ann, "one")
        await served.shows(42, "echo: one")
        last = served.api.say(ann, "tow")
        await served.until(lambda: served.api.shown(42)[-1] == "echo: tow")
        served.api.change(last, "two")
        await served.until(lambda: served.api.shown(42)[-1] == "echo: two")
        assert served.asked()[-1] == ["one", "echo: one", "two"]
        served.api.change(first, "on")
        await served.until(lambda: "changing it changes nothing" in served.api.shown(42)[-1])
        assert len(served.asked()) == 3


async def test_a_shared_group_is_one_talk(tmp_path: Path) -> None:
    """In a shared group all are in one session, only what is meant for it is answered, and only the asker may approve, or an
    admin; nobody else deletes what all said."""
    settings = {"CLEW__GATEWAY__GROUP_SESSIONS_PER_USER": "false"}
    effect = tmp_path / "effect"
    async with gateway(tmp_path / "home", ModelServer(echo), **settings) as served:
        ann, ben = (served.api.person(n, name).at(-1001) for n, name in ((42, "Ann"), (43, "Ben")))
        await served.start()
        served.api.say(ann, "just us")
        served.api.say(ann, "@clew_bot one")
        await served.shows(-1001, "echo: @clew_bot one")
        served.api.say(ben, "@clew_bot two")
        await served.until(lambda: len(served.api.shown(-1001)) == 2)
        assert served.asked()[-1] == ["@clew_bot one", "echo: @clew_bot one", "@clew_bot two"]
        served.api.say(ann, f'@clew_bot\nCALL_TOOL shell {{"command": "echo once >> {effect}"}}')
        await served.until(lambda: "May I?" in served.api.shown(-1001)[-1])
        served.api.press(ben, "Allow once")
        await served.until(lambda: "whoever asked" in served.api.shown(-1001)[-1])
        for text in ("/APPROVE@clew_bot", "/delete@clew_bot this"):
            before = len(served.api.shown(-1001))
            served.api.say(ben, text)
            await served.until(lambda n=before: len(served.api.shown(-1001)) > n)
            assert "whoever asked" in served.api.shown(-1001)[-1]
        assert not effect.exists()
        served.api.say(ann, "/approve@clew_bot")
        await served.until(lambda: "the tool said" in served.api.shown(-1001)[-1])
        assert effect.read_text() == "once\n"
        served.api.say(ann, "/retry@clew_bot")
        await served.until(lambda: "May I?" in served.api.shown(-1001)[-1])
        assert (await served.clew.run("pair", "role", "telegram:43", "admin")).code == 0
        served.api.say(ben, "/approve@clew_bot")
        await served.until(lambda: "the tool said" in served.api.shown(-1001)[-1])
        assert effect.read_text() == "once\nonce\n"
        served.api.say(ann, "/title@clew_bot ours")  # its answer comes behind what may still be a preview
        await served.until(lambda: "ours" in served.api.shown(-1001)[-1])
        ann = served.api.migrate(ann, -1009)
        served.api.say(ann, "@clew_bot still there?")
        await served.shows(-1009, "echo: @clew_bot still there?")
        assert served.asked()[-1][:3] == ["@clew_bot one", "echo: @clew_bot one", "@clew_bot two"]
        last = msgspec.json.decode(served.model.requests[-1])["messages"][-1]["content"]
        assert 'by="Ann" id="telegram:42"' in str(last)


async def test_each_person_of_a_group_has_a_talk_of_their_own(tmp_path: Path) -> None:
    """By default no request of one holds a word of another, though both talk in one chat; a topic is one talk for all."""
    async with gateway(tmp_path / "home", ModelServer(echo)) as served:
        ann, ben = (served.api.person(n, name).at(-1001) for n, name in ((42, "Ann"), (43, "Ben")))
        await served.start()
        for number in range(2):
            served.api.say(ann, f"@clew_bot apple {number}")
            served.api.say(ben, f"@clew_bot banana {number}")
        await served.until(lambda: len(served.api.shown(-1001)) == 4)
        assert not any("apple" in " ".join(asked) and "banana" in " ".join(asked) for asked in served.asked())
        topic = [person.at(-1001, thread=4242) for person in (ann, ben)]
        served.api.say(topic[0], "@clew_bot cherry")
        await served.until(lambda: served.api.shown(-1001)[-1] == "echo: @clew_bot cherry")
        served.api.say(topic[1], "@clew_bot and you?")
        await served.until(lambda: served.api.shown(-1001)[-1] == "echo: @clew_bot and you?")
        assert served.asked()[-1] == ["@clew_bot cherry", "echo: @clew_bot cherry", "@clew_bot and you?"]


async def test_a_long_answer_comes_in_parts(tmp_path: Path) -> None:
    """In order, each within Telegram's limit, formatted, with its code in a block in each part, and nothing of it lost."""
    code = [f"row {number:04} = '{'x' * 40}'" for number in range(150)]
    text = "\n".join(["**Here** it is:", "", "```py", *code, "```", "", "Done."])
    async with gateway(tmp_path / "home", ModelServer([Served(text=text)])) as served:
        served.api.say(served.api.person(42, "Ann"), "code, please")
        await served.start()
        await served.until(
            lambda: served.api.shown(42)[-1:] != [] and served.api.shown(42)[-1].endswith("Done.")
        )
        shown = served.api.shown(42)
        assert len(shown) == 3
        assert "\n".join(shown).split("\n") == ["Here it is:", "", *code, "", "Done."]
        entities = [
            message["entities"] for message in served.api.messages[42].values() if message["from"]["is_bot"]
        ]
        assert [[entity["type"] for entity in part] for part in entities] == [
            ["bold", "pre"],
            ["pre"],
            ["pre"],
        ]
        assert served.api.shown(42) == shown


async def test_files_go_out(tmp_path: Path) -> None:
    """What the model sends arrives byte for byte: a document under its name, a picture as one. One that is not there is said."""
    (tmp_path / "a report.pdf").write_bytes(b"%PDF-1.7 \x00\xff")
    (tmp_path / "dot.png").write_bytes(PICTURE)
    async with gateway(tmp_path / "home", ModelServer(echo)) as served:
        ann = served.api.person(42, "Ann")
        await served.start()
        for name in ("a report.pdf", "dot.png", "none.txt"):
            served.api.say(ann, f'CALL_TOOL send_file {{"path": "{tmp_path / name}"}}')
        await served.until(lambda: any("No such file" in text for text in served.api.shown(42)))
        await served.until(lambda: len(served.api.files_shown(42)) == 2)
        assert served.api.files_shown(42) == [("a report.pdf", b"%PDF-1.7 \x00\xff"), ("", PICTURE)]
        ran = await served.clew.run("run", f'CALL_TOOL send_file {{"path": "{tmp_path / "dot.png"}"}}')
        assert "There is no tool send_file" in ran.out


async def test_files_come_along(tmp_path: Path) -> None:
    """A document and its caption are one message; one that is too large is said, and the rest is answered."""
    async with gateway(tmp_path / "home", ModelServer(echo)) as served:
        ann = served.api.person(42, "Ann")
        await served.start()
        served.api.say(
            ann, caption="what is in it?", document=served.api.give(b"a secret word", "a.txt", "text/plain")
        )
        await served.until(lambda: len(served.api.shown(42)) == 1)
        assert "a secret word" in served.asked()[-1][0]
        large = served.api.give(b"", "film.mp4", "video/mp4") | {"file_size": 50_000_000}
        served.api.say(ann, caption="and this?", document=large)
        await served.until(lambda: served.api.shown(42)[-1].startswith("echo: and this?"))
        await served.until(
            lambda: any("film.mp4 is larger than 20 MB" in text for text in served.api.shown(42))
        )
        served.api.say(ann, sticker={"file_id": "s", "file_unique_id": "s", "type": "regular", "width": 1, "height": 1,
                                     "is_animated": False, "is_video": False})  # fmt: skip
        await served.until(lambda: "not a sticker" in served.api.shown(42)[-1])
        assert len(served.asked()) == 2
