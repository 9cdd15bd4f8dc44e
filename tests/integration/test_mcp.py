"""MCP servers as real processes, over pipes and over HTTP on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clew.adapters.mcp.servers import McpServers
from clew.adapters.mcp.settings import McpLimits, McpServer
from clew.adapters.processes.groups import StartedGroups, read_records, records_of
from clew.adapters.processes.owners import OwnerLocks
from clew.domain.conversation.ids import LOCAL, OwnerId, SessionId, call_id
from clew.domain.conversation.messages import Status
from clew.domain.tools.spec import Effect, JsonObject, ToolResult
from clew.runtime.ports.owners import Burial
from clew.runtime.ports.tools import Tool, Toolbox, ToolContext

pytestmark = pytest.mark.anyio

PROGRAM = str(Path(__file__).with_name("mcp_program.py"))
SESSION = SessionId("0123456789ab")
RUN = tempfile.TemporaryDirectory()


@pytest.fixture(scope="module")
async def box() -> AsyncIterator[McpServers]:
    """A server that no test ends: starting one takes a second or two."""
    async with servers_of([over_pipes(TOKEN="its own")]) as servers:
        yield servers


def servers_of(servers: Sequence[McpServer], limits: McpLimits = McpLimits()) -> McpServers:  # noqa: B008 - frozen
    return McpServers(servers, StartedGroups(Path(RUN.name), OwnerId("me")), limits)


def over_pipes(name: str = "local", *arguments: str, **env: str) -> McpServer:
    return McpServer(name=name, command=sys.executable, args=(PROGRAM, *arguments), env=env)


class Shown:
    """What a call showed while it ran."""

    def __init__(self) -> None:
        self.text = ""
        self.changed = asyncio.Event()

    def __call__(self, text: str) -> None:
        self.text += text
        self.changed.set()


def context(shown: Shown | None = None) -> ToolContext:
    async def tell(kind: str, text: str) -> None:
        raise AssertionError((kind, text))

    return ToolContext(
        session=SESSION,
        principal=LOCAL,
        call=call_id(SESSION, 1, 1, 1),
        cwd=Path("/"),
        progress=shown or Shown(),
        notify=tell,
    )


def tool(box: Toolbox, name: str) -> Tool:
    return next(tool for tool in box.tools() if tool.spec.name == name)


async def run(box: Toolbox, name: str, /, **arguments: object) -> ToolResult:
    return await tool(box, name).run(arguments, context())


async def pid_of(box: Toolbox, server: str = "local") -> int:
    return int((await run(box, f"{server}__pid")).text)


def lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


# -- over pipes ------------------------------------------------------------------------------------------------------
async def test_a_servers_tools_are_tools(box: McpServers) -> None:
    """Named after the server, in order, with its schema; what only reads needs no approval."""
    assert box.problems == ()
    specs = {tool.spec.name: tool.spec for tool in box.tools()}
    assert list(specs) == sorted(specs)
    assert specs["local__echo"].description == "Says it again."
    assert specs["local__echo"].parameters["properties"]["text"]["type"] == "string"
    assert (specs["local__echo"].effect, specs["local__echo"].safe_to_repeat) == (Effect.EXECUTE, False)
    assert (specs["local__look"].effect, specs["local__look"].safe_to_repeat) == (Effect.READ, True)
    assert (specs["local__pid"].effect, specs["local__pid"].safe_to_repeat) == (Effect.EXECUTE, True)
    assert tool(box, "local__echo").describe({"text": "a\nb"}) == 'local: echo {"text":"a\\nb"}'
    assert tool(box, "local__echo").describe({}) == "local: echo"


async def test_who_works_beside_has_the_same_tools_of_its_own_servers(box: McpServers) -> None:
    """None of which is started before it is called, and which end without those they are like."""
    beside = box.beside()
    try:
        assert [tool.spec for tool in beside.tools()] == [tool.spec for tool in box.tools()]
        assert all(server._connection is None for server in beside._servers)
        own, other = await pid_of(box), await pid_of(beside)
        assert own != other
    finally:
        await beside.close()
    assert not lives(other)
    assert await pid_of(box) == own


async def test_results_are_texts_and_pictures(box: McpServers) -> None:
    """And errors are results, with the server's own words."""
    assert await run(box, "local__echo", text="héllo") == ToolResult(text="héllo")
    picture = await run(box, "local__picture")
    assert [(file.media_type, file.bytes) for file in picture.files] == [("image/png", b"\x89PNG not really")]
    failed = await run(box, "local__fail")
    assert failed.status is Status.ERROR
    assert "that was to be expected" in failed.text
    wrong = await run(box, "local__echo", no="such argument")
    assert wrong.status is Status.ERROR
    assert await run(box, "local__echo", text="still there") == ToolResult(text="still there")


