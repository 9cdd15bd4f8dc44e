"""A session's whole tree at one moment, and how to walk it without holding it in memory.

A session may go on while it is exported. What was there when the export began is exported, whole; what comes later is
not. The order of the reads makes that so: the summaries stand on messages of the branches, and the head too.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from clew.domain.conversation.ids import BranchId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head, Message
from clew.domain.ledger.errors import Refused
from clew.domain.ledger.rows import Blob, BranchRow, SessionRow, SummaryRow
from clew.runtime.ports.ledger import Ledger

PAGE_MESSAGES: Final = 200


class Segment(NamedTuple):
    """A run of messages that one branch owns: seq in (low, high]."""

    branch: BranchId
    low: int
    high: int

    @property
    def length(self) -> int:
        return self.high - self.low


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All of a session but its messages: they are read in pages, up to the tips named here."""

    row: SessionRow
    summaries: tuple[SummaryRow, ...]
    branches: tuple[BranchRow, ...]

    @property
    def segments(self) -> list[Segment]:
        """What each branch adds to the tree, oldest branch first."""
        return [Segment(row.id, row.parent.seq if row.parent else 0, row.tip) for row in self.branches]

    def path(self, head: Head) -> list[Segment]:
        """The segments from the first message to a head, in order."""
        known = {row.id: row for row in self.branches}
        found: list[Segment] = []
        at: Head | None = head
        while at is not None:
            parent = known[at.branch].parent
            low = parent.seq if parent else 0
            if at.seq > low:
                found.append(Segment(at.branch, low, at.seq))
            at = Head(parent.branch, min(parent.seq, at.seq)) if parent else None
        return found[::-1]

    @property
    def undone(self) -> list[Segment]:
        """What is not on the path of the head, oldest branch first."""
        on_path = {segment.branch: segment.high for segment in self.path(self.row.handle.head)}
        rest = [Segment(branch, on_path.get(branch, low), high) for branch, low, high in self.segments]
        return [segment for segment in rest if segment.length > 0]

    @property
    def in_force(self) -> SummaryRow | None:
        """The summary that stands for the start of the path in the session's requests."""
        return next((row for row in self.summaries if row.id == self.row.handle.summary), None)


async def snapshot(ledger: Ledger, principal: PrincipalId, session: SessionId) -> Snapshot:
    """Raises NotFound for a foreign session, Refused for a temporary one: of that, no word is kept anywhere."""
    row = await ledger.session(principal, session)
    if row.temporary:
        raise Refused("A temporary conversation is kept nowhere, so it cannot be exported.")
    summaries = await ledger.summaries(principal, session)
    branches = await ledger.branches(principal, session)
    return Snapshot(row=row, summaries=summaries, branches=branches)


class Reader:
    """Reads the messages of one session in pages."""

    def __init__(self, ledger: Ledger, principal: PrincipalId, session: SessionId) -> None:
        self._ledger = ledger
        self._principal = principal
        self._session = session

    async def run(self, segments: Iterable[Segment]) -> AsyncIterator[Message]:
        """The messages of some segments, one segment after the other."""
        for branch, low, high in segments:
            at = low
            while at < high:
                upto = min(at + PAGE_MESSAGES, high)
                for message in await self._ledger.path(
                    self._principal, self._session, Head(branch, upto), above=at
                ):
                    yield message
                at = upto

    async def first(self, segment: Segment) -> Message:
        """The first message of a segment that has one."""
        branch, low, _ = segment
        at = Head(branch, low + 1)
        return (await self._ledger.path(self._principal, self._session, at, above=low))[0]

    async def as_written(self, segments: Sequence[Segment]) -> AsyncIterator[Message]:
        """The messages of all segments in the order in which they came into the ledger."""
        streams = [self.run([segment]) for segment in segments if segment.length > 0]
        waiting: list[tuple[int, int, Message]] = []
        for number, stream in enumerate(streams):
            message = await anext(stream)
            waiting.append((message.id, number, message))
        heapq.heapify(waiting)
        while waiting:
            _, number, message = waiting[0]
            yield message
            following = await anext(streams[number], None)
            if following is None:
                heapq.heappop(waiting)
            else:
                heapq.heapreplace(waiting, (following.id, number, following))

    async def blob(self, sha256: str) -> Blob:
        """An attachment of one of the messages. Raises NotFound."""
        return await self._ledger.blob(self._principal, self._session, sha256)


def numbered(rows: Sequence[BranchRow]) -> Mapping[BranchId, int]:
    """Numbers for an export, from 1: a ledger's own ids count what others did in it."""
    return {row.id: number for number, row in enumerate(rows, 1)}
