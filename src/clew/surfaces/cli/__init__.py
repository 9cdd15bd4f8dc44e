"""The terminal: the chat and the `clew` command."""
