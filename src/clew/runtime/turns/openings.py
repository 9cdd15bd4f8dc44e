"""How a turn can begin."""

from __future__ import annotations

import msgspec

from clew.domain.conversation.ids import InboxId
from clew.runtime.turns.waiting import NewFile, Speaker


class Say(msgspec.Struct, frozen=True, kw_only=True):
    """A person's message. `inbox` names the rows it was received as, consumed in the same commit.

    What happened since the last turn and waits in the inbox is stored before it, as events.
    """

    text: str | bytes
    files: tuple[NewFile, ...] = ()
    cwd: str | None = None
    inbox: tuple[InboxId, ...] = ()
    speaker: Speaker | None = None
    key: str | None = None
    """Idempotency key: the same message sent again starts nothing."""


class Hear(msgspec.Struct, frozen=True, kw_only=True):
    """What happened starts a turn by itself: a reminder is due. `inbox` names its rows; nobody said anything."""

    inbox: tuple[InboxId, ...]


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """The head stands on a message that starts a turn: run a turn from it without storing it again."""


class GoOn(msgspec.Struct, frozen=True, kw_only=True):
    """The newest turn waited for an approval that was decided."""


class Recover(msgspec.Struct, frozen=True, kw_only=True):
    """The newest turn was left in the middle by a process that ended, or is silent."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A side session is given its task: stored as an event, since nobody said it."""

    task: str
    key: str
    """Idempotency key: of several who saw that it is to be begun, one begins it."""


Opening = Say | Hear | Again | GoOn | Recover | Work
