"""Jobs: work that waits for its time, and is moved on by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import asdict, replace

from clew.adapters.stores.memory.outbox import add_reply
from clew.adapters.stores.memory.small_writes import receive
from clew.adapters.stores.memory.state import State
from clew.domain.conversation.ids import JobId, PrincipalId
from clew.domain.ledger.commits import MoveJob, NewJob
from clew.domain.ledger.errors import HeadMoved, NotFound, Refused
from clew.domain.ledger.rows import JobRow, JobState


def add_job(state: State, job: NewJob, *, most: int) -> JobRow:
    """A known key returns the first row."""
    for row in state.jobs.values():
        if (row.kind, row.key, row.owner) == (job.kind, job.key, job.owner):
            return row
    place = state.conversation_by_id(job.conversation)
    if job.session not in state.sessions or job.session in state.purged:
        raise NotFound(f"There is no session {job.session}.")
    if place is None:
        raise NotFound("There is no such conversation.")
    if len(jobs(state, job.owner, job.kind)) >= most:
        raise Refused(f"{most} of this kind wait already: this one was not kept.")
    ident = JobId(state.next_id())
    state.jobs[ident] = JobRow(
        **asdict(job), id=ident, route_key=place.route_key, state=JobState.QUEUED, attempts=0, error=None
    )
    return state.jobs[ident]


def move_job(state: State, move: MoveJob) -> bool:
    known = state.jobs.get(move.job.id)
    seen = (JobState.QUEUED, move.job.next_at, move.job.attempts)
    if known is None or (known.state, known.next_at, known.attempts) != seen:
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
    )
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
    state: State, kind: str, surface: str, at: int, *, owner: PrincipalId | None = None
) -> tuple[JobRow, ...]:
    found = [
        row for row in _waiting(state, kind)
        if row.next_at <= at and owner in (None, row.owner) and state.conversations[row.route_key].surface == surface
    ]  # fmt: skip
    return tuple(found[:100])


def _waiting(state: State, kind: str) -> Iterator[JobRow]:
    for row in sorted(state.jobs.values(), key=lambda row: (row.next_at, row.id)):
        if row.kind == kind and row.state == JobState.QUEUED:
            yield row
