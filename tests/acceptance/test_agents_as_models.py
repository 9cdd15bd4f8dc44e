"""Another agent answers for a model: real commands, a real process of the agent, our ledger."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

from clew.adapters.processes.tree import find
from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, echo
from clew.testing.telegram import Person
from tests.acceptance.serving import gateway
from tests.acceptance.test_editor_turns import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


class Agents:
    """The log of the pretended agents, and which of them live, by their process groups."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pids(self, what: str) -> list[int]:
        lines = [line.split(" ") for line in self.path.read_text().splitlines()]
        return [int(pid) for said, pid, *_ in lines if said == what]

    def end(self) -> None:
        """What a test that failed has left."""
        for pid in self.living():
            os.killpg(pid, signal.SIGKILL)

    def living(self) -> set[int]:
        if not self.path.exists():
            return set()
        return {pid for pid in self.pids("started") if find(frozenset([pid]), frozenset())}


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
    terminal = ("run", "--session", session, "--json", "RUN cat made.txt; exit 3")
    shown = (await clew.run(*terminal, environ={"CLEW__APPROVAL__MODE": "all"})).json
    assert shown["text"] == "{'exitCode': 3} False made\n[exit code 3]\n"

    ledger = sqlite3.connect(tmp_path / "home" / "clew.db")
    try:
        states = ledger.execute("SELECT name, state FROM tool_call").fetchall()
    finally:
        ledger.close()
    assert states == [("shell", "finished")] * 2
    agents = Agents(tmp_path / "agent.log")
    assert len(agents.pids("started")) >= 4
    assert agents.living() == set()
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


async def test_agents_behind_a_gateway(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Two chats share one process and know nothing of each other; /undo, /retry, /compress, a model changed and changed back,
    /stop and kill -9 leave the agent knowing what the ledger holds, and no process is left, however little it wants to end."""
    agents = Agents(tmp_path / "agent.log")
    request.addfinalizer(agents.end)
    arguments = ["-m", "clew.testing.fake_agent", "--stubborn", "--log", str(agents.path)]
    settings = {
        "CLEW_MODEL": "acp:pretended/fast",
        "CLEW__MODEL__CONTEXT_WINDOW": "8000",
        "CLEW__AGENTS__PRETENDED__COMMAND": sys.executable,
        "CLEW__AGENTS__PRETENDED__ARGS": json.dumps(arguments),
        "CLEW__POOL__ENABLED": "true",
    }
    async with gateway(tmp_path / "home", ModelServer(echo), **settings) as served:
        ann, ben = served.api.person(42, "Ann"), served.api.person(43, "Ben")

        async def says(who: Person, text: str, *answers: str) -> None:
            """Returns when something is shown after it that begins like each of these."""
            before = len(served.api.shown(who.chat))
            served.api.say(who, text)

            def answered() -> bool:
                shown = served.api.shown(who.chat)[before:]
                return all(any(one.startswith(answer) for one in shown) for answer in answers)

            await served.until(answered)

        await served.start()
        await asyncio.gather(says(ann, "alpha", "echo: alpha"), says(ben, "beta", "echo: beta"))
        await asyncio.gather(says(ann, "KNOWS beta", "beta: 0"), says(ben, "KNOWS beta", "beta: 1"))
        assert len(agents.pids("started")) == 1
        assert len(agents.pids("session")) == 2

        await says(ann, "/undo 2", "Undone")
        await says(ann, "KNOWS alpha", "alpha: 0")
        await says(ann, "/retry", "Again", "alpha: 0")
        long = "gamma " * 300
        await says(ann, long, "echo: gamma")
        await says(ann, "delta", "echo: delta")
        await says(ann, "/compress", "Summarised")
        await says(ann, f"KNOWS {long.strip()}", f"{long.strip()}: 0")
        await says(ann, "/model scripted-model", "From the next turn on")
        await says(ann, "epsilon", "The model, its tools", "echo: epsilon")
        await says(ann, "/model acp:pretended/fast", "From the next turn on")
        await says(ann, "KNOWS epsilon", "The model, its tools", "epsilon: 1")

        await says(ann, "HANG", "working")
        await says(ann, "/stop", "Stopped")
        await until(lambda: len(agents.pids("cancelled")) == 1)
        await says(ben, "KNOWS beta", "beta: 1")
        assert agents.pids("session")[:2] == agents.pids("cancelled") * 2

        await says(ann, "HANG", "working")
        await served.kill()
        assert (left := agents.living())
        await served.start()
        await says(ann, "/stop", "Stopped")
        await says(ann, "KNOWS epsilon", "epsilon: 1")
        await says(ben, "KNOWS beta", "beta: 1")
        assert not left & agents.living()
        assert await served.stop() == 0, served.log
        assert agents.living() == set()
