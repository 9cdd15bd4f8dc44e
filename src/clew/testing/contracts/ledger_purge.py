"""Forgetting: unreadable at once, and nothing left that nobody else's path still needs."""

from __future__ import annotations

import anyio
import pytest

from clew.domain.conversation.ids import ApprovalId
from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import AddUsage, Append, MoveHead, UsageState
from clew.domain.ledger.errors import LedgerError, NotFound, Refused
from clew.domain.ledger.rows import ApprovalState, OpKind
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase, Reopen, refused
from clew.testing.contracts.ledger_isolation import asking_session
from clew.testing.contracts.ledger_sessions import in_force
from clew.testing.invariants import check_all, check_hidden
from clew.testing.ledgers import (
    ANN,
    BOB,
    START_MS,
    THIS_PROCESS,
    add,
    as_holder,
    attachment,
    begin,
    compact,
    do,
    exchange,
    fork,
    found,
    handle_of,
    open_turn,
    place,
    place_of,
    receive,
    run_turn,
    say,
    session_id,
    texts,
    undo,
    user,
    work,
)


class PurgeContract(LedgerCase):
    """`forget` and what it leaves."""

    async def test_a_forgotten_session_is_not_there(self, ledger: Ledger, reopen: Reopen) -> None:
        """To its owner as to a stranger: no read, list, name, search or write finds it; after a restart too."""
        handle = await run_turn(ledger, await begin(ledger, 1, title="kiwi"), "kiwi", tool_text="kiwi")
        kept = await exchange(ledger, await begin(ledger, 2), "mango")
        gone = await ledger.forget(ANN, handle.session, START_MS)
        assert (gone.messages, gone.blobs, gone.kept_for) == (4, 0, ())
        for each in (ledger, await reopen()):
            for who in (ANN, BOB):
                await check_hidden(each, who, handle.session)
                assert await found(each, "kiwi", who=who) == []
            with pytest.raises(NotFound):
                await each.resolve(ANN, "kiwi")
            assert [row.id for row in await each.sessions(ANN)] == [kept.session]
        await refused(ledger, work(handle, op=Append(messages=(user("x"),), turn=1)), NotFound)
        assert await texts(ledger, kept.session) == ["mango", "re mango"]
        await check_all(ledger, ANN)

    async def test_a_session_is_forgotten_once(self, ledger: Ledger) -> None:
        """The second time it is not there; its id is never given to another."""
        handle = await say(ledger, await begin(ledger, 1), "a")
        await ledger.forget(ANN, handle.session, START_MS)
        with pytest.raises(NotFound):
            await ledger.forget(ANN, handle.session, START_MS)
        with pytest.raises(NotFound):
            await ledger.share(ANN, handle.session, BOB, "read")
        with pytest.raises(Refused):
            await begin(ledger, 1)

    async def test_only_its_owner_knows_what_was_forgotten(self, ledger: Ledger) -> None:
        """Of what is there, was never there or is somebody else's, nobody is told that it was."""
        handle, kept = await begin(ledger, 1), await begin(ledger, 2)
        await ledger.forget(ANN, handle.session, START_MS)
        told = [
            await ledger.was_forgotten(who, session)
            for who in (ANN, BOB)
            for session in (handle.session, kept.session, session_id(3))
        ]
        assert told == [True, *[False] * 5]

    async def test_only_the_owner_forgets(self, ledger: Ledger) -> None:
        """Whoever may only read or write does not."""
        handle = await say(ledger, await begin(ledger, 1), "a")
        for may in ("none", "read", "write"):
            await ledger.share(ANN, handle.session, BOB, may)
            with pytest.raises(NotFound):
                await ledger.forget(BOB, handle.session, START_MS)
        assert await texts(ledger, handle.session) == ["a"]

    async def test_undone_messages_are_forgotten_too(self, ledger: Ledger) -> None:
        """All branches go, not only the path."""
        handle = await exchange(ledger, await begin(ledger, 1), "a", "b")
        handle = await exchange(ledger, await undo(ledger, handle), "c")
        assert (await ledger.forget(ANN, handle.session, START_MS)).messages == 6

    async def test_what_a_fork_reads_stays(self, ledger: Ledger) -> None:
        """And the fork is named; the parent's other messages go. Forgetting the fork takes the rest."""
        parent = await exchange(ledger, await begin(ledger, 1), "a", "b", "c")
        child = await fork(ledger, parent, 2, at=Head(parent.head.branch, 3))
        child = await exchange(ledger, child, "child's")
        gone = await ledger.forget(ANN, parent.session, START_MS)
        assert (gone.messages, gone.kept_for) == (3, (child.session,))
        assert await texts(ledger, child.session) == ["a", "re a", "b", "child's", "re child's"]
        assert {session for session, _ in await found(ledger, "a")} == {child.session}
        await check_all(ledger, ANN)
        child = await exchange(ledger, await undo(ledger, child, 2), "on")
        assert await texts(ledger, child.session) == ["a", "re a", "on", "re on"]
        assert (await ledger.forget(ANN, child.session, START_MS)).messages == 3 + 4

    async def test_forks_of_forks_keep_what_they_read(self, ledger: Ledger) -> None:
        """Each ancestor keeps just as far as the farthest living path goes."""
        one = await exchange(ledger, await begin(ledger, 1), "a", "b")
        two = await exchange(ledger, await fork(ledger, one, 2, at=Head(one.head.branch, 3)), "c")
        three = await fork(ledger, two, 3, at=Head(two.head.branch, 4))
        early = await fork(ledger, one, 4, at=Head(one.head.branch, 1))
        gone = await ledger.forget(ANN, two.session, START_MS)
        assert (gone.messages, gone.kept_for) == (1, (three.session,))
        gone = await ledger.forget(ANN, one.session, START_MS)
        assert (gone.messages, set(gone.kept_for)) == (1, {three.session, early.session})
        assert await texts(ledger, three.session) == ["a", "re a", "b", "c"]
        assert (await ledger.forget(ANN, three.session, START_MS)).messages == 3
        assert await texts(ledger, early.session) == ["a"]
        await check_all(ledger, ANN)
        assert (await ledger.forget(ANN, early.session, START_MS)).messages == 1

    async def test_a_fork_on_an_undone_tip_keeps_it(self, ledger: Ledger) -> None:
        """What the parent had undone is still the fork's path."""
        old = await exchange(ledger, await begin(ledger, 1), "a", "b")
        child = await fork(ledger, old, 2)
        parent = await exchange(ledger, await undo(ledger, old), "c")
        assert (await ledger.forget(ANN, parent.session, START_MS)).messages == 2
        assert await texts(ledger, child.session) == ["a", "re a", "b", "re b"]

    async def test_forks_go_along_when_asked(self, ledger: Ledger) -> None:
        """All generations, and nothing else: side sessions and forks that share nothing stay."""
        parent = await exchange(ledger, await begin(ledger, 1), "a", "b")
        child = await exchange(ledger, await fork(ledger, parent, 2), "c")
        grandchild = await fork(ledger, child, 3)
        empty = await fork(ledger, parent, 4, at=Head(parent.head.branch, 0))
        side = await say(ledger, await begin(ledger, 5, parent=parent.session), "side")
        gone = await ledger.forget(ANN, parent.session, START_MS, with_forks=True)
        assert (gone.messages, gone.kept_for) == (6, ())
        for each in (parent, child, grandchild):
            await check_hidden(ledger, ANN, each.session)
        left = {row.id for row in await ledger.sessions(ANN)}
        assert left == {empty.session, side.session}
        assert await texts(ledger, side.session) == ["side"]

    async def test_another_persons_fork_waits_for_nobody(self, ledger: Ledger) -> None:
        """It was copied when it was made: nothing of it goes, and it is not named to the parent's owner."""
        image, blob = attachment(b"pixels")
        parent = await add(ledger, await begin(ledger, 1), user("a", image), blobs=(blob,))
        parent = await compact(ledger, parent, 1, "s")
        await ledger.share(ANN, parent.session, BOB, "read")
        child = await fork(ledger, parent, 2, owner=BOB)
        gone = await ledger.forget(ANN, parent.session, START_MS, with_forks=True)
        assert (gone.messages, gone.blobs, gone.kept_for) == (1, 0, ())
        assert await texts(ledger, child.session, who=BOB) == ["a"]
        assert (await ledger.blob(BOB, child.session, blob.sha256)).bytes == b"pixels"
        assert (await ledger.forget(BOB, child.session, START_MS)).blobs == 1

    async def test_a_blob_goes_with_the_last_message_that_names_it(self, ledger: Ledger) -> None:
        """One that another session names stays; one only this session named is gone, and must come again."""
        shared, first = attachment(b"shared")
        own, second = attachment(b"own")
        one = await add(ledger, await begin(ledger, 1), user("a", shared, own), blobs=(first, second))
        two = await add(ledger, await begin(ledger, 2), user("b", shared))
        assert (await ledger.forget(ANN, one.session, START_MS)).blobs == 1
        assert (await ledger.blob(ANN, two.session, first.sha256)).bytes == b"shared"
        op = Append(messages=(user("c", own),), turn=5)
        await refused(ledger, work(two, op=op), Refused)

    async def test_a_forks_summary_outlives_its_parent(self, ledger: Ledger) -> None:
        """It is the fork's own row."""
        parent = await compact(ledger, await exchange(ledger, await begin(ledger, 1), "a", "b"), 2, "sum")
        child = await fork(ledger, parent, 2, summary=parent.summary)
        await ledger.forget(ANN, parent.session, START_MS)
        assert await in_force(ledger, child.session) == "sum"
        await check_all(ledger, ANN)

    async def test_a_running_turn_ends_with_its_session(self, ledger: Ledger) -> None:
        """Its holder's next write is not found, and its lease is no longer its own."""
        handle = await open_turn(ledger, await begin(ledger, 1), "a")
        await ledger.forget(ANN, handle.session, START_MS)
        op = Append(messages=(user("late"),), turn=1)
        await refused(ledger, work(handle, op=op, fence=as_holder(handle)), NotFound)
        await refused(ledger, work(handle, fence=as_holder(handle), idempotency_key="k", op=op), NotFound)
        assert not await ledger.beat(handle.session, THIS_PROCESS, handle.epoch)

    async def test_approvals_go_with_their_session(self, ledger: Ledger) -> None:
        """Nobody decides on a call that nobody can see."""
        handle = await asking_session(ledger)
        await ledger.forget(ANN, handle.session, START_MS)
        with pytest.raises(NotFound):
            await ledger.decide(ANN, ApprovalId("apv"), ApprovalState.APPROVED, START_MS)

    async def test_a_place_of_a_forgotten_session_points_nowhere(self, ledger: Ledger) -> None:
        """Its version moved on; a message for the forgotten session is an error, not swallowed."""
        handle = await begin(ledger, 1)
        chat = await place(ledger, handle)
        await receive(ledger, handle, chat, "before")
        await ledger.forget(ANN, handle.session, START_MS)
        row = await place_of(ledger, "telegram:1")
        assert (row.session, row.version, row.id) == (None, 2, chat)
        with pytest.raises(NotFound):
            await receive(ledger, handle, chat, "after")
        assert (await receive(ledger, handle, chat, "before")).duplicate
        with pytest.raises(NotFound):
            await place(ledger, handle, version=2)
        fresh = await begin(ledger, 2)
        assert await place(ledger, fresh, version=2) == chat
        assert (await receive(ledger, fresh, chat, "new")).n == 2
        assert [row.external_key for row in await ledger.queued(ANN, fresh.session)] == ["new"]

    async def test_what_it_cost_is_not_forgotten(self, ledger: Ledger) -> None:
        """Usage has no words; limits and bills count it still."""
        spent = AddUsage(
            turn=1, step=1, attempt=1, task="turn", model="m", state=UsageState.SETTLED, input=7, cost_usd=0.5
        )
        handle = await do(ledger, await begin(ledger, 1), usage=(spent,))
        before = await ledger.usage(ANN)
        await ledger.forget(ANN, handle.session, START_MS)
        assert await ledger.usage(ANN) == before
        assert (before.input, before.cost_usd) == (7, 0.5)

    async def test_a_writer_races_the_deletion(self, ledger: Ledger, reopen: Reopen) -> None:
        """Whoever is first: afterwards nothing is readable, and the writer was told or had written before."""
        handle = await begin(ledger, 1)
        other = await reopen()
        errors: list[LedgerError] = []

        async def write() -> None:
            at = handle
            try:
                while True:
                    at = await say(other, at, "kiwi")
            except LedgerError as error:
                errors.append(error)

        async def forget() -> None:
            while (await handle_of(ledger, handle.session)).version < 5:
                await anyio.lowlevel.checkpoint()
            await ledger.forget(ANN, handle.session, START_MS)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(write)
                group.start_soon(forget)
        assert [type(error) for error in errors] == [NotFound]
        for each in (ledger, other):
            await check_hidden(each, ANN, handle.session)
            assert await found(each, "kiwi") == []

    async def test_ids_are_never_given_twice(self, ledger: Ledger, reopen: Reopen) -> None:
        """What named a forgotten message, branch or summary names nothing new, after a restart either."""
        gone = await compact(ledger, await say(ledger, await begin(ledger, 1), *"abcdef"), 6)
        *_, old = await ledger.path(ANN, gone.session)
        await ledger.forget(ANN, gone.session, START_MS)
        await ledger.close()
        again = await reopen()
        new = await compact(again, await say(again, await begin(again, 2), "b"), 1)
        (message,) = await again.path(ANN, new.session)
        assert message.id > old.id
        assert message.branch > old.branch
        assert (new.summary or 0) > (gone.summary or 0)

    async def test_a_fork_goes_nowhere_it_did_not_read(self, ledger: Ledger) -> None:
        """After its parent was forgotten, what the fork never held is not in its tree either."""
        parent = await exchange(ledger, await begin(ledger, 1), "a", "b")
        child = await fork(ledger, parent, 2, at=Head(parent.head.branch, 1))
        await ledger.forget(ANN, parent.session, START_MS)
        await refused(ledger, work(child, op=MoveHead(kind=OpKind.RESUME, to=parent.head)), Refused)
        assert (await ledger.session(ANN, child.session)).parent == session_id(1)