async def test_a_server_gets_its_own_environment_and_not_ours(
    box: McpServers,
) -> None:
    """Keys of ours are none of its business: not even the variable every process has."""
    assert (await run(box, "local__look", name="TOKEN")).text == "its own"
    assert "PYTEST_CURRENT_TEST" in os.environ
    assert (await run(box, "local__look", name="PYTEST_CURRENT_TEST")).text == "-"


async def test_a_large_result_is_cut_and_it_is_said(box: McpServers) -> None:
    """In whole characters, within the default limit."""
    text = (await run(box, "local__large", size=30_000)).text
    assert text == "é" * 25_000 + "\n[… 10,000 bytes left out …]"


async def test_one_server_that_fails_costs_only_its_own_tools() -> None:
    """Each failure is a sentence that names the server and, where it said something, its last words."""
    servers = [
        over_pipes("good"),
        over_pipes("broken", "broken"),
        McpServer(name="missing", command="/no/such/program"),
        McpServer(name="talker", command="echo", args=("this is no protocol",)),
        McpServer(name="away", url="http://127.0.0.1:9/mcp"),
    ]
    async with servers_of(servers) as box:
        assert {tool.spec.name.partition("__")[0] for tool in box.tools()} == {"good"}
        assert (await run(box, "good__echo", text="x")).text == "x"
        broken, missing, talker, away = box.problems
    assert broken == (
        "MCP server broken did not start: Connection closed (it said: the database is missing)."
    )
    assert missing == "MCP server missing did not start: No such file or directory: /no/such/program."
    assert talker.startswith("MCP server talker did not start: ")
    assert away.startswith("MCP server away did not start: ")
    assert "onnect" in away


async def test_a_server_that_never_answers_is_given_up_and_ended() -> None:
    """At the limit, also if it does not react to being asked to go."""
    before = children()
    limits = McpLimits(connect_seconds=3)
    started = time.monotonic()
    async with servers_of([over_pipes("deaf", "stubborn")], limits) as box:
        assert box.problems == (
            "MCP server deaf did not start: it was not ready within 3 s (it said: waiting for something).",
        )
    assert (
        time.monotonic() - started < 60
    )  # 3 to be ready and 8 to go, on a machine that has other things to do
    assert children() == before


def children() -> set[str]:
    """Our processes that run the test program."""
    pids = subprocess.run(
        ["pgrep", "-f", PROGRAM], capture_output=True, text=True, check=False
    ).stdout.split()
    return {pid for pid in pids if lives(int(pid))}


async def test_a_server_that_dies_in_a_call_is_started_again_for_the_next() -> None:
    """The call that saw it die says that its outcome is not known."""
    async with servers_of([over_pipes()]) as box:
        first = await pid_of(box)
        assert (await run(box, "local__count")).text == "1"
        died = await run(box, "local__die")
        assert died.status is Status.ERROR
        assert died.text == ("MCP server local ended during this call: whether it did its work is not known.")
        assert (await run(box, "local__count")).text == "1"
        assert await pid_of(box) != first


async def test_a_server_that_died_between_calls_is_started_again() -> None:
    """For the next call, or, when that came before the death was seen, for the one after it."""
    async with servers_of([over_pipes()]) as box:
        first = await pid_of(box)
        os.kill(first, 9)
        results = [await run(box, "local__echo", text="x") for _ in range(2)]
        assert results[-1] == ToolResult(text="x")
        assert await pid_of(box) != first


