"""Somebody else's agent, as a real process: it speaks the Agent Client Protocol over standard input and output.

    python -m clew.testing.fake_agent [--log FILE] [--never-initialize | --version N | --sign-in | --stubborn | --noise …]

It answers `echo: TEXT` to the newest line that a person said, and does what lines of it order:

    CALL name {arguments}     calls that tool of its session's MCP servers, and tells the result
    TOOLS                     tells the names of the tools it was offered
    READ path · WRITE path text     asks the client for a file, and tells what came of it
    RUN command               asks the client for a terminal, and tells how it ended and what it showed
    MAY kind title            asks for a permission, and tells whether it got it
    KNOWS line                tells how often it was told that line in this session
    HEARD                     tells everything it was ever told in this session, byte for byte
    SEES                      tells how many images it was ever shown in this session
    FLOOD n                   sends n updates that hold a kilobyte each
    HANG                      says `working` and nothing more until it is cancelled
    FREEZE                    says `working` and does nothing any more, for anybody
    DIE                       ends at once, by SIGKILL
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from clew.wire.jsonrpc import METHOD_NOT_FOUND, RpcError, decoded
from clew.wire.peer import Peer

Params = dict[str, Any]


async def _nothing(method: str, _: msgspec.Raw) -> object:
    raise RpcError(METHOD_NOT_FOUND, f"{method} is not served")


class ToolServer:
    """An MCP server of one session, started as the client said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._peer = Peer(self._write, serve=_nothing, heard=lambda *_: None, broke=_tell)
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, server: Params, cwd: str) -> ToolServer:
        environment = {**os.environ, **{entry["name"]: entry["value"] for entry in server["env"]}}
        process = await asyncio.create_subprocess_exec(
            server["command"], *server["args"], stdin=PIPE, stdout=PIPE, cwd=cwd, env=environment
        )
        started = cls(process)
        hello = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "fake", "version": "0"},
        }
        await started._peer.call("initialize", hello, dict[str, Any])
        started._peer.notify("notifications/initialized", {})
        return started

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(1 << 16):
            self._peer.receive(data)
        await self._peer.close()

    async def tools(self) -> list[str]:
        listed = await self._peer.call("tools/list", {}, dict[str, Any])
        return [tool["name"] for tool in listed["tools"]]

    async def call(self, name: str, arguments: Params) -> str:
        result = await self._peer.call("tools/call", {"name": name, "arguments": arguments}, dict[str, Any])
        said = "".join(part.get("text", "") for part in result["content"])
        return f"error {said}" if result.get("isError") else said


class FakeSession:
    def __init__(self, cwd: str, servers: list[ToolServer]) -> None:
        self.cwd = cwd
        self.servers = servers
        self.heard: list[str] = []
        self.seen: list[str] = []
        self.prompting: asyncio.Task[str] | None = None


