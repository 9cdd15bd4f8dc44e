"""Jobs that the ledger's own changes ask for."""

from __future__ import annotations

from typing import Final

import msgspec

from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import NewJob
from clew.domain.ledger.rows import Origin, SessionRow
from clew.domain.memory.facts import EXTRACT

_encode: Final = msgspec.json.Encoder().encode
_head: Final = msgspec.json.Decoder(Head).decode


def extracting(row: SessionRow, at: int) -> tuple[NewJob, ...]:
    """The job that looks for facts in what was said up to the head of the session: one for each head there ever was.

    It holds no words. None for what nobody said, and for what is to leave nothing behind.
    """
    head = row.handle.head
    if row.temporary or row.origin == Origin.SIDE or head.seq == 0:
        return ()
    key = f"{row.id}:{head.branch}.{head.seq}"
    payload = _encode(head).decode()
    return (NewJob(kind=EXTRACT, key=key, owner=row.owner, session=row.id, payload=payload, next_at=at),)


def upto(payload: str) -> Head:
    """The head that such a job goes to. Raises msgspec.DecodeError."""
    return _head(payload)
