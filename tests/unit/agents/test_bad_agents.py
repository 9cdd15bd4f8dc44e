"""Agents that are missing, silent, noisy, greedy or dead: one sentence each, no process left, nobody else disturbed.

Over real processes: the pretended agent, told to misbehave.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from clew.adapters.agents.actions import GRANTED
from clew.adapters.agents.agents import AgentOptions, Agents
from clew.adapters.agents.client import AgentLimits
from clew.adapters.agents.pool import PoolLimits
from clew.adapters.agents.programs import AgentProgram
from clew.adapters.agents.timing import Breakdown
from clew.adapters.processes.tree import find
from clew.domain.models.request import ToolDeclaration
from clew.runtime.ports.models import ModelUnavailable
from clew.testing.contracts.agents import PIXEL, Conversation
from tests.unit.tools.bench import started_groups

pytestmark = pytest.mark.anyio
Make = Callable[..., Agents]


class Log:
    """What the pretended agents wrote down of themselves."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pids(self, what: str = "started") -> list[int]:
        if not self.path.exists():
            return []
        lines = [line.split(" ", 2) for line in self.path.read_text().splitlines()]
        return [int(pid) for said, pid, _ in lines if said == what]

    def living(self) -> int:
        """With all that they started."""
        return len(find(frozenset(self.pids()), frozenset()))

    def alive(self) -> list[bool]:
        return [len(find(frozenset([pid]), frozenset())) > 0 for pid in self.pids()]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "agents.log")


@pytest.fixture
def told() -> list[Breakdown]:
    return []


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
async def make(tmp_path: Path, log: Log, told: list[Breakdown], warned: list[str]) -> AsyncIterator[Make]:
    """Makes agents that misbehave by these options; closes them, and sees that no process is left."""
    made: list[Agents] = []

    def make(
        *options: str,
        pooled: bool = True,
        seconds: float = 20.0,
        characters_max: int = 1_000_000,
        pool: PoolLimits = PoolLimits(),  # noqa: B008 - frozen
        **changes: object,
    ) -> Agents:
        program = AgentProgram(
            name="subject",
            command=sys.executable,
            args=("-m", "clew.testing.fake_agent", "--log", str(log.path), *options),
            model_args=("--model", "{model}"),
        )
        program = msgspec.structs.replace(program, **changes)
        agents = Agents(
            AgentOptions(
                programs={"subject": program},
                pooled=pooled,
                limits=AgentLimits(initialize_seconds=seconds),
                pool=pool,
                characters_max=characters_max,
            ),
            {**os.environ, "GIVEN": "as it is"},
            started_groups(tmp_path / "owner"),
            told=told.append,
            warn=warned.append,
        )
        made.append(agents)
        return agents

    yield make
    for agents in made:
        await agents.close()
        await agents.close()
    assert log.living() == 0
    with pytest.raises(AssertionError, match="about to end"):
        await Conversation(made[0], "late", tmp_path).say("hello")


async def failing(agents: Agents, cwd: Path, text: str = "hello") -> str:
    with pytest.raises(AssertionError) as raised:
        await Conversation(agents, "one", cwd).say(text)
    return str(raised.value)


async def test_an_agent_that_nobody_knows(make: Make) -> None:
    """Its name is refused before anything is started, with the names there are."""
    with pytest.raises(ModelUnavailable, match="no agent 'gemeni': there is claude, codex, gemini, subject"):
        make().choice("acp:gemeni/flash")


async def test_a_program_that_is_missing(make: Make, tmp_path: Path) -> None:
    """It is said which, and how to get it."""
    agents = make(command="no-such-agent", install="npm install -g no-such-agent")
    said = await failing(agents, tmp_path)
    assert said == (
        "The agent subject did not start: the program no-such-agent is not there. To get it: npm install -g no-such-agent."
    )


async def test_a_directory_that_is_missing(make: Make, tmp_path: Path) -> None:
    """It is said which."""
    said = await failing(make(), tmp_path / "gone")
    assert said.endswith(f"cannot be started in {tmp_path}/gone: No such file or directory.")


async def test_a_program_that_ends_at_once(make: Make, tmp_path: Path) -> None:
    """Its last words are in the sentence."""
    said = await failing(make("--fail"), tmp_path)
    assert said == (
        "The agent subject did not start: it ended (its last words: cannot start: the moon is wrong)."
    )


