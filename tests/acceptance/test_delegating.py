"""Subagents of a real process: killed at their work, and named after the conversation they worked for."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, Served, ServedCall
from tests.acceptance.editing import Editor

pytestmark = pytest.mark.anyio

EIGHT_AT_ONCE = {"CLEW__DELEGATE__AT_ONCE": "8"}
QUICK = 3


def task_of(body: Any) -> str | None:
    """What a subagent was asked; None for the conversation itself."""
    if "You work on one task" not in body["messages"][0]["content"]:
        return None
    found = re.search(r"task (\d)", str(body["messages"][1]["content"]))
    assert found is not None
    return found[1]


class Answering:
    """Asks for eight subagents, of which the first are quick; before it `goes_on` the others come to no end."""

    def __init__(self) -> None:
        self.goes_on = False
        self.all_asked = asyncio.Event()
        self._asked = set[str]()

    def __call__(self, body: Any) -> Served:
        task = task_of(body)
        if task is None:
            last = body["messages"][-1]
            if last["role"] == "tool" or "and?" in str(last["content"]):
                return Served(text="all eight came back" if last["role"] == "tool" else "nothing more")
            calls = [ServedCall(name="delegate", arguments={"tasks": [f"task {n}"]}) for n in range(8)]
            return Served(calls=tuple(calls))
        self._asked.add(task)
        if len(self._asked) == 8:
            self.all_asked.set()
        if int(task) < QUICK:
            return Served(text=f"quick {task}")
        return Served(text=f"late {task}") if self.goes_on else Served(deltas=("I be",), stalls=True)


def done_in(ledger: Path) -> int:
    """How many subagents have ended, as the ledger has it."""
    db = apsw.Connection(str(ledger), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        query = "SELECT count(*) FROM session WHERE surface = 'delegate' AND end_reason = 'done'"
        return int(str(next(iter(db.execute(query)))[0]))
    finally:
        db.close()


async def killed_in_the_middle(clew: CommandLine, answering: Answering) -> None:
    """A turn with eight subagents, of which the quick ones have ended when the program does."""
    clew.environ |= EIGHT_AT_ONCE
    killed = await clew.start("run", "ask all of them")
    async with asyncio.timeout(60):
        await answering.all_asked.wait()
        while await asyncio.to_thread(done_in, clew.home / "clew.db") < QUICK:
            pass  # each look takes as long as it takes a thread
    killed.kill()
    await killed.communicate()


async def test_a_turn_with_eight_subagents_that_was_killed_ends_with_all_results(tmp_path: Path) -> None:
    """Those that had finished are not asked again, the others go on in the sessions they have; lists leave them out, and
    the tree shows them under the conversation."""
    answering = Answering()
    async with ModelServer(answering) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        await killed_in_the_middle(clew, answering)
        left = "delegate, left in the middle"
        assert Counter(await states(clew)) == {"delegate, done": QUICK, left: 8 - QUICK}
        doctor = await clew.run("doctor")
        assert doctor.code == 1
        assert "and 1 before these" in doctor.out  # the turn itself, and those that were late
        answering.goes_on = True
        ran = await clew.run("run", "--continue", "and?")
        assert ran.code == 0, ran
        asked = [task_of(msgspec.json.decode(body)) for body in server.requests]
    assert {n: asked.count(str(n)) for n in range(8)} == {n: 1 if n < QUICK else 2 for n in range(8)}
    listed = (await clew.run("sessions", "list", "--json")).json
    assert [row["origin"] for row in listed] == ["new"]
    assert len((await clew.run("sessions", "list", "--sides", "--json")).json) == 9
    assert await states(clew) == ["delegate, done"] * 8
    tree = (await clew.run("sessions", "tree")).out
    assert [line.split()[3:5] for line in tree.splitlines() if "↳ side" in line] == [
        ["task", str(n)] for n in range(8)
    ]
    said = (await clew.run("sessions", "show", listed[0]["id"], "--json")).json["messages"]
    results = sorted(message["text"].split("\n")[1] for message in said if message["role"] == "tool")
    assert results == sorted([f"quick {n}" if n < QUICK else f"late {n}" for n in range(8)])
    answers = [m["text"] for m in said if m["role"] == "assistant" and m["text"]]
    assert answers == ["all eight came back", "nothing more"]


async def states(clew: CommandLine) -> list[str]:
    """What the tree says of each subagent."""
    tree = (await clew.run("sessions", "tree")).out
    return [line.rpartition("(")[2].rstrip(")") for line in tree.splitlines() if "↳ side" in line]


async def test_what_ends_a_turn_that_nobody_goes_on_with_ends_its_subagents(tmp_path: Path) -> None:
    """A killed program leaves them in the middle; whoever stops the turn then has stopped them too, and nothing is left."""
    answering = Answering()
    async with ModelServer(answering) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        await killed_in_the_middle(clew, answering)
        assert (await clew.run("run", "--continue", "/stop")).code == 0
        assert Counter(await states(clew)) == {"delegate, done": QUICK, "delegate, interrupted": 8 - QUICK}
        assert "ok  turns" in (await clew.run("doctor")).out


async def test_an_editor_is_shown_what_subagents_do_and_the_title(tmp_path: Path) -> None:
    """Their lines stand in the call while it runs; the title that is written beside the first turn reaches the editor
    unasked, and is in the list."""
    answering = Answering()
    answering.goes_on = True

    def answer(body: Any) -> Served:
        named = body["messages"][0]["content"].startswith("You name conversations.")
        return Served(text="“Eight of them.”") if named else answering(body)

    async with ModelServer(answer) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        async with Editor(clew, environ={"CLEW__TITLES__ENABLED": "true"}) as editor:
            session = await editor.new()
            assert await editor.prompt(session, "ask all of them") == "end_turn"
            title = {"sessionUpdate": "session_info_update", "title": "Eight of them"}
            await editor.until(lambda _: title in editor.updates(session))
            shown = [str(each.get("content")) for each in editor.updates(session) if each.get("toolCallId")]
            assert any("├─ task" in text for text in shown)
            assert any("[subagent " in text for text in shown)
            listed = await editor.call("session/list")
            assert [each["title"] for each in listed["sessions"]] == ["Eight of them"]
            assert await editor.leave() == 0
