"""The chat in a terminal: the input line stays at the bottom, everything else scrolls above it."""

from clew.surfaces.cli.chat.start import chat

__all__ = ["chat"]
