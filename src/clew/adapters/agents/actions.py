"""What an agent does by itself, as calls of the turn it does them in.

An agent asks its client before it edits a file, runs a command or reaches the network with tools of its own. The question
becomes a call of one of these tools: so our approval rules answer it, it is on record as started before the agent may
begin, and a refusal is a result. Running one does nothing: that it may run is the answer, and the agent acts.
"""

from __future__ import annotations

from typing import Final

from clew.domain.tools.spec import Effect, JsonObject, ToolResult, ToolSpec
from clew.runtime.ports.tools import Tool, ToolContext

GRANTED: Final = "Allowed; the agent does it by itself, and says what came of it."
_NAMES: Final = {
    Effect.EDIT: "agent_edit",
    Effect.EXECUTE: "agent_execute",
    Effect.NETWORK: "agent_fetch",
}
_EFFECTS: Final = {
    "read": Effect.READ,
    "search": Effect.READ,
    "think": Effect.READ,
    "edit": Effect.EDIT,
    "delete": Effect.EDIT,
    "move": Effect.EDIT,
    "fetch": Effect.NETWORK,
}
"""By the protocol's kinds; whatever else there is may run programs."""


class OwnAction:
    """`Tool`: leave for the agent to do something itself."""

    def __init__(self, effect: Effect) -> None:
        self.spec = ToolSpec(
            name=_NAMES[effect],
            description="An action of the agent itself; it is asked for by the agent, not called.",
            parameters={"type": "object", "properties": {"action": {"type": "string"}}},
            effect=effect,
            safe_to_repeat=False,
        )

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolResult:
        return ToolResult(text=GRANTED)

    def describe(self, arguments: JsonObject) -> str:
        return " ".join(f"the agent itself: {arguments.get('action', '')}".split())[:200]


OWN_ACTIONS: Final[tuple[Tool, ...]] = tuple(OwnAction(effect) for effect in _NAMES)
OWN_NAMES: Final = frozenset(_NAMES.values())


def action_of(kind: str | None) -> str | None:
    """The tool whose call stands for an action of that kind; None for one that only reads, which nobody is asked about."""
    effect = _EFFECTS.get(kind or "", Effect.EXECUTE)
    return _NAMES.get(effect)
