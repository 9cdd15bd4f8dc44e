"""Compaction is a view of one session: a summary stands for messages, and the messages stay."""

from __future__ import annotations

import pytest

from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import Compact, Expand, Note
from clew.domain.ledger.errors import HeadMoved, NotFound, Refused
from clew.domain.ledger.rows import OpKind
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase, Reopen, refused
from clew.testing.contracts.ledger_sessions import in_force
from clew.testing.invariants import check
from clew.testing.ledgers import (
    ANN,
    EVE,
    OTHER_PROCESS,
    THIS_PROCESS,
    as_holder,
    begin,
    compact,
    do,
    exchange,
    expand,
    handle_of,
    move,
    open_turn,
    redo,
    say,
    session_id,
    texts,
    undo,
    work,
)


class SummaryContract(LedgerCase):
    """Compact, expand, and what undo and redo do to the summary in force."""

    async def test_a_summary_leaves_the_messages(self, ledger: Ledger, reopen: Reopen) -> None:
        """Path and head are as before; the handle names the summary, and it says what it stands for."""
        before = await exchange(ledger, await begin(ledger, 1), "a", "b")
        path = await ledger.path(ANN, before.session)
        op = Compact(
            upto=path[2].head,
            text="They said a \0 b.",
            focus="b",
            model="m",
            tokens_before=90,
            tokens_after=9,
        )
        handle = await do(ledger, before, op=op, at=5)
        assert (handle.head, handle.epoch, handle.version) == (before.head, before.epoch, before.version + 1)
        assert await ledger.path(ANN, handle.session) == path
        (row,) = await (await reopen()).summaries(ANN, handle.session)
        assert (row.id, row.upto, row.previous) == (handle.summary, path[2].head, None)
        assert (row.text, row.focus, row.model) == (op.text, "b", "m")
        assert (row.tokens_before, row.tokens_after, row.created_at) == (90, 9, 5)
        await check(ledger, ANN, handle.session)

    async def test_summaries_follow_each_other(self, ledger: Ledger) -> None:
        """A new one names the one it replaces; the same range may be summarised again."""
        handle = await exchange(ledger, await begin(ledger, 1), "a", "b")
        one = await compact(ledger, handle, 2, "one")
        two = await compact(ledger, one, 2, "two, with a focus")
        three = await compact(ledger, two, 4, "three")
        rows = await ledger.summaries(ANN, handle.session)
        assert [(row.text, row.previous) for row in rows] == [
            ("one", None),
            ("two, with a focus", one.summary),
            ("three", two.summary),
        ]
        assert three.summary == rows[2].id

    async def test_expand_gives_way_to_the_summary_before(self, ledger: Ledger) -> None:
        """Step by step to none; then there is nothing to take back."""
        handle = await exchange(ledger, await begin(ledger, 1), "a", "b")
        one = await compact(ledger, handle, 2)
        two = await compact(ledger, one, 4)
        handle = await expand(ledger, two)
        assert (handle.summary, handle.head) == (one.summary, two.head)
        handle = await expand(ledger, handle)
        assert handle.summary is None
        await refused(ledger, work(handle, op=Expand()), Refused)
        assert len(await ledger.summaries(ANN, handle.session)) == 2
        await check(ledger, ANN, handle.session)

    async def test_a_summary_stands_for_messages_of_the_path(self, ledger: Ledger) -> None:
        """What was undone, another session's messages and what is not there yet cannot be summarised."""
        other = await exchange(ledger, await begin(ledger, 2), "x")
        old = await exchange(ledger, await begin(ledger, 1), "a", "b")
        handle = await exchange(ledger, await undo(ledger, old), "c")
        for upto in (old.head, other.head, Head(handle.head.branch, 5)):
            await refused(ledger, work(handle, op=Compact(upto=upto, text="no")), HeadMoved)

    async def test_a_summary_does_not_reach_less_far(self, ledger: Ledger) -> None:
        """Of two compactors the one who comes later with less adopts what is in force."""
        handle = await compact(ledger, await exchange(ledger, await begin(ledger, 1), "a", "b"), 3)
        upto = (await ledger.path(ANN, handle.session))[1].head
        await refused(ledger, work(handle, op=Compact(upto=upto, text="less")), HeadMoved)

    async def test_one_of_two_compactors_wins(self, ledger: Ledger) -> None:
        """Both saw the same version; the second is told to look again."""
        handle = await exchange(ledger, await begin(ledger, 1), "a", "b")
        await compact(ledger, handle, 2, "first")
        await refused(ledger, work(handle, op=Compact(upto=handle.head, text="second")), HeadMoved)
        assert await in_force(ledger, handle.session) == "first"

    async def test_a_summary_may_be_named_by_a_lower_branch(self, ledger: Ledger) -> None:
        """`upto` is a position, stored by the branch that owns it."""
        old = await exchange(ledger, await begin(ledger, 1), "a", "b")
        handle = await exchange(ledger, await undo(ledger, old), "c")
        await do(ledger, handle, op=Compact(upto=Head(handle.head.branch, 2), text="s"))
        (row,) = await ledger.summaries(ANN, handle.session)
        assert row.upto == Head(old.head.branch, 2)

    async def test_appends_and_notes_leave_the_summary(self, ledger: Ledger) -> None:
        """Also a turn that runs while somebody compacts."""
        handle = await open_turn(ledger, await exchange(ledger, await begin(ledger, 1), "a"), "b")
        summed = await compact(ledger, handle, 2)
        noted = await do(ledger, handle, fence=as_holder(handle), op=Note(kind=OpKind.SETTINGS))
        assert noted.summary == summed.summary
        assert (await exchange(ledger, noted, "c")).summary == summed.summary

    async def test_undo_past_a_summary_falls_back(self, ledger: Ledger) -> None:
        """To the newest before it that still stands on the path; to none when none does."""
        handle = await exchange(ledger, await begin(ledger, 1), "a", "b", "c", "d")
        one = await compact(ledger, handle, 2, "one")
        two = await compact(ledger, one, 4, "two")
        three = await compact(ledger, two, 6, "three")
        back = await undo(ledger, three)
        assert back.summary == three.summary
        back = await undo(ledger, back, 2)
        assert back.summary == one.summary
        back = await undo(ledger, back)
        assert back.summary is None
        await check(ledger, ANN, handle.session)

    async def test_redo_restores_what_was_in_force(self, ledger: Ledger) -> None:
        """Each redo brings back the summary that the undo it takes back found."""
        handle = await exchange(ledger, await begin(ledger, 1), "a", "b", "c")
        one = await compact(ledger, handle, 2, "one")
        two = await compact(ledger, one, 6, "two")
        back = await undo(ledger, await undo(ledger, two), 2)
        assert back.summary is None
        assert (await redo(ledger, back)).summary == one.summary
        again = await redo(ledger, await handle_of(ledger, handle.session))
        assert (again.summary, again.head) == (two.summary, two.head)
        await check(ledger, ANN, handle.session)

    async def test_redo_restores_what_the_last_undo_found(self, ledger: Ledger) -> None:
        """Of two undos from one place it is the newer: what was compacted between them is in force again."""
        handle = await exchange(ledger, await begin(ledger, 1), "a", "b")
        one = await compact(ledger, handle, 4, "one")
        back = await redo(ledger, await undo(ledger, one))
        two = await compact(ledger, back, 4, "two")
        again = await redo(ledger, await undo(ledger, two))
        assert again.summary == two.summary
        bare = await expand(ledger, await expand(ledger, again))
        assert (await redo(ledger, await undo(ledger, bare))).summary is None

    async def test_other_moves_restore_nothing(self, ledger: Ledger) -> None:
        """Resuming an undone tip shows its messages; a summary that fell away stays away."""
        handle = await exchange(ledger, await begin(ledger, 1), "a", "b")
        two = await compact(ledger, handle, 4)
        back = await undo(ledger, two)
        resumed = await move(ledger, back, OpKind.RESUME, two.head)
        assert (resumed.head, resumed.summary) == (two.head, None)

    async def test_a_new_branch_under_an_old_summary(self, ledger: Ledger) -> None:
        """A summary of what both branches share stays in force on either."""
        handle = await compact(ledger, await exchange(ledger, await begin(ledger, 1), "a", "b"), 2)
        other = await say(ledger, await undo(ledger, handle), "c")
        assert other.summary == handle.summary
        assert await texts(ledger, other.session) == ["a", "re a", "c"]
        resumed = await move(ledger, other, OpKind.RESUME, handle.head)
        assert resumed.summary == handle.summary

    async def test_one_at_a_time_holds_the_compaction_lease(self, ledger: Ledger, reopen: Reopen) -> None:
        """Whoever comes later is told who has it; the holder's beats count; freed, it can be had again."""
        session = (await begin(ledger, 1)).session
        assert await ledger.compaction(ANN, session) is None
        first = await ledger.lease_compaction(session, THIS_PROCESS)
        assert first.holder == THIS_PROCESS
        assert await ledger.lease_compaction(session, OTHER_PROCESS) == first
        beaten = await ledger.lease_compaction(session, THIS_PROCESS)
        assert (beaten.holder, beaten.beat) == (THIS_PROCESS, first.beat + 1)
        await ledger.end_compaction(session, OTHER_PROCESS)
        ledger = await reopen()
        assert await ledger.compaction(ANN, session) == beaten
        await ledger.end_compaction(session, THIS_PROCESS)
        assert await ledger.compaction(ANN, session) is None
        assert (await ledger.lease_compaction(session, OTHER_PROCESS)).holder == OTHER_PROCESS

    async def test_a_compaction_lease_that_beats_is_not_taken_over(self, ledger: Ledger) -> None:
        """Only the very beat that was seen can be; then the old holder finds out by its next one."""
        session = (await begin(ledger, 1)).session
        seen = await ledger.lease_compaction(session, THIS_PROCESS)
        beaten = await ledger.lease_compaction(session, THIS_PROCESS)
        assert await ledger.lease_compaction(session, OTHER_PROCESS, over=seen) == beaten
        taken = await ledger.lease_compaction(session, OTHER_PROCESS, over=beaten)
        assert taken.holder == OTHER_PROCESS
        assert await ledger.lease_compaction(session, THIS_PROCESS) == taken

    async def test_a_compaction_lease_moves_nothing(self, ledger: Ledger) -> None:
        """It stops no turn and no writer; each session has its own; a stranger does not see it."""
        handle = await exchange(ledger, await begin(ledger, 1), "a")
        other = await begin(ledger, 2)
        await ledger.lease_compaction(handle.session, THIS_PROCESS)
        assert (await ledger.lease_compaction(other.session, OTHER_PROCESS)).holder == OTHER_PROCESS
        assert (await ledger.session(ANN, handle.session)).handle == handle
        await exchange(ledger, handle, "b")
        with pytest.raises(NotFound):
            await ledger.compaction(EVE, handle.session)
        with pytest.raises(NotFound):
            await ledger.lease_compaction(session_id(99), THIS_PROCESS)

    @pytest.mark.parametrize("text", ["", "\0", "要約", "x" * 100_000])
    async def test_any_summary_text_survives(self, ledger: Ledger, text: str) -> None:
        """Short, long, or in any script."""
        handle = await compact(ledger, await say(ledger, await begin(ledger, 1), "a"), 1, text)
        assert await in_force(ledger, handle.session) == text