@pytest.mark.parametrize("version", ["0", "7"])
async def test_an_agent_of_another_version(make: Make, tmp_path: Path, log: Log, version: str) -> None:
    """Too old or too new: both numbers are said, and it is not started a second time."""
    said = await failing(make("--version", version), tmp_path)
    assert said == (
        f"The agent subject did not start: it speaks version {version} of the protocol, and Clew speaks 1."
    )
    assert log.alive() == [False]


async def test_an_agent_that_is_not_signed_in(make: Make, tmp_path: Path) -> None:
    """It is said what to do; with a method to sign in by, it is used."""
    assert "is not signed in: start " in await failing(make("--sign-in"), tmp_path)
    signed = Conversation(make("--sign-in", auth="key"), "one", tmp_path)
    assert (await signed.say("hello")).strip() == "echo: hello"


async def test_noise_on_its_standard_output(make: Make, tmp_path: Path) -> None:
    """Lines that are no frames, and a flood of standard error, are nobody's concern."""
    one = Conversation(make("--noise"), "one", tmp_path)
    assert (await one.say("hello")).strip() == "echo: hello"


async def test_arguments_and_environment_reach_it(make: Make, tmp_path: Path, log: Log) -> None:
    """The command line is what the settings say and the model that was chosen."""
    agents = make()
    choice = agents.choice("acp:subject/fast one")
    assert choice.within is not None
    one = Conversation(agents, "one", tmp_path)
    one.model = choice.within((one.messages and "x") or "one", tmp_path)  # type: ignore[arg-type]
    await one.say("hello")
    assert f"--log {log.path} --model fast one" in log.path.read_text()


async def test_files_outside_its_directory(make: Make, tmp_path: Path) -> None:
    """It is served what is inside the session's directory, links followed, and refused everything else."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "inside.txt").write_text("inside words")
    (tmp_path / "outside.txt").write_text("outside words")
    (work / "link.txt").symlink_to(tmp_path / "outside.txt")
    one = Conversation(make(), "one", work)
    assert "inside words" in await one.say(f"READ {work}/inside.txt")
    for path in (
        tmp_path / "outside.txt",
        work / ".." / "outside.txt",
        work / "link.txt",
        Path("/etc/passwd"),
    ):
        said = await one.say(f"READ {path}\nWRITE {path} spoilt")
        assert said.count("refused:") == 2
        assert "words" not in said
    assert (tmp_path / "outside.txt").read_text() == "outside words"
    assert one.calls == []


async def test_a_file_it_writes_is_a_call_of_our_tool(make: Make, tmp_path: Path) -> None:
    """What it writes goes the way of every other change; a refusal there is a refusal to the agent."""
    write = ToolDeclaration(name="write", description="Writes.", parameters={"type": "object"})
    one = Conversation(make(), "one", tmp_path, run=lambda call: "[refused] The person refused this call.")
    one.tools = (write,)
    said = await one.say(f"WRITE {tmp_path}/new.txt words")
    assert "refused: [refused] The person refused" in said
    assert [(call.name, call.arguments) for call in one.calls] == [
        ("write", f'{{"path":"{tmp_path}/new.txt","text":"words"}}')
    ]
    one = Conversation(make(), "two", tmp_path, run=lambda call: "Created it.")
    one.tools = (write,)
    assert "written" in await one.say(f"WRITE {tmp_path}/new.txt words")


def always(result: str) -> Callable[[object], str]:
    return lambda _: result


async def test_a_terminal_is_a_call_of_our_shell(make: Make, tmp_path: Path) -> None:
    """A command goes the way of every other call, in the session's directory; how it ended is what our shell says of it."""
    shell = ToolDeclaration(name="shell", description="Runs.", parameters={"type": "object"})
    results = {
        "made\n": "{'exitCode': 0} False made\n",
        "[no output]": "{'exitCode': 0} False ",
        "[exit code 3]": "{'exitCode': 0} False [exit code 3]",
        "[failed] [exit code 3]\n[exit code 4]": "{'exitCode': 4} True ode 3]\n[exit code 4]",
        "[failed] [ended by signal 9 (SIGKILL)]": "{'signal': 'SIGKILL'} True  signal 9 (SIGKILL)]",
        "[failed] [a time limit]": "{'exitCode': 1} False [a time limit]",
        "[refused] The person refused it.": "refused: [refused] The person refused it.",
    }
    agents = make()
    for number, (result, shown) in enumerate(results.items()):
        one = Conversation(agents, f"s{number}", tmp_path, run=always(result))
        one.tools = (shell,)
        assert await one.say("RUN make all") == f"{shown}\n"
        script = f"(cd {tmp_path} || exit; export GIVEN='it'\"'\"'s';\nmake all\n)"
        assert [(call.name, msgspec.json.decode(call.arguments)) for call in one.calls] == [
            ("shell", {"command": script, "timeout_seconds": 600})
        ]


