"""`/remind`: what is to be said later, in this place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clew.runtime.commands.values import CommandContext, CommandError, CommandReply

if TYPE_CHECKING:
    from clew.runtime.reminders import Reminders


async def remind(context: CommandContext, arguments: str) -> CommandReply:
    if context.reminders is None:
        raise CommandError("Nothing is kept of a temporary talk, and so no reminder.")
    reminders = context.reminders()
    what, _, rest = arguments.strip().partition(" ")
    match what.lower(), rest.strip():
        case "" | "list", "":
            listed = await reminders.listed(context.principal)
            return CommandReply(text=listed if what else f"{listed}\n/remind in 20m tea keeps one.")
        case "cancel", number:
            if not number.isascii() or not number.isdigit():
                raise CommandError("/remind cancel takes the number of a reminder; /remind list shows them.")
            return CommandReply(text=await reminders.cancel(context.principal, int(number[:15])))
        case _:
            return await _kept(context, reminders, arguments)


async def _kept(context: CommandContext, reminders: Reminders, phrase: str) -> CommandReply:
    reminder = reminders.understood(context.principal, phrase)
    row = context.current if context.missing is not None else context.session
    opened = None
    if row is None:  # nothing was said here yet: what was said before in this place is as good
        row = await context.desk.current(context.principal, context.place)
    if row is None or row.temporary:
        opened = row = (await context.desk.open(context.principal, context.place, cwd=str(context.cwd))).row
    conversation = await context.desk.conversation_of(context.place, row.id)
    text = await reminders.keep(context.principal, row.id, conversation, reminder)
    return CommandReply(text=text, session=None if opened is None else opened.id)
