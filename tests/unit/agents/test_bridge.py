"""The bridge: who shows which token is offered and answered what. Over its real socket."""

from __future__ import annotations

import asyncio
import os
import random
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clew.adapters.agents import proxy
from clew.adapters.agents.bridge import REVOKED, Binding, ToolBridge, ToolReply
from clew.domain.models.request import ToolDeclaration
from clew.wire.jsonrpc import METHOD_NOT_FOUND, RpcError
from clew.wire.peer import Disconnected, Peer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[ToolBridge]:
    bridge = ToolBridge(tmp_path)
    await bridge.start()
    yield bridge
    await bridge.close()


def tool(name: str) -> ToolDeclaration:
    return ToolDeclaration(name=name, description=f"Does {name}.", parameters={"type": "object"})


async def _nothing(method: str, _: msgspec.Raw) -> object:
    raise RpcError(METHOD_NOT_FOUND, method)


class Caller:
    """What an agent's MCP client does, over the socket itself. `heard` holds the notifications."""

    def __init__(self, reading: asyncio.StreamReader, writing: asyncio.StreamWriter) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self._writing = writing
        self.peer = Peer(
            writing.write, serve=_nothing, heard=lambda method, _: self.heard.put_nowait(method), broke=print
        )
        self._reading = asyncio.create_task(self._read(reading))

    @classmethod
    async def connect(cls, path: Path, token: str) -> Caller:
        reading, writing = await asyncio.open_unix_connection(str(path))
        writing.write(f"{token}\n".encode())
        return cls(reading, writing)

    async def _read(self, reading: asyncio.StreamReader) -> None:
        try:
            while data := await reading.read(1 << 16):
                self.peer.receive(data)
        except ConnectionError:
            pass  # the bridge is gone
        finally:
            await self.peer.close()

    async def tools(self) -> list[str]:
        listed = await self.peer.call("tools/list", {}, dict[str, Any])
        return [each["name"] for each in listed["tools"]]

    async def call(self, name: str, **arguments: object) -> str:
        result = await self.peer.call("tools/call", {"name": name, "arguments": arguments}, dict[str, Any])
        return f"{'error: ' if result['isError'] else ''}{result['content'][0]['text']}"

    async def close(self) -> None:
        self._writing.close()
        await asyncio.gather(self._reading, return_exceptions=True)


def echoing(bridge: ToolBridge, who: str) -> Binding:
    async def dispatch(name: str, arguments: str) -> ToolReply:
        return ToolReply(f"{who} {name} {arguments}")

    return bridge.bind(dispatch)


async def test_each_binding_has_its_own_tools_and_dispatcher(bridge: ToolBridge) -> None:
    """What is listed and who answers hang off the token; publishing anew for one leaves the other alone and is told."""
    one, two = echoing(bridge, "one"), echoing(bridge, "two")
    first, second = await Caller.connect(bridge.path, one.token), await Caller.connect(bridge.path, two.token)
    assert await first.tools() == []
    one.publish([tool("read")])
    two.publish([tool("write"), tool("shell")])
    assert (await first.tools(), await second.tools()) == (["read"], ["write", "shell"])
    await first.peer.call("initialize", {"protocolVersion": "2024-11-05"}, dict[str, Any])
    one.publish([tool("grep")])
    assert await first.heard.get() == "notifications/tools/list_changed"
    assert (await first.tools(), await second.tools()) == (["grep"], ["write", "shell"])
    assert await first.call("grep", n=1) == 'one grep {"n":1}'
    assert await second.call("shell") == "two shell {}"
    assert await second.call("grep") == "error: There is no tool grep here."
    assert second.heard.empty()
    await first.close()
    await second.close()


@pytest.mark.parametrize("token", ["", "0" * 32, "x" * 200, "\xff"])
async def test_a_token_that_is_nobodys_is_answered_with_errors(bridge: ToolBridge, token: str) -> None:
    """Unknown or missing: an error for whatever is asked."""
    echoing(bridge, "one").publish([tool("read")])
    stranger = await Caller.connect(bridge.path, token)
    for method in ("initialize", "tools/list", "tools/call", "ping"):
        with pytest.raises(RpcError, match="belong to no session") as raised:
            await stranger.peer.call(method, {"name": "read"}, dict[str, Any])
        assert raised.value.code == REVOKED
    await stranger.close()


async def test_a_release_ends_calls_in_the_middle(bridge: ToolBridge) -> None:
    """The call is answered with an error at once, its work is cancelled, and the neighbour's goes on."""
    started, cancelled, may = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def endless(name: str, arguments: str) -> ToolReply:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async def patient(name: str, arguments: str) -> ToolReply:
        await may.wait()
        return ToolReply("done")

    one, two = bridge.bind(endless), bridge.bind(patient)
    for binding in (one, two):
        binding.publish([tool("work")])
    first, second = await Caller.connect(bridge.path, one.token), await Caller.connect(bridge.path, two.token)
    calls = asyncio.ensure_future(first.call("work")), asyncio.ensure_future(second.call("work"))
    await started.wait()
    one.release()
    one.release()
    with pytest.raises(RpcError, match="taken back"):
        await calls[0]
    await cancelled.wait()
    with pytest.raises(RpcError, match="belong to no session"):
        await first.tools()
    may.set()
    assert await calls[1] == "done"
    await first.close()
    await second.close()