async def test_a_terminal_without_a_shell(make: Make, tmp_path: Path) -> None:
    """Where a session has no shell of ours, an agent gets none."""
    one = Conversation(make(), "one", tmp_path)
    assert "refused: There is no tool shell here." in await one.say("RUN make all")
    assert one.calls == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("edit", "agent_edit"),
        ("execute", "agent_execute"),
        ("fetch", "agent_fetch"),
        ("new", "agent_execute"),
    ],
)
async def test_what_it_does_by_itself_is_asked_of_the_turn(
    make: Make, tmp_path: Path, kind: str, name: str
) -> None:
    """A permission is a call of the turn: allowed once when that ran, refused when it did not."""
    agents = make()
    one = Conversation(agents, "one", tmp_path, run=lambda call: GRANTED)
    assert "allow_once" in await one.say(f"MAY {kind} make clean")
    assert [(call.name, call.arguments) for call in one.calls] == [
        (name, '{"action":"make clean","input":"{\\"command\\":\\"make clean\\"}"}')
    ]
    two = Conversation(agents, "two", tmp_path, run=lambda call: "[refused] The person refused this call.")
    assert "reject_once" in await two.say(f"MAY {kind} make clean")


async def test_reading_is_not_asked_about(make: Make, tmp_path: Path) -> None:
    """What only reads needs no yes, as everywhere; and a call of our own tool is asked about when it comes."""
    one = Conversation(make(), "one", tmp_path)
    assert "allow_once" in await one.say("MAY read a file")
    assert "allow_once" in await one.say("MAY other mcp_clew_note")
    assert one.calls == []


@pytest.mark.parametrize("pooled", [False, True])
async def test_an_agent_that_never_answers(
    make: Make, tmp_path: Path, log: Log, warned: list[str], pooled: bool
) -> None:
    """After the time it has to get ready it is ended, and that is said; nobody waits for another of it as long again."""
    agents = make("--never-initialize", pooled=pooled, seconds=0.5)
    said = await failing(agents, tmp_path)
    assert said == "The agent subject did not start: it did not answer within 0.5 s."
    assert log.living() == 0
    assert warned == []


async def test_an_agent_that_floods(make: Make, tmp_path: Path) -> None:
    """What it says in one turn is bounded: it is cut off, and its neighbour in the same process is not disturbed."""
    agents = make(characters_max=100_000)
    two = Conversation(agents, "two", tmp_path)
    await two.say("hello")
    said, other = await asyncio.gather(failing(agents, tmp_path, "FLOOD 1000"), two.say("still there?"))
    assert said.startswith("The agent sent more than 100,000 characters")
    assert other.strip() == "echo: still there?"


async def test_an_agent_that_ignores_sigterm(make: Make, tmp_path: Path) -> None:
    """It is ended all the same."""
    await Conversation(make("--stubborn"), "one", tmp_path).say("hello")


async def test_an_agent_that_is_killed(make: Make, tmp_path: Path, log: Log) -> None:
    """The turn under way goes on with another process, which is told the conversation; so do the others, in that one."""
    agents = make()
    one, two = Conversation(agents, "one", tmp_path), Conversation(agents, "two", tmp_path)
    await one.say("first words")
    await two.say("other words")
    saying = asyncio.ensure_future(one.say("HANG"))
    await one.shows("working")
    os.kill(log.pids()[0], signal.SIGKILL)
    await one.replaced.wait()
    await one.shows("working")
    assert "other words" in await two.say("HEARD")
    saying.cancel()
    await asyncio.gather(saying, return_exceptions=True)
    assert len(log.pids()) == 2


