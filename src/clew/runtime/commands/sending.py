"""Commands that say something while a turn runs, each by its own mode whatever the setting is."""

from __future__ import annotations

from clew.runtime.commands.values import CommandContext, CommandError, CommandReply
from clew.runtime.turns.openings import Say
from clew.runtime.turns.waiting import BusyMode


async def queue(context: CommandContext, arguments: str) -> CommandReply:
    """With no turn running it is simply sent."""
    return await _send(context, "queue", arguments, BusyMode.QUEUE)


async def steer(context: CommandContext, arguments: str) -> CommandReply:
    _text("steer", arguments)
    if not context.is_occupied and not await context.sender.is_busy(context.current.id):
        raise CommandError("No turn is running: send it as a message.")
    return await _send(context, "steer", arguments, BusyMode.STEER)


async def background(context: CommandContext, arguments: str) -> CommandReply:
    """In a side session; its result arrives here as an event."""
    text = _text("background", arguments)
    parent = context.current
    if context.background is None:
        raise CommandError("/background needs a chat that stays and keeps what is said; nothing was begun.")
    side = await context.background.begin(parent, text)
    return CommandReply(text=f"Begun beside this session, in {side}. Its result arrives here; /ps lists it.")


_ANSWERS = {
    BusyMode.QUEUE: "Queued: it is sent when the running turn has ended.",
    BusyMode.STEER: "It joins the running turn after the running tool, or starts the next turn.",
}


async def _send(context: CommandContext, name: str, arguments: str, mode: BusyMode) -> CommandReply:
    said = Say(text=_text(name, arguments), cwd=str(context.cwd), speaker=context.speaker)
    sent = await context.sender.send(context.current.id, said, mode, occupied=context.is_occupied)
    if sent.opening is not None:
        return CommandReply(text="", opening=sent.opening)
    return CommandReply(text=_ANSWERS[mode], waits=True)


def _text(name: str, arguments: str) -> str:
    if not arguments.strip():
        raise CommandError(f"/{name} takes the message to send; nothing was sent.")
    return arguments