async def test_a_call_that_is_taken_back_is_cancelled(bridge: ToolBridge) -> None:
    """An agent that no longer waits says so in MCP's own way."""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(name: str, arguments: str) -> ToolReply:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    binding = bridge.bind(endless)
    binding.publish([tool("work")])
    caller = await Caller.connect(bridge.path, binding.token)
    call = asyncio.ensure_future(caller.call("work"))
    await started.wait()
    caller.peer.notify("notifications/cancelled", {"requestId": 1})
    await cancelled.wait()
    with pytest.raises(RpcError):
        await call
    await caller.close()


async def test_only_its_owner_may_open_the_socket(bridge: ToolBridge) -> None:
    """The socket has mode 0600, in a directory of mode 0700."""
    assert stat.S_IMODE(bridge.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(bridge.path.parent.stat().st_mode) == 0o700


async def test_a_restart_is_cold(bridge: ToolBridge) -> None:
    """After a restart no token of before is known, connections of before are ended, and releasing is still harmless."""
    binding = echoing(bridge, "one")
    binding.publish([tool("read")])
    caller = await Caller.connect(bridge.path, binding.token)
    assert await caller.tools() == ["read"]
    before = bridge.path
    await bridge.close()
    await bridge.close()
    assert not before.exists()
    with pytest.raises((RpcError, Disconnected)):
        await caller.tools()
    binding.release()
    await bridge.start()
    again = await Caller.connect(bridge.path, binding.token)
    with pytest.raises(RpcError, match="belong to no session"):
        await again.tools()
    await caller.close()
    await again.close()


async def test_the_proxy_is_a_pipe(bridge: ToolBridge) -> None:
    """The program that an agent starts brings a call to the binding of its token, and ends with its input."""
    binding = echoing(bridge, "one")
    binding.publish([tool("read")])
    server = binding.server
    assert server.command == sys.executable
    assert server.args is not None
    assert server.env is not None
    process = await asyncio.create_subprocess_exec(
        server.command,
        *server.args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
        env={**os.environ, **{variable.name: variable.value for variable in server.env}},
    )
    asked = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"a":"%s"}}}\n'
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(asked % (b"x" * 100_000))
    output = await process.stdout.readline()
    process.stdin.close()
    assert await process.wait() == 0
    assert output.startswith(b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"one read ')
    assert len(output) > 100_000
    assert not any(binding.token in argument for argument in server.args)


async def test_the_proxy_says_that_the_bridge_is_gone() -> None:
    """Without a bridge it ends at once, in a sentence."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", proxy.__file__, stderr=asyncio.subprocess.PIPE, env={}
    )
    _, errors = await process.communicate()
    assert (process.returncode, errors[:18]) == (1, b"Clew is not there:")


@pytest.mark.parametrize("seed", range(12))
async def test_no_call_is_ever_answered_by_another_binding(seed: int, tmp_path: Path) -> None:
    """Random interleavings of bind, publish, call, release and restart over 16 bindings: the own answer, or an error."""
    chance = random.Random(seed)
    bridge = ToolBridge(tmp_path)
    await bridge.start()
    bindings: list[tuple[Binding, str, Caller]] = []
    released: list[Caller] = []
    calls: list[tuple[str, asyncio.Future[str]]] = []

    async def bind() -> None:
        who = f"b{len(bindings) + len(released)}"

        async def dispatch(name: str, arguments: str) -> ToolReply:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            return ToolReply(f"{who} {name} {arguments}")

        binding = bridge.bind(dispatch)
        caller = await Caller.connect(bridge.path, binding.token)
        assert (
            await caller.tools() == []
        )  # it is accepted: a closing server may leave those in between unanswered
        bindings.append((binding, who, caller))

    for step in range(300):
        act = chance.choices(["bind", "publish", "call", "release", "restart"], [4, 6, 20, 1, 0.1])[0]
        if act == "bind" and len(bindings) < 16:
            await bind()
        elif act == "restart":
            await bridge.close()
            await bridge.start()
        elif bindings:
            binding, who, caller = chance.choice(bindings)
            if act == "publish":
                binding.publish([tool("a"), *map(tool, chance.sample(["b", "c"], chance.randrange(3)))])
            elif act == "release":
                binding.release()
                bindings.remove((binding, who, caller))
                released.append(caller)
            elif act == "call":
                calls.append((f"{who} a", asyncio.ensure_future(caller.call("a", step=step))))
                if chance.random() < 0.3:  # the others are under way while something happens to their binding
                    await asyncio.wait([calls[-1][1]])
    answers = await asyncio.gather(*(call for _, call in calls), return_exceptions=True)
    wrong = [
        (who, answer)
        for (who, _), answer in zip(calls, answers, strict=True)
        if not isinstance(answer, RpcError | Disconnected)
        and not (isinstance(answer, str) and answer.startswith((f"{who} ", "error: There is no tool")))
    ]
    assert wrong == []
    assert sum(isinstance(answer, str) and not answer.startswith("error") for answer in answers) > 5
    for caller in (*released, *(caller for _, _, caller in bindings)):
        await caller.close()
    await bridge.close()
