"""What a turn is given: the work asked for, and what every turn of a process works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from clew.domain.conversation.ids import ConversationId, PrincipalId, SessionId
from clew.domain.ledger.commits import Caps
from clew.domain.tools.policy import ApprovalMode
from clew.domain.turn.prefix import Instructions
from clew.domain.turn.prompt import Overlay
from clew.domain.turn.repeats import REPEATS_MAX
from clew.runtime.compaction import Compactor
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.models import ModelChoice
from clew.runtime.ports.owners import Owners
from clew.runtime.ports.tools import Tool
from clew.runtime.ports.world import Chance, Clock
from clew.runtime.turns.leases import LeaseWatch
from clew.runtime.turns.openings import Opening
from clew.runtime.turns.outbox import Outbox
from clew.runtime.turns.waiting import BusyMode


class TurnSettings(msgspec.Struct, frozen=True, kw_only=True):
    max_steps: int = 50
    max_seconds: float = 1800
    max_repeats: int = REPEATS_MAX
    lease_seconds: float = 30
    busy: BusyMode = BusyMode.QUEUE
    approval_mode: ApprovalMode = ApprovalMode.ASK
    approval_expires_seconds: float = 86400
    recovery_freshness_seconds: float = 3600
    recovery_max_crashes: int = 3
    caps: Caps = Caps()
    tool_output_bytes: int = 50_000


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What all turns of a process share."""

    ledger: Ledger
    owners: Owners
    leases: LeaseWatch
    clock: Clock
    chance: Chance
    settings: TurnSettings
    compactor: Compactor
    remembers: bool = False
    """Whether turns are told what is remembered."""


def _nothing_follows() -> None:
    """For turns after which nothing is done."""


class TurnJob(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn needs to know of its surroundings."""

    principal: PrincipalId
    session: SessionId
    opening: Opening
    conversation: ConversationId | None = None
    """Where it came from, and where what must be said of it goes."""
    outbox: Outbox | None = None
    """There a gateway delivers what is said; without one, whoever began the turn shows it."""
    model: ModelChoice
    tools: Sequence[Tool]
    cwd: Path
    instructions: Sequence[Instructions] = ()
    overlays: Sequence[Overlay] = ()
    approval_mode: ApprovalMode | None = None
    settings: TurnSettings | None = None
    """Its own, where they are not those of the process."""
    prompt: str = ""
    """What the frozen system prompt ends with."""
    follows: frozenset[str] = frozenset()
    """The kinds of the jobs that its answer asks for."""
    asked: Callable[[], None] = _nothing_follows
    """Called when it has asked for some."""
    notify: Callable[[str, str], Awaitable[None]]
    """Takes (kind, text) of what tools started and what ended after they returned."""
