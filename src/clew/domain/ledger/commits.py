"""The one write: a commit says what its writer saw, what it does, and which rows go with it.

Everything in a commit happens in one transaction or not at all. There is no other way to change a session,
and no value here can hold a whole history.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from clew.domain.conversation.ids import (
    ApprovalId,
    CallId,
    ConversationId,
    InboxId,
    OwnerId,
    PrincipalId,
    SessionId,
    SummaryId,
)
from clew.domain.conversation.messages import EventBody, Head, NewMessage
from clew.domain.ledger.rows import (
    TASK,
    CallState,
    Handle,
    JobRow,
    JobState,
    OpKind,
    Origin,
    Prefix,
    TurnState,
)
from clew.domain.memory.facts import NewFact

DAY_MS: Final = 86_400_000


class AsHolder(msgspec.Struct, frozen=True, kw_only=True):
    """The fence of whoever runs the session's turn: other people's titles and settings do not stop it."""

    epoch: int
    head: Head


class AsObserver(msgspec.Struct, frozen=True, kw_only=True):
    """The fence of everybody else: anything that happened meanwhile stops it."""

    version: int
    head: Head


Fence = AsHolder | AsObserver


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """Messages after the head; off a tip they start a branch there.

    `kind` is `append`, or `recover` for what settles or answers an interrupted turn.
    """

    messages: tuple[NewMessage, ...]
    turn: int
    kind: OpKind = OpKind.APPEND


MOVES: Final = frozenset({OpKind.UNDO, OpKind.REDO, OpKind.RETRY, OpKind.RESUME, OpKind.IMPORT})
"""The kinds of op that put the head elsewhere."""


class MoveHead(msgspec.Struct, frozen=True, kw_only=True):
    """The head goes to a message on the session's own tree. Nothing is copied or deleted."""

    kind: OpKind
    to: Head


class Compact(msgspec.Struct, frozen=True, kw_only=True):
    """A summary stands for the messages up to `upto` in this session's requests; the messages stay."""

    upto: Head
    text: str
    focus: str | None = None
    model: str | None = None
    tokens_before: int = 0
    tokens_after: int = 0


class Expand(msgspec.Struct, frozen=True, kw_only=True):
    """The summary in force gives way to the one before it, or to none."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """An audited change that leaves head and summary alone."""

    kind: OpKind


Op = Append | MoveHead | Compact | Expand | Note


class SessionPatch(msgspec.Struct, frozen=True, kw_only=True):
    """Columns to set; UNSET ones stay."""

    title: str | msgspec.UnsetType | None = msgspec.UNSET
    model: str | msgspec.UnsetType | None = msgspec.UNSET
    cwd: str | msgspec.UnsetType | None = msgspec.UNSET
    settings: str | msgspec.UnsetType = msgspec.UNSET
    prefix: Prefix | msgspec.UnsetType = msgspec.UNSET
    archived_at: int | msgspec.UnsetType | None = msgspec.UNSET
    ended_at: int | msgspec.UnsetType | None = msgspec.UNSET
    end_reason: str | msgspec.UnsetType | None = msgspec.UNSET


class OpenTurn(msgspec.Struct, frozen=True, kw_only=True):
    turn: int
    principal: PrincipalId
    model: str | None
    conversation: ConversationId | None = None


class SetTurn(msgspec.Struct, frozen=True, kw_only=True):
    """`crashed` counts one more process that ended in the middle of the turn."""

    turn: int
    state: TurnState
    end_reason: str | None = None
    error: str | None = None
    crashed: bool = False


class PlanCall(msgspec.Struct, frozen=True, kw_only=True):
    id: CallId
    turn: int
    step: int
    n: int
    provider_id: str
    name: str
    args_sha256: str
    safe_to_repeat: bool


class MoveCall(msgspec.Struct, frozen=True, kw_only=True):
    id: CallId
    to: CallState


class AskApproval(msgspec.Struct, frozen=True, kw_only=True):
    id: ApprovalId
    call: CallId
    args_sha256: str
    asker: PrincipalId
    expires_at: int


class ConsumeApproval(msgspec.Struct, frozen=True, kw_only=True):
    """Spends a granted approval for exactly these arguments; refused if it is not granted or already spent."""

    id: ApprovalId
    args_sha256: str


class UsageState(StrEnum):
    RESERVED = "reserved"
    SETTLED = "settled"
    ESTIMATED = "estimated"
    FAILED = "failed"


class AddUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one call of a model used. It takes the place of a reservation with the same turn, step, attempt and task."""

    turn: int
    step: int
    attempt: int
    task: str
    model: str
    state: UsageState
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cost_usd: float | None = None
    price_source: str | None = None


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """Dollars that may be spent; None is no cap. The day began at `day_began`, in milliseconds since 1970."""

    usd_per_session: float | None = None
    usd_per_user_day: float | None = None
    usd_per_day: float | None = None
    usd_beside: float | None = None
    """What a side session may come to alone; `usd_per_session` holds for a session and all that work beside it."""
    day_began: int = 0

    @property
    def first(self) -> str | None:
        """The name of a cap that is set, or None."""
        names = ("usd_per_session", "usd_per_user_day", "usd_per_day", "delegate.usd")
        sums = (self.usd_per_session, self.usd_per_user_day, self.usd_per_day, self.usd_beside)
        return next((name for name, usd in zip(names, sums, strict=True) if usd is not None), None)

    def today(self, now_ms: int) -> Caps:
        """The same caps for the day of this moment, which is a day of UTC and begins at 00:00."""
        return msgspec.structs.replace(self, day_began=now_ms - now_ms % DAY_MS)


