"""The port's methods over the state: a write puts a changed copy in place, a read looks at what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from clew.adapters.stores.memory import jobs, outbox, reads, small_writes
from clew.adapters.stores.memory.commit import commit
from clew.adapters.stores.memory.opening import open_session, point_conversation
from clew.adapters.stores.memory.purge import forget
from clew.adapters.stores.memory.search import search
from clew.adapters.stores.memory.spending import spent
from clew.adapters.stores.memory.state import Disk, State
from clew.adapters.stores.memory.turns import queued
from clew.domain.conversation.ids import (
    ApprovalId,
    CallId,
    ConversationId,
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
from clew.domain.ledger.errors import StoreUnusable
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
    OpRow,
    Order,
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
from clew.runtime.ports.ledger import Ledger

T = TypeVar("T")


class MemoryLedger(Ledger):
    """Everything the port promises but durability: a `Disk` lives as long as its process."""

    def __init__(self, disk: Disk | None = None) -> None:
        self._disk = disk if disk is not None else Disk()
        self._closed = False

    async def _now(self) -> State:
        """The state, after letting others run: a store that never waited would hide every race."""
        await asyncio.sleep(0)
        if self._closed:
            raise StoreUnusable("The ledger is closed.")
        return self._disk.state

    async def _write(self, work: Callable[[State], T]) -> T:
        """All of it or nothing: nobody else runs between the copy and its taking effect."""
        draft = (await self._now()).copy()
        result = work(draft)
        self._disk.state = draft
        return result

    async def close(self) -> None:
        self._closed = True

    # -- writing ---------------------------------------------------------------------------------------------
    async def open(
        self,
        session: NewSession,
        *,
        actor: PrincipalId,
        at: int,
        conversation: PointConversation | None = None,
    ) -> Handle:
        def work(state: State) -> Handle:
            handle = open_session(state, session, actor, at)
            if conversation is not None:
                point_conversation(state, conversation)
            return handle

        return await self._write(work)

    async def commit(self, work: Commit) -> Committed:
        return await self._write(lambda state: commit(state, work))

    async def receive(self, item: Receive) -> Received:
        return await self._write(lambda state: small_writes.receive(state, item))

    async def decide(
        self, principal: PrincipalId, approval: ApprovalId, state: ApprovalState, at: int
    ) -> ApprovalRow:
        return await self._write(lambda draft: small_writes.decide(draft, principal, approval, state, at))

    async def settle_reply(
        self, reply: OutboxId, state: str, platform_id: str | None, *, next_at: int | None = None
    ) -> None:
        await self._write(lambda draft: outbox.settle_reply(draft, reply, state, platform_id, next_at))

    async def take_reply(self, row: Undelivered, owner: OwnerId) -> bool:
        return await self._write(lambda state: outbox.take_reply(state, row, owner))

    async def add_reply(self, session: SessionId, reply: AddReply, at: int) -> OutboxId:
        return await self._write(lambda state: outbox.add_reply(state, session, reply, at))

    async def add_job(self, job: NewJob, *, most: int) -> JobRow:
        return await self._write(lambda state: jobs.add_job(state, job, most))

    async def move_job(self, move: MoveJob) -> bool:
        return await self._write(lambda state: jobs.move_job(state, move))

    async def jobs(self, principal: PrincipalId, kind: str) -> tuple[JobRow, ...]:
        return jobs.jobs(await self._now(), principal, kind)

    async def due_jobs(
        self, kind: str, surface: str, at: int, *, owner: PrincipalId | None = None
    ) -> tuple[JobRow, ...]:
        return jobs.due_jobs(await self._now(), kind, surface, at, owner)

    async def offer_pairing(self, code_sha256: str, principal: PrincipalId, expires_at: int) -> None:
        await self._write(lambda state: outbox.offer_pairing(state, code_sha256, principal, expires_at))

    async def pairing_is_open(self, at: int) -> bool:
        return any(expires_at > at for _, expires_at in (await self._now()).pairings.values())

    async def pair(self, code_sha256: str, platform: str, external_id: str, at: int) -> PrincipalId:
        return await self._write(lambda state: outbox.pair(state, code_sha256, platform, external_id, at))

    async def point(self, conversation: PointConversation) -> None:
        await self._write(lambda state: point_conversation(state, conversation))

    async def share(self, principal: PrincipalId, session: SessionId, with_: PrincipalId, may: str) -> None:
        await self._write(lambda state: small_writes.share(state, principal, session, with_, may))

    async def add_principal(self, principal: PrincipalId, name: str, role: str) -> None:
        await self._write(lambda state: small_writes.add_principal(state, principal, role))

    async def beat(self, session: SessionId, owner: str, epoch: int) -> bool:
        return await self._write(lambda state: small_writes.beat(state, session, owner, epoch))

    async def lease_compaction(
        self, session: SessionId, owner: OwnerId, *, over: CompactionLease | None = None
    ) -> CompactionLease:
        return await self._write(lambda state: small_writes.lease_compaction(state, session, owner, over))

    async def end_compaction(self, session: SessionId, owner: OwnerId) -> None:
        await self._write(lambda state: small_writes.end_compaction(state, session, owner))

    async def forget(
        self, principal: PrincipalId, session: SessionId, at: int, *, with_forks: bool = False
    ) -> Forgotten:
        return await self._write(lambda state: forget(state, principal, session, at, with_forks))

    # -- one session -----------------------------------------------------------------------------------------
    async def session(self, principal: PrincipalId, session: SessionId) -> SessionRow:
        return (await self._now()).visible(principal, session)

    async def resolve(self, principal: PrincipalId, reference: str) -> SessionId:
        return reads.resolve(await self._now(), principal, reference)

    async def path(
        self, principal: PrincipalId, session: SessionId, at: Head | None = None, *, above: int = 0
    ) -> tuple[Message, ...]:
        return reads.path(await self._now(), principal, session, at, above)

    async def turn_starts(
        self, principal: PrincipalId, session: SessionId, limit: int, at: Head | None = None
    ) -> tuple[Message, ...]:
        return reads.turn_starts(await self._now(), principal, session, limit, at)

    async def before(self, principal: PrincipalId, session: SessionId, head: Head) -> Head:
        return reads.before(await self._now(), principal, session, head)

    async def summaries(self, principal: PrincipalId, session: SessionId) -> tuple[SummaryRow, ...]:
        return reads.summaries(await self._now(), principal, session)

    async def compaction(self, principal: PrincipalId, session: SessionId) -> CompactionLease | None:
        state = await self._now()
        state.visible(principal, session)
        return state.compactions.get(session)

    async def ops(
        self,
        principal: PrincipalId,
        session: SessionId,
        *,
        below: int | None = None,
        limit: int = 64,
        moving_only: bool = False,
    ) -> tuple[OpRow, ...]:
        return reads.ops(
            await self._now(), principal, session, below=below, limit=limit, moving_only=moving_only
        )

    async def turn(
        self, principal: PrincipalId, session: SessionId, turn: int | None = None
    ) -> TurnRow | None:
        return reads.turn(await self._now(), principal, session, turn)

    async def calls(
        self, principal: PrincipalId, session: SessionId, turn: int | None = None
    ) -> tuple[CallRow, ...]:
        return reads.calls(await self._now(), principal, session, turn)

    async def approvals(
        self, principal: PrincipalId, session: SessionId, call: CallId | None = None
    ) -> tuple[ApprovalRow, ...]:
        return reads.approvals(await self._now(), principal, session, call)

    async def queued(self, principal: PrincipalId, session: SessionId) -> tuple[InboxRow, ...]:
        state = await self._now()
        state.visible(principal, session)
        return tuple(state.inbox[ident] for ident in queued(state, session))

    async def received(
        self, principal: PrincipalId, session: SessionId, limit: int = 20
    ) -> tuple[InboxRow, ...]:
        return reads.received(await self._now(), principal, session, limit)

    async def replies(
        self, principal: PrincipalId, session: SessionId, limit: int = 20
    ) -> tuple[ReplyRow, ...]:
        return reads.replies(await self._now(), principal, session, limit)

    async def has_key(self, principal: PrincipalId, session: SessionId, key: str) -> bool:
        state = await self._now()
        state.visible(principal, session)
        return (session, key) in state.keys

    async def unfinished(self) -> tuple[Unfinished, ...]:
        return reads.unfinished(await self._now())

    async def branches(self, principal: PrincipalId, session: SessionId) -> tuple[BranchRow, ...]:
        return reads.branches(await self._now(), principal, session)

    async def segment(self, principal: PrincipalId, session: SessionId, branch: int) -> tuple[Message, ...]:
        return reads.segment(await self._now(), principal, session, branch)

    async def prefix(self, principal: PrincipalId, session: SessionId) -> Prefix | None:
        state = await self._now()
        sha256 = state.visible(principal, session).prefix
        return None if sha256 is None else state.prefixes[sha256]

    async def blob(self, principal: PrincipalId, session: SessionId, sha256: str) -> Blob:
        return reads.blob(await self._now(), principal, session, sha256)

    # -- many sessions ---------------------------------------------------------------------------------------
    async def sessions(
        self,
        principal: PrincipalId,
        *,
        limit: int = 20,
        before: tuple[int, str] | None = None,
        archived: bool = False,
    ) -> tuple[SessionRow, ...]:
        return reads.sessions(await self._now(), principal, limit, before, archived)

    async def children(self, principal: PrincipalId, session: SessionId) -> tuple[SessionRow, ...]:
        return reads.children(await self._now(), principal, session)

    async def undelivered(
        self, surface: str, at: int, limit: int = 100, *, conversation: ConversationId | None = None
    ) -> tuple[Undelivered, ...]:
        return outbox.undelivered(await self._now(), surface, at, limit, conversation)

    async def waiting(self, surface: str) -> tuple[Waiting, ...]:
        return outbox.waiting(await self._now(), surface)

    async def backlog(self, surface: str) -> Backlog:
        return outbox.backlog(await self._now(), surface)

    async def is_received(self, account: str, external_key: str) -> bool:
        return outbox.is_received(await self._now(), account, external_key)

    async def last_received_at(self, conversation: ConversationId) -> int | None:
        return outbox.last_received_at(await self._now(), conversation)

    async def identified(self, platform: str, external_id: str) -> PrincipalId | None:
        return (await self._now()).identities.get((platform, external_id))

    async def conversation(self, route_key: str) -> ConversationRow | None:
        return (await self._now()).conversations.get(route_key)

    async def search(
        self,
        principal: PrincipalId,
        typed: str,
        *,
        limit: int = 20,
        order: Order = Order.RANKED,
        session: SessionId | None = None,
    ) -> SearchResult:
        return search(await self._now(), principal, typed, limit=limit, order=order, session=session)

    async def usage(self, principal: PrincipalId, session: SessionId | None = None) -> UsageTotals:
        return reads.usage(await self._now(), principal, session)

    async def spent(self, principal: PrincipalId, session: SessionId | None, day_began: int) -> Spent:
        state = await self._now()
        owner = principal if session is None else state.visible(principal, session).owner
        return spent(state, session, owner, day_began)
