"""Tool calls at the edge: may this run, is it run once, what came of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from clew.domain.conversation.ids import CallId, PrincipalId, SessionId
from clew.domain.conversation.messages import Status, ToolCall
from clew.domain.tools.policy import ApprovalMode, needs_approval
from clew.domain.tools.spec import Effect, JsonObject, ToolResult
from clew.runtime.ports.people import Approver, CallOutput, Watch
from clew.runtime.ports.tools import Tool, ToolContext

LINE_CHARACTERS_MAX: Final = 200
NOTE_BYTES_MAX: Final = 1_000
"""Of what a tool says beside its output."""


def args_sha256(call: ToolCall) -> str:
    """What an approval is bound to: exactly this tool with exactly these arguments."""
    return hashlib.sha256(f"{call.name}\0{call.arguments}".encode()).hexdigest()


def arguments_of(call: ToolCall) -> JsonObject | None:
    """The arguments as an object; None when the model wrote something else."""
    try:
        decoded = msgspec.json.decode(call.arguments or "{}")
    except msgspec.DecodeError:
        return None
    return decoded if isinstance(decoded, dict) else None


class CallDesk:
    """The tools of one turn, by name."""

    def __init__(
        self,
        tools: Iterable[Tool],
        *,
        session: SessionId,
        principal: PrincipalId,
        cwd: Path,
        mode: ApprovalMode,
        allowed: frozenset[str],
        watch: Watch,
        still_ours: Callable[[], Awaitable[None]],
        notify: Callable[[str, str], Awaitable[None]],
        approver: Approver,
        output_bytes: int,
    ) -> None:
        self._output_bytes = output_bytes
        self._tools = {tool.spec.name: tool for tool in tools}
        self._session = session
        self._principal = principal
        self._cwd = cwd
        self._mode = mode
        self._allowed = set(allowed)
        self._watch = watch
        self._still_ours = still_ours
        self._notify = notify
        self._approver = approver
        self._one_change_at_a_time = asyncio.Lock()

    def is_safe_to_repeat(self, call: ToolCall) -> bool:
        tool = self._tools.get(call.name)
        return tool is not None and tool.spec.safe_to_repeat

    def line(self, call: ToolCall) -> str:
        """One line for people; never fails, whatever the model wrote."""
        tool, arguments = self._tools.get(call.name), arguments_of(call)
        if tool is None or arguments is None:
            return f"{call.name} {call.arguments}"[:LINE_CHARACTERS_MAX]
        try:
            return tool.describe(arguments)
        except Exception:  # noqa: BLE001 - foreign code; what it would have said is only for showing
            return f"{call.name} {call.arguments}"[:LINE_CHARACTERS_MAX]

    def needs_approval(self, call: ToolCall) -> bool:
        """A call that cannot run at all is not asked about: its error is the answer."""
        tool = self._tools.get(call.name)
        if tool is None or arguments_of(call) is None or call.name in self._allowed:
            return False
        return needs_approval(self._mode, tool.spec.effect)

    def allow_for_session(self, name: str) -> None:
        self._allowed.add(name)

    async def run(self, call: ToolCall) -> ToolResult:
        """Runs it; raises Fenced instead when the session is somebody else's. Calls that only read run side by side; those that change something run one after the other."""
        tool, arguments = self._tools.get(call.name), arguments_of(call)
        if tool is None:
            known = ", ".join(sorted(self._tools)) or "none"
            return ToolResult(
                text=f"There is no tool {call.name}. The tools are: {known}.", status=Status.ERROR
            )
        if arguments is None:
            return ToolResult(
                text="The arguments are not a JSON object; nothing was run.", status=Status.ERROR
            )
        if tool.spec.effect in (Effect.READ, Effect.NETWORK):
            return await self._run(tool, arguments, call.id)
        async with self._one_change_at_a_time:
            return await self._run(tool, arguments, call.id)

    async def _run(self, tool: Tool, arguments: JsonObject, call: CallId) -> ToolResult:
        await self._still_ours()  # after a pause, or behind other calls, the session may be somebody else's
        try:
            result = await tool.run(arguments, self._context(call))
        except Exception as error:  # noqa: BLE001 - the supervisor of foreign code: it becomes the result
            text = f"The tool broke: {error!r}. Whether it took effect is not known."
            result = ToolResult(text=text, status=Status.ERROR)
        return _bounded(result, self._output_bytes)

    def _context(self, call: CallId) -> ToolContext:
        return ToolContext(
            session=self._session,
            principal=self._principal,
            call=call,
            cwd=self._cwd,
            progress=lambda text: self._watch(CallOutput(call, text)),
            notify=self._notify,
            approver=self._approver,
        )


def _bounded(result: ToolResult, output_bytes: int) -> ToolResult:
    """For tools that keep no bound of their own; those that do may say what they left out."""
    data = result.text.encode(errors="surrogatepass")
    if len(data) <= output_bytes + NOTE_BYTES_MAX:
        return result
    kept = data[:output_bytes].decode(errors="ignore")
    left_out = len(data) - output_bytes
    text = f"{kept}\n[… {left_out:,} bytes left out: limits.tool_output_bytes is {output_bytes:,} …]"
    return msgspec.structs.replace(result, text=text)
