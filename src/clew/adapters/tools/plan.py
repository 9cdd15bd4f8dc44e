"""The `plan` tool: what the model is going to do, and how far it is, for the person to see. It does nothing else."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from clew.adapters.tools.arguments import Arguments
from clew.adapters.tools.declared import DeclaredTool
from clew.domain.tools.plan import MARKS, PlanEntry
from clew.domain.tools.spec import Effect, ToolResult
from clew.runtime.ports.tools import ToolContext

ENTRIES_MAX: Final = 50


class PlanArguments(Arguments, frozen=True, kw_only=True):
    entries: Annotated[tuple[PlanEntry, ...], Meta(max_length=ENTRIES_MAX)]


def plan_tool() -> DeclaredTool[PlanArguments]:
    async def perform(arguments: PlanArguments, context: ToolContext) -> ToolResult:
        lines = [f"{MARKS[entry.status]} {entry.content}" for entry in arguments.entries]
        return ToolResult(text="\n".join(lines) or "[the plan is empty]")

    return DeclaredTool(
        name="plan",
        description=(
            "Show the person your plan for work of several steps, and how far you are. Each call replaces the whole plan."
        ),
        arguments=PlanArguments,
        effect=Effect.READ,
        safe_to_repeat=True,
        perform=perform,
        describe=_line,
    )


def _line(arguments: PlanArguments) -> str:
    done = sum(entry.status == "completed" for entry in arguments.entries)
    now = next((f": {entry.content}" for entry in arguments.entries if entry.status == "in_progress"), "")
    return f"plan, {done} of {len(arguments.entries)} done{now}"
