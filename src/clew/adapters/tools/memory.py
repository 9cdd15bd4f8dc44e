"""The `memory` tool: facts of whoever the turn is for, kept for later conversations, found and forgotten."""

from __future__ import annotations

from typing import Annotated, Final, Literal, assert_never

from msgspec import Meta

from clew.adapters.tools.arguments import Arguments
from clew.adapters.tools.declared import DeclaredTool, ToolFailed
from clew.domain.ledger.errors import LedgerError
from clew.domain.memory.facts import TEXT_CHARACTERS_MAX, Kind
from clew.domain.tools.spec import Effect, ToolResult
from clew.runtime.ports.memory import Remembers
from clew.runtime.ports.tools import ToolContext

DESCRIPTION: Final = (
    "What is remembered of this person from one conversation to the next: lasting facts, one short sentence each. Facts that"
    " are said in passing are noted by themselves; add what they ask you to remember. Never keep secrets."
)


class MemoryArguments(Arguments, frozen=True, kw_only=True):
    action: Literal["add", "search", "forget"]
    text: Annotated[
        str, Meta(max_length=TEXT_CHARACTERS_MAX, description="For add: the fact. For search: words.")
    ] = ""
    kind: Annotated[
        Literal["user", "work"], Meta(description="For add: about the person, or their work.")
    ] = "user"
    number: Annotated[
        int, Meta(ge=0, description="For forget: the fact's number. For add: the fact it replaces.")
    ] = 0


def memory_tool(memory: Remembers) -> DeclaredTool[MemoryArguments]:
    """Acts as the context's principal; running a call again does nothing new."""

    async def perform(arguments: MemoryArguments, context: ToolContext) -> ToolResult:
        who, text = context.principal, arguments.text
        try:
            match arguments.action:
                case "add":
                    kind = Kind(arguments.kind)
                    return ToolResult(
                        text=await memory.note(who, context.session, text, kind, arguments.number)
                    )
                case "search":
                    return ToolResult(text=await memory.found(who, text))
                case "forget":
                    return ToolResult(text=await memory.forget(who, str(arguments.number)))
                case _:
                    assert_never(arguments.action)
        except LedgerError as error:
            raise ToolFailed(str(error)) from error

    return DeclaredTool(
        name="memory",
        description=DESCRIPTION,
        arguments=MemoryArguments,
        effect=Effect.EDIT,
        safe_to_repeat=True,
        perform=perform,
        describe=_described,
    )


def _described(arguments: MemoryArguments) -> str:
    match arguments.action:
        case "add":
            return f"remember: {arguments.text}"
        case "search":
            return f"look up what is remembered: {arguments.text}"
        case "forget":
            return f"forget fact {arguments.number}"
