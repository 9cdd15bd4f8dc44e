"""Jobs: work that waits for its time, and is moved on by one process at a time."""

from __future__ import annotations

from typing import Final

import apsw
from msgspec.structs import replace

from clew.adapters.stores.sqlite import rows
from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.facts import keep_facts
from clew.adapters.stores.sqlite.open_session import refuse_absent
from clew.adapters.stores.sqlite.outbox import add_reply
from clew.adapters.stores.sqlite.small_writes import receive
from clew.domain.conversation.ids import OwnerId, PrincipalId, SessionId
from clew.domain.ledger.commits import MoveJob, NewJob
from clew.domain.ledger.errors import HeadMoved, NotFound, Refused
from clew.domain.ledger.rows import JobRow

_JOBS: Final = """
SELECT j.id, j.kind, j.key, j.owner, j.session_id, j.conversation, coalesce(c.route_key, ''), j.payload, j.state, j.attempts,
  j.next_at, j.error, j.lease_owner, j.beat
FROM job j LEFT JOIN conversation c ON c.id = j.conversation
WHERE NOT EXISTS (SELECT 1 FROM purge WHERE session_id = j.session_id) AND j.kind = ?1
"""
_MINE: Final = (
    "j.owner IN (SELECT ?2 UNION ALL"
    " SELECT external_id FROM identity WHERE platform = 'clew' AND account = '' AND principal = ?2)"
)
"""A principal's own, and those of whoever joined it."""
_MOVE: Final = """
UPDATE job SET state = ?2, payload = ?3, next_at = ?4, attempts = ?5, error = ?6, lease_owner = NULL
WHERE id = ?1 AND state = 'queued' AND next_at = ?7 AND attempts = ?8 AND lease_owner IS ?9
  AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = job.session_id)
"""


def add_job(db: apsw.Connection, job: NewJob, *, most: int) -> JobRow:
    """A known key returns the first row."""
    known = job_before(db, job)
    if known is not None:
        return known
    refuse_absent(db, job.session)
    place = "SELECT 1 FROM conversation WHERE id = ?"
    if job.conversation is not None and not fetch(db, place, (job.conversation,)):
        raise NotFound("There is no such conversation.")
    waiting = "SELECT count(*) FROM job WHERE owner = ? AND kind = ? AND state = 'queued'"
    if fetch(db, waiting, (job.owner, job.kind))[0][0] >= most:
        raise Refused(f"{most} of this kind wait already: this one was not kept.")
    keep_job(db, job)
    return rows.one(JobRow, fetch(db, f"{_JOBS} AND j.key = ?2", (job.kind, job.key))[0])


def keep_job(db: apsw.Connection, job: NewJob) -> None:
    """A known key stays as it is."""
    db.execute(
        "INSERT INTO job(kind, key, owner, session_id, conversation, payload, state, next_at) SELECT ?1,?2,?3,?4,?5,?6,'queued',?7"
        " WHERE NOT EXISTS (SELECT 1 FROM job WHERE kind = ?1 AND key = ?2)",
        (job.kind, job.key, job.owner, job.session, job.conversation, job.payload, job.next_at),
    )


def job_before(db: apsw.Connection, job: NewJob) -> JobRow | None:
    """The job that has this key."""
    found = fetch(db, f"{_JOBS} AND j.key = ?2 AND j.owner = ?3", (job.kind, job.key, job.owner))
    return rows.one(JobRow, found[0]) if found else None


_TAKE: Final = """
UPDATE job SET lease_owner = ?2, beat = beat + 1, attempts = attempts + 1
WHERE id = ?1 AND state = 'queued' AND lease_owner IS ?3 AND beat = ?4 AND attempts = ?5 AND next_at = ?6
  AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = job.session_id)
"""


def take_job(db: apsw.Connection, job: JobRow, owner: OwnerId) -> JobRow | None:
    db.execute(_TAKE, (job.id, owner, job.lease_owner, job.beat, job.attempts, job.next_at))
    if db.changes() != 1:
        return None
    return replace(job, lease_owner=owner, beat=job.beat + 1, attempts=job.attempts + 1)


def beat_job(db: apsw.Connection, job: JobRow) -> bool:
    mine = "state = 'queued' AND lease_owner = ? AND attempts = ?"
    db.execute(
        f"UPDATE job SET beat = beat + 1 WHERE id = ? AND {mine}", (job.id, job.lease_owner, job.attempts)
    )
    return db.changes() == 1


def move_job(db: apsw.Connection, move: MoveJob) -> bool:
    job = move.job
    to = (move.state, move.payload, move.next_at, move.attempts, move.error)
    db.execute(_MOVE, (job.id, *to, job.next_at, job.attempts, job.lease_owner))
    if db.changes() != 1:
        return False
    keep_facts(db, job.owner, move.facts, move.at)
    if move.receive is not None:
        place = "SELECT 1 FROM conversation WHERE id = ? AND session_id = ?"
        if not fetch(db, place, (move.receive.conversation, move.receive.session)):
            raise HeadMoved("The conversation went on in another session meanwhile.")
        receive(db, move.receive)
        for reply in move.replies:
            add_reply(db, move.receive.session, reply, move.at)
    return True


def jobs(db: apsw.Connection, principal: PrincipalId, kind: str) -> tuple[JobRow, ...]:
    waiting = f"{_JOBS} AND {_MINE} AND j.state = 'queued' ORDER BY j.next_at, j.id"
    return rows.many(JobRow, fetch(db, waiting, (kind, principal)))


def due_jobs(
    db: apsw.Connection, kind: str, surface: str | None, at: int, *, owner: PrincipalId | None = None
) -> tuple[JobRow, ...]:
    due = (
        f"{_JOBS} AND j.state = 'queued' AND j.next_at <= ?2 AND c.surface IS ?3 AND (?4 IS NULL OR j.owner = ?4)"
        " ORDER BY j.next_at, j.id LIMIT 100"
    )
    return rows.many(JobRow, fetch(db, due, (kind, at, surface, owner)))


def done_jobs(db: apsw.Connection, kind: str, session: SessionId) -> tuple[JobRow, ...]:
    done = f"{_JOBS} AND j.session_id = ?2 AND j.state = 'done' ORDER BY j.id"
    return rows.many(JobRow, fetch(db, done, (kind, session)))
