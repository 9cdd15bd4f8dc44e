"""The whole of a session as JSON lines, from which an equal history can be rebuilt anywhere.

The same session gives the same bytes: no time and no id of the export itself is in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from clew.domain.conversation.ids import BranchId, PrincipalId, SessionId, SummaryId
from clew.domain.conversation.messages import Head, blobs_named
from clew.domain.ledger.rows import SessionRow, SummaryRow
from clew.runtime.archive.lines import (
    FORMAT_VERSION,
    BlobLine,
    BranchLine,
    EndLine,
    ExportLine,
    MessageLine,
    Position,
    SessionLine,
    SummaryLine,
    encoded,
)
from clew.runtime.archive.tree import Reader, Snapshot, numbered, snapshot
from clew.runtime.ports.ledger import Ledger


async def export_jsonl(ledger: Ledger, principal: PrincipalId, session: SessionId) -> AsyncIterator[bytes]:
    """The lines of the format in `lines.py`, each with its line feed. Holds a page a branch in memory.

    Raises NotFound, Refused (temporary). What is said after the first line was asked for may be missing.
    """
    taken = await snapshot(ledger, principal, session)
    branches = numbered(taken.branches)
    yield encoded(ExportLine(program="clew", version=FORMAT_VERSION))
    yield encoded(_session(taken.row))
    for row in taken.branches:
        parent = None if row.parent is None else _position(branches, row.parent)
        yield encoded(BranchLine(branch=branches[row.id], parent=parent))
    count = 0
    async for line in _messages(Reader(ledger, principal, session), taken, branches):
        count += isinstance(line, MessageLine)
        yield encoded(line)
    summaries = {row.id: number for number, row in enumerate(taken.summaries, 1)}
    for summary in taken.summaries:
        yield encoded(_summary(summary, summaries, branches))
    handle = taken.row.handle
    in_force = None if handle.summary is None else summaries[handle.summary]
    yield encoded(EndLine(head=_position(branches, handle.head), summary=in_force, messages=count))


def _session(row: SessionRow) -> SessionLine:
    return SessionLine(
        id=row.id,
        owner=row.owner,
        surface=row.surface,
        title=row.title,
        model=row.model,
        cwd=row.cwd,
        origin=row.origin,
        parent=row.parent,
        created_at=row.created_at,
        last_active_at=row.last_active_at,
    )


async def _messages(
    reader: Reader, taken: Snapshot, branches: Mapping[BranchId, int]
) -> AsyncIterator[BlobLine | MessageLine]:
    told: set[str] = set()
    async for message in reader.as_written(taken.segments):
        for sha256 in blobs_named(message.body):
            if sha256 not in told:
                told.add(sha256)
                blob = await reader.blob(sha256)
                yield BlobLine(sha256=sha256, media_type=blob.media_type, data=blob.bytes)
        yield MessageLine(
            branch=branches[message.branch],
            seq=message.seq,
            turn=message.turn,
            step=message.step,
            role=message.role,
            actor=message.actor,
            status=message.status,
            created_at=message.created_at,
            text=message.text,
            body=message.body,
        )


def _summary(
    row: SummaryRow, summaries: Mapping[SummaryId, int], branches: Mapping[BranchId, int]
) -> SummaryLine:
    return SummaryLine(
        summary=summaries[row.id],
        upto=_position(branches, row.upto),
        previous=None if row.previous is None else summaries[row.previous],
        text=row.text,
        focus=row.focus,
        model=row.model,
        tokens_before=row.tokens_before,
        tokens_after=row.tokens_after,
        created_at=row.created_at,
    )


def _position(branches: Mapping[BranchId, int], head: Head) -> Position:
    return branches[head.branch], head.seq
