"""`clew serve` when it is killed at named points, stopped, replaced, refused: nothing is lost, nothing doubled unmarked."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from clew.runtime.delivery import POSSIBLY_REPEATED
from clew.testing.crashing import CLOCK, set_jump
from clew.testing.model_server import ModelServer, Served, echo
from clew.testing.telegram import Fault
from tests.acceptance.serving import SECONDS_MAX, Gateway, gateway
from tests.acceptance.test_editor_turns import until
from tests.acceptance.test_version_skew import migrated

pytestmark = pytest.mark.anyio
RESTART = 75


POINTS = (
    "before receive",
    "after receive",
    "before take",
    "after take",
    "first token",
    "before answer",
    "after answer",
    "after take_reply",
    "before notice",
    "after notice",
)


async def dies(served: Gateway) -> None:
    """Returns when the process has killed itself."""
    assert served.process is not None
    await asyncio.wait_for(served.process.wait(), SECONDS_MAX)
    await served.kill()


@pytest.mark.parametrize("point", POINTS)
async def test_killed_anywhere_it_answers_once(tmp_path: Path, point: str) -> None:
    """Every update comes three times, before and after: it is stored once and answered; a second answer says what it is."""
    async with gateway(tmp_path / "home", ModelServer(echo), module="clew.testing.crashing") as served:
        ann = served.api.person(42, "Ann")
        served.api.say(ann, "hello", times=3)
        await served.start(CLEW_TEST_CRASH=point)
        await dies(served)
        served.api.say(ann, "are you there?", times=3)
        await served.start()
        await served.until(lambda: "echo: are you there?" in served.api.shown(42))
        shown = served.api.shown(42)
        answers = [text for text in shown if "hello" in text]
        assert answers in (["echo: hello"], ["echo: hello", f"{POSSIBLY_REPEATED}echo: hello"]) or (
            answers == [f"{POSSIBLY_REPEATED}echo: hello"]  # nobody knew whether a first one was shown
        )
        assert served.asked()[-1] == ["hello", "echo: hello", "are you there?"]


@pytest.mark.parametrize("point", ["after start", "before result"])
async def test_killed_around_a_tool_it_runs_once(tmp_path: Path, point: str) -> None:
    """Killed between a call and its result: the side effect happened at most once, the person is told once, and answered."""
    settings = {"CLEW__APPROVAL__MODE": "all"}
    async with gateway(
        tmp_path / "home", ModelServer(echo), module="clew.testing.crashing", **settings
    ) as served:
        ann = served.api.person(42, "Ann")
        effect = tmp_path / "effect"
        served.api.say(ann, f'CALL_TOOL shell {{"command": "echo once >> {effect}"}}', times=3)
        await served.start(CLEW_TEST_CRASH=point)
        await dies(served)
        await served.start()
        await served.until(lambda: any("the tool said" in text for text in served.api.shown(42)))
        assert (effect.read_text() if effect.exists() else "") in ("", "once\n")
        notices = [text for text in served.api.shown(42) if "the tool said" not in text]
        assert len(notices) == len(set(notices)) <= 1


async def test_a_question_survives_a_kill(tmp_path: Path) -> None:
    """A call waits for a yes while the process is killed: asked once, answered by a button, run once."""
    effect = tmp_path / "effect"
    async with gateway(tmp_path / "home", ModelServer(echo)) as served:
        ann = served.api.person(42, "Ann")
        served.api.say(ann, f'CALL_TOOL shell {{"command": "echo once >> {effect}"}}')
        await served.start()
        await served.until(lambda: any("May I?" in text for text in served.api.shown(42)))
        await served.kill()
        await served.start()
        served.api.press(ann, "Allow once")
        await served.until(lambda: any("the tool said" in text for text in served.api.shown(42)))
        assert effect.read_text() == "once\n"
        asked = [text for text in served.api.shown(42) if "May I?" in text]
        assert (
            len([text for text in asked if POSSIBLY_REPEATED not in text]) == 1
        )  # killed as soon as it was shown


async def test_sigterm_lets_an_answer_end(tmp_path: Path) -> None:
    """A turn that runs is finished and delivered, then the process ends with 0; what comes after waits for the next one."""
    model = ModelServer([Served(deltas=("Almost ", "done."), pause_after=1), Served(text="later")])
    async with gateway(tmp_path / "home", model) as served:
        ann = served.api.person(42, "Ann")
        await served.start()
        served.api.say(ann, "go")
        await served.until(lambda: served.api.shown(42) == ["Almost"])
        ending = asyncio.create_task(served.stop())
        await asyncio.to_thread(lambda: None)  # the signal is on its way
        model.go_on()
        assert await ending == 0, served.log
        assert served.api.shown(42) == ["Almost done."]
        served.api.say(ann, "and now?")
        await served.start()
        await served.shows(42, "Almost done.", "later")


async def test_a_revoked_token_is_said_once(tmp_path: Path) -> None:
    """With no platform left the process ends with 1, and its sentence says why."""
    async with gateway(tmp_path / "home", ModelServer(echo)) as served:
        await served.start()
        served.api.revoked = True
        served.api.say(served.api.person(42, "Ann"), "hello?")
        assert served.process is not None
        await asyncio.wait_for(served.process.wait(), SECONDS_MAX)
        code = served.process.returncode
        await served.kill()
        assert code == 1
        assert "does not know this token" in served.log


async def test_of_two_gateways_the_second_stops(tmp_path: Path) -> None:
    """With the same token: the second says so and ends, the first goes on."""
    async with gateway(tmp_path / "home", ModelServer(echo)) as served:
        ann = served.api.person(42, "Ann")
        served.api.say(ann, "one")
        await served.start()
        await served.shows(42, "echo: one")
        second = await served.clew.run("serve", environ={"CLEW_HOME": str(tmp_path / "other")})
        assert second.code == 1
        assert "Another program uses the same Telegram token" in second.err
        served.api.say(ann, "two")
        await served.shows(42, "echo: one", "echo: two")


def ended_turns(home: Path) -> int:
    """As the ledger has it: an answer may be shown before its turn's end is on disk."""
    with apsw.Connection(str(home / "clew.db"), flags=apsw.SQLITE_OPEN_READONLY) as db:
        (count,) = next(iter(db.execute("SELECT count(*) FROM turn WHERE state = 'done'")))
    return int(count)


