"""Jobs: work that waits for its time, and is moved on by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import asdict, replace

from clew.adapters.stores.memory.facts import keep_facts
from clew.adapters.stores.memory.outbox import add_reply
from clew.adapters.stores.memory.small_writes import receive
from clew.adapters.stores.memory.state import State
from clew.domain.conversation.ids import JobId, OwnerId, PrincipalId, SessionId
from clew.domain.ledger.commits import MoveJob, NewJob
from clew.domain.ledger.errors import HeadMoved, NotFound, Refused
from clew.domain.ledger.rows import JobRow, JobState


def add_job(state: State, job: NewJob, *, most: int) -> JobRow:
    """A known key returns the first row."""
    for row in state.jobs.values():
        if (row.kind, row.key, row.owner) == (job.kind, job.key, job.owner):
            return row
    if job.session not in state.sessions or job.session in state.purged:
        raise NotFound(f"There is no session {job.session}.")
    if job.conversation is not None and state.conversation_by_id(job.conversation) is None:
        raise NotFound("There is no such conversation.")
    if len(jobs(state, job.owner, job.kind)) >= most:
        raise Refused(f"{most} of this kind wait already: this one was not kept.")
    return keep_job(state, job)


def keep_job(state: State, job: NewJob) -> JobRow:
    """A known key stays as it is."""
    for row in state.jobs.values():
        if (row.kind, row.key) == (job.kind, job.key):
            return row
    place = None if job.conversation is None else state.conversation_by_id(job.conversation)
    ident, route_key = JobId(state.next_id()), "" if place is None else place.route_key
    state.jobs[ident] = JobRow(
        **asdict(job), id=ident, route_key=route_key, state=JobState.QUEUED, attempts=0, error=None
    )
    return state.jobs[ident]


def take_job(state: State, job: JobRow, owner: OwnerId) -> JobRow | None:
    known = state.jobs.get(job.id)
    if known is None or known.state != JobState.QUEUED or _progress(known) != _progress(job):
        return None
    taken = replace(known, lease_owner=owner, beat=known.beat + 1, attempts=known.attempts + 1)
    state.jobs[job.id] = taken
    return taken


def beat_job(state: State, job: JobRow) -> bool:
    known = state.jobs.get(job.id)
    if known is None or known.state != JobState.QUEUED:
        return False
    if (known.lease_owner, known.attempts) != (job.lease_owner, job.attempts):
        return False
    state.jobs[job.id] = replace(known, beat=known.beat + 1)
    return True


def _progress(job: JobRow) -> tuple[OwnerId | None, int, int, int]:
    return job.lease_owner, job.beat, job.attempts, job.next_at


def move_job(state: State, move: MoveJob) -> bool:
    known = state.jobs.get(move.job.id)
    seen = (JobState.QUEUED, move.job.next_at, move.job.attempts, move.job.lease_owner)
    if known is None or (known.state, known.next_at, known.attempts, known.lease_owner) != seen:
        return False
    if move.next_at < known.next_at:
        raise Refused("A job only goes forwards.")
    state.jobs[known.id] = replace(
        known,
        state=move.state,
        payload=move.payload,
        next_at=move.next_at,
        attempts=move.attempts,
        error=move.error,
        lease_owner=None,
    )
    keep_facts(state, move.job.owner, move.facts, move.at)
    if move.receive is not None:
        place = state.conversation_by_id(move.receive.conversation)
        if place is None or place.session != move.receive.session:
            raise HeadMoved("The conversation went on in another session meanwhile.")
        receive(state, move.receive)
        for reply in move.replies:
            add_reply(state, move.receive.session, reply, move.at)
    return True


def jobs(state: State, principal: PrincipalId, kind: str) -> tuple[JobRow, ...]:
    return tuple(
        row for row in _waiting(state, kind) if principal in (row.owner, state.joined.get(row.owner))
    )


def due_jobs(
    state: State, kind: str, surface: str | None, at: int, *, owner: PrincipalId | None = None
) -> tuple[JobRow, ...]:
    found = [
        row for row in _waiting(state, kind)
        if row.next_at <= at and owner in (None, row.owner) and _surface(state, row) == surface
    ]  # fmt: skip
    return tuple(found[:100])


def done_jobs(state: State, kind: str, session: SessionId) -> tuple[JobRow, ...]:
    found = (
        row
        for row in state.jobs.values()
        if (row.kind, row.session, row.state) == (kind, session, JobState.DONE)
    )
    return tuple(sorted(found, key=lambda row: row.id))


def _surface(state: State, row: JobRow) -> str | None:
    place = state.conversations.get(row.route_key)
    return None if place is None else place.surface


def _waiting(state: State, kind: str) -> Iterator[JobRow]:
    for row in sorted(state.jobs.values(), key=lambda row: (row.next_at, row.id)):
        if row.kind == kind and row.state == JobState.QUEUED:
            yield row
