"""What people type with a slash: one implementation, every surface. Surfaces only parse and render."""

from clew.runtime.commands.registry import COMMANDS, is_command, run_command
from clew.runtime.commands.values import Command, CommandContext, CommandError, CommandReply

__all__ = [
    "COMMANDS",
    "Command",
    "CommandContext",
    "CommandError",
    "CommandReply",
    "is_command",
    "run_command",
]
