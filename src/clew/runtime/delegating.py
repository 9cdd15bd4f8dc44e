"""Subagents: a turn's model hands tasks to side sessions, whose answers are the results of its call.

A subagent knows nothing but its task. Its session's id is derived from the call that began it, and the call is declared
safe to repeat: after a crash the call is run again, finds those that had finished and goes on with the others. Every limit
is counted in the ledger or per turn, and hitting one is a result that says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from clew.domain.conversation.ids import CallId, SessionId, call_id
from clew.domain.conversation.messages import Status
from clew.domain.ledger.errors import LedgerError, NotFound, Refused
from clew.domain.ledger.rows import DELEGATE, Origin, SessionRow, TurnState
from clew.domain.tools.spec import ToolResult
from clew.domain.turn.machine import GO_ON
from clew.runtime.account import shortened
from clew.runtime.ports.models import ModelUnavailable
from clew.runtime.ports.people import (
    Approver,
    CallAnnounced,
    CallOutput,
    Consent,
    Noticed,
    Question,
    TurnNews,
)
from clew.runtime.ports.tools import Tool, ToolContext
from clew.runtime.sending import POLL_SECONDS
from clew.runtime.sides import SideEnd, SideTask, finished, side_id
from clew.runtime.talk import Services, SessionTools

NAME: Final = DELEGATE
"""Of the tool, as of the surface of its sessions."""
TASKS_MAX: Final = 50
"""In one call."""
NOT_FOR_SUBAGENTS: Final = frozenset({"schedule", "send_file"})
"""What speaks to the person is the parent's to do."""
_WORDS: Final = {TurnState.DONE: "done", TurnState.FAILED: "failed", TurnState.ABANDONED: "given up"}


class DelegateLimits(msgspec.Struct, frozen=True, kw_only=True):
    at_once: int = 4
    per_turn: int = 16
    depth: int = 1
    seconds: float = 600
    usd: float | None = None
    model: str | None = None


class Delegates:
    """The subagents of one turn, `depth` below a person's. `nested` makes the tool for those of a subagent."""

    def __init__(
        self,
        services: Services,
        tools: SessionTools,
        limits: DelegateLimits,
        depth: int,
        nested: Callable[[int], Tool],
    ) -> None:
        self._services = services
        self._tools = tools
        self._limits = limits
        self._depth = depth
        self._nested = nested
        self._room = asyncio.Semaphore(limits.at_once)
        self._one_opens = asyncio.Lock()

    async def run(self, tasks: Sequence[str], context: ToolContext) -> ToolResult:
        """All of them, side by side as far as there is room; a result for each, in order."""
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(self._one(task, n, len(tasks), context)) for n, task in enumerate(tasks)
            ]
        ends = [task.result() for task in running]
        share = self._services.runner.settings.tool_output_bytes // (2 * len(ends))
        text = "\n\n".join(_told(end, share) for end in ends)
        is_any_done = any(isinstance(end, SideEnd) and end.state == TurnState.DONE for end in ends)
        return ToolResult(text=text, status=Status.OK if is_any_done else Status.ERROR)

    async def _one(self, task: str, n: int, among: int, context: ToolContext) -> SideEnd | str:
        label = f"{n + 1} " if among > 1 else ""

        def tell(line: str) -> None:
            context.progress(f"{line}\n")

        try:
            side = await self._opened(task, n, context)
            async with self._room:
                tell(f"├─ {label}{shortened(task)}")
                end = await finished(
                    self._services,
                    self._task(task, side, context),
                    _Branch(tell, label),
                    _Asks(context, label),
                )
        except (LedgerError, ModelUnavailable) as error:
            tell(f"└─ {label}{error}")
            await self._stopped(side_id(f"{context.call}:{n}"), context)
            return str(error)
        tell(f"└─ {label}{_state(end)}")
        return end

    async def _stopped(self, side: SessionId, context: ToolContext) -> None:
        """Its end may be what could not be written: nobody looks for it any more once its parent was answered."""
        while True:
            try:
                await self._services.desk.stop(context.principal, side)
            except NotFound:
                return  # it was never begun, or was deleted
            except LedgerError:
                await asyncio.sleep(POLL_SECONDS)  # nor can the result of the call be written yet
            else:
                return

    def _task(self, task: str, side: SessionRow, context: ToolContext) -> SideTask:
        ours = self._services.runner.settings
        caps = msgspec.structs.replace(ours.caps, usd_beside=self._limits.usd)
        return SideTask(
            principal=context.principal,
            side=side,
            text=task,
            cwd=context.cwd,
            settings=msgspec.structs.replace(ours, max_seconds=self._limits.seconds, caps=caps),
            tools=self._tools,
            offered=self._offered,
        )

    def _offered(self, own: Sequence[Tool]) -> Sequence[Tool]:
        below = self._depth + 1
        more = (self._nested(below),) if below < self._limits.depth else ()
        return (*(tool for tool in own if tool.spec.name not in NOT_FOR_SUBAGENTS), *more)

    async def _opened(self, task: str, n: int, context: ToolContext) -> SessionRow:
        """The subagent's session: the one it has, or a new one. Raises Refused when the turn has had its share."""
        ledger, ident = self._services.ledger, side_id(f"{context.call}:{n}")
        async with self._one_opens:
            children = await ledger.children(context.principal, context.session)
            own = {row.id for row in children if row.origin == Origin.SIDE and row.surface == NAME}
            if ident not in own and len(own & await self._of_turn(context)) >= self._limits.per_turn:
                raise Refused(
                    f"Not begun: a turn has at most {self._limits.per_turn} subagents (delegate.per_turn)."
                )
            parent = await ledger.session(context.principal, context.session)
            return await self._services.desk.beside(
                context.principal,
                parent,
                ident,
                NAME,
                shortened(task),
                cwd=str(context.cwd),
                model=self._limits.model,
            )

    async def _of_turn(self, context: ToolContext) -> set[str]:
        """The ids that subagents of the turn's calls have, if they were begun."""
        ledger, session = self._services.ledger, context.session
        turn = await ledger.turn(context.principal, session)
        calls = [] if turn is None else await ledger.calls(context.principal, session, turn.turn)
        keys = [call_id(session, c.turn, c.step, c.n) for c in calls if c.name == NAME]
        return {side_id(f"{key}:{n}") for key in keys for n in range(TASKS_MAX)}


