"""The ledger as the runtime sees it: one way to write, and reads that always say who is reading.

Rule: every read applies the principal before any limit. What a principal may not see is not found, not counted and
not hinted at. A read that fails raises; it never answers with an empty history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from clew.domain.conversation.ids import (
    ApprovalId,
    CallId,
    ConversationId,
    FactId,
    MessageId,
    OutboxId,
    OwnerId,
    PrincipalId,
    SessionId,
)
from clew.domain.conversation.messages import Head, Message
from clew.domain.ledger.commits import (
    AddReply,
    Commit,
    Committed,
    MoveJob,
    NewJob,
    NewSession,
    PointConversation,
    Receive,
    Received,
)
from clew.domain.ledger.rows import (
    ApprovalRow,
    ApprovalState,
    Backlog,
    Blob,
    BranchRow,
    CallRow,
    CompactionLease,
    ConversationRow,
    Forgotten,
    Handle,
    InboxRow,
    JobRow,
    LastReceived,
    OpRow,
    Order,
    Person,
    Prefix,
    ReplyRow,
    SearchResult,
    SessionRow,
    Spent,
    SummaryRow,
    TurnRow,
    Undelivered,
    Unfinished,
    UsageTotals,
    Waiting,
)
from clew.domain.memory.facts import Fact, NewFact, Trace
from clew.domain.routing.pairing import Account, Pairing


class Ledger(Protocol):
    """Conversations, durable before anything is acknowledged.

    Writes return after the commit is on disk. All methods raise `StoreUnusable` when the file cannot be used.
    """

    # -- writing ---------------------------------------------------------------------------------------------
    async def open(
        self,
        session: NewSession,
        *,
        actor: PrincipalId,
        at: int,
        conversation: PointConversation | None = None,
    ) -> Handle:
        """Opens a session. Raises NotFound for a foreign parent, HeadMoved for a stale conversation, Refused otherwise.

        A fork by its parent's owner stands on the parent's own messages; one by somebody else gets copies, by
        further ops. The summary it names comes along, with those before it, as the fork's own, if it stands on its path.
        """
        ...

    async def commit(self, work: Commit) -> Committed:
        """Does all of it or none. Raises HeadMoved, Fenced, Busy, NotFound, Refused, KeyReused, CapReached.

        Looked at in this order: may the actor write here, is the key known, does the fence hold. A key stands for
        what is said (op, turn, calls, patch, session opened), not for when or against what; its repetition is
        answered with the first handle alone. A summary whose range is not on the path, or reaches less far than
        the one in force, is HeadMoved; a redo restores the summary that the undo it takes back had found.
        """
        ...

    async def receive(self, item: Receive) -> Received:
        """Stores a message before it is acknowledged; the same (account, external key) is stored once.

        Raises NotFound when the session or the place is gone: whoever routes looks again.
        """
        ...

    async def decide(
        self, principal: PrincipalId, approval: ApprovalId, state: ApprovalState, at: int
    ) -> ApprovalRow:
        """Settles a pending approval. Raises NotFound for a foreign one, Refused for a settled or expired one.

        The asker, the session's owner and admins decide; whom it is shared with does not.
        """
        ...

    async def settle_reply(
        self,
        reply: OutboxId,
        state: str,
        platform_id: str | None,
        reason: str | None = None,
        *,
        next_at: int | None = None,
    ) -> None:
        """Records what became of a reply: sent, unknown or failed (with a reason for people); or pending, when it certainly did not go out.

        Raises NotFound; Refused for a notice that was told already, so that of two who are about to tell it, one does.
        """
        ...

    async def take_reply(self, row: Undelivered, owner: OwnerId) -> bool:
        """The reply is about to be sent by this process: state `sending`, one more attempt. False when it is no longer as
        it was read: somebody else was quicker."""
        ...

    async def add_reply(self, session: SessionId, reply: AddReply, at: int) -> OutboxId:
        """A row of the outbox by itself: the answer to a command, or a preview. A known key returns the first row.

        It asks nobody's permission: whoever calls has resolved the session for a principal. Raises NotFound.
        """
        ...

    async def offer_pairing(self, code_sha256: str, principal: PrincipalId, expires_at: int) -> None:
        """Lets whoever shows this code become an identity of the principal, once and in time."""
        ...

    async def pairing_is_open(self, at: int) -> bool:
        """Whether somebody may still show a code that was offered."""
        ...

    async def known_as(self, platform: str, ids: Sequence[str]) -> Mapping[str, str]:
        """Everybody whom one of these ids names, or named: each id of theirs, and the name that they are kept under."""
        ...

    async def know_as(self, platform: str, name: str, ids: Sequence[str]) -> None:
        """From now on these ids are of the person of this name, whoever they were of."""
        ...

    async def group_of(self, surface: str, route_key: str) -> PrincipalId | None:
        """The group that owned a shared place before its chat moved there, if it did."""
        ...

    async def offer_link(self, code_sha256: str, first: PrincipalId | None, expires_at: int) -> None:
        """Lets two accounts that show this code become one person; with `first` that one counts as having shown it."""
        ...

    async def pair(
        self,
        code_sha256: str,
        account: Account,
        at: int,
        *,
        known: PrincipalId | None = None,
        sure: bool = False,
    ) -> Pairing:
        """An account shows a code. `known` is who it is if it was never paired: somebody whom the settings name.

        A link is in force with its commit: all accounts of whoever joins are the other's, who may then read and write
        every session that either may, and delete and decide what is the joined one's. Sessions keep their owners. Raises
        NotFound when there is no such code, or no more; Refused, in words for whoever showed it.
        """
        ...

    async def unpair(self, account: Account) -> bool:
        """The account is nobody's any more; False if it was nobody's. What was linked stays linked."""
        ...

    async def unlink(self, account: Account) -> PrincipalId:
        """The account is a person of its own from now on, to whom nothing belongs; what was said before stays where it is.

        Raises NotFound for nobody's account, Refused for the only one of its person.
        """
        ...

    async def set_role(self, principal: PrincipalId, role: str) -> None:
        """Makes somebody an `admin` or a `user`. Raises NotFound; Refused for the owner and for groups."""
        ...

    async def move_chat(self, surface: str, old: str, new: str) -> None:
        """The chat with the route key `old` has the key `new` from now on: all its places move, with what waits for them, and
        a group that owned sessions there goes on owning them. A place that is there already goes on with the session of
        the one that comes. Doing it again changes nothing.
        """
        ...

    async def point(self, conversation: PointConversation) -> None:
        """Points a place at a session. Raises HeadMoved when somebody moved it meanwhile, NotFound without the session.

        It asks nobody's permission: whoever calls has resolved the session for a principal.
        """
        ...

    async def share(self, principal: PrincipalId, session: SessionId, with_: PrincipalId, may: str) -> None:
        """Lets another principal `read` or `write` a session of one's own; `none` takes it back."""
        ...

    async def add_principal(self, principal: PrincipalId, name: str, role: str) -> None:
        """Makes a principal known (owner, admin, user or group); known ones stay as they are."""
        ...

    async def beat(self, session: SessionId, owner: str, epoch: int) -> bool:
        """Renews the turn lease; False when it is no longer this owner's."""
        ...

    async def lease_compaction(
        self, session: SessionId, owner: OwnerId, *, over: CompactionLease | None = None
    ) -> CompactionLease:
        """Takes the lease if it is free, beats if it is this owner's, takes it over if it is still exactly `over`.

        Returns the lease as it then stands, whoever holds it. Raises NotFound when the session is gone.
        """
        ...

    async def end_compaction(self, session: SessionId, owner: OwnerId) -> None:
        """Frees the lease if it is this owner's."""
        ...

    async def add_job(self, job: NewJob, *, most: int) -> JobRow:
        """Keeps work to be done later; a known (kind, key) returns the first row as it stands.

        Raises NotFound when the session or the place is gone, Refused when its owner has `most` of this kind waiting.
        """
        ...

    async def take_job(self, job: JobRow, owner: OwnerId) -> JobRow | None:
        """The job is this process's from here on: one attempt more. None when it is no longer as it was read.

        Whoever takes it from another has seen that one dead, or silent for a lease.
        """
        ...

    async def beat_job(self, job: JobRow) -> bool:
        """Shows others that whoever took it lives; False when it is theirs by now, or is over."""
        ...

    async def move_job(self, move: MoveJob) -> bool:
        """A waiting job goes on, with what it brings. False when it is no longer as it was read: somebody was quicker.

        Raises HeadMoved when what it brings is for a session that its place has left, NotFound when that one is gone.
        """
        ...

    async def keep_facts(self, principal: PrincipalId, new: tuple[NewFact, ...], at: int) -> tuple[Fact, ...]:
        """Keeps what may be kept (see `domain.memory.facts.admitted`), as far as there is room. Returns what stands for
        each now: a fact that is known already is not kept twice."""
        ...

    async def forget_facts(
        self, principal: PrincipalId, ids: tuple[FactId, ...], traces: tuple[Trace, ...], at: int
    ) -> None:
        """Forgets whole chains: the facts are gone, from the frozen prompts that held them too (an op `refreeze` each), and
        the jobs that would look for facts in what was said until now are cancelled. No byte of them is left in any file when
        this returns: a crash before that is made up for by the next start.

        Raises HeadMoved, in words, when one of them is not there, is another's, or was superseded meanwhile;
        StoreUnusable when they are forgotten, and their bytes could not be taken away yet.
        """
        ...

    # -- one session -----------------------------------------------------------------------------------------
    async def session(self, principal: PrincipalId, session: SessionId) -> SessionRow:
        """Raises NotFound."""
        ...

    async def resolve(self, principal: PrincipalId, reference: str) -> SessionId:
        """The session of an id, an unambiguous prefix of one, or a title. Raises NotFound, Ambiguous."""
        ...

    async def path(
        self, principal: PrincipalId, session: SessionId, at: Head | None = None, *, above: int = 0
    ) -> tuple[Message, ...]:
        """The messages from the first (or after position `above`) to the head (or to `at`), dense.

        Raises Corrupt when one is missing, Refused when `at` is not in the session's tree.
        """
        ...

    async def turn_starts(
        self, principal: PrincipalId, session: SessionId, limit: int, at: Head | None = None
    ) -> tuple[Message, ...]:
        """What people sent to start the newest turns of the path, newest first; cheap at any length."""
        ...

    async def before(self, principal: PrincipalId, session: SessionId, head: Head) -> Head:
        """The position just before a message, by the branch that owns it; before the start there is only the start."""
        ...

    async def summaries(self, principal: PrincipalId, session: SessionId) -> tuple[SummaryRow, ...]:
        """All summaries of the session, oldest first; `handle.summary` names the one in force."""
        ...

    async def compaction(self, principal: PrincipalId, session: SessionId) -> CompactionLease | None:
        """Who summarises this session just now."""
        ...

    async def ops(
        self,
        principal: PrincipalId,
        session: SessionId,
        *,
        below: int | None = None,
        limit: int = 64,
        moving_only: bool = False,
    ) -> tuple[OpRow, ...]:
        """The newest ops below a version, newest first."""
        ...

    async def turn(
        self, principal: PrincipalId, session: SessionId, turn: int | None = None
    ) -> TurnRow | None:
        """A turn, or the newest."""
        ...

    async def calls(
        self, principal: PrincipalId, session: SessionId, turn: int | None = None
    ) -> tuple[CallRow, ...]:
        """The tool calls of a turn, or of all, in order."""
        ...

    async def approvals(
        self, principal: PrincipalId, session: SessionId, call: CallId | None = None
    ) -> tuple[ApprovalRow, ...]:
        """Approvals of a session's calls, oldest first."""
        ...

    async def queued(self, principal: PrincipalId, session: SessionId) -> tuple[InboxRow, ...]:
        """What waits in the inbox for this session, in order."""
        ...

    async def received(
        self, principal: PrincipalId, session: SessionId, limit: int = 20
    ) -> tuple[InboxRow, ...]:
        """The newest rows of the inbox for this session, whatever became of them, oldest first."""
        ...

    async def replies(
        self, principal: PrincipalId, session: SessionId, limit: int = 20
    ) -> tuple[ReplyRow, ...]:
        """The newest replies and notices of this session, oldest first."""
        ...

    async def has_key(self, principal: PrincipalId, session: SessionId, key: str) -> bool:
        """Whether an op of this session carries this idempotency key."""
        ...

    async def branches(self, principal: PrincipalId, session: SessionId) -> tuple[BranchRow, ...]:
        """Every branch the session's tree is made of, its ancestors' included, oldest first."""
        ...

    async def segment(self, principal: PrincipalId, session: SessionId, branch: int) -> tuple[Message, ...]:
        """The messages of one branch of the tree, oldest first: also those that were undone."""
        ...

    async def prefix(self, principal: PrincipalId, session: SessionId) -> Prefix | None:
        """The frozen prefix, or None before the first turn."""
        ...

    async def blob(self, principal: PrincipalId, session: SessionId, sha256: str) -> Blob:
        """An attachment of a message of this session's tree. Raises NotFound."""
        ...

    # -- many sessions ---------------------------------------------------------------------------------------
    async def sessions(
        self,
        principal: PrincipalId,
        *,
        limit: int = 20,
        before: tuple[int, str] | None = None,
        archived: bool = False,
        sides: bool = False,
    ) -> tuple[SessionRow, ...]:
        """By last activity, newest first: those not archived, or only those; with `sides` those too that work beside. `before` is (last_active_at, id) of the
        last row seen."""
        ...

    async def children(self, principal: PrincipalId, session: SessionId) -> tuple[SessionRow, ...]:
        """Forks and side sessions opened from this one."""
        ...

    async def unfinished(self) -> tuple[Unfinished, ...]:
        """Turns that no commit has ended and nobody is asked about, whoever they are for.

        Asks nobody's permission and holds no word of anybody: it is how a process finds what another left behind.
        """
        ...

    async def undelivered(
        self, surface: str, at: int, limit: int = 100, *, conversation: ConversationId | None = None
    ) -> tuple[Undelivered, ...]:
        """For each place of a surface, or one, the oldest reply or notice that is not settled, if it may be sent by now.

        Those after it wait, so that everything arrives in order. Like `unfinished` it asks nobody's permission: it is for
        the process that speaks on behalf of the surface.
        """
        ...

    async def waiting(self, surface: str) -> tuple[Waiting, ...]:
        """The places of a surface for which messages or commands wait in the inbox."""
        ...

    async def people(self) -> tuple[Person, ...]:
        """Everybody who is known, but for groups and those who joined somebody else."""
        ...

    async def person(self, principal: PrincipalId) -> Person | None:
        """Who it is by now: whoever it joined, or itself."""
        ...

    async def backlog(self, surface: str) -> Backlog:
        """How much waits in the places of a surface; numbers alone."""
        ...

    async def is_received(self, account: str, external_key: str) -> bool:
        """Whether a message is in the inbox, or was."""
        ...

    async def last_received(self, route_key: str) -> LastReceived | None:
        """What somebody last said in a place, whatever became of it; None when nobody did."""
        ...

    async def identified(self, platform: str, external_id: str) -> PrincipalId | None:
        """Whom an account on a platform belongs to, if it was paired."""
        ...

    async def jobs(self, principal: PrincipalId, kind: str) -> tuple[JobRow, ...]:
        """The principal's own jobs that wait, the next first."""
        ...

    async def due_jobs(
        self, kind: str, surface: str | None, at: int, *, owner: PrincipalId | None = None
    ) -> tuple[JobRow, ...]:
        """Jobs for places of a surface whose time has come, the earliest hundred; everybody's, or one owner's. None is for
        those that are for no place.

        Asks nobody's permission: it is for the process that acts on behalf of the surface.
        """
        ...

    async def done_jobs(self, kind: str, session: SessionId) -> tuple[JobRow, ...]:
        """Those that were asked for in this session and are done, oldest first. Asks nobody's permission."""
        ...

    async def quiet_sessions(self, kind: str, since: int, until: int) -> tuple[SessionRow, ...]:
        """Sessions that were last active then, and whose head no job of the kind names in its key; the first twenty.

        Not side sessions, imported or temporary ones. Asks nobody's permission.
        """
        ...

    async def facts(self, principal: PrincipalId, session: SessionId | None = None) -> tuple[Fact, ...]:
        """All of the principal's own, superseded ones too, oldest first; with a session, none unless that is their own."""
        ...

    async def forgotten_upto(self, principal: PrincipalId) -> MessageId:
        """The newest message there was when the principal last had a fact forgotten; 0 if they never had."""
        ...

    async def conversation(self, route_key: str) -> ConversationRow | None:
        """A place; it says nothing of what is said there."""
        ...

    async def search(
        self,
        principal: PrincipalId,
        typed: str,
        *,
        limit: int = 20,
        order: Order = Order.RANKED,
        session: SessionId | None = None,
    ) -> SearchResult:
        """Finds what is on a living path. Every string is a valid query; a committed message is found at once.

        Each message once: in its own session if it lives there, else in a fork that still holds it. Raises NotFound
        for a foreign `session`.
        """
        ...

    async def usage(self, principal: PrincipalId, session: SessionId | None = None) -> UsageTotals:
        """Sums what was used, without reservations: in one session, or in all this principal owns or has deleted."""
        ...

    async def spent(self, principal: PrincipalId, session: SessionId | None, day_began: int) -> Spent:
        """What counts against the caps: in this session, by its owner (without one by the principal) and by everybody
        since the day began."""
        ...

    # -- forgetting ------------------------------------------------------------------------------------------
    async def forget(
        self, principal: PrincipalId, session: SessionId, at: int, *, with_forks: bool = False
    ) -> Forgotten:
        """Purges a session's words from every file. Unreadable from the first commit, resumed after a crash."""
        ...

    async def was_forgotten(self, principal: PrincipalId, session: SessionId) -> bool:
        """Whether this was a session of the principal's own, and is purged."""
        ...

    async def close(self) -> None:
        """Waits for what was accepted, then releases the files. Idempotent."""
        ...
