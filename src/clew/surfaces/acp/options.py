"""What can be set in a session from an editor: the approval mode, the model, and how long that thinks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clew.domain.ledger.rows import SessionRow
from clew.domain.tools.policy import ApprovalMode
from clew.domain.tools.session_settings import DEFAULT_EFFORT, Effort, read_settings
from clew.runtime.commands import COMMANDS
from clew.wire.acp_types import (
    AvailableCommand,
    BooleanOption,
    SelectOption,
    SessionConfigChoice,
    SessionMode,
    SessionModeState,
    UnstructuredCommandInput,
)

MODE: Final = "mode"
MODEL: Final = "model"
EFFORT: Final = "effort"
_MODES: Final = {
    ApprovalMode.ASK: ("Ask", "Asks before anything but reading"),
    ApprovalMode.ACCEPT_EDITS: (
        "Accept edits",
        "Changes files without asking, and asks before anything else",
    ),
    ApprovalMode.ALL: ("All", "Does everything without asking"),
}
NOT_HERE: Final = frozenset({"temporary", "background"})
"""Commands that need a chat: an editor's session is kept by its very id, and ends its work with it."""


def mode_of(row: SessionRow, default: ApprovalMode) -> ApprovalMode:
    return read_settings(row.settings).approval or default


def modes(row: SessionRow, default: ApprovalMode) -> SessionModeState:
    return SessionModeState(
        current_mode_id=mode_of(row, default),
        available_modes=[SessionMode(id=mode, name=n, description=d) for mode, (n, d) in _MODES.items()],
    )


def options(
    row: SessionRow, default: ApprovalMode, models: Sequence[str], *, takes_effort: bool = False
) -> list[SelectOption | BooleanOption]:
    """`models` are the names that are known so far, the one in use when the session names none first."""
    found: list[SelectOption | BooleanOption] = [
        SelectOption(
            id=MODE, name="Approval", category="mode", current_value=mode_of(row, default),
            description="What Clew may do without asking",
            options=[SessionConfigChoice(value=m, name=n, description=d) for m, (n, d) in _MODES.items()],
        )
    ]  # fmt: skip
    names = list(dict.fromkeys([*([row.model] if row.model else []), *models]))
    if names:
        found.append(
            SelectOption(
                id=MODEL, name="Model", category="model", current_value=row.model or names[0],
                options=[SessionConfigChoice(value=name, name=name) for name in names],
            )
        )  # fmt: skip
    if takes_effort:
        levels = [
            SessionConfigChoice(value=value, name=value.capitalize()) for value in (DEFAULT_EFFORT, *Effort)
        ]
        found.append(
            SelectOption(
                id=EFFORT, name="Thinking", category="thought_level", options=[*levels],
                current_value=read_settings(row.settings).effort or DEFAULT_EFFORT,
            )
        )  # fmt: skip
    return found


def commands() -> list[AvailableCommand]:
    """Our commands, by what follows their name in the line that shows their use."""
    return [
        AvailableCommand(
            name=command.name,
            description=command.summary,
            input=UnstructuredCommandInput(hint=hint) if (hint := command.usage.partition(" ")[2]) else None,
        )
        for command in COMMANDS
        if command.name not in NOT_HERE
    ]