class FakeAgent:
    """The agent's end."""

    def __init__(self, options: argparse.Namespace, write: Callable[[bytes], None]) -> None:
        self._options = options
        self._peer = Peer(write, serve=self._serve, heard=self._heard, broke=_tell)
        self._sessions: dict[str, FakeSession] = {}
        self._opened_ever = 0
        self.receive = self._peer.receive

    async def _serve(self, method: str, raw: msgspec.Raw) -> object:
        params = decoded(raw, dict[str, Any])
        match method:
            case "initialize" if self._options.never_initialize:
                await asyncio.Event().wait()
            case "initialize":
                return {
                    "protocolVersion": self._options.version,
                    "agentCapabilities": {
                        "sessionCapabilities": {"close": {}},
                        "promptCapabilities": {"image": not self._options.blind},
                    },
                }
            case "authenticate":
                self._options.sign_in = params["methodId"] != "key"
                return {}
            case "session/new" if self._options.sign_in:
                raise RpcError(-32000, "Authentication required")
            case "session/new":
                return await self._opened(params)
            case "session/close":
                del self._sessions[params["sessionId"]]
                return {}
            case "session/prompt":
                return {"stopReason": await self._prompted(params)}
            case _:
                pass
        raise RpcError(METHOD_NOT_FOUND, method)

    async def _opened(self, params: Params) -> object:
        servers = [await ToolServer.start(server, params["cwd"]) for server in params["mcpServers"]]
        self._opened_ever += 0 if self._options.one_name else 1
        name = f"session-{os.getpid()}-{self._opened_ever}"
        self._sessions[name] = FakeSession(params["cwd"], servers)
        self._log("session", name)
        return {"sessionId": name, "models": {"currentModelId": "legacy", "availableModels": []}}

    async def _prompted(self, params: Params) -> str:
        session = self._sessions[params["sessionId"]]
        texts = [block["text"] for block in params["prompt"] if block["type"] == "text"]
        session.heard += texts
        session.seen += [block["data"] for block in params["prompt"] if block["type"] == "image"]
        session.prompting = asyncio.create_task(self._answer(params["sessionId"], session, texts))
        try:
            return await session.prompting
        except asyncio.CancelledError:
            return "cancelled"
        finally:
            session.prompting = None

    async def _answer(self, name: str, session: FakeSession, texts: list[str]) -> str:
        self._update(name, "available_commands_update", availableCommands=[])
        self._update(name, "from_the_future", anything={"at": "all"})
        said = next((text for text in reversed(texts) if not text.startswith(("<", "["))), "")
        ordered = [line for line in said.splitlines() if line.partition(" ")[0] in self._orders]
        for line in ordered:
            order, _, rest = line.partition(" ")
            try:
                told = await self._orders[order](self, name, session, rest)
            except RpcError as error:
                told = f"refused: {error.message}"
            self._say(name, f"{told}\n")
        if not ordered:
            for word in f"echo: {said}".split(" "):
                self._say(name, f"{word} ")
        return "end_turn"

    def _say(self, name: str, text: str) -> None:
        self._update(name, "agent_message_chunk", content={"type": "text", "text": text})

    def _update(self, name: str, kind: str, **fields: object) -> None:
        self._peer.notify("session/update", {"sessionId": name, "update": {"sessionUpdate": kind, **fields}})

    def _heard(self, method: str, raw: msgspec.Raw) -> None:
        if method == "session/cancel":
            session = self._sessions[decoded(raw, dict[str, Any])["sessionId"]]
            if session.prompting is not None:
                self._log("cancelled", "")
                session.prompting.cancel()

    # -- orders --------------------------------------------------------------------------------------------------
    async def _call(self, _: str, session: FakeSession, rest: str) -> str:
        tool, _, arguments = rest.partition(" ")
        for server in session.servers:
            return await server.call(tool, json.loads(arguments or "{}"))
        return "no server"

    async def _tools(self, _: str, session: FakeSession, __: str) -> str:
        return ",".join([name for server in session.servers for name in await server.tools()])

    async def _read(self, name: str, _: FakeSession, path: str) -> str:
        return str(
            (await self._peer.call("fs/read_text_file", {"sessionId": name, "path": path}, dict[str, Any]))[
                "content"
            ]
        )

    async def _write(self, name: str, _: FakeSession, rest: str) -> str:
        path, _, text = rest.partition(" ")  # type: ignore[assignment]
        await self._peer.call(
            "fs/write_text_file", {"sessionId": name, "path": path, "content": text}, dict[str, Any]
        )
        return "written"

    async def _run(self, name: str, _: FakeSession, rest: str) -> str:
        async def ask(method: str, **fields: object) -> Params:
            return await self._peer.call(f"terminal/{method}", {"sessionId": name, **fields}, dict[str, Any])

        made = await ask("create", command=rest, env=[{"name": "GIVEN", "value": "it's"}], outputByteLimit=20)
        ended, shown = await ask("wait_for_exit", **made), await ask("output", **made)
        await ask("kill", **made)
        await ask("release", **made)
        try:
            await ask("output", **made)
        except RpcError:
            return f"{ended} {shown['truncated']} {shown['output']}"
        return "a terminal that was released"

    async def _may(self, name: str, _: FakeSession, rest: str) -> str:
        kind, _, title = rest.partition(" ")  # type: ignore[assignment]
        options = [
            {"optionId": each, "name": each, "kind": each}
            for each in ("allow_always", "allow_once", "reject_once")
        ]
        asked = {"toolCallId": "own-1", "title": title, "kind": kind, "rawInput": {"command": title}}
        answer = await self._peer.call(
            "session/request_permission",
            {"sessionId": name, "toolCall": asked, "options": options},
            dict[str, Any],
        )
        return str(answer["outcome"].get("optionId", "cancelled"))

    async def _tell_heard(self, _: str, session: FakeSession, __: str) -> str:
        return "\n".join(session.heard)

    async def _knows(self, _: str, session: FakeSession, rest: str) -> str:
        return f"{rest}: {sum(text.splitlines().count(rest) for text in session.heard)}"

    async def _sees(self, _: str, session: FakeSession, __: str) -> str:
        return f"images: {len(session.seen)}"

    async def _flood(self, name: str, _: FakeSession, rest: str) -> str:
        for _number in range(int(rest)):
            self._say(name, "x" * 1024)
            await asyncio.sleep(0)
        return "flooded"

    async def _hang(self, name: str, _: FakeSession, __: str) -> str:
        self._say(name, "working")
        await asyncio.Event().wait()
        return ""

    async def _freeze(self, name: str, _: FakeSession, __: str) -> str:
        self._say(name, "working")
        os.kill(os.getpid(), signal.SIGSTOP)
        return ""

    async def _die(self, *_: object) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    _orders: Final[dict[str, Callable[[FakeAgent, str, FakeSession, str], Awaitable[str]]]] = {
        "CALL": _call, "TOOLS": _tools, "READ": _read, "WRITE": _write, "RUN": _run, "MAY": _may, "HEARD": _tell_heard,
        "KNOWS": _knows, "SEES": _sees, "FLOOD": _flood, "HANG": _hang, "FREEZE": _freeze, "DIE": _die,
    }  # fmt: skip

    def _log(self, what: str, detail: str) -> None:
        if self._options.log:
            with Path(self._options.log).open("a", encoding="utf-8") as log:
                log.write(f"{what} {os.getpid()} {detail}\n")


