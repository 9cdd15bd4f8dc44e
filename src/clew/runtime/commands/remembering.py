"""`/memory`: what is remembered from one conversation to the next."""

from __future__ import annotations

from clew.runtime.commands.values import CommandContext, CommandError, CommandReply


async def memory(context: CommandContext, arguments: str) -> CommandReply:
    if context.memory is None:
        raise CommandError(
            "Nothing is kept of a temporary talk, and nothing that is remembered is told to it."
        )
    what, _, rest = arguments.strip().partition(" ")
    match what.lower():
        case "" | "list" if not rest.strip():
            return CommandReply(text=await context.memory.listed(context.principal))
        case "add":
            return CommandReply(text=await context.memory.add(context.principal, rest))
        case "forget":
            return CommandReply(text=await context.memory.forget(context.principal, rest))
        case _:
            raise CommandError("/memory takes list, add TEXT or forget N; nothing was done.")
