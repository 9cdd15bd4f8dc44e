"""Where the time of a turn with an agent went: one line a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

Transport = Literal["pool", "spawn"]


class Breakdown(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds. What did not happen in this prompt took none: a session that was open, a tool that was not called."""

    session: str
    agent: str
    transport: Transport
    spawn: float = 0.0
    """Until there was a process that was ready."""
    bridge: float = 0.0
    """For the door to our tools."""
    session_new: float = 0.0
    first_tool: float | None = None
    """From the prompt to the first call of a tool; None where none was called."""
    generation: float = 0.0
    """From the prompt to its end, without the time in which the agent waited for our tools."""

    def times(self) -> dict[str, float | None]:
        return {
            "spawn": self.spawn,
            "bridge": self.bridge,
            "session_new": self.session_new,
            "first_tool": self.first_tool,
            "generation": self.generation,
        }


Told = Callable[[Breakdown], None]
