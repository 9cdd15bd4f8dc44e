"""The `delegate` tool: tasks for subagents. The call's id is the key, so that a call that is repeated begins nothing anew."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final

from msgspec import Meta

from clew.adapters.tools.arguments import Arguments
from clew.adapters.tools.declared import DeclaredTool
from clew.domain.tools.spec import Effect, ToolResult
from clew.runtime.ports.tools import ToolContext

DESCRIPTION: Final = (
    "Hands tasks to subagents, which work side by side, each with your tools and nothing but its task's text: no word of this"
    " conversation. Returns what each answers. Worth it for work that splits into independent parts, or that reads a lot to find"
    " a little; for anything else, do it yourself."
)
TASK: Final = "Everything a subagent has to know: what to do, where, and what to report."


class DelegateArguments(Arguments, frozen=True, kw_only=True):
    tasks: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=20_000, description=TASK)], ...],
        Meta(min_length=1, max_length=50),
    ]


def delegate_tool(
    run: Callable[[Sequence[str], ToolContext], Awaitable[ToolResult]],
) -> DeclaredTool[DelegateArguments]:
    """`run` brings tasks to their end, and does nothing twice for the same call. It changes nothing by itself: what
    subagents do is asked about when they do it."""

    async def perform(arguments: DelegateArguments, context: ToolContext) -> ToolResult:
        return await run(arguments.tasks, context)

    return DeclaredTool(
        name="delegate",
        description=DESCRIPTION,
        arguments=DelegateArguments,
        effect=Effect.READ,
        safe_to_repeat=True,
        perform=perform,
        describe=_described,
    )


def _described(arguments: DelegateArguments) -> str:
    count = len(arguments.tasks)
    return (
        f"delegate {arguments.tasks[0]}" if count == 1 else f"delegate {count} tasks: {arguments.tasks[0]} …"
    )
