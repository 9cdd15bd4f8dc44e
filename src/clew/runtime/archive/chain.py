"""The commits of one session, each against what the one before it leaves.

A commit waits for the disk, and an old conversation is one commit a message: waiting for each would make a hundred thousand
messages take ten minutes. What an append to a tip leaves is known beforehand, so the next one is handed in before it is
done, and the store writes many at a time. If a store takes them in another order, the fence refuses those that came too
early; they are then done one after the other. Each commit is counted, so that one of somebody else's does not go unseen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, NamedTuple

import msgspec

from clew.domain.conversation.ids import PrincipalId
from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import Append, AsObserver, Commit, Committed, NewBlob
from clew.domain.ledger.errors import HeadMoved
from clew.domain.ledger.rows import Handle
from clew.runtime.ports.ledger import Ledger

WAITING_COMMITS_MAX: Final = 128
WAITING_CHARACTERS_MAX: Final = 8_000_000


class _Waiting(NamedTuple):
    work: Commit
    outcome: asyncio.Task[Committed]
    size: int


class Chain:
    """Writes to a session that nobody else should write to. `handle` is what it will be when all that waits is done."""

    def __init__(self, ledger: Ledger, principal: PrincipalId, handle: Handle, at: int) -> None:
        self._ledger = ledger
        self._principal = principal
        self._at = at
        self._waiting: deque[_Waiting] = deque()
        self._size = 0
        self._on_tip = True
        self._version = handle.version
        self.handle = handle

    async def commit(self, *, at: int | None = None, **rest: object) -> None:
        """Does it after all that waits, and returns when it is done."""
        while self._waiting:
            await self._do_oldest()
        head = self.handle.head
        work = self._work(at, **rest)
        self._hand_in(work, 0)
        self.handle = (await self._do_oldest()).handle
        self._on_tip = isinstance(work.op, Append) or (self._on_tip and self.handle.head == head)

    async def append(self, op: Append, *, at: int, blobs: tuple[NewBlob, ...]) -> None:
        """Hands it in; returns before it is done if the head is a tip."""
        if not self._on_tip:  # the ledger is about to name a new branch
            return await self.commit(at=at, op=op, blobs=blobs)
        size = sum(len(message.text) for message in op.messages) + sum(len(blob.bytes) for blob in blobs)
        while self._waiting and not self._has_room(size):
            await self._do_oldest()
        self._hand_in(self._work(at, op=op, blobs=blobs), size)
        head = Head(self.handle.head.branch, self.handle.head.seq + len(op.messages))
        self.handle = msgspec.structs.replace(self.handle, head=head, version=self.handle.version + 1)
        return None

    async def settle(self) -> int:
        """Waits for all that was handed in, whatever comes of it. Returns the version these commits alone lead to."""
        waiting = [one.outcome for one in self._waiting]
        self._waiting.clear()
        self._size = 0
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        self._version += sum(isinstance(outcome, Committed) for outcome in outcomes)
        return self._version

    def _work(self, at: int | None, **rest: object) -> Commit:
        fence = AsObserver(version=self.handle.version, head=self.handle.head)
        moment = self._at if at is None else at
        base = Commit(session=self.handle.session, actor=self._principal, at=moment, fence=fence)
        return msgspec.structs.replace(base, **rest)

    def _has_room(self, size: int) -> bool:
        return len(self._waiting) < WAITING_COMMITS_MAX and self._size + size <= WAITING_CHARACTERS_MAX

    def _hand_in(self, work: Commit, size: int) -> None:
        self._waiting.append(_Waiting(work, asyncio.create_task(self._ledger.commit(work)), size))
        self._size += size

    async def _do_oldest(self) -> Committed:
        try:
            return await self._oldest()
        except HeadMoved:
            return await self._do_in_order()

    async def _oldest(self) -> Committed:
        """Waits for it. Whoever is cancelled meanwhile does not take it along: `settle` still counts it."""
        oldest = self._waiting[0]
        committed = await asyncio.shield(oldest.outcome)
        self._waiting.popleft()
        self._size -= oldest.size
        self._version += 1
        return committed

    async def _do_in_order(self) -> Committed:
        """The oldest came before its turn, so none after it was done either. Raises HeadMoved if it was somebody else."""
        works = [waiting.work for waiting in self._waiting]
        await self.settle()
        for work in works[:-1]:
            self._hand_in(work, 0)
            await self._oldest()
        self._hand_in(works[-1], 0)
        return await self._oldest()
