"""What the ledger answers with. Every value is a copy of one committed moment; none is live."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from clew.domain.conversation.ids import (
    ApprovalId,
    BranchId,
    CallId,
    ConversationId,
    InboxId,
    JobId,
    MessageId,
    OutboxId,
    OwnerId,
    PrincipalId,
    SessionId,
    SummaryId,
)
from clew.domain.conversation.messages import Head, Role


class Handle(msgspec.Struct, frozen=True, kw_only=True):
    """What a writer saw of a session, and so may write against."""

    session: SessionId
    head: Head
    version: int
    epoch: int
    summary: SummaryId | None = None


class Origin(StrEnum):
    NEW = "new"
    RESET = "reset"
    FORK = "fork"
    IMPORT = "import"
    SIDE = "side"


BACKGROUND: Final = "background"
"""Surface of side sessions in which a person's own words stand."""
DELEGATE: Final = "delegate"
"""Surface of side sessions that work for a turn of another's: subagents. They end with it."""
TASK: Final = "task"
"""The kind of event that opens the turn of a side session."""


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    id: SessionId
    owner: PrincipalId
    surface: str
    title: str | None
    model: str | None
    cwd: str | None
    settings: str
    prefix: str | None
    """sha256 of the frozen system prompt and tool list, once a turn was run."""
    parent: SessionId | None
    origin: Origin
    handle: Handle
    lease_owner: OwnerId | None
    lease_beat: int
    """Grows while its holder lives. It says nothing of time: an observer counts the seconds between two looks."""
    last_active_at: int
    created_at: int
    ended_at: int | None
    end_reason: str | None
    archived_at: int | None
    temporary: bool

    @property
    def is_searched(self) -> bool:
        """Whether what stands in it is found by who does not ask for it alone: not what Clew writes to itself."""
        return self.origin != Origin.SIDE or self.surface == BACKGROUND


