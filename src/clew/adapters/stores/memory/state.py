"""The tables, as dictionaries of frozen rows.

Rule: a write works on a copy and puts it in place whole, or raises and leaves the old one. Rows are never changed,
only replaced, so a shallow copy of every table is a copy of everything.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from clew.domain.conversation.ids import (
    LOCAL,
    ApprovalId,
    BranchId,
    CallId,
    ConversationId,
    FactId,
    InboxId,
    JobId,
    OutboxId,
    OwnerId,
    PrincipalId,
    SessionId,
    SummaryId,
)
from clew.domain.conversation.messages import Head, Message
from clew.domain.ledger.commits import AddReply, AddUsage
from clew.domain.ledger.errors import NotFound
from clew.domain.ledger.rows import (
    ApprovalRow,
    Blob,
    BranchRow,
    CallRow,
    CompactionLease,
    ConversationRow,
    Handle,
    InboxRow,
    JobRow,
    OpRow,
    Prefix,
    SessionRow,
    SummaryRow,
    TurnRow,
)
from clew.domain.memory.facts import Fact, Trace
from clew.domain.routing.pairing import FirstProof


class StoredSummary(msgspec.Struct, frozen=True, kw_only=True):
    session: SessionId
    row: SummaryRow


class StoredUsage(msgspec.Struct, frozen=True, kw_only=True):
    owner: PrincipalId
    session: SessionId
    row: AddUsage
    at: int


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A code: for a person, or without one for a link, which somebody may have shown already."""

    principal: PrincipalId | None = None
    first: FirstProof | None = None
    expires_at: int


class StoredReply(msgspec.Struct, frozen=True, kw_only=True):
    """`message` is the position a reply tells of; None for a notice."""

    session: SessionId
    message: Head | None
    row: AddReply
    state: str
    next_at: int
    platform_id: str | None = None
    reason: str | None = None
    attempts: int = 0
    owner: OwnerId | None = None


class FirstUse(msgspec.Struct, frozen=True, kw_only=True):
    """What an idempotency key was used for, and what came of it."""

    payload: bytes
    handle: Handle


@dataclass(kw_only=True)
class State:
    """Everything a ledger knows at one moment."""

    serial: int = 0
    roles: dict[PrincipalId, str] = field(default_factory=lambda: {LOCAL: "owner"})
    names: dict[PrincipalId, str] = field(default_factory=dict)
    sessions: dict[SessionId, SessionRow] = field(default_factory=dict)
    forks: dict[SessionId, Head] = field(default_factory=dict)
    """Where a session that shares its parent's tree starts."""
    shares: dict[tuple[SessionId, PrincipalId], str] = field(default_factory=dict)
    purged: dict[SessionId, int] = field(default_factory=dict)
    branches: dict[BranchId, BranchRow] = field(default_factory=dict)
    messages: dict[Head, Message] = field(default_factory=dict)
    blobs: dict[str, Blob] = field(default_factory=dict)
    prefixes: dict[str, Prefix] = field(default_factory=dict)
    summaries: dict[SummaryId, StoredSummary] = field(default_factory=dict)
    ops: dict[tuple[SessionId, int], OpRow] = field(default_factory=dict)
    keys: dict[tuple[SessionId, str], FirstUse] = field(default_factory=dict)
    turns: dict[tuple[SessionId, int], TurnRow] = field(default_factory=dict)
    calls: dict[CallId, CallRow] = field(default_factory=dict)
    approvals: dict[ApprovalId, ApprovalRow] = field(default_factory=dict)
    conversations: dict[str, ConversationRow] = field(default_factory=dict)
    inbox: dict[InboxId, InboxRow] = field(default_factory=dict)
    outbox: dict[OutboxId, StoredReply] = field(default_factory=dict)
    usage: dict[int, StoredUsage] = field(default_factory=dict)
    compactions: dict[SessionId, CompactionLease] = field(default_factory=dict)
    pairings: dict[str, Offer] = field(default_factory=dict)
    """Whom a code, known by its hash, is for, and when it expires."""
    jobs: dict[JobId, JobRow] = field(default_factory=dict)
    facts: dict[FactId, Fact] = field(default_factory=dict)
    forgotten: dict[int, tuple[PrincipalId, Trace]] = field(default_factory=dict)
    identities: dict[tuple[str, str], PrincipalId] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    """By platform and id: the name that somebody with several ids is kept under."""
    joined: dict[PrincipalId, PrincipalId] = field(default_factory=dict)
    """Whom somebody is now."""

    def copy(self) -> State:
        """A state that may be changed without this one noticing."""
        tables: dict[str, Any] = {
            name: dict(table) for name, table in vars(self).items() if isinstance(table, dict)
        }
        return replace(self, **tables)

    def next_id(self) -> int:
        """Never given twice, not even after a purge: an old reference must not find something new."""
        self.serial += 1
        return self.serial

    def visible(self, principal: PrincipalId, session: SessionId) -> SessionRow:
        """Raises NotFound, in the same words for what is foreign, deleted or never was."""
        row = self.sessions.get(session)
        if row is None or not self.sees(principal, row):
            raise NotFound(f"There is no session {session}.")
        return row

    def writable(self, principal: PrincipalId, session: SessionId) -> SessionRow:
        """Raises NotFound also for who may only read."""
        row = self.visible(principal, session)
        if row.owner != principal and self.shares[session, principal] != "write":
            raise NotFound(f"There is no session {session}.")
        return row

    def owned(self, principal: PrincipalId, session: SessionId) -> SessionRow:
        """Raises NotFound for everybody but the owner."""
        row = self.visible(principal, session)
        if principal not in (row.owner, self.joined.get(row.owner)):
            raise NotFound(f"There is no session {session}.")
        return row

    def sees(self, principal: PrincipalId, row: SessionRow) -> bool:
        if row.id in self.purged:
            return False
        return row.owner == principal or (row.id, principal) in self.shares

    def conversation_by_id(self, ident: ConversationId) -> ConversationRow | None:
        return next((row for row in self.conversations.values() if row.id == ident), None)


class Disk:
    """What outlives a `MemoryLedger`. Several may be open on one, like processes on one file."""

    def __init__(self) -> None:
        self.state = State()