async def test_an_agent_that_freezes(make: Make, tmp_path: Path, log: Log) -> None:
    """One that does not even end what is stopped is left by all who used it; no conversation waits for it again."""
    agents = make()
    one, two = Conversation(agents, "one", tmp_path), Conversation(agents, "two", tmp_path)
    await two.say("other words")
    saying = asyncio.ensure_future(one.say("FREEZE"))
    await one.shows("working")
    saying.cancel()
    await asyncio.gather(saying, return_exceptions=True)
    assert "other words" in await two.say("HEARD")
    assert len(log.pids()) == 2


async def test_an_agent_that_always_dies(make: Make, tmp_path: Path, log: Log) -> None:
    """It is replaced once; then the turn fails in a sentence, and the next one works."""
    agents = make()
    assert await failing(agents, tmp_path, "DIE") == "The agent subject ended in the middle."
    assert len(log.pids()) == 2
    assert (await Conversation(agents, "two", tmp_path).say("hello")).strip() == "echo: hello"


async def test_first_uses_at_once_start_one_process(make: Make, tmp_path: Path, log: Log) -> None:
    """Eight conversations that begin together share one process, and each has a session of its own in it."""
    agents = make()
    answers = await asyncio.gather(
        *(Conversation(agents, f"s{n}", tmp_path).say(f"word{n}") for n in range(8))
    )
    assert [answer.strip() for answer in answers] == [f"echo: word{n}" for n in range(8)]
    assert len(log.pids()) == 1
    assert len(log.pids("session")) == 8


async def test_an_agent_that_takes_no_images(make: Make, tmp_path: Path) -> None:
    """It is told that there was one."""
    one = Conversation(make("--blind"), "one", tmp_path)
    assert "images: 0" in await one.say("SEES", PIXEL)
    assert "[image: this agent takes none]" in await one.say("HEARD")


async def test_an_agent_that_names_two_sessions_alike(make: Make, tmp_path: Path) -> None:
    """The second is refused, or one conversation would hear the other's answers; nothing of it is left."""
    agents = make("--one-name")
    one = Conversation(agents, "one", tmp_path)
    await one.say("hello")
    with pytest.raises(AssertionError, match="gave a session the name of another"):
        await Conversation(agents, "two", tmp_path).say("hello")
    assert len(agents.bridge.bindings) == 1
    assert (await one.say("again")).strip() == "echo: again"


async def test_a_full_pool(
    make: Make, tmp_path: Path, log: Log, told: list[Breakdown], warned: list[str]
) -> None:
    """Where every process is in use a turn has one of its own, which ends with it; that is said with its reason."""
    (tmp_path / "other").mkdir()
    agents = make(pool=PoolLimits(processes_max=1))
    one, two = Conversation(agents, "one", tmp_path), Conversation(agents, "two", tmp_path / "other")
    await one.say("hello")
    for turn in (1, 2):
        assert "two noted" in await two.say('CALL note {"text":"a"}')
        assert log.alive() == [True, *[False] * turn]
    assert (await one.say("again")).strip() == "echo: again"
    assert [each.transport for each in told] == ["pool", "spawn", "spawn", "pool"]
    assert (told[1].spawn > 0, told[3].spawn) == (True, 0)
    assert len(warned) == 2
    assert set(warned) == {
        "The pool gave no agent, so this turn starts its own: no more than 1 may run at once, and all are in use."
    }


async def test_a_pool_whose_start_failed(
    make: Make, tmp_path: Path, log: Log, told: list[Breakdown], warned: list[str]
) -> None:
    """A turn whose start failed in the pool goes on with a process of its own; the next is the pool's again."""
    one = Conversation(make("--fail-once", str(tmp_path / "failed")), "one", tmp_path)
    assert (await one.say("hello")).strip() == "echo: hello"
    assert (await one.say("again")).strip() == "echo: again"
    assert log.alive() == [False, True]
    assert [each.transport for each in told] == ["spawn", "pool"]
    assert [sentence.partition(": ")[0] for sentence in warned] == [
        "The pool gave no agent, so this turn starts its own"
    ]
    assert "the moon is wrong" in warned[0]