class Prefix(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a request that is frozen with its session. `tools` is canonical JSON of the specs."""

    sha256: str
    system_prompt: str
    tools: str


class TurnState(StrEnum):
    RUNNING = "running"
    WAITING = "waiting"
    """For an approval: no lease is held and no time counts."""
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    ABANDONED = "abandoned"
    """Its owner died, or another command ended it."""

    @property
    def is_open(self) -> bool:
        """Whether no commit has ended the turn."""
        return self in (TurnState.RUNNING, TurnState.WAITING)


class TurnRow(msgspec.Struct, frozen=True, kw_only=True):
    session: SessionId
    turn: int
    conversation: ConversationId | None
    principal: PrincipalId
    model: str | None
    state: TurnState
    crashes: int
    epoch: int
    started_at: int
    finished_at: int | None
    end_reason: str | None
    error: str | None


class CallState(StrEnum):
    PLANNED = "planned"
    STARTED = "started"
    FINISHED = "finished"
    UNKNOWN = "unknown"
    NOT_RUN = "not_run"


class CallRow(msgspec.Struct, frozen=True, kw_only=True):
    id: CallId
    session: SessionId
    turn: int
    step: int
    n: int
    provider_id: str
    name: str
    args_sha256: str
    state: CallState
    safe_to_repeat: bool
    epoch: int
    planned_at: int
    started_at: int | None
    finished_at: int | None


class OpKind(StrEnum):
    CREATE = "create"
    APPEND = "append"
    UNDO = "undo"
    REDO = "redo"
    RETRY = "retry"
    RESUME = "resume"
    IMPORT = "import"
    COMPACT = "compact"
    EXPAND = "expand"
    TITLE = "title"
    SETTINGS = "settings"
    REFREEZE = "refreeze"
    LEAVE = "leave"
    STOP = "stop"
    RECOVER = "recover"
    ARCHIVE = "archive"
    PURGE = "purge"


class OpRow(msgspec.Struct, frozen=True, kw_only=True):
    session: SessionId
    version: int
    kind: OpKind
    from_head: Head | None
    to_head: Head
    from_summary: SummaryId | None
    to_summary: SummaryId | None
    epoch: int
    idempotency_key: str | None
    actor: str
    at: int


class BranchRow(msgspec.Struct, frozen=True, kw_only=True):
    id: BranchId
    session: SessionId
    parent: Head | None
    tip: int
    """seq of the branch's newest message; its parent's seq when it has none."""


class SummaryRow(msgspec.Struct, frozen=True, kw_only=True):
    id: SummaryId
    upto: Head
    previous: SummaryId | None
    text: str
    focus: str | None
    model: str | None
    tokens_before: int
    tokens_after: int
    created_at: int


class CompactionLease(msgspec.Struct, frozen=True, kw_only=True):
    """Who summarises a session just now, so that nobody else pays for the same. It makes nothing safe."""

    holder: OwnerId
    beat: int


class InboxState(StrEnum):
    QUEUED = "queued"
    CONSUMED = "consumed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    REFUSED = "refused"


class InboxRow(msgspec.Struct, frozen=True, kw_only=True):
    id: InboxId
    account: str
    external_key: str
    conversation: ConversationId
    n: int
    session: SessionId
    principal: PrincipalId
    kind: str
    body: str
    state: InboxState
    turn: int | None
    at: int
    settled_at: int | None = None
    """When it was taken into a turn, or cancelled."""
    settled_by: str | None = None
    """What cancelled it: a command's name, or `access`."""
    sent_by: str | None = None
    """The account on a chat platform that sent it."""


class LastReceived(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody last said in a place: for whom it counts, from which account, when."""

    principal: PrincipalId
    sent_by: str | None
    at: int


class JobState(StrEnum):
    QUEUED = "queued"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """Work that is to be done at a time, by whichever process is there. `session` is the one it was asked for in: it goes
    with it. `conversation` and `route_key` are the place it is for; None and empty for what is for none.

    `lease_owner` is who is at it, `beat` grows while they live (as of a session's turn). `attempts` counts the times it was
    taken, or came to nothing.
    """

    id: JobId
    kind: str
    key: str
    owner: PrincipalId
    session: SessionId
    conversation: ConversationId | None
    route_key: str
    payload: str
    state: JobState
    attempts: int
    next_at: int
    error: str | None
    lease_owner: OwnerId | None = None
    beat: int = 0


class ReplyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the outbox. `body` is a notice's text; None for a reply, which is a message."""

    id: OutboxId
    conversation: ConversationId
    turn: int
    kind: str
    part: int
    body: str | None
    state: str
    key: str
    surface: str
    """That of the place it is for."""
    platform_id: str | None = None
    reason: str | None = None
    """Why it failed."""


class Undelivered(msgspec.Struct, frozen=True, kw_only=True):
    """The first row of a place's outbox that is not settled, as whoever delivers it needs it.

    `attempts` counts the calls of the platform that may have reached the person. `shown_as` is the platform's id of the
    preview that this reply takes the place of; `may_be_shown` says that there may be one whose id nobody knows.
    """

    id: OutboxId
    session: SessionId
    conversation: ConversationId
    route_key: str
    kind: str
    part: int
    text: str
    state: str
    key: str
    attempts: int
    owner: OwnerId | None
    shown_as: str | None
    may_be_shown: bool


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A principal and its accounts, as (platform, id there)."""

    id: PrincipalId
    name: str
    role: str
    accounts: tuple[tuple[str, str], ...] = ()


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """How much waits for a turn and for delivery, and since when: when the oldest message came, when the oldest reply was
    to go out (next)."""

    inbox: int = 0
    inbox_since: int | None = None
    outbox: int = 0
    outbox_since: int | None = None


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A place and session for which something waits in the inbox, and who sent it."""

    route_key: str
    session: SessionId
    principal: PrincipalId


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that runs, or whose process ended in the middle of it: who it is for, and who claims it."""

    session: SessionId
    turn: int
    principal: PrincipalId
    lease_owner: OwnerId | None
    lease_beat: int
    route_key: str | None = None
    """The place that it came from."""


class ApprovalState(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    CONSUMED = "consumed"


class ApprovalRow(msgspec.Struct, frozen=True, kw_only=True):
    id: ApprovalId
    call: CallId
    args_sha256: str
    asker: PrincipalId
    state: ApprovalState
    decided_by: PrincipalId | None
    expires_at: int
    decided_at: int | None = None


class ConversationRow(msgspec.Struct, frozen=True, kw_only=True):
    id: ConversationId
    route_key: str
    surface: str
    session: SessionId | None
    version: int


class UsageTotals(msgspec.Struct, frozen=True, kw_only=True):
    input: int
    output: int
    cache_read: int
    cache_write: int
    cost_usd: float | None
    """None when no price is known for any of it."""
    calls: int
    unpriced: int = 0
    """How many of the calls used something of which no price is known: they are not in `cost_usd`."""


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """Dollars spent or set aside, as the caps count them."""

    in_session: float
    """And in those that work beside it, or it works beside."""
    alone: float
    by_owner: float
    by_all: float


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str
    media_type: str
    bytes: bytes


class Order(StrEnum):
    RANKED = "ranked"
    NEWEST = "newest"


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    session: SessionId
    title: str | None
    message: MessageId
    position: int
    role: Role
    snippet: str
    created_at: int


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    hits: tuple[Hit, ...]
    ranked_newest: int | None = None
    """Ranking looked at the newest so many hits only (None: at all of them)."""
    incomplete_since: int | None = None
    """Milliseconds since 1970: the index is being rebuilt, and messages after this may be missing."""


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What a purge removed. `kept_for` names forks that still read some of it."""

    messages: int
    blobs: int
    kept_for: tuple[SessionId, ...] = ()
