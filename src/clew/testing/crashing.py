"""The real `clew`, which kills itself at a named point: `CLEW_TEST_CRASH='after result:2' python -m clew.testing.crashing run hi`.

Everything is put together by `clew.bootstrap`; only the ledger's writer, the model and the tools are wrapped, so that
the process ends there by SIGKILL. The number says at which time it comes there (1). `crash_points.POINTS` names them.

With `CLEW_TEST_TOLD`, the number of an open file, each write is told there once it is durable, and each run of a tool:
JSON, one a line. Whoever watches the process knows by that what it may rely on.

With `CLEW_TEST_CLOCK`, the name of a file, its wall clock jumps by so many milliseconds as stand there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar, cast

import apsw
import msgspec

import clew
from clew.adapters.stores.sqlite.ledger import SqliteLedger
from clew.adapters.stores.sqlite.writer import ReadBack, Work, Writer
from clew.bootstrap import Program
from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.models.answer import ModelEvent, TextDelta
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.domain.tools.spec import JsonObject, ToolResult, ToolSpec
from clew.installed import Installed
from clew.runtime.commands.values import Processes
from clew.runtime.ports.models import ModelChoice, ModelClient, ModelSource
from clew.runtime.ports.tools import Surroundings, Tool, ToolContext
from clew.runtime.talk import Notify, Services, SessionTools, Toolmaker
from clew.surfaces.cli.main import main as run_command_line
from clew.testing.crash_points import POINTS, SERVING, shape_of, texts_of

T = TypeVar("T")
CRASH: Final = "CLEW_TEST_CRASH"
TOLD: Final = "CLEW_TEST_TOLD"
CLOCK: Final = "CLEW_TEST_CLOCK"
BREAK: Final = "CLEW_TEST_BREAK"
BROKEN: Final = ("loses openings", "runs calls twice")
"""Ways to break the program on purpose, so that a test sees that torture notices."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What became certain, and when by the machine's monotonic clock."""

    what: str
    call: str = ""
    said: tuple[str, ...] = ()
    """The first words of the messages that people sent."""
    at: float
    at_ms: int
    """By the wall clock, as the ledger writes it."""


class Crash:
    """Ends the process at its point, at the time it is due, and tells what happens until then."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        point, _, times = environ.get(CRASH, "").partition(":")
        if point and point not in (*POINTS, *SERVING):
            raise SystemExit(f"There is no crash point {point!r}; there are {', '.join(POINTS)}.")
        self._point = point
        self._left = int(times or 1)
        self._told = int(environ[TOLD]) if TOLD in environ else None
        if self._told is not None:
            os.set_inheritable(self._told, False)  # the processes that tools start do not tell

    def reach(self, point: str) -> None:
        """Called each time the process comes to a point; does not return when it is the one, for the time it is due."""
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                die()

    def tell(self, what: str, call: str = "", texts: Sequence[str] = ()) -> None:
        if self._told is not None:
            said = tuple(text.split(maxsplit=1)[0] for text in texts)
            told = Told(
                what=what, call=call, said=said, at=time.monotonic(), at_ms=time.time_ns() // 1_000_000
            )
            os.write(self._told, msgspec.json.encode(told) + b"\n")


def die() -> None:
    """As `kill -9` does it: no handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


class CrashingWriter(Writer):
    """A writer whose process may end with a transaction open, or with it durable and nobody told."""

    def __init__(self, inner: Writer, crash: Crash, *, loses: str = "") -> None:
        """`loses` names a shape of write that is answered and not done."""
        self._inner = inner
        self._crash = crash
        self._loses = loses

    async def do(self, work: Work[T], read_back: ReadBack[T] | None = None) -> T:
        shape = shape_of(work)

        def dying(db: apsw.Connection) -> T:
            outcome = work(db)  # what is refused did not come to the point: it is asked again
            self._crash.reach(f"before {shape}")
            if shape == self._loses:
                raise _Lost(outcome)
            return outcome

        try:
            outcome = await self._inner.do(dying, read_back)
        except _Lost as lost:
            outcome = cast(T, lost.outcome)
        self._crash.reach(f"after {shape}")
        self._crash.tell(shape, texts=texts_of(work))
        return outcome

    async def checkpoint(self) -> bool:
        return await self._inner.checkpoint()

    def close(self) -> None:
        self._inner.close()


class _Lost(Exception):
    """Takes back what a request wrote, and says what it would have answered."""

    def __init__(self, outcome: object) -> None:
        super().__init__()
        self.outcome = outcome


class CrashingModels:
    """`ModelSource` whose clients may end the process with the first token of an answer."""

    def __init__(self, inner: ModelSource, crash: Crash) -> None:
        self._inner = inner
        self._crash = crash

    async def choose(self, name: str | None) -> ModelChoice:
        choice = await self._inner.choose(name)
        return choice._replace(client=_CrashingClient(choice.client, self._crash))