class _Branch:
    """What a subagent does, as lines below its parent's call."""

    def __init__(self, tell: Callable[[str], None], label: str) -> None:
        self._tell = tell
        self._label = label
        self._nested = set[CallId]()

    def __call__(self, news: TurnNews) -> None:
        match news:
            case CallAnnounced(call=call, name=name, line=line):
                self._tell(f"│  {self._label}{line}")
                if name == NAME:
                    self._nested.add(call)
            case CallOutput(call, text) if call in self._nested:
                for line in text.splitlines():
                    self._tell(f"│  {line}")
            case Noticed(text):
                self._tell(f"│  {self._label}{text}")
            case _:
                pass  # its words are its own, until it is done


class _Asks:
    """`Approver`: the parent's person is asked, and told who asks."""

    def __init__(self, context: ToolContext, label: str) -> None:
        self._person: Approver = context.approver
        self._label = label

    async def ask(self, question: Question) -> Consent | None:
        line = f"subagent {self._label}: {question.line}".replace(" :", ":")
        return await self._person.ask(msgspec.structs.replace(question, line=line))


def _state(end: SideEnd) -> str:
    error = (
        f": {end.error.removesuffix(GO_ON).strip()}" if end.error else ""
    )  # nobody can say it to a subagent
    return f"{_WORDS.get(end.state, str(end.state))}{error}"


def _told(end: SideEnd | str, share: int) -> str:
    """For the model: what became of one subagent, and its answer."""
    if isinstance(end, str):
        return f"[{end}]"
    text = end.text or "(It said nothing.)"
    if len(text) > share:
        text = f"{text[:share]}\n[… cut here: session {end.side} holds all of it …]"
    return f"[subagent {end.side}, {_state(end)}]\n{text}"


def delegating(
    make: Callable[[Callable[[Sequence[str], ToolContext], Awaitable[ToolResult]]], Tool],
    limits: DelegateLimits,
) -> Callable[[Services, SessionTools], Tool]:
    """What makes the tool for a turn; `make` puts it around what it runs."""

    def at(services: Services, tools: SessionTools, depth: int) -> Tool:
        nested = partial(at, services, tools)
        return make(Delegates(services, tools, limits, depth, nested).run)

    return lambda services, tools: at(services, tools, 0)
