"""A conversation of Clew with itself: what an editor would see, printed line by line, and how long it waited.

Everything is as it is for an editor: another process, pipes, frames. Its session is deleted at the end.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from clew.wire.jsonrpc import RpcError
from clew.wire.peer import Disconnected, Peer

SECONDS_MAX: Final = 120.0
QUESTION: Final = "Say in one short sentence that you can be reached from an editor."
SHOWN_CHARACTERS_MAX: Final = 400
Answer = dict[str, Any]


async def check(environ: Mapping[str, str], cwd: Path, tell: Callable[[str], None]) -> bool:
    """Whether a prompt was answered; says why not. Bounded by SECONDS_MAX, and leaves no process behind."""
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clew", "acp", env=environ, cwd=cwd,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def say(line: str) -> None:
        tell(f"{time.monotonic() - started:7.3f} s  {line}")

    def heard(_: str, params: msgspec.Raw) -> None:
        say(f"<- {_shown(params)}")

    async def refused(method: str, params: msgspec.Raw) -> object:
        raise RpcError(-32601, f"{method} is not answered here.")

    peer = Peer(process.stdin.write, serve=refused, heard=heard, broke=lambda error: say(repr(error)))
    reading = asyncio.create_task(_read(process.stdout, peer))
    try:
        async with asyncio.timeout(SECONDS_MAX):
            return await _converse(peer, cwd, say)
    except RpcError as error:
        say(f"<- error {error.code}: {error.message}")
    except Disconnected:
        say("the agent ended; what it said is above")
    except TimeoutError:
        say(f"no answer within {SECONDS_MAX:g} s")
    finally:
        process.stdin.close()
        await _ended(process)
        await reading
    return False


async def _converse(peer: Peer, cwd: Path, say: Callable[[str], None]) -> bool:
    async def ask(method: str, **params: object) -> Answer:
        say(f"-> {method} {_shown(msgspec.json.encode(params))}")
        answer: Answer = await peer.call(method, params, Answer)
        say(f"<- {_shown(msgspec.json.encode(answer))}")
        return answer

    await ask("initialize", protocolVersion=1, clientCapabilities={})
    session = (await ask("session/new", cwd=str(cwd), mcpServers=[]))["sessionId"]
    try:
        answer = await ask("session/prompt", sessionId=session, prompt=[{"type": "text", "text": QUESTION}])
    finally:
        await ask("session/delete", sessionId=session)
    return bool(answer["stopReason"] == "end_turn")


async def _read(stdout: asyncio.StreamReader, peer: Peer) -> None:
    while data := await stdout.read(1 << 16):
        peer.receive(data)
    await peer.close()


async def _ended(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(10):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _shown(frame: msgspec.Raw | bytes) -> str:
    text = bytes(frame).decode()
    return (
        text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}… ({len(text):,} bytes)"
    )
