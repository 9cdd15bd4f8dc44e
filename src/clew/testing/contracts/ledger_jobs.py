"""What a store promises to whoever keeps work for later: kept once, moved on by one, gone with its session."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from clew.domain.conversation.ids import OwnerId, SessionId
from clew.domain.ledger.commits import AddReply, MoveJob, Note, PointConversation, Receive
from clew.domain.ledger.errors import HeadMoved, NotFound, Refused
from clew.domain.ledger.jobs import upto
from clew.domain.ledger.rows import JobRow, JobState, OpKind
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase, Reopen
from clew.testing.ledgers import (
    ANN,
    BOB,
    START_MS,
    add,
    begin,
    do,
    exchange,
    job,
    place,
    session_id,
    undo,
    user,
)

DUE = START_MS + 1000
ONE, TWO = OwnerId("one"), OwnerId("two")


def done(row: JobRow) -> MoveJob:
    return MoveJob(job=row, state=JobState.DONE, at=DUE, payload="", next_at=row.next_at)


def brings(row: JobRow, key: str = "fired", session: SessionId | None = None) -> MoveJob:
    """The job is done, and an event and a notice come of it."""
    assert row.conversation is not None, "what a job brings is for a place"
    event = Receive(
        account="telegram", external_key=key, conversation=row.conversation, session=session or row.session,
        principal=row.owner, kind="wake", body="tea", at=DUE,
    )  # fmt: skip
    notice = AddReply(conversation=row.conversation, turn=0, part=0, kind="notice", key=key, body="tea")
    return replace(done(row), receive=event, replies=(notice,))


async def brought(ledger: Ledger) -> tuple[int, int]:
    """How many events wait, and how many notices."""
    return len(await ledger.queued(ANN, session_id(1))), len(await ledger.replies(ANN, session_id(1)))


class JobContract(LedgerCase):
    """Work that waits for its time."""

    async def test_a_job_is_kept_once(self, ledger: Ledger, reopen: Reopen) -> None:
        """A known key returns the first row, whatever came of it; it is on disk."""
        handle = await begin(ledger)
        chat = await place(ledger, handle)
        row = await ledger.add_job(job(handle, chat, "a"), most=9)
        assert (row.owner, row.route_key, row.state, row.next_at) == (ANN, "telegram:1", JobState.QUEUED, DUE)
        assert await ledger.add_job(job(handle, chat, "a", payload="other", next_at=5), most=9) == row
        assert await (await reopen()).jobs(ANN, "test") == (row,)
        assert await ledger.move_job(done(row))
        assert (await ledger.add_job(job(handle, chat, "a"), most=9)).state == JobState.DONE
        assert await ledger.jobs(ANN, "test") == ()

    async def test_a_commit_says_where_it_leaves_the_session(self, ledger: Ledger) -> None:
        """In the jobs that ask for it, also where it begins a branch."""
        handle = await exchange(ledger, await begin(ledger), "one")
        one, two = (job(handle, None, key, payload=None) for key in ("a", "b"))
        first = await add(ledger, handle, user("two"), jobs=(one,))
        back = await undo(ledger, first)
        second = await add(ledger, back, user("another"), jobs=(two,))
        assert second.head.branch != first.head.branch
        assert [upto(row.payload) for row in await ledger.jobs(ANN, "test")] == [first.head, second.head]

    async def test_only_so_many_wait(self, ledger: Ledger) -> None:
        """Each owner has their own, and those that are done do not count."""
        handle, other = await begin(ledger), await begin(ledger, 2, owner=BOB)
        chat, there = await place(ledger, handle), await place(ledger, other, "telegram:2")
        first = await ledger.add_job(job(handle, chat, "a"), most=1)
        with pytest.raises(Refused):
            await ledger.add_job(job(handle, chat, "b"), most=1)
        assert await ledger.add_job(job(handle, chat, "a"), most=1) == first
        await ledger.add_job(job(other, there, "c", owner=BOB), most=1)
        await ledger.move_job(done(first))
        await ledger.add_job(job(handle, chat, "b"), most=1)
        assert [row.key for row in await ledger.jobs(ANN, "test")] == ["b"]
        assert [row.key for row in await ledger.jobs(BOB, "test")] == ["c"]

    async def test_what_is_due_is_found_by_surface(self, ledger: Ledger) -> None:
        """At its time and not before, the earliest first, for the process that serves its place."""
        handle = await begin(ledger)
        chat = await place(ledger, handle)
        for key, at in (("late", DUE + 5), ("early", DUE), ("never", DUE + 99)):
            await ledger.add_job(job(handle, chat, key, next_at=at), most=9)
        assert await ledger.due_jobs("test", "telegram", DUE - 1) == ()
        assert [row.key for row in await ledger.due_jobs("test", "telegram", DUE + 5)] == ["early", "late"]
        assert await ledger.due_jobs("test", "telegram", DUE + 5, owner=BOB) == ()
        assert await ledger.due_jobs("test", "matrix", DUE + 5) == ()
        assert await ledger.due_jobs("other", "telegram", DUE + 5) == ()

    async def test_a_job_is_moved_by_one(self, ledger: Ledger) -> None:
        """Of two that read the same row one moves it, with what it brings; what the other brings is nowhere."""
        handle = await begin(ledger)
        row = await ledger.add_job(job(handle, await place(ledger, handle), "a"), most=9)
        again = replace(brings(row), state=JobState.QUEUED, next_at=DUE + 60_000)
        assert await ledger.move_job(again)
        assert await brought(ledger) == (1, 1)
        assert not await ledger.move_job(replace(again, receive=None))
        assert not await ledger.move_job(brings(row, "second"))
        assert await brought(ledger) == (1, 1)
        (moved,) = await ledger.jobs(ANN, "test")
        assert (moved.next_at, moved.payload) == (DUE + 60_000, "")

    async def test_a_job_does_not_go_back(self, ledger: Ledger) -> None:
        """No time is due again, and one that is over stays over."""
        handle = await begin(ledger)
        row = await ledger.add_job(job(handle, await place(ledger, handle), "a"), most=9)
        with pytest.raises(Exception):  # noqa: B017 - each store refuses in its own type
            await ledger.move_job(replace(done(row), state=JobState.QUEUED, next_at=DUE - 1))
        failed = replace(done(row), state=JobState.FAILED, attempts=3, error="why")
        assert await ledger.move_job(failed)
        assert not await ledger.move_job(replace(done(row), state=JobState.QUEUED))
        assert not await ledger.move_job(replace(failed, job=replace(row, attempts=3, state=JobState.FAILED)))

    async def test_a_job_is_taken_by_one(self, ledger: Ledger, reopen: Reopen) -> None:
        """Of two that read the same row one takes it, and counts an attempt; it may be for no place, and is still due."""
        handle = await begin(ledger)
        row = await ledger.add_job(job(handle, None, "a"), most=9)
        assert (row.conversation, row.route_key, row.lease_owner) == (None, "", None)
        taken = await ledger.take_job(row, ONE)
        assert taken is not None
        assert (taken.lease_owner, taken.attempts) == (ONE, 1)
        assert await ledger.take_job(row, TWO) is None
        assert await (await reopen()).due_jobs("test", None, DUE) == (taken,)
        assert not await ledger.move_job(done(row))
        assert await ledger.move_job(done(taken))
        assert not await ledger.beat_job(taken)
        assert await ledger.take_job(taken, ONE) is None

    async def test_whoever_lost_a_job_moves_nothing(self, ledger: Ledger) -> None:
        """A beat shows life and is what a second look compares; after it was taken over, neither beat nor end passes."""
        handle = await begin(ledger)
        row = await ledger.take_job(await ledger.add_job(job(handle, None, "a"), most=9), ONE)
        assert row is not None
        assert await ledger.beat_job(row)
        assert await ledger.take_job(row, TWO) is None
        (beaten,) = await ledger.due_jobs("test", None, DUE)
        over = await ledger.take_job(beaten, TWO)
        assert over is not None
        assert over.attempts == 2
        assert not await ledger.beat_job(row)
        assert not await ledger.move_job(done(row))
        back = replace(done(over), state=JobState.QUEUED, attempts=1, next_at=DUE + 5)
        assert await ledger.move_job(back)
        (waiting,) = await ledger.due_jobs("test", None, DUE + 5)
        assert (waiting.lease_owner, waiting.attempts) == (None, 1)

    async def test_a_commit_keeps_jobs(self, ledger: Ledger) -> None:
        """With whatever else it does or not at all; a key that is known stays as it is."""
        handle = await begin(ledger)
        stays = job(handle, None, "a")
        leave, again = Note(kind=OpKind.LEAVE), job(handle, None, "a", payload="other")
        moved = await do(ledger, handle, op=leave, jobs=(stays,))
        await do(ledger, moved, op=leave, jobs=(again, job(handle, None, "b")))
        with pytest.raises(HeadMoved):
            await do(ledger, handle, op=leave, jobs=(job(handle, None, "c"),))
        found = await ledger.due_jobs("test", None, DUE)
        assert [(row.key, row.payload) for row in found] == [("a", stays.payload), ("b", "payload of b")]

    async def test_what_it_brings_is_for_the_session_its_place_is_in(self, ledger: Ledger) -> None:
        """When the place went on in another session meanwhile, nothing is moved: whoever fires it looks again."""
        handle, new = await begin(ledger), await begin(ledger, 2)
        chat = await place(ledger, handle)
        row = await ledger.add_job(job(handle, chat, "a"), most=9)
        move = PointConversation(route_key="telegram:1", surface="telegram", version=1, to=new.session)
        await ledger.point(move)
        with pytest.raises(HeadMoved):
            await ledger.move_job(brings(row))
        assert await brought(ledger) == (0, 0)
        assert await ledger.jobs(ANN, "test") == (row,)
        assert await ledger.move_job(brings(row, session=new.session))
        assert len(await ledger.queued(ANN, new.session)) == 1

    async def test_a_job_goes_with_the_session_it_was_asked_for_in(self, ledger: Ledger) -> None:
        """It is not listed, not due, not moved, and none is kept for what is gone."""
        handle, other = await begin(ledger), await begin(ledger, 2)
        chat = await place(ledger, handle)
        row = await ledger.add_job(job(handle, chat, "a"), most=9)
        kept = await ledger.add_job(job(other, chat, "kept"), most=9)
        await ledger.forget(ANN, handle.session, START_MS)
        assert await ledger.jobs(ANN, "test") == (kept,)
        assert await ledger.due_jobs("test", "telegram", DUE) == (kept,)
        assert not await ledger.move_job(done(row))
        with pytest.raises(NotFound):
            await ledger.add_job(job(handle, chat, "b"), most=9)