class Reserve(msgspec.Struct, frozen=True, kw_only=True):
    """Sets aside what a call may cost at most; refused with CapReached when that could pass a cap."""

    usage: AddUsage
    caps: Caps


class NewBlob(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str
    media_type: str
    bytes: bytes


class AddReply(msgspec.Struct, frozen=True, kw_only=True):
    """An outbox row for the last message of this commit (or for `body`, a notice that is no message).

    A key that is known adds nothing: whoever it is for is told once.
    """

    conversation: ConversationId
    turn: int
    part: int
    kind: str
    key: str
    body: str | None = None


class NewSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session to open. With `at` it is a fork: it starts at that head of `parent`'s tree."""

    id: SessionId
    owner: PrincipalId
    surface: str
    origin: Origin
    title: str | None = None
    model: str | None = None
    cwd: str | None = None
    settings: str = "{}"
    parent: SessionId | None = None
    at: Head | None = None
    summary: SummaryId | None = None
    prefix: Prefix | None = None
    temporary: bool = False


class PointConversation(msgspec.Struct, frozen=True, kw_only=True):
    """The conversation's current session becomes `to`; a new conversation has version 0."""

    route_key: str
    surface: str
    version: int
    to: SessionId
    origin: str = "{}"


class Receive(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it arrived: durable before anything is acknowledged. The session is bound here."""

    account: str
    external_key: str
    conversation: ConversationId
    session: SessionId
    principal: PrincipalId
    kind: str
    body: str
    at: int
    sent_by: str | None = None
    """The account on a chat platform that sent it."""


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """Work to be kept. The same (kind, key) is kept once. A payload of None is the head that its commit leaves."""

    kind: str
    key: str
    owner: PrincipalId
    session: SessionId
    conversation: ConversationId | None = None
    payload: str | None = ""
    next_at: int


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction on one session, and on a session it opens or a conversation it moves.

    `cut` raises the epoch: a running turn is ended (`cut_reason`), its calls are settled (planned: not run,
    started: unknown), its lease is released. `claim` takes the turn lease for a process; `evicts` names the owner that
    the caller knows to be dead, or has seen silent at `seen_beat`: Busy when it has beaten since. A claim raises the epoch
    too, and ends a turn that was left open, unless `set_turn` sets that turn running again. What was reserved for a turn that
    a commit ends becomes an estimate, and its subagents end with it. `take` consumes rows of the inbox, `cancel` takes them back unread; Refused when one no longer
    waits. `cancel_queued` cancels whatever waits in the inbox for this session. `receives` puts
    messages into the inbox that the commit itself sets free. `cut_reason` is noted with what a commit cancels too. `jobs` are
    kept for later, those that are known already stay as they are. A subagent is given its task only while a turn of its
    parent's is open, and once it was ended not again: Refused.
    """

    session: SessionId
    actor: PrincipalId
    at: int
    fence: Fence
    op: Op | None = None
    patch: SessionPatch | None = None
    cut: bool = False
    cut_reason: str = ""
    cancel_queued: bool = False
    claim: OwnerId | None = None
    evicts: OwnerId | None = None
    seen_beat: int | None = None
    release: bool = False
    open_turn: OpenTurn | None = None
    set_turn: SetTurn | None = None
    plan: tuple[PlanCall, ...] = ()
    calls: tuple[MoveCall, ...] = ()
    ask: tuple[AskApproval, ...] = ()
    consume: ConsumeApproval | None = None
    take: tuple[InboxId, ...] = ()
    cancel: tuple[InboxId, ...] = ()
    receives: tuple[Receive, ...] = ()
    jobs: tuple[NewJob, ...] = ()
    usage: tuple[AddUsage, ...] = ()
    reserve: Reserve | None = None
    blobs: tuple[NewBlob, ...] = ()
    replies: tuple[AddReply, ...] = ()
    opens: NewSession | None = None
    conversation: PointConversation | None = None
    idempotency_key: str | None = None

    @property
    def gives_task(self) -> bool:
        """Whether it opens the turn of a side session with what is to be done there."""
        said = self.op.messages if self.open_turn is not None and isinstance(self.op, Append) else ()
        return any(isinstance(message.body, EventBody) and message.body.kind == TASK for message in said)


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `cancelled` counts messages that waited; `repeated` means the key was known and nothing was written."""

    handle: Handle
    opened: Handle | None = None
    cancelled: int = 0
    repeated: bool = False


class Received(msgspec.Struct, frozen=True, kw_only=True):
    id: InboxId
    n: int
    duplicate: bool


class MoveJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job goes on from where it was read, and nobody is at it any more; its time only goes forwards. What it brings is
    received, and told, by the same transaction, in the session that its place is in.

    A job that was taken over meanwhile has one attempt more, so whoever lost it moves nothing.
    """

    job: JobRow
    state: JobState
    at: int
    payload: str
    next_at: int
    attempts: int = 0
    error: str | None = None
    receive: Receive | None = None
    replies: tuple[AddReply, ...] = ()
    facts: tuple[NewFact, ...] = ()
