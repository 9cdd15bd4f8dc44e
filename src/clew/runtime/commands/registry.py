"""The list of commands: names, aliases, help. Which words are a command and which are talk."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Final

from clew.domain.ledger.errors import LedgerError
from clew.runtime.commands import changing, compacting, looking, moving, remembering, reminding, sending
from clew.runtime.commands.values import Command, CommandContext, CommandError, CommandReply
from clew.runtime.ports.models import ModelUnavailable

_SPOKEN: Final = re.compile(r"/([A-Za-z][A-Za-z-]*)(?:\s+(.*))?\Z", re.DOTALL)


async def help_(context: CommandContext, arguments: str) -> CommandReply:
    wanted = arguments.strip().removeprefix("/")
    if wanted:
        command = _BY_NAME.get(wanted)
        if command is None:
            raise CommandError(f"There is no command /{wanted[:40]}.")
        return CommandReply(text=_help_line(command))
    return CommandReply(text="\n".join(_help_line(command) for command in COMMANDS))


def _help_line(command: Command) -> str:
    also = f" (also {', '.join('/' + alias for alias in command.aliases)})" if command.aliases else ""
    return f"{command.usage:33} {command.summary}{also}"


COMMANDS: Final[tuple[Command, ...]] = (
    Command(name="new", aliases=("reset",), usage="/new [title]", summary="start a new session", handler=moving.new),
    Command(name="undo", usage="/undo [n]", summary="take back the last turn, or the last n", handler=moving.undo),
    Command(name="redo", usage="/redo", summary="take back the last undo", handler=moving.redo),
    Command(name="retry", usage="/retry", summary="answer the last message again", handler=moving.retry),
    Command(name="branch", aliases=("fork",), usage="/branch [title]", summary="go on in a copy; this session stays",
            handler=moving.branch),
    Command(name="resume", usage="/resume ID|TITLE|NUMBER[@TIP]", summary="go on with another session",
            handler=moving.resume),
    Command(name="sessions", usage="/sessions [text]", summary="list sessions", handler=looking.sessions),
    Command(name="search", usage="/search TEXT", summary="search everything that was said", handler=looking.search),
    Command(name="compress", aliases=("compact",), usage="/compress [focus] [--preview]",
            summary="let a summary stand for the older part", handler=compacting.compress),
    Command(name="expand", usage="/expand", summary="take back the last summary", handler=compacting.expand),
    Command(name="title", usage="/title [text]", summary="show or set the title", handler=changing.title),
    Command(name="history", usage="/history [turns]", summary="show what was said", handler=looking.history),
    Command(name="queue", usage="/queue TEXT", summary="send after the running turn", handler=sending.queue),
    Command(name="steer", usage="/steer TEXT", summary="send into the running turn, after the running tool",
            handler=sending.steer),
    Command(name="background", usage="/background TEXT", summary="work on it beside this session",
            handler=sending.background),
    Command(name="remind", usage="/remind WHEN TEXT|list|cancel N",
            summary="say something later, here: in 20m, tomorrow 9:00, every weekday at 9:00", handler=reminding.remind),
    Command(name="memory", usage="/memory [add TEXT|forget N]",
            summary="what is remembered from one session to the next", handler=remembering.memory),
    Command(name="stop", usage="/stop", summary="end the running turn", handler=changing.stop),
    Command(name="ps", usage="/ps", summary="list background processes and sessions", handler=changing.processes),
    Command(name="kill", usage="/kill N|ID", summary="end a background process or session", handler=changing.kill),
    Command(name="model", usage="/model [name]", summary="show or change the model", handler=changing.model),
    Command(name="mode", usage="/mode [ask|accept-edits|all]", summary="show or change what needs approval",
            handler=changing.approval_mode),
    Command(name="effort", usage="/effort [default|low|medium|high]", summary="show or change how long the model thinks",
            handler=changing.effort),
    Command(name="status", usage="/status", summary="session, model, usage", handler=looking.status),
    Command(name="usage", usage="/usage", summary="tokens and cost", handler=looking.usage),
    Command(name="why", usage="/why [n]", summary="what happened to the last turn, and to the messages that waited", handler=looking.why),
    Command(name="approve", usage="/approve [id]", summary="let a waiting call run", handler=changing.approve),
    Command(name="deny", usage="/deny [id]", summary="refuse a waiting call", handler=changing.deny),
    Command(name="export", usage="/export [md|json|jsonl|html]", summary="write the session to a file",
            handler=changing.export),
    Command(name="delete", usage="/delete ID", summary="forget this session for good", handler=changing.delete),
    Command(name="temporary", usage="/temporary", summary="talk without keeping a word; again: end that",
            handler=changing.temporary),
    Command(name="diff", usage="/diff", summary="what was changed in files", handler=looking.diff),
    Command(name="help", usage="/help [command]", summary="this list", handler=help_),
)  # fmt: skip

_BY_NAME: Final[Mapping[str, Command]] = {
    name: command for command in COMMANDS for name in (command.name, *command.aliases)
}


def is_command(text: str) -> bool:
    """Whether a line is a command. A path such as /etc/hosts is talk; so is anything after a leading space."""
    return _SPOKEN.match(text.rstrip()) is not None


def command_name(text: str) -> str | None:
    """The name of the command that a line gives, whatever its case and alias; None for one that there is not."""
    spoken = _SPOKEN.match(text.rstrip())
    command = None if spoken is None else _BY_NAME.get(spoken.group(1).lower())
    return None if command is None else command.name


async def run_command(context: CommandContext, text: str) -> CommandReply:
    """Does what was typed. Raises CommandError with the one clear answer when it cannot."""
    spoken = _SPOKEN.match(text.rstrip())
    if spoken is None:
        raise CommandError("That is not a command.")
    name, arguments = spoken.group(1).lower(), spoken.group(2) or ""
    command = _BY_NAME.get(name)
    if command is None:
        near = difflib.get_close_matches(name, _BY_NAME, 1)
        hint = f" Did you mean /{near[0]}?" if near else " /help lists them."
        raise CommandError(f"There is no command /{name}.{hint}")
    try:
        return await command.handler(context, arguments)
    except (LedgerError, ModelUnavailable) as error:
        raise CommandError(str(error)) from error