async def test_idle_time_begins_a_new_session(tmp_path: Path) -> None:
    """After the idle time the next message begins a new session, the person is told why, and `/resume` takes it back."""
    clock = tmp_path / "clock"
    set_jump(clock, 0)
    settings = {"CLEW__RESET__TELEGRAM__DM__MODE": "idle", "CLEW__RESET__IDLE_MINUTES": "60"}
    async with gateway(
        tmp_path / "home", ModelServer(echo), module="clew.testing.crashing", **settings
    ) as served:
        ann = served.api.person(42, "Ann")
        await served.start(**{CLOCK: str(clock)})
        served.api.say(ann, "one")
        await served.shows(42, "echo: one")
        set_jump(clock, 3_599_000)
        served.api.say(ann, "two")
        await served.shows(42, "echo: one", "echo: two")
        await served.until(lambda: ended_turns(tmp_path / "home") == 2)  # else its end counts as activity
        set_jump(clock, 2 * 3_600_000 + 60_000)
        served.api.say(ann, "three", times=3)
        await served.until(lambda: served.api.shown(42)[-1] == "echo: three")
        notice = served.api.shown(42)[2]
        assert notice.startswith("A new session began: nothing was said for 1 h.")
        assert served.asked()[-1] == ["three"]
        served.api.say(ann, "/resume " + notice.split("/resume ")[1].split()[0])
        served.api.say(ann, "four")
        await served.until(lambda: served.api.shown(42)[-1] == "echo: four")
        assert served.asked()[-1] == ["one", "echo: one", "two", "echo: two", "four"]