async def test_a_server_that_cannot_be_started_again_is_an_error_each_time(tmp_path: Path) -> None:
    """And works again when it can be."""
    program = tmp_path / "program.py"
    program.symlink_to(PROGRAM)
    server = McpServer(name="local", command=sys.executable, args=(str(program),))
    async with servers_of([server]) as box:
        program.rename(tmp_path / "away.py")
        await run(box, "local__die")
        for _ in range(2):
            result = await run(box, "local__echo", text="x")
            assert result.status is Status.ERROR
            assert result.text.startswith("MCP server local did not start: ")
        (tmp_path / "away.py").rename(program)
        assert (await run(box, "local__echo", text="x")).text == "x"


async def test_calls_run_side_by_side_and_one_can_be_cancelled(box: McpServers) -> None:
    """What it said on its way was shown; the others, and the server, go on."""
    shown = Shown()
    waiting = asyncio.create_task(tool(box, "local__wait").run({}, context(shown)))
    await shown.changed.wait()
    assert shown.text == "begun\n"
    results = await asyncio.gather(*(run(box, "local__echo", text=str(n)) for n in range(20)))
    assert [result.text for result in results] == [str(n) for n in range(20)]
    before = await pid_of(box)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await pid_of(box) == before


async def test_a_call_that_takes_too_long_is_given_up() -> None:
    """With a sentence; the server stays, also past the time it had to start."""
    async with servers_of([over_pipes()], McpLimits(connect_seconds=8, call_seconds=8.5)) as box:
        assert box.problems == ()
        before = await pid_of(box)
        result = await run(box, "local__wait")
        assert result == ToolResult(text="MCP server local did not answer within 8.5 s.", status=Status.ERROR)
        assert await pid_of(box) == before


@pytest.mark.parametrize("own_session", [False, True])
async def test_closing_ends_a_server_and_what_it_started(own_session: bool) -> None:
    """Twice is once, and a call afterwards is an error."""
    box = await servers_of([over_pipes()]).__aenter__()
    pids = [await pid_of(box), int((await run(box, "local__child", own_session=own_session)).text)]
    assert [lives(pid) for pid in pids] == [True, True]
    await box.close()
    await box.close()
    assert [pid for pid in pids if lives(pid)] == []
    late = await run(box, "local__echo", text="x")
    assert late.text == "MCP server local was closed with its session."


async def test_cancelling_while_servers_start_leaves_none() -> None:
    """Wherever in the start it comes."""
    before = children()  # some may end meanwhile: what earlier tests started
    starting = asyncio.create_task(servers_of([over_pipes("deaf", "stubborn")]).__aenter__())
    while children() <= before:  # noqa: ASYNC110 - nobody tells when a process has started
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert children() <= before


KILLED = """
import asyncio, sys
from pathlib import Path
from clew.adapters.mcp.servers import McpServers
from clew.adapters.mcp.settings import McpServer
from clew.adapters.processes.owners import OwnerLocks

async def main(run_dir, program):
    owners = OwnerLocks(Path(run_dir), "killed")
    print(owners.me, flush=True)
    server = McpServer(name="deaf", command=sys.executable, args=(program, "stubborn"))
    await McpServers([server], owners.groups).__aenter__()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_server_of_a_killed_clew_is_ended_by_who_buries_it(tmp_path: Path) -> None:
    """Also one that does not heed the end of its input; it was on record before it ran."""
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(tmp_path), PROGRAM, stdout=asyncio.subprocess.PIPE
    )
    assert killed.stdout is not None
    owner = OwnerId((await killed.stdout.readline()).decode().strip())
    while not (records := read_records(records_of(tmp_path, owner))):  # noqa: ASYNC110 - nobody tells of a file
        await asyncio.sleep(0)
    killed.kill()
    await killed.communicate()
    owners = OwnerLocks(tmp_path, "me")
    assert lives(records[0].leader)
    assert await owners.bury(owner) == Burial(ended=1)
    assert not lives(records[0].leader)
    owners.close()


async def test_a_server_may_be_closed_by_another_task_than_it_was_opened_by() -> None:
    """A session is opened by one turn and closed by a command: mcp alone would not take that."""
    box = servers_of([over_pipes()])
    await asyncio.create_task(box.__aenter__())
    assert (await run(box, "local__echo", text="x")).text == "x"
    await asyncio.create_task(box.close())


def test_nothing_is_imported_before_a_server_is_there() -> None:
    """The mcp package takes most of a second: nobody without servers waits for it."""
    program = (
        "import asyncio, sys\nfrom clew.adapters.mcp.servers import McpServers\n"
        "async def main():\n    async with McpServers([], None) as box: assert box.tools() == ()\n"
        "asyncio.run(main())\nprint('mcp' in sys.modules, 'pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


# -- over HTTP -------------------------------------------------------------------------------------------------------
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@asynccontextmanager
async def served(port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """The test program over HTTP, ready; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAM, str(port), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    while b"Uvicorn running" not in (line := await process.stderr.readline()):
        assert line, "the server did not start"
    draining = asyncio.create_task(process.stderr.read())
    try:
        yield process
    finally:
        if process.returncode is None:
            os.kill(process.pid, 9)
        await process.wait()
        await draining


