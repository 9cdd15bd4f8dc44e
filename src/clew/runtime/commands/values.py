"""What a command is given and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.commits import Caps
from clew.domain.ledger.rows import SessionRow
from clew.domain.tools.policy import ApprovalMode
from clew.runtime.compaction import Compactor
from clew.runtime.memory.desk import MemoryDesk
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.models import ModelSource
from clew.runtime.ports.world import Clock
from clew.runtime.sending import Sender
from clew.runtime.sessions import Place, SessionDesk
from clew.runtime.turns.openings import Opening
from clew.runtime.turns.waiting import Speaker

if TYPE_CHECKING:
    from clew.runtime.reminders import Reminders

MISSING: Final = "There is no session {} any more; /new starts another."


class CommandError(Exception):
    """The command could not be done; its text is the one clear answer."""


class BackgroundProcess(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    command: str
    state: str


class Processes(Protocol):
    """Background processes of the session's tools."""

    def listed(self) -> Sequence[BackgroundProcess]: ...

    async def kill(self, number: int) -> bool:
        """False when there is no such process."""
        ...


class BackgroundSession(msgspec.Struct, frozen=True, kw_only=True):
    session: SessionId
    text: str
    state: str


class BackgroundWork(Protocol):
    """Side sessions that work beside a session."""

    async def begin(self, parent: SessionRow, text: str) -> SessionId:
        """On disk when it returns. Raises Refused over the limit."""
        ...

    async def listed(self, parent: SessionId) -> Sequence[BackgroundSession]:
        """Those whose result is not there yet."""
        ...

    async def stop(self, parent: SessionId, side: str) -> bool:
        """False when there is none of this id."""
        ...


class CommandContext(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, where, and about which session."""

    principal: PrincipalId
    place: Place
    session: SessionRow | None
    missing: SessionId | None = None
    """The session this conversation was in, if it cannot be found any more."""
    desk: SessionDesk
    ledger: Ledger
    clock: Clock
    models: ModelSource
    compactor: Compactor
    cwd: Path
    sender: Sender
    speaker: Speaker | None = None
    """Who gives the command, where several people share the session."""
    stop: Callable[[], Awaitable[bool]]
    """Ends the running turn, or keeps one from beginning; False when there is neither."""
    is_occupied: bool = False
    """Whether the surface is about to begin a turn, or runs one."""
    default_mode: ApprovalMode = ApprovalMode.ASK
    caps: Caps = Caps()
    processes: Processes | None = None
    reminders: Callable[[], Reminders] | None = None
    """None where nothing is kept."""
    memory: MemoryDesk | None = None
    """None where nothing is kept."""
    background: BackgroundWork | None = None
    """None where nothing outlives the command."""
    export: Callable[[SessionId, str], Awaitable[str]] | None = None
    """Writes an export of a session in a format, and returns where it went."""

    @property
    def current(self) -> SessionRow:
        if self.missing is not None:
            raise CommandError(MISSING.format(self.missing))
        if self.session is None:
            raise CommandError("There is no session yet: say something first.")
        return self.session


class CommandReply(msgspec.Struct, frozen=True, kw_only=True):
    """What to show, and what the surface should do next."""

    text: str
    session: SessionId | None = None
    """The session to go on with, if it is another one now."""
    opening: Opening | None = None
    """A turn to run now."""
    draft: str | None = None
    """Text to put into the input line, to be edited and sent again."""
    waits: bool = False
    """A message was put into the inbox: if nothing runs by now, begin with what waits."""
    ends_turn: bool = False
    """Whether a turn that ran in the session it was typed in is over by now."""
    turns_temporary: bool = False
    """The conversation goes into, or comes out of, memory only."""


Handler = Callable[[CommandContext, str], Awaitable[CommandReply]]


class Command(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    usage: str
    summary: str
    handler: Handler
    aliases: tuple[str, ...] = ()


def no_arguments(name: str, arguments: str) -> None:
    """Raises CommandError when something was typed behind a command that takes nothing."""
    if arguments.strip():
        raise CommandError(f"/{name} takes no argument; nothing was done.")


def a_number(name: str, arguments: str, default: int) -> int:
    """A positive number, or the default for nothing. Raises CommandError."""
    typed = arguments.strip()
    if not typed:
        return default
    if not typed.isascii() or not typed.isdigit() or int(typed[:9]) < 1:
        raise CommandError(f"/{name} takes a number from 1 on, not “{typed[:40]}”; nothing was done.")
    return int(typed[:9])
