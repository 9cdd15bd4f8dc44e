"""Turns as updates of a session: what happens now, and what happened before, read from the ledger.

An editor cannot take text back. So what a failed attempt had shown stays, and it is said that the answer begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, assert_never

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.messages import (
    AssistantBody,
    Message,
    Role,
    Status,
    ToolBody,
    UserBody,
)
from clew.domain.tools.plan import read_plan
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.people import (
    AttemptVoid,
    CallAnnounced,
    CallEnded,
    CallOutput,
    CallRunning,
    Joined,
    Noticed,
    StepRecorded,
    TextShown,
    ThinkingShown,
    TurnNews,
)
from clew.surfaces.acp.calls import ShownCall, output, running
from clew.surfaces.acp.content import attached
from clew.wire.acp_types import (
    AgentMessageChunkSent,
    AgentThoughtChunkSent,
    AvailableCommandsUpdateSent,
    CompactionUpdateSent,
    ConfigOptionUpdateSent,
    CurrentModeUpdateSent,
    NoticeSent,
    PlanEntry,
    PlanSent,
    SessionInfoUpdateSent,
    TextBlock,
    ToolCallSent,
    ToolCallUpdateSent,
    UsageUpdateSent,
    UserMessageChunkSent,
)

Update = (
    UserMessageChunkSent | AgentMessageChunkSent | AgentThoughtChunkSent | ToolCallSent | ToolCallUpdateSent
    | AvailableCommandsUpdateSent | CurrentModeUpdateSent | ConfigOptionUpdateSent | SessionInfoUpdateSent
    | UsageUpdateSent | NoticeSent | PlanSent | CompactionUpdateSent
)  # fmt: skip
OUTPUT_CHARACTERS_MAX: Final = 8000
"""Of what a running call has said, only the end is shown; its result is whole."""
OUTPUT_SECONDS_MIN: Final = 0.1
"""Between two showings: each holds all there is to show."""
BEGINS_ANEW: Final = "\n\n*(The connection to the model broke here; the answer begins anew.)*\n\n"
PLAN: Final = "plan"
"""The tool whose calls are the editor's plan."""
NEVER_ENDED: Final = "No result of this call is stored: whether it took effect is not known."


class LiveTurn:
    """`Watch` for a turn that runs. `noticed` takes what is not part of the answer; `shown_in` names the terminals of calls."""

    def __init__(
        self,
        cwd: Path,
        send: Callable[[Update], None],
        noticed: Callable[[Noticed], None],
        shown_in: dict[str, str],
    ) -> None:
        self.used = 0
        """Tokens in the context, by the last step's account."""
        self._cwd = cwd
        self._shown_in = shown_in
        self._send = send
        self._noticed = noticed
        self._calls: dict[str, ShownCall] = {}
        self._plans: set[str] = set()
        self._output: dict[str, str] = {}
        self._output_shown_at = 0.0
        self._shown_of_attempt = False

    def __call__(self, news: TurnNews) -> None:
        match news:
            case TextShown(text):
                self._shown_of_attempt = True
                self._send(AgentMessageChunkSent(content=TextBlock(text=text)))
            case ThinkingShown(text):
                self._send(AgentThoughtChunkSent(content=TextBlock(text=text)))
            case AttemptVoid():
                if self._shown_of_attempt:
                    self._send(AgentMessageChunkSent(content=TextBlock(text=BEGINS_ANEW)))
                self._shown_of_attempt = False
                self._noticed(Noticed(f"{news.reason} Trying again in {news.after_seconds:.0f} s."))
            case StepRecorded(usage=usage):
                self._shown_of_attempt = False
                self.used = usage.input + usage.output
            case CallAnnounced(call=call, name=name, arguments=arguments):
                if (stated := plan_in(name, arguments)) is not None:
                    self._plans.add(call)
                    self._send(stated)
                    return
                self._calls[call] = shown = ShownCall(call, name, arguments, self._cwd)
                self._send(shown.announced())
            case CallRunning(call) | CallEnded(call=call) if call in self._plans:
                pass  # the plan is on the screen
            case CallRunning(call):
                self._send(running(call))
            case CallOutput(call, text):
                self._output[call] = (self._output.get(call, "") + text)[-OUTPUT_CHARACTERS_MAX:]
                self._show_output(call)
            case CallEnded(call=call, status=status, text=text):
                self._output.pop(call, None)
                shown = self._calls.get(call) or ShownCall(call, "", "{}", self._cwd)
                self._send(shown.ended(status, text, self._shown_in.pop(call, None)))
            case Joined():
                pass  # whoever sent it has it on the screen already
            case Noticed():
                self._noticed(news)
            case _:
                assert_never(news)

    def _show_output(self, call: str) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._output_shown_at + OUTPUT_SECONDS_MIN:
            self._output_shown_at = now
            self._send(output(call, self._output[call]))


def plan_in(name: str, arguments: str) -> PlanSent | None:
    """The plan that a call states. One whose arguments hold none is a call like any other, and fails like one."""
    entries = read_plan(arguments) if name == PLAN else None
    if entries is None:
        return None
    return PlanSent(
        entries=[PlanEntry(content=e.content, priority=e.priority, status=e.status) for e in entries]
    )


async def replayed(
    ledger: Ledger, principal: PrincipalId, session: SessionId, cwd: Path
) -> AsyncIterator[Update]:
    """Everything on the path, in order, each message once. Twice the same when nothing was said between."""
    path = await ledger.path(principal, session)
    results = {message.body.call for message in path if isinstance(message.body, ToolBody)}
    calls: dict[str, ShownCall] = {}
    for message in path:
        number = str(message.id)
        match message.role:
            case Role.USER:
                if message.opens_turn and isinstance(message.body, UserBody) and message.body.cwd:
                    cwd = Path(message.body.cwd)
                if message.text:
                    yield UserMessageChunkSent(content=TextBlock(text=message.text), message_id=number)
                for attachment in message.attachments:
                    blob = await ledger.blob(principal, session, attachment.sha256)
                    yield UserMessageChunkSent(content=attached(attachment, blob.bytes), message_id=number)
            case Role.ASSISTANT:
                for update in _answered(message):
                    yield update
                for call in message.calls:
                    if (stated := plan_in(call.name, call.arguments)) is not None:
                        yield stated
                        continue
                    calls[call.id] = ShownCall(call.id, call.name, call.arguments, cwd)
                    yield calls[call.id].announced()
                    if call.id not in results:
                        yield calls[call.id].ended(Status.UNKNOWN, NEVER_ENDED)
            case Role.TOOL:
                if isinstance(message.body, ToolBody) and message.body.call in calls:
                    yield calls[message.body.call].ended(message.status, message.text)
            case Role.EVENT:
                yield AgentThoughtChunkSent(content=TextBlock(text=message.text), message_id=number)
            case _:
                assert_never(message.role)


def _answered(message: Message) -> list[Update]:
    number = str(message.id)
    thinking = message.body.thinking if isinstance(message.body, AssistantBody) else ()
    thoughts: list[Update] = [
        AgentThoughtChunkSent(content=TextBlock(text=thought.text), message_id=number)
        for thought in thinking
        if thought.text
    ]
    if message.text:
        thoughts.append(AgentMessageChunkSent(content=TextBlock(text=message.text), message_id=number))
    return thoughts
