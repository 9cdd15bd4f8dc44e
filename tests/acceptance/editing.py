"""An editor that speaks to a real `clew acp`: every frame is kept, in order, and held against the official schema."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import jsonschema

from clew.testing.command_line import CommandLine

SCHEMA: Final = Path(__file__).parents[1] / "data" / "acp_schema_v1.json"
SECONDS_MAX: Final = 30
Frame = dict[str, Any]
REPLAYED: Final = frozenset({
    "user_message_chunk", "agent_message_chunk", "agent_thought_chunk", "tool_call", "tool_call_update",
})  # fmt: skip
"""Updates that hold what was said; the others hold what a session is like now."""
NOT_STABLE: Final = {"session/fork": "session/new"}
"""Methods that are not in the stable schema, by the one whose answer they have."""


@cache
def _schema() -> Frame:
    schema: Frame = json.loads(SCHEMA.read_text())["$defs"]
    return schema


@cache
def _types() -> dict[tuple[str, bool], str]:
    """The official type of the parameters of each method, and of its result."""
    return {
        (found["x-method"], name.endswith("Response")): name
        for name, found in _schema().items()
        if "x-method" in found
    }


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, error: Frame) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.data = error.get("data")


@cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$defs": _schema(), "$ref": f"#/$defs/{name}"})


def check(value: object, method: str, *, is_result: bool = False) -> None:
    """Raises where it is not what the official schema says of the method."""
    _validator(_types()[NOT_STABLE.get(method, method), is_result]).validate(value)


class Editor:
    """`asked` answers what the agent asks; None leaves it without an answer. Entered, the agent runs."""

    def __init__(
        self,
        command: CommandLine,
        *,
        capabilities: Frame | None = None,
        asked: Callable[[str, Frame], Awaitable[Any]] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.frames: list[Frame] = []
        self.log: list[tuple[str, Frame]] = []
        """Every frame in order: what was `sent`, and what was `heard`."""
        self._command = command
        self._capabilities = capabilities or {}
        self._asked = asked
        self._environ = environ
        self._number = 0
        self._methods: dict[int, str] = {}
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        self.process = await self._command.start("acp", environ=self._environ)
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()
        await self._reading
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- what goes out -------------------------------------------------------------------------------------------
    async def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        await self.process.stdin.drain()

    async def tell(self, method: str, **params: Any) -> None:
        await self.send(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode())

    async def begin(self, method: str, **params: Any) -> asyncio.Future[Frame]:
        """Sends a request; the future is its whole answer."""
        self._number += 1
        self._methods[self._number] = method
        answer = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        frame = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        self.log.append(("sent", frame))
        await self.send(json.dumps(frame).encode())
        return answer

    async def call(self, method: str, **params: Any) -> Frame:
        """The result. Raises Refused."""
        answer = await self.begin(method, **params)
        return await self.result(answer)

    async def result(self, answer: asyncio.Future[Frame]) -> Frame:
        async with asyncio.timeout(SECONDS_MAX):
            frame = await answer
        if "error" in frame:
            raise Refused(frame["error"])
        result: Frame = frame["result"]
        return result

    async def hello(self) -> Frame:
        return await self.call("initialize", protocolVersion=1, clientCapabilities=self._capabilities)

    async def new(self, cwd: Path | None = None, **params: Any) -> str:
        """Says hello if nobody did, and opens a session."""
        if not self._number:
            await self.hello()
        where = str(cwd or self._command.cwd)
        session: str = (await self.call("session/new", **{"cwd": where, "mcpServers": [], **params}))[
            "sessionId"
        ]
        return session

    async def load(self, session: str, cwd: Path | None = None, **params: Any) -> list[Frame]:
        """The updates that came before the answer."""
        if not self._number:
            await self.hello()
        before = len(self.frames)
        where = str(cwd or self._command.cwd)
        await self.call("session/load", **{"sessionId": session, "cwd": where, "mcpServers": [], **params})
        answered = next(n for n, f in enumerate(self.frames) if n >= before and f.get("id") == self._number)
        shown = [update(frame) for frame in self.frames[before:answered] if "method" in frame]
        return [found for found in shown if found["sessionUpdate"] in REPLAYED]

    async def prompting(self, session: str, text: str) -> asyncio.Future[Frame]:
        return await self.begin("session/prompt", sessionId=session, prompt=[{"type": "text", "text": text}])

    async def prompt(self, session: str, text: str) -> str:
        """The reason why the turn ended."""
        reason: str = (await self.result(await self.prompting(session, text)))["stopReason"]
        return reason

    async def leave(self) -> int:
        """Closes standard input, as an editor does; the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(SECONDS_MAX):
            return await self.process.wait()

    # -- what comes in -------------------------------------------------------------------------------------------
    async def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """The first frame like this, from the beginning."""
        async with asyncio.timeout(SECONDS_MAX), self._news:
            await self._news.wait_for(lambda: any(wanted(frame) for frame in self.frames))
        return next(frame for frame in self.frames if wanted(frame))

    async def sees(self, session: str, text: str) -> None:
        """Waits until the answers of a session hold this text."""
        await self.until(lambda _: text in self.said(session))

    def updates(self, session: str) -> list[Frame]:
        return [
            update(f)
            for f in self.frames
            if f.get("method") == "session/update" and f["params"]["sessionId"] == session
        ]

    def said(self, session: str, kind: str = "agent_message_chunk") -> str:
        """What the agent said in a session, live or replayed."""
        return "".join(
            u["content"].get("text", "") for u in self.updates(session) if u["sessionUpdate"] == kind
        )

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            frame = json.loads(line)
            self._check(frame)
            self.log.append(("heard", frame))
            async with self._news:
                self.frames.append(frame)
                self._news.notify_all()
            if "method" not in frame:
                waiting = self._waiting.pop(frame["id"], None) if isinstance(frame["id"], int) else None
                if waiting is not None and not waiting.done():
                    waiting.set_result(frame)
            elif "id" in frame and self._asked is not None:
                task = asyncio.create_task(self._reply(frame))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _reply(self, frame: Frame) -> None:
        assert self._asked is not None
        answer = await self._asked(frame["method"], frame["params"])
        if answer is not None:
            member = {"error": answer["error"]} if "error" in answer else {"result": answer}
            reply = {"jsonrpc": "2.0", "id": frame["id"], **member}
            self.log.append(("sent", reply))
            await self.send(json.dumps(reply).encode())

    def _check(self, frame: Frame) -> None:
        assert frame["jsonrpc"] == "2.0"
        if "error" in frame:
            _validator("Error").validate(frame["error"])
        elif "method" in frame:
            check(frame["params"], frame["method"])
        elif frame["id"] in self._methods:
            check(frame["result"], self._methods[frame["id"]], is_result=True)


def update(frame: Frame) -> Frame:
    found: Frame = frame["params"]["update"]
    return found


def chosen(option: str) -> Callable[[str, Frame], Awaitable[Any]]:
    """Answers every question for permission the same way."""

    async def asked(method: str, params: Frame) -> Any:
        if method == "session/request_permission":
            return {"outcome": {"outcome": "selected", "optionId": option}}
        return {"error": {"code": -32601, "message": f"no {method}"}}

    return asked


def call_of(name: str, **arguments: object) -> str:
    """A prompt to which the echoing model answers with this call."""
    return f"please\nCALL_TOOL {name} {json.dumps(arguments)}"