def _tell(error: BaseException) -> None:
    sys.stderr.write(f"{error!r}\n")


async def serve(options: argparse.Namespace) -> None:
    """Until standard input ends."""
    out = sys.stdout.buffer

    def write(line: bytes) -> None:
        out.write(line)
        out.flush()

    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.noise:
        write(b'Loading configuration...\n[]\n42\n\xff\xfe\n{"jsonrpc": "2.0", "id": 999, "result": {}}\n')
        sys.stderr.write("warning: " + "w" * 100_000 + "\nlast words\n")
        sys.stderr.flush()
    agent = FakeAgent(options, write)
    agent._log("started", " ".join(sys.argv[1:]))
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    while data := await reader.read(1 << 16):
        agent.receive(data)
    if options.stubborn:
        await asyncio.Event().wait()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--fail", action="store_true", help="end at once, with a sentence")
    for flag in ("never-initialize", "sign-in", "stubborn", "noise", "one-name", "blind"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument(
        "--fail-once", default="", metavar="FILE", help="the same, where that is not there yet"
    )
    options = parser.parse_args(arguments)
    if options.fail_once and not Path(options.fail_once).exists():
        Path(options.fail_once).touch()
        options.fail = True
    if options.fail:
        sys.exit("cannot start: the moon is wrong")
    asyncio.run(serve(options))


if __name__ == "__main__":
    main(sys.argv[1:])