async def test_a_running_server_is_reached_over_http() -> None:
    """The same tools, the same results."""
    port = free_port()
    async with served(port) as process:
        server = McpServer(name="web", url=f"http://127.0.0.1:{port}/mcp", headers={"X-Token": "t"})
        async with servers_of([server]) as box:
            assert box.problems == ()
            assert await run(box, "web__echo", text="héllo") == ToolResult(text="héllo")
            assert await pid_of(box, "web") == process.pid
            assert "that was to be expected" in (await run(box, "web__fail")).text
        assert process.returncode is None


async def test_an_http_server_that_was_started_again_is_reached_again() -> None:
    """The first call after its death may fail; the next reaches the new one."""
    port = free_port()
    async with served(port) as first:
        box = await servers_of([McpServer(name="web", url=f"http://127.0.0.1:{port}/mcp")]).__aenter__()
        assert await pid_of(box, "web") == first.pid
    down = await run(box, "web__echo", text="x")
    assert down.status is Status.ERROR
    async with served(port) as second:
        results: list[JsonObject | ToolResult] = [await run(box, "web__echo", text="x") for _ in range(2)]
        assert results[-1] == ToolResult(text="x")
        assert await pid_of(box, "web") == second.pid
        await box.close()


class OldServer:
    """A server of the protocol of 2025, which remembers sessions, and forgets them when it is started again."""

    def __init__(self) -> None:
        self.sessions: list[str] = []
        self.known: set[str] = set()

    def restart(self) -> None:
        self.known.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].split("\r\n")[0] or 0)
        body = json.loads(await reader.readexactly(length) or "{}")
        session = head.partition("mcp-session-id:")[2].split("\r\n")[0].strip()
        status, answer, extra = self._answer(head.split()[0], body, session)
        data = json.dumps({"jsonrpc": "2.0", "id": body.get("id"), **answer}).encode() if answer else b""
        writer.write(f"HTTP/1.1 {status}\r\n{extra}Content-Type: application/json\r\n".encode())
        writer.write(f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        await writer.drain()
        writer.close()

    def _answer(self, verb: str, body: JsonObject, session: str) -> tuple[str, JsonObject, str]:
        if verb != "post":
            return "405 Not Allowed", {}, ""
        match body["method"]:
            case "server/discover":
                return "400 Bad Request", {"error": {"code": -32600, "message": "no session"}}, ""
            case "initialize":
                new = f"session-{len(self.sessions)}"
                self.sessions.append(new)
                self.known.add(new)
                about = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}}
                hello = {**about, "serverInfo": {"name": "old", "version": "1"}}
                return "200 OK", {"result": hello}, f"Mcp-Session-Id: {new}\r\n"
            case _ if session not in self.known:
                return "404 Not Found", {}, ""
            case "tools/list":
                which = {"name": "which", "inputSchema": {"type": "object"}}
                return "200 OK", {"result": {"tools": [which]}}, ""
            case "tools/call":
                return "200 OK", {"result": {"content": [{"type": "text", "text": session}]}}, ""
            case _:
                return "202 Accepted", {}, ""


async def test_a_session_that_a_server_forgot_is_begun_anew() -> None:
    """The call that finds it gone is an error; the next one begins another session."""
    old = OldServer()
    listening = await asyncio.start_server(old.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening, servers_of([McpServer(name="old", url=f"http://127.0.0.1:{port}/mcp")]) as box:
        assert box.problems == ()
        assert (await run(box, "old__which")).text == "session-0"
        old.restart()
        assert (await run(box, "old__which")).status is Status.ERROR
        assert await run(box, "old__which") == ToolResult(text="session-1")