async def test_the_owner_goes_on_in_the_terminal_and_back(tmp_path: Path) -> None:
    """A talk begun on Telegram by a linked owner is carried on with `clew run`, and back."""
    async with gateway(tmp_path / "home", ModelServer(echo), CLEW__GATEWAY__TELEGRAM__ALLOW="[]") as served:
        ann = served.api.person(42, "Ann")
        code = (await served.clew.run("pair", "--me")).out.strip()
        await served.start()
        served.api.say(ann, code)
        await served.until(lambda: len(served.api.shown(42)) == 1)
        served.api.say(ann, "on the phone")
        await served.until(lambda: served.api.shown(42)[-1] == "echo: on the phone")
        ran = await served.clew.run("run", "--continue", "--json", "at the desk")
        assert ran.json["text"] == "echo: at the desk"
        served.api.say(ann, "and back")
        await served.until(lambda: served.api.shown(42)[-1] == "echo: and back")
        said = ["on the phone", "echo: on the phone", "at the desk", "echo: at the desk", "and back"]
        assert served.asked()[-1] == said
        assert not any("desk" in text for text in served.api.shown(42))


async def test_a_link_brings_an_earlier_talk_to_the_terminal_and_back(tmp_path: Path) -> None:
    """Begun on Telegram by somebody whom the settings name, linked with the owner later: the code alone does nothing; then the
    same session goes on with `clew run --session`, and back, until the account is revoked."""
    async with gateway(
        tmp_path / "home", ModelServer(echo), CLEW__GATEWAY__TELEGRAM__ALLOW='["43"]'
    ) as served:
        ann = served.api.person(43, "Ann")
        await served.start()
        served.api.say(ann, "on the phone")
        await served.shows(43, "echo: on the phone")
        code = (await served.clew.run("pair", "link", "--me")).out.strip()
        served.api.say(ann, code)
        await served.until(lambda: "This makes you local" in served.api.shown(43)[-1])
        assert (await served.clew.run("sessions", "list", "--json")).json == []
        served.api.say(ann, f"{code} yes")
        await served.until(lambda: "Linked: from now on you are local" in served.api.shown(43)[-1])
        (session,) = (await served.clew.run("sessions", "list", "--json")).json
        ran = await served.clew.run("run", "--session", session["id"], "--json", "at the desk")
        assert (ran.json["session"], ran.json["text"]) == (session["id"], "echo: at the desk")
        served.api.say(ann, "and back")
        await served.until(lambda: served.api.shown(43)[-1] == "echo: and back")
        said = ["on the phone", "echo: on the phone", "at the desk", "echo: at the desk", "and back"]
        assert served.asked()[-1] == said
        assert not any("desk" in text for text in served.api.shown(43))
        assert "local\towner\ttelegram 43\n" in (await served.clew.run("pair", "list")).out
        revoked = await served.clew.run("pair", "revoke", "telegram", "43")
        assert (revoked.code, "still names 43" in revoked.err) == (0, True)


async def test_a_newer_ledger_ends_it_with_code_75(tmp_path: Path) -> None:
    """The ledger is migrated by a newer program: nothing is confirmed that was not kept, and the next start answers it."""
    async with gateway(tmp_path / "home", ModelServer(echo)) as served:
        ann = served.api.person(42, "Ann")
        await served.start()
        served.api.say(ann, "one")
        await served.shows(42, "echo: one")
        migrated(tmp_path / "home", +1)
        served.api.say(ann, "two")
        assert served.process is not None
        await asyncio.wait_for(served.process.wait(), SECONDS_MAX)
        assert served.process.returncode == RESTART
        await served.kill()
        migrated(tmp_path / "home", -1)
        await served.start()
        await served.until(lambda: "echo: two" in served.api.shown(42))


def states_of_replies(home: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{home / 'clew.db'}?mode=ro", uri=True)) as db:
        return [state for (state,) in db.execute("SELECT state FROM outbox WHERE kind = 'reply'")]


async def test_a_server_error_is_no_second_answer(tmp_path: Path) -> None:
    """A refusal for good is not tried again, and what follows is delivered."""
    async with gateway(tmp_path / "home", ModelServer(echo)) as served:
        ann = served.api.person(42, "Ann")
        await served.start()
        blocked = Fault(status=403, description="Forbidden: bot was blocked by the user")
        served.api.fail("sendMessage", *[blocked] * 20)
        served.api.say(ann, "one")
        await until(lambda: "failed" in states_of_replies(tmp_path / "home"))
        served.api.forgive("sendMessage")
        served.api.say(ann, "two")
        await served.until(lambda: "echo: two" in served.api.shown(42))
        assert served.api.shown(42) == ["echo: two"]
