"""`clew` with a small window: conversations go on, every word is kept, and who summarises is named."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, Served, echo

pytestmark = pytest.mark.anyio
SMALL = {"CLEW__MODEL__CONTEXT_WINDOW": "6000"}
TOLD = "word " * 200


def is_summary(body: Any) -> bool:
    return "You write the notes" in str(body["messages"][0])


def answering(body: Any) -> Served:
    if is_summary(body):
        return Served(text="## Goal\nThe planted notes.", usage=None)
    return Served(text=echo(body).text[:40], usage=None)


async def test_a_long_conversation_goes_on_under_one_id(tmp_path: Path) -> None:
    """Over several processes: summarised when the window fills; search and history still have every original."""
    async with ModelServer(answering) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        first = await clew.run("run", "--json", f"number-0 {TOLD}", environ=SMALL)
        session = first.json["session"]
        for n in range(1, 12):
            ran = await clew.run("run", "--json", "-s", session, f"number-{n} {TOLD}", environ=SMALL)
            assert (ran.code, ran.json["session"]) == (0, session), ran
        assert any("planted notes" in body.decode() for body in server.requests)
        assert max(map(len, server.requests)) < 40_000
        found = await clew.run("sessions", "search", "--json", "number-0")
        assert {hit["id"] for hit in found.json} == {session}
        shown = (await clew.run("sessions", "show", session)).out
        assert all(f"number-{n} " in shown for n in range(12))
        assert len((await clew.run("sessions", "list", "--json")).json) == 1
        assert "taken back" in (await clew.run("run", "-s", session, "/expand", environ=SMALL)).out
        assert "Summarised" in (await clew.run("run", "-s", session, "/compress", environ=SMALL)).out


async def test_who_is_summarising_is_named(tmp_path: Path) -> None:
    """As long as the model writes; a killed one is gone with its lock, and /compress does it then."""
    stalls = True

    def stalling(body: Any) -> Served:
        return Served(deltas=("half",), stalls=True) if is_summary(body) and stalls else answering(body)

    async with ModelServer(stalling) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        session = (await clew.run("run", "--json", f"number-0 {TOLD}")).json["session"]
        for n in range(1, 5):
            await clew.run("run", "-s", session, f"number-{n} {TOLD}")
        compressing = await clew.start("run", "-s", session, "/compress", environ=SMALL)
        shown = ""
        async with asyncio.timeout(30):
            while "Being summarised by process " not in shown:
                shown = (await clew.run("sessions", "show", session)).out
        compressing.kill()
        await compressing.communicate()
        stalls = False
        assert "Summarised" in (await clew.run("run", "-s", session, "/compress", environ=SMALL)).out
        assert "Being summarised" not in (await clew.run("sessions", "show", session)).out


async def test_odd_settings_are_refused_at_the_start(tmp_path: Path) -> None:
    """One sentence each, before anything is asked of a model."""
    clew = CommandLine(tmp_path / "home")
    for name, value, words in (
        ("COMPACTION__TRIGGER", "1.1", "compaction.trigger is 1.1"),
        ("COMPACTION__TARGET", "0.9", "has to be below trigger"),
        ("MODEL__SUMMARY_MODEL", "acp:gemeni", "model.summary_model: There is no agent 'gemeni'"),
        ("MODEL__SUMMARY_MODEL", "anthropic:claude", "model.summary_model: anthropic needs a key"),
    ):
        ran = await clew.run("run", "hi", environ={f"CLEW__{name}": value})
        assert (ran.code, ran.out) == (2, "")
        assert words in ran.err
        assert len(ran.err.strip().splitlines()) == 1
