"""Memory in the gateway as it is shipped: facts are there once, whenever it is killed, and nobody else's."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from clew.adapters.stores.sqlite.connection import connect, fetch
from clew.runtime.sending import POLL_SECONDS
from clew.testing.crashing import CRASH
from clew.testing.model_server import ModelServer, Served, looks_for_facts
from tests.acceptance.serving import SECONDS_MAX, Gateway, gateway

pytestmark = pytest.mark.anyio
SAID: Final = re.compile(r"\[(\d+)\] user[^\n]*:\n([^\n]*)")


def _words(body: Any) -> list[str]:
    said = []
    for message in body["messages"]:
        content = message.get("content") or ""
        said.append(content if isinstance(content, str) else "".join(p.get("text", "") for p in content))
    return said


class Mind:
    """Echoes what is said last; asked for facts, it finds what people like. `pauses` is a word that it stops at."""

    def __init__(self) -> None:
        self.pauses = ""
        self.stopped = False

    def __call__(self, body: Any) -> Served:
        said = _words(body)
        if not looks_for_facts(body):
            return Served(text="ok")
        found = [
            {"text": f"Likes {what}", "message": int(number), "confidence": 0.9}
            for number, line in SAID.findall(said[-1].partition("<conversation>")[2])
            for what in re.findall(r"I like (\w+)", line)
        ]
        stops = bool(self.pauses) and self.pauses in said[-1]
        self.stopped |= stops
        return Served(text=json.dumps(found), silent=stops)


def facts(home: Path) -> list[tuple[str, str]]:
    """(owner, text) of everything that is remembered, in order."""
    with closing(connect(home / "clew.db", read_only=True)) as db:
        return [(owner, text) for owner, text in fetch(db, "SELECT owner, text FROM fact ORDER BY id")]


def jobs(home: Path) -> list[tuple[str, str | None]]:
    """(state, why it failed) of every job."""
    with closing(connect(home / "clew.db", read_only=True)) as db:
        return [(state, error) for state, error in fetch(db, "SELECT state, error FROM job ORDER BY id")]


async def remembered(served: Gateway, holds: Callable[[], bool]) -> None:
    """Returns when it holds: nothing tells a test of what a process writes."""
    try:
        async with asyncio.timeout(SECONDS_MAX):
            while not holds():  # noqa: ASYNC110 - another process does it
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        await served.kill()
        found = (facts(served.clew.home), jobs(served.clew.home), served.api.shown(42))
        raise AssertionError(f"it never came to that: {found}\n{served.log}") from None


async def ended(served: Gateway) -> None:
    """Returns when the gateway has killed itself."""
    assert served.process is not None
    await served.process.wait()
    await served.kill()


@pytest.mark.parametrize(
    "point", ["after leave", "after take_job", "model", "before move_job", "after move_job"]
)
async def test_facts_are_there_once_whenever_it_is_killed(tmp_path: Path, point: str) -> None:
    """When a session was left, when the job is taken, while the model looks, before and after what it found is kept: the next
    start finishes what was begun, and doctor has nothing to say."""
    home, mind = tmp_path / "home", Mind()
    async with gateway(home, ModelServer(mind, notes=True), module="clew.testing.crashing") as served:
        ann = served.api.person(42, "Ann")
        await served.start(**({} if point == "model" else {CRASH: point}))
        served.api.say(ann, "I like figs. I like plums")
        await served.until(lambda: served.api.shown(42) == ["ok"])
        mind.pauses = "figs" if point == "model" else ""
        served.api.say(ann, "/new")
        if point == "model":
            await remembered(served, lambda: mind.stopped)
            mind.pauses = ""
            await served.kill()
        else:
            await ended(served)
        await served.start()
        await remembered(served, lambda: [text for _, text in facts(home)] == ["Likes figs", "Likes plums"])
        await remembered(served, lambda: jobs(home) == [("done", None)])
        assert await served.stop() == 0
        assert (await served.clew.run("doctor")).code == 0
        assert len(facts(home)) == 2


async def test_nobody_is_told_what_another_said(tmp_path: Path) -> None:
    """Two people that contradict each other, in one gateway, and the group they share: no request, search or list of one
    holds a fact of the other, and the group is told its own alone."""
    home, mind = tmp_path / "home", Mind()
    model = ModelServer(mind, notes=True)
    async with gateway(home, model, CLEW__GATEWAY__GROUP_SESSIONS_PER_USER="false") as served:
        ann, ben = served.api.person(42, "Ann"), served.api.person(43, "Ben")
        together = ann.at(-1001)
        await served.start()
        for person, chat, what in ((ann, 42, "apples"), (ben, 43, "bananas"), (together, -1001, "cherries")):
            served.api.say(person, f"@clew_bot I like {what}")
            await served.until(lambda chat=chat: served.api.shown(chat) == ["ok"])
            served.api.say(person, "/new@clew_bot")
        await remembered(served, lambda: len(facts(home)) == 3)
        before = len(model.requests)
        for person, chat in ((ann, 42), (ben, 43)):
            served.api.say(person, "what do I like? apples? bananas? cherries?")
            await served.until(lambda chat=chat: len(served.api.shown(chat)) == 3)
            served.api.say(person, "/memory")
            await served.until(lambda chat=chat: len(served.api.shown(chat)) == 4)
            served.api.say(person, "/search likes")
            await served.until(lambda chat=chat: len(served.api.shown(chat)) == 5)
        assert re.fullmatch(r"\d+: “Likes apples”", served.api.shown(42)[3])
        assert re.fullmatch(r"\d+: “Likes bananas”", served.api.shown(43)[3])
        served.api.say(ben.at(-1001), "@clew_bot what do we like? apples? bananas? cherries?")
        await served.until(lambda: len(served.api.shown(-1001)) == 3)
        asked = [body.decode() for body in model.requests[before:]]
        assert ["Likes apples" in body for body in asked] == [True, False, False]
        assert ["Likes bananas" in body for body in asked] == [False, True, False]
        assert ["Likes cherries" in body for body in asked] == [False, False, True]
        assert len({owner for owner, _ in facts(home)}) == 3
    listed = await served.clew.run("memory", "list")
    assert (listed.code, listed.out) == (0, "Nothing is remembered.\n")


async def test_the_command_line_keeps_lists_and_forgets(tmp_path: Path) -> None:
    """As lines and as JSON; what makes no sense is one sentence; a forgotten fact is in no request of any later process."""
    model = ModelServer(Mind(), notes=True)
    async with gateway(tmp_path / "home", model) as served:
        clew = served.clew
        kept = (await clew.run("memory", "add", "Drinks green tea", "--json")).json
        assert (kept["text"], kept["kind"], kept["session"]) == ("Drinks green tea", "user", None)
        assert (await clew.run("memory", "list", "--json")).json == [kept]
        assert (await clew.run("run", "hello")).out == "ok\n"
        assert "Drinks green tea" in model.requests[-1].decode()
        for wrong in ((), ("1", "2"), ("4711",)):
            refused = await clew.run("memory", "forget", *wrong)
            assert refused.code != 0
            assert len(refused.err.splitlines()) == 1
        gone = await clew.run("memory", "forget", str(kept["number"]), "--json")
        assert gone.json == kept
        assert (await clew.run("run", "--continue", "tea?")).out == "ok\n"
        assert "Drinks green tea" not in model.requests[-1].decode()
        assert (await clew.run("memory", "list")).out == "Nothing is remembered.\n"


async def test_doctor_names_the_newest_jobs_that_were_given_up(tmp_path: Path) -> None:
    """With why; the others are counted, however many there are."""
    async with gateway(tmp_path / "home", ModelServer(Mind(), notes=True)) as served:
        assert (await served.clew.run("run", "hello")).code == 0
        with closing(connect(served.clew.home / "clew.db")) as db:
            session = fetch(db, "SELECT id FROM session")[0][0]
            for n in range(7):
                new = "INSERT INTO job(kind, key, owner, session_id, payload, state, next_at) VALUES('extract',?,'local',?,'','queued',?)"
                db.execute(new, (f"key {n}", session, time.time_ns() // 1_000_000))
                db.execute(
                    "UPDATE job SET state = 'failed', error = ? WHERE key = ?", (f"why {n}", f"key {n}")
                )
        examined = await served.clew.run("doctor")
    assert examined.code == 1
    (line,) = [line for line in examined.out.splitlines() if line.startswith("NOT")]
    assert re.findall(r"why \d", line) == [f"why {n}" for n in range(2, 7)]
    assert line.endswith("and 2 before these")
