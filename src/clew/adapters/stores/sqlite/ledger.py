"""The ledger in one SQLite file: the port's methods, each a few lines of SQL run by the writer or by a reader."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import apsw

from clew.adapters.stores.sqlite import jobs, outbox, read
from clew.adapters.stores.sqlite.commit import commit, committed_before
from clew.adapters.stores.sqlite.in_use import InUse
from clew.adapters.stores.sqlite.migrate import open_file
from clew.adapters.stores.sqlite.open_session import open_session, opened_before, point_conversation
from clew.adapters.stores.sqlite.purge import Purger
from clew.adapters.stores.sqlite.readers import Readers
from clew.adapters.stores.sqlite.search import SearchIndex
from clew.adapters.stores.sqlite.small_writes import (
    add_principal,
    beat,
    decide,
    end_compaction,
    lease_compaction,
    receive,
    received_before,
    share,
)
from clew.adapters.stores.sqlite.writer import Writer
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
from clew.runtime.ports.world import Clock

LEDGER_FILE = "clew.db"
SEARCH_FILE = "clew-search.db"
GLANCED_MESSAGES_MAX = 200
"""A path of so many messages is read where it is asked for: it takes less time than the way to a thread and back, or
little more. A glance that turns out to be long is given up."""


class SqliteLedger:
    """`Ledger` over `clew.db`, with its derived search file beside it. Safe to open in several processes at once."""

    def __init__(
        self, home: Path, writer: Writer, readers: Readers, index: SearchIndex, in_use: InUse
    ) -> None:
        self._in_use = in_use
        self._writer = writer
        self._readers = readers
        self._index = index
        self._purger = Purger(writer, readers, index, home / LEDGER_FILE)

    async def resume_purges(self) -> None:
        """Finishes what a crash left of a deletion."""
        await self._purger.resume()

    async def rebuild_search(self) -> None:
        """Drops the derived search file and builds it anew, whole."""
        await self._index.rebuild()

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close()
        self._readers.close()
        self._index.close()
        self._in_use.release()

    # -- writing -------------------------------------------------------------------------------------------------
    async def open(
        self,
        session: NewSession,
        *,
        actor: PrincipalId,
        at: int,
        conversation: PointConversation | None = None,
    ) -> Handle:
        def work(db: apsw.Connection) -> Handle:
            handle = open_session(db, session, actor, at)
            if conversation is not None:
                point_conversation(db, conversation)
            return handle

        return await self._writer.do(work, partial(opened_before, new=session, at=at))

    async def commit(self, work: Commit) -> Committed:
        read_back = partial(committed_before, work=work) if work.idempotency_key is not None else None
        return await self._writer.do(partial(commit, work=work), read_back)

    async def receive(self, item: Receive) -> Received:
        return await self._writer.do(partial(receive, item=item), partial(received_before, item=item))

    async def decide(
        self, principal: PrincipalId, approval: ApprovalId, state: ApprovalState, at: int
    ) -> ApprovalRow:
        return await self._writer.do(
            partial(decide, principal=principal, approval=approval, state=state, at=at)
        )

    async def settle_reply(
        self, reply: OutboxId, state: str, platform_id: str | None, *, next_at: int | None = None
    ) -> None:
        await self._writer.do(
            partial(outbox.settle_reply, reply=reply, state=state, platform_id=platform_id, next_at=next_at)
        )

    async def take_reply(self, row: Undelivered, owner: OwnerId) -> bool:
        return await self._writer.do(partial(outbox.take_reply, row=row, owner=owner))

    async def add_reply(self, session: SessionId, reply: AddReply, at: int) -> OutboxId:
        return await self._writer.do(partial(outbox.add_reply, session=session, reply=reply, at=at))

    async def offer_pairing(self, code_sha256: str, principal: PrincipalId, expires_at: int) -> None:
        await self._writer.do(
            partial(outbox.offer_pairing, code_sha256=code_sha256, principal=principal, expires_at=expires_at)
        )

    async def pairing_is_open(self, at: int) -> bool:
        return await self._readers.glance(lambda db: outbox.pairing_is_open(db, at))

    async def pair(self, code_sha256: str, platform: str, external_id: str, at: int) -> PrincipalId:
        return await self._writer.do(
            partial(outbox.pair, code_sha256=code_sha256, platform=platform, external_id=external_id, at=at)
        )

    async def point(self, conversation: PointConversation) -> None:
        await self._writer.do(partial(point_conversation, move=conversation))

    async def share(self, principal: PrincipalId, session: SessionId, with_: PrincipalId, may: str) -> None:
        await self._writer.do(partial(share, principal=principal, session=session, with_=with_, may=may))

    async def add_principal(self, principal: PrincipalId, name: str, role: str) -> None:
        await self._writer.do(partial(add_principal, principal=principal, name=name, role=role))

    async def beat(self, session: SessionId, owner: str, epoch: int) -> bool:
        return await self._writer.do(partial(beat, session=session, owner=owner, epoch=epoch))

    async def lease_compaction(
        self, session: SessionId, owner: OwnerId, *, over: CompactionLease | None = None
    ) -> CompactionLease:
        return await self._writer.do(partial(lease_compaction, session=session, owner=owner, over=over))

    async def end_compaction(self, session: SessionId, owner: OwnerId) -> None:
        await self._writer.do(partial(end_compaction, session=session, owner=owner))

    async def add_job(self, job: NewJob, *, most: int) -> JobRow:
        return await self._writer.do(
            partial(jobs.add_job, job=job, most=most), partial(jobs.job_before, job=job)
        )

    async def move_job(self, move: MoveJob) -> bool:
        return await self._writer.do(partial(jobs.move_job, move=move))

    async def forget(
        self, principal: PrincipalId, session: SessionId, at: int, *, with_forks: bool = False
    ) -> Forgotten:
        return await self._purger.forget(principal, session, at, with_forks)

    # -- reading -------------------------------------------------------------------------------------------------
    async def session(self, principal: PrincipalId, session: SessionId) -> SessionRow:
        return await self._readers.glance(lambda db: read.session(db, principal, session))

    async def resolve(self, principal: PrincipalId, reference: str) -> SessionId:
        return await self._readers.glance(lambda db: read.resolve(db, principal, reference))

    async def path(
        self, principal: PrincipalId, session: SessionId, at: Head | None = None, *, above: int = 0
    ) -> tuple[Message, ...]:
        head = at if at is not None else (await self.session(principal, session)).handle.head
        look = self._readers.glance if head.seq - above <= GLANCED_MESSAGES_MAX else self._readers.read
        return await look(lambda db: read.path(db, principal, session, at, above))

    async def turn_starts(
        self, principal: PrincipalId, session: SessionId, limit: int, at: Head | None = None
    ) -> tuple[Message, ...]:
        return await self._readers.glance(lambda db: read.turn_starts(db, principal, session, limit, at))

    async def before(self, principal: PrincipalId, session: SessionId, head: Head) -> Head:
        return await self._readers.glance(lambda db: read.before(db, principal, session, head))

    async def summaries(self, principal: PrincipalId, session: SessionId) -> tuple[SummaryRow, ...]:
        return await self._readers.glance(lambda db: read.summaries(db, principal, session))

    async def compaction(self, principal: PrincipalId, session: SessionId) -> CompactionLease | None:
        return await self._readers.glance(lambda db: read.compaction(db, principal, session))

    async def ops(
        self,
        principal: PrincipalId,
        session: SessionId,
        *,
        below: int | None = None,
        limit: int = 64,
        moving_only: bool = False,
    ) -> tuple[OpRow, ...]:
        return await self._readers.glance(
            lambda db: read.ops(db, principal, session, below=below, limit=limit, moving_only=moving_only)
        )

    async def turn(
        self, principal: PrincipalId, session: SessionId, turn: int | None = None
    ) -> TurnRow | None:
        return await self._readers.glance(lambda db: read.turn(db, principal, session, turn))

    async def calls(
        self, principal: PrincipalId, session: SessionId, turn: int | None = None
    ) -> tuple[CallRow, ...]:
        return await self._readers.glance(lambda db: read.calls(db, principal, session, turn))

    async def approvals(
        self, principal: PrincipalId, session: SessionId, call: CallId | None = None
    ) -> tuple[ApprovalRow, ...]:
        return await self._readers.glance(lambda db: read.approvals(db, principal, session, call))

    async def queued(self, principal: PrincipalId, session: SessionId) -> tuple[InboxRow, ...]:
        return await self._readers.glance(lambda db: read.queued(db, principal, session))

    async def received(
        self, principal: PrincipalId, session: SessionId, limit: int = 20
    ) -> tuple[InboxRow, ...]:
        return await self._readers.glance(lambda db: read.received(db, principal, session, limit))

    async def replies(
        self, principal: PrincipalId, session: SessionId, limit: int = 20
    ) -> tuple[ReplyRow, ...]:
        return await self._readers.glance(lambda db: read.replies(db, principal, session, limit))

    async def has_key(self, principal: PrincipalId, session: SessionId, key: str) -> bool:
        return await self._readers.glance(lambda db: read.has_key(db, principal, session, key))

    async def unfinished(self) -> tuple[Unfinished, ...]:
        return await self._readers.glance(read.unfinished)

    async def branches(self, principal: PrincipalId, session: SessionId) -> tuple[BranchRow, ...]:
        return await self._readers.read(lambda db: read.branches(db, principal, session))

    async def segment(self, principal: PrincipalId, session: SessionId, branch: int) -> tuple[Message, ...]:
        return await self._readers.read(lambda db: read.segment(db, principal, session, branch))

    async def prefix(self, principal: PrincipalId, session: SessionId) -> Prefix | None:
        return await self._readers.glance(lambda db: read.prefix(db, principal, session))

    async def blob(self, principal: PrincipalId, session: SessionId, sha256: str) -> Blob:
        return await self._readers.read(lambda db: read.blob(db, principal, session, sha256))

    async def sessions(
        self,
        principal: PrincipalId,
        *,
        limit: int = 20,
        before: tuple[int, str] | None = None,
        archived: bool = False,
    ) -> tuple[SessionRow, ...]:
        return await self._readers.glance(lambda db: read.sessions(db, principal, limit, before, archived))

    async def children(self, principal: PrincipalId, session: SessionId) -> tuple[SessionRow, ...]:
        return await self._readers.glance(lambda db: read.children(db, principal, session))

    async def undelivered(
        self, surface: str, at: int, limit: int = 100, *, conversation: ConversationId | None = None
    ) -> tuple[Undelivered, ...]:
        return await self._readers.glance(lambda db: outbox.undelivered(db, surface, at, limit, conversation))

    async def waiting(self, surface: str) -> tuple[Waiting, ...]:
        return await self._readers.glance(lambda db: outbox.waiting(db, surface))

    async def backlog(self, surface: str) -> Backlog:
        return await self._readers.glance(lambda db: outbox.backlog(db, surface))

    async def is_received(self, account: str, external_key: str) -> bool:
        return await self._readers.glance(lambda db: outbox.is_received(db, account, external_key))

    async def last_received_at(self, conversation: ConversationId) -> int | None:
        return await self._readers.glance(lambda db: outbox.last_received_at(db, conversation))

    async def identified(self, platform: str, external_id: str) -> PrincipalId | None:
        return await self._readers.glance(lambda db: outbox.identified(db, platform, external_id))

    async def jobs(self, principal: PrincipalId, kind: str) -> tuple[JobRow, ...]:
        return await self._readers.glance(lambda db: jobs.jobs(db, principal, kind))

    async def due_jobs(
        self, kind: str, surface: str, at: int, *, owner: PrincipalId | None = None
    ) -> tuple[JobRow, ...]:
        return await self._readers.glance(lambda db: jobs.due_jobs(db, kind, surface, at, owner))

    async def conversation(self, route_key: str) -> ConversationRow | None:
        return await self._readers.glance(lambda db: read.conversation(db, route_key))

    async def usage(self, principal: PrincipalId, session: SessionId | None = None) -> UsageTotals:
        return await self._readers.read(lambda db: read.usage(db, principal, session))

    async def spent(self, principal: PrincipalId, session: SessionId | None, day_began: int) -> Spent:
        return await self._readers.read(lambda db: read.spending(db, principal, session, day_began))

    async def search(
        self,
        principal: PrincipalId,
        typed: str,
        *,
        limit: int = 20,
        order: Order = Order.RANKED,
        session: SessionId | None = None,
    ) -> SearchResult:
        return await self._index.search(principal, typed, limit, order, session)


async def open_ledger(home: Path, clock: Clock) -> SqliteLedger:
    """Opens or creates the files in a folder, and finishes what a crash left of a deletion.

    Raises StoreUnusable in a sentence; then nothing was written.
    """
    path = home / LEDGER_FILE
    in_use, db = await asyncio.to_thread(_prepare, home, clock.now_ms())
    index = SearchIndex(home / SEARCH_FILE, path)
    ledger = SqliteLedger(home, Writer(db, path, index.nudge), Readers(path), index, in_use)
    try:
        await ledger.resume_purges()
    except BaseException:
        await ledger.close()
        raise
    return ledger


def _prepare(home: Path, at: int) -> tuple[InUse, apsw.Connection]:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnusable(f"{home} cannot be made ({error.strerror}): set CLEW_HOME elsewhere.") from error
    in_use = InUse(home)
    try:
        db = open_file(home / LEDGER_FILE, at)
    except BaseException:
        in_use.release()
        raise
    return in_use, db
