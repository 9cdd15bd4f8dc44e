"""The `schedule` tool: reminders in the conversation that asks. The call's id is the key, so that a call is kept once."""

from __future__ import annotations

from typing import Annotated, Final, Literal, assert_never

from msgspec import Meta

from clew.adapters.tools.arguments import Arguments
from clew.adapters.tools.declared import DeclaredTool, ToolFailed
from clew.domain.ledger.errors import LedgerError
from clew.domain.tools.spec import Effect, ToolResult
from clew.runtime.ports.reminders import Scheduler
from clew.runtime.ports.tools import ToolContext

DESCRIPTION: Final = (
    "Reminders in this conversation: at their time you are told by an event, and the person is shown the text. They use the"
    " clocks of the person's time zone."
)


class ScheduleArguments(Arguments, frozen=True, kw_only=True):
    action: Literal["create", "list", "cancel"]
    when: Annotated[
        str,
        Meta(
            max_length=200,
            description="For create: in 20m, in 2 days, tomorrow 9:00, Friday 18:00, 2026-12-24 18:00, every weekday at 9:00,"
            " every 2 weeks on Monday at 9:00, every month on the 15th at 9:00; a zone such as Europe/Berlin may follow.",
        ),
    ] = ""
    text: Annotated[str, Meta(max_length=1000, description="For create: what it is about.")] = ""
    number: Annotated[int, Meta(ge=0, description="For cancel: the reminder's number.")] = 0


def schedule_tool(scheduler: Scheduler) -> DeclaredTool[ScheduleArguments]:
    """Acts as the context's principal; running a call again does nothing new."""

    async def perform(arguments: ScheduleArguments, context: ToolContext) -> ToolResult:
        who = context.principal
        try:
            match arguments.action:
                case "create":
                    phrase = f"{arguments.when} {arguments.text}"
                    return ToolResult(text=await scheduler.ask(who, context.session, phrase, context.call))
                case "list":
                    return ToolResult(text=await scheduler.listed(who))
                case "cancel":
                    return ToolResult(text=await scheduler.cancel(who, arguments.number))
                case _:
                    assert_never(arguments.action)
        except LedgerError as error:
            raise ToolFailed(str(error)) from error

    return DeclaredTool(
        name="schedule",
        description=DESCRIPTION,
        arguments=ScheduleArguments,
        effect=Effect.EDIT,
        safe_to_repeat=True,
        perform=perform,
        describe=_described,
    )


def _described(arguments: ScheduleArguments) -> str:
    match arguments.action:
        case "create":
            return f"remind {arguments.when}: {arguments.text}"
        case "list":
            return "list reminders"
        case "cancel":
            return f"cancel reminder {arguments.number}"