class _CrashingClient:
    def __init__(self, inner: ModelClient, crash: Crash) -> None:
        self._inner = inner
        self._crash = crash

    async def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncIterator[ModelEvent]:
        async for event in self._inner.stream(request, blobs=blobs, key=key):
            if isinstance(event, TextDelta):
                self._crash.reach("first token")
            yield event

    async def profile(self, model: str) -> ModelProfile:
        return await self._inner.profile(model)

    async def models(self) -> tuple[str, ...]:
        return await self._inner.models()

    async def close(self) -> None:
        await self._inner.close()


class _CrashingTool:
    """`Tool` that tells of each run, and may end the process before it, with its first output, or after it."""

    def __init__(self, inner: Tool, crash: Crash, times: int) -> None:
        self._inner = inner
        self._crash = crash
        self._times = times

    @property
    def spec(self) -> ToolSpec:
        return self._inner.spec

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolResult:
        self._crash.reach("before tool")

        def progress(text: str) -> None:
            self._crash.reach("in tool")
            context.progress(text)

        watched = msgspec.structs.replace(context, progress=progress)
        for _ in range(1, self._times):
            await self._run(arguments, watched)
        result = await self._run(arguments, watched)
        self._crash.reach("after tool")
        return result

    async def _run(self, arguments: JsonObject, context: ToolContext) -> ToolResult:
        self._crash.tell("run", context.call)
        return await self._inner.run(arguments, context)

    def describe(self, arguments: JsonObject) -> str:
        return self._inner.describe(arguments)


class _CrashingTools:
    """`SessionTools` made of them."""

    def __init__(self, inner: SessionTools, crash: Crash, times: int) -> None:
        self._inner = inner
        self._crash = crash
        self._times = times

    @property
    def processes(self) -> Processes | None:
        return self._inner.processes

    @property
    def problems(self) -> Sequence[str]:
        return self._inner.problems

    def tools(self) -> Sequence[Tool]:
        return [_CrashingTool(tool, self._crash, self._times) for tool in self._inner.tools()]

    def beside(self) -> SessionTools:
        return _CrashingTools(self._inner.beside(), self._crash, self._times)

    async def close(self) -> None:
        await self._inner.close()


class CrashingToolmaker:
    """`Toolmaker` of them. `times` is how often each call runs: once, or the program is broken."""

    def __init__(self, inner: Toolmaker, crash: Crash, *, times: int = 1) -> None:
        self._inner = inner
        self._crash = crash
        self._times = times

    async def open(
        self, session: SessionId, principal: PrincipalId, cwd: Path, notify: Notify
    ) -> SessionTools:
        tools = await self._inner.open(session, principal, cwd, notify)
        return _CrashingTools(tools, self._crash, self._times)

    def within(self, surroundings: Surroundings) -> Toolmaker:
        return CrashingToolmaker(self._inner.within(surroundings), self._crash, times=self._times)


class CrashingProgram(Program):
    """The program as it is shipped, with a crash waiting in it."""

    @asynccontextmanager
    async def services(self) -> AsyncIterator[Services]:
        crash, broken = Crash(self.environ), self.environ.get(BREAK, "")
        async with super().services() as services:
            ledger = cast(SqliteLedger, services.ledger)
            loses = "opening" if broken == "loses openings" else ""
            ledger._writer = CrashingWriter(ledger._writer, crash, loses=loses)
            ledger._purger._writer = ledger._writer
            yield msgspec.structs.replace(
                services,
                models=CrashingModels(services.models, crash),
                toolmaker=CrashingToolmaker(
                    services.toolmaker, crash, times=2 if broken == "runs calls twice" else 1
                ),
            )


def jump_clock(by_ms: Path) -> None:
    """The wall clock of this process is off by what stands in a file, whenever it is looked at."""
    time_ns = time.time_ns

    def jumping() -> int:
        return time_ns() + int(by_ms.read_text("ascii")) * 1_000_000

    time.time_ns = jumping


def set_jump(by_ms: Path, jump_ms: int) -> None:
    """Says how far it is off; whoever looks meanwhile reads the old figure or the new, never half of one."""
    written = by_ms.with_name(f"{by_ms.name}.new")
    written.write_text(str(jump_ms), "ascii")
    written.replace(by_ms)


def main(arguments: list[str]) -> int:
    """The command `clew` with these arguments. Returns its exit code, if it comes to that."""
    if CLOCK in os.environ:
        jump_clock(Path(os.environ[CLOCK]))
    return run_command_line(CrashingProgram(os.environ, Installed(clew.__file__)), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
