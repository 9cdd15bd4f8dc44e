"""Another agent answers for a model: real commands, a real process of the agent, our ledger."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import pytest

from clew.testing.command_line import CommandLine

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clew(tmp_path: Path) -> CommandLine:
    command = CommandLine(tmp_path / "home")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text(
        f"""[model]
name = "acp:pretended/fast"
[agents.pretended]
command = "{sys.executable}"
args = ["-m", "clew.testing.fake_agent", "--log", "{tmp_path}/agent.log"]
model_args = ["--model", "{{model}}"]
"""
    )
    return command


async def test_a_conversation_with_another_agent(clew: CommandLine, tmp_path: Path) -> None:
    """Its answer streams into our ledger; the next process tells it all; undo takes back; calls obey approvals."""
    first = (await clew.run("run", "--json", "first words")).json
    assert (first["status"], first["text"].strip()) == ("done", "echo: first words")
    assert first["usage"]["model"] == "acp:pretended/fast"
    session = first["session"]

    heard = (await clew.run("run", "--session", session, "--json", "HEARD")).json["text"]
    assert "\nfirst words\n" in heard
    assert "echo: first words" in heard
    await clew.run("run", "--session", session, "--json", "/undo 2")
    heard = (await clew.run("run", "--session", session, "--json", "HEARD")).json["text"]
    assert "first words" not in heard

    asked = await clew.run(
        "run", "--session", session, "--json", 'CALL shell {"command":"echo made > made.txt"}'
    )
    assert asked.code == 3
    assert not (tmp_path / "made.txt").exists()
    allowed = await clew.run("run", "--session", session, "--json", "/approve")
    assert allowed.code == 0, allowed
    assert (tmp_path / "made.txt").read_text() == "made\n"

    ledger = sqlite3.connect(tmp_path / "home" / "clew.db")
    try:
        states = ledger.execute("SELECT name, state FROM tool_call").fetchall()
    finally:
        ledger.close()
    assert states == [("shell", "finished")]
    assert len((tmp_path / "agent.log").read_text().split("started")) > 4
    log = (tmp_path / "home" / "logs" / "cold-start.jsonl").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert {line["transport"] for line in lines} == {"spawn"}
    assert all(line["spawn"] > 0 and line["session_new"] > 0 for line in lines)
    shown = await clew.run("stats", "cold-start", "--svg", str(tmp_path / "plot.svg"))
    assert "pretended    spawn " in shown.out
    assert "<title>session_new " in (tmp_path / "plot.svg").read_text()


async def test_an_agent_that_is_not_there(clew: CommandLine, tmp_path: Path) -> None:
    """A turn that asks for it fails in one sentence, and the message is kept."""
    ran = await clew.run(
        "run", "--json", "hello", environ={"CLEW__AGENTS__PRETENDED__COMMAND": "no-such-agent"}
    )
    assert ran.code == 1
    assert ran.json["error"]["message"] == (
        "The agent pretended did not start: the program no-such-agent is not there."
    )
    ran = await clew.run("run", "--json", "hello", environ={"CLEW_MODEL": "acp:gemeni"})
    assert "There is no agent 'gemeni'" in ran.out + ran.err
