"""Clew: a self-hosted AI agent that never loses the thread of a conversation."""

__version__ = "0.1.0"
