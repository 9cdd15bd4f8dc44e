"""What people type with a slash: one implementation, every surface. Surfaces only parse and render."""

from clew.runtime.commands.registry import COMMANDS, command_name, is_command, run_command
from clew.runtime.commands.values import Command, CommandContext, CommandError, CommandReply

__all__ = [
    "COMMANDS",
    "Command",
    "CommandContext",
    "CommandError",
    "CommandReply",
    "command_name",
    "is_command",
    "run_command",
]
