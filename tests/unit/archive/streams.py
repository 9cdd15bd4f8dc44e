"""Exports and imports as tests make them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from itertools import count

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import SessionId
from clew.domain.ledger.rows import SessionRow
from clew.runtime.archive.formats import ExportFormat, export
from clew.runtime.archive.importing import import_jsonl
from clew.runtime.archive.jsonl import export_jsonl
from clew.runtime.ports.ledger import Ledger
from clew.testing.ledgers import ANN, PEOPLE, START_MS, session_id

LATER_MS = START_MS + 10**9
"""When imports happen."""


def new_ids(first: int = 10_000) -> Callable[[], SessionId]:
    """Ids that no test gives otherwise."""
    ids = map(session_id, count(first))
    return lambda: next(ids)


async def known_to_all(ledger: MemoryLedger) -> MemoryLedger:
    """The ledger, with everybody known to it."""
    for person in PEOPLE:
        await ledger.add_principal(person, str(person), "user")
    return ledger


async def exported(ledger: Ledger, session: SessionId) -> list[bytes]:
    """The lines of an export."""
    return [line async for line in export_jsonl(ledger, ANN, session)]


async def written(
    ledger: Ledger, session: SessionId, wanted: ExportFormat, *, whole_tree: bool = False
) -> str:
    """An export as one text."""
    chunks = [chunk async for chunk in export(ledger, ANN, session, wanted, whole_tree=whole_tree)]
    return b"".join(chunks).decode()


async def stream(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def imported(
    ledger: Ledger, chunks: Iterable[bytes], new_id: Callable[[], SessionId] | None = None
) -> SessionRow:
    """Imports a stream of one session."""
    rows = await import_jsonl(ledger, ANN, stream(chunks), new_id=new_id or new_ids(), at=LATER_MS)
    assert len(rows) == 1
    return rows[0]


async def all_sessions(ledger: Ledger) -> list[SessionId]:
    """Every session there is, the archived too."""
    rows = [*await ledger.sessions(ANN, limit=1000), *await ledger.sessions(ANN, limit=1000, archived=True)]
    return [row.id for row in rows]
