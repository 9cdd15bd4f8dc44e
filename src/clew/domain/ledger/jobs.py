"""Jobs that the ledger's own changes ask for."""

from __future__ import annotations

from typing import Final

import msgspec

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import NewJob
from clew.domain.ledger.rows import Origin, SessionRow
from clew.domain.memory.facts import EXTRACT

TITLE: Final = "title"
TITLE_TURNS: Final = 3
"""One of the first turns asks for a title: the first that ends with an answer."""
REVIEW: Final = "review"
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
    job = NewJob(kind=EXTRACT, key=key, owner=row.owner, session=row.id, payload=None, next_at=at)
    return (placed(job, head),)


def following(
    kinds: frozenset[str], session: SessionId, turn: int, who: PrincipalId, at: int
) -> tuple[NewJob, ...]:
    """What looks at a turn that was answered: a review of each, one title for the session. For the commit that ends it."""
    jobs = []
    if TITLE in kinds and turn <= TITLE_TURNS:
        jobs.append(NewJob(kind=TITLE, key=session, owner=who, session=session, payload=None, next_at=at))
    if REVIEW in kinds:
        key = f"{session}:{turn}"
        jobs.append(NewJob(kind=REVIEW, key=key, owner=who, session=session, payload=None, next_at=at))
    return tuple(jobs)


def reviewed(key: str) -> int:
    """The number of the turn that a review is of."""
    return int(key.rpartition(":")[2])


def placed(job: NewJob, head: Head) -> NewJob:
    """The job as it is kept by a commit that leaves its session at this head."""
    if job.payload is not None:
        return job
    return msgspec.structs.replace(job, payload=_encode(head).decode())


def upto(payload: str) -> Head:
    """The head that such a job goes to. Raises msgspec.DecodeError."""
    return _head(payload)
