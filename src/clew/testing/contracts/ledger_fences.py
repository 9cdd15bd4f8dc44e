"""Who may write: fences, keys, claims and cuts. The loser is always told, and has written nothing."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from clew.domain.conversation.ids import ApprovalId, OwnerId
from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import (
    Append,
    AsHolder,
    AskApproval,
    AsObserver,
    Commit,
    MoveHead,
    Note,
    OpenTurn,
    SessionPatch,
    SetTurn,
)
from clew.domain.ledger.errors import Busy, Fenced, HeadMoved, KeyReused, LedgerError
from clew.domain.ledger.rows import ApprovalState, CallState, Handle, OpKind, TurnState
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase, Reopen, everything, refused
from clew.testing.invariants import check
from clew.testing.ledgers import (
    ANN,
    OTHER_PROCESS,
    START_MS,
    THIS_PROCESS,
    add,
    as_holder,
    assistant,
    begin,
    compact,
    do,
    exchange,
    handle_of,
    move_call,
    new_session,
    open_turn,
    plan,
    run_turn,
    say,
    session_id,
    texts,
    tool_call,
    turn_after,
    turn_of,
    user,
    work,
)


class FenceContract(LedgerCase):
    """Every write names what it saw."""

    async def test_an_observer_is_stopped_by_any_op(self, ledger: Ledger) -> None:
        """Even by a title: what it decided on is no longer what is there."""
        handle = await say(ledger, await begin(ledger, 1), "a")
        await do(ledger, handle, op=Note(kind=OpKind.TITLE), patch=SessionPatch(title="t"))
        await refused(ledger, work(handle, op=Append(messages=(user("b"),), turn=1)), HeadMoved)
        await refused(ledger, work(handle, patch=SessionPatch(title="u")), HeadMoved)

    async def test_an_observer_names_version_and_head(self, ledger: Ledger) -> None:
        """A true version with a false head, or the reverse, is refused."""
        handle = await say(ledger, await begin(ledger, 1), "a", "b")
        op = Append(messages=(user("c"),), turn=1)
        for fence in (
            AsObserver(version=handle.version, head=Head(handle.head.branch, 1)),
            AsObserver(version=handle.version - 1, head=handle.head),
            AsObserver(version=handle.version + 1, head=handle.head),
        ):
            await refused(ledger, work(handle, op=op, fence=fence), HeadMoved)

    async def test_a_holder_goes_on_past_what_leaves_the_head(self, ledger: Ledger) -> None:
        """Titles and compactions by others stop no turn."""
        holder = await open_turn(ledger, await begin(ledger, 1), "a")
        other = await compact(ledger, holder, 1)
        await do(ledger, other, op=Note(kind=OpKind.TITLE), patch=SessionPatch(title="t"))
        handle = await add(ledger, holder, user("b", step=1), fence=as_holder(holder))
        assert (handle.version, handle.summary) == (holder.version + 3, other.summary)
        assert await texts(ledger, handle.session) == ["a", "b"]

    async def test_a_holder_is_stopped_by_a_moved_head(self, ledger: Ledger) -> None:
        """Somebody wrote without taking the session over: look again."""
        holder = await open_turn(ledger, await begin(ledger, 1), "a")
        await say(ledger, holder, "b")
        op = Append(messages=(user("c"),), turn=1)
        await refused(ledger, work(holder, op=op, fence=as_holder(holder)), HeadMoved)

    async def test_a_holder_whose_epoch_is_over_is_fenced(self, ledger: Ledger) -> None:
        """Whether or not the head moved too, and for every kind of write."""
        holder = await open_turn(ledger, await begin(ledger, 1), "a")
        cut = await do(ledger, holder, op=Note(kind=OpKind.STOP), cut=True, cut_reason="stopped")
        fence = as_holder(holder)
        op = Append(messages=(user("late"),), turn=1)
        done = SetTurn(turn=1, state=TurnState.DONE)
        for late in (
            work(cut, op=op, fence=fence),
            work(cut, set_turn=done, fence=fence),
            work(cut, fence=fence),
        ):
            await refused(ledger, late, Fenced)
        await say(ledger, cut, "b")
        await refused(ledger, work(cut, op=op, fence=fence), Fenced)
        early = AsHolder(epoch=cut.epoch + 1, head=cut.head)
        await refused(ledger, work(cut, op=op, fence=early), Fenced)

    async def test_one_of_many_writers_wins(self, ledger: Ledger, reopen: Reopen) -> None:
        """Twenty writers on four open ledgers with one handle: one commits, nineteen are told HeadMoved."""
        handle = await begin(ledger, 1)
        ledgers = [ledger, *[await reopen() for _ in range(3)]]
        outcomes: list[str] = []

        async def write(number: int) -> None:
            try:
                await say(ledgers[number % 4], handle, f"writer {number}")
            except HeadMoved:
                outcomes.append("moved")
            else:
                outcomes.append("wrote")

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(write, number)
        assert sorted(outcomes) == ["moved"] * 19 + ["wrote"]
        for each in ledgers:
            assert len(await texts(each, handle.session)) == 1
        await check(ledger, ANN, handle.session)

    async def test_writers_who_look_again_all_get_through(self, ledger: Ledger, reopen: Reopen) -> None:
        """Each tries until its handle is new: nothing is lost, nothing is doubled, the chain is whole."""
        start = await begin(ledger, 1)
        ledgers = [ledger, await reopen()]

        async def write(number: int) -> None:
            own = ledgers[number % 2]
            while True:
                handle = await handle_of(own, start.session)
                try:
                    await say(own, handle, f"writer {number}")
                except HeadMoved:
                    continue
                return

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(write, number)
        assert sorted(await texts(ledger, start.session)) == sorted(f"writer {n}" for n in range(10))
        await check(ledger, ANN, start.session)


class KeyContract(LedgerCase):
    """Idempotency keys."""

    async def test_a_known_key_gives_the_first_handle_and_writes_nothing(self, ledger: Ledger) -> None:
        """However much happened since, and whatever the repetition saw: the key is looked at before the fence."""
        handle = await begin(ledger, 1)
        first = await ledger.commit(keyed(handle, "k", "hello"))
        assert first.repeated is False
        later = await exchange(ledger, first.handle, "more")
        before = await everything(ledger)
        for seen in (handle, first.handle, later):
            again = await ledger.commit(keyed(seen, "k", "hello"))
            assert (again.repeated, again.handle) == (True, first.handle)
        holder = keyed(handle, "k", "hello", fence=AsHolder(epoch=99, head=handle.head))
        assert (await ledger.commit(holder)).repeated
        assert await everything(ledger) == before

    async def test_a_key_is_remembered_after_reopening(self, ledger: Ledger, reopen: Reopen) -> None:
        """A crash between the commit and its answer is what keys are for; the repetition comes later."""
        handle = await begin(ledger, 1)
        first = await ledger.commit(keyed(handle, "k", "hello"))
        await ledger.close()
        late = keyed(handle, "k", "hello", at=START_MS + 10**6)
        again = await (await reopen()).commit(late)
        assert (again.repeated, again.handle) == (True, first.handle)

    async def test_a_key_with_another_payload_is_refused(self, ledger: Ledger) -> None:
        """Also when the fence is stale: a key that means two things is the caller's bug, not a race."""
        handle = await begin(ledger, 1)
        after = (await ledger.commit(keyed(handle, "k", "hello"))).handle
        for seen in (handle, after):
            await refused(ledger, keyed(seen, "k", "goodbye"), KeyReused)
        await refused(ledger, work(after, op=Note(kind=OpKind.STOP), idempotency_key="k"), KeyReused)
        await refused(ledger, keyed(after, "k", "hello", opens=new_session(2)), KeyReused)

    async def test_keys_belong_to_their_session(self, ledger: Ledger) -> None:
        """One key in two sessions is two keys."""
        one, two = await begin(ledger, 1), await begin(ledger, 2)
        await ledger.commit(keyed(one, "k", "a"))
        assert not (await ledger.commit(keyed(two, "k", "b"))).repeated
        assert await texts(ledger, two.session) == ["b"]

    async def test_a_failed_commit_does_not_use_its_key_up(self, ledger: Ledger) -> None:
        """What was refused may be tried again under the same key."""
        start = await begin(ledger, 1)
        handle = await say(ledger, start, "a")
        with pytest.raises(HeadMoved):
            await ledger.commit(keyed(start, "k", "b"))
        assert not (await ledger.commit(keyed(handle, "k", "b"))).repeated

    async def test_one_of_many_with_one_key_writes(self, ledger: Ledger, reopen: Reopen) -> None:
        """An update delivered twenty times at once is one message."""
        handle = await begin(ledger, 1)
        ledgers = [ledger, await reopen()]
        repeated: list[bool] = []

        async def deliver(number: int) -> None:
            committed = await ledgers[number % 2].commit(keyed(handle, "update 7", "hello"))
            repeated.append(committed.repeated)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(deliver, number)
        assert sorted(repeated) == [False] + [True] * 19
        assert await texts(ledger, handle.session) == ["hello"]


class LeaseContract(LedgerCase):
    """Claims, cuts and beats: one turn at a time, across processes."""

    async def test_a_claim_raises_the_epoch_and_takes_the_lease(self, ledger: Ledger) -> None:
        """The rows of the claiming commit carry the new epoch; its fence named the old one."""
        handle = await open_turn(ledger, await begin(ledger, 1), "a")
        row = await ledger.session(ANN, handle.session)
        turn = await ledger.turn(ANN, handle.session)
        assert (row.lease_owner, handle.epoch) == (THIS_PROCESS, 2)
        assert turn is not None
        assert (turn.state, turn.epoch, turn.turn) == (TurnState.RUNNING, 2, 1)
        assert (await ledger.ops(ANN, handle.session))[0].epoch == 2

    async def test_a_claim_by_another_process_is_busy(self, ledger: Ledger) -> None:
        """Unless it names the owner it knows to be dead; a wrong name is not enough."""
        handle = await open_turn(ledger, await begin(ledger, 1), "a")
        with pytest.raises(Busy) as caught:
            await ledger.commit(work(handle, claim=OTHER_PROCESS))
        assert caught.value.owner == THIS_PROCESS
        await refused(ledger, work(handle, claim=OTHER_PROCESS, evicts=OTHER_PROCESS), Busy)
        taken = await do(ledger, handle, claim=OTHER_PROCESS, evicts=THIS_PROCESS)
        assert taken.epoch == handle.epoch + 1
        assert (await ledger.session(ANN, handle.session)).lease_owner == OTHER_PROCESS

    async def test_a_stale_claim_is_not_busy_but_moved(self, ledger: Ledger) -> None:
        """The fence is looked at first: whoever is stale must look again anyway."""
        handle = await begin(ledger, 1)
        await open_turn(ledger, handle, "a")
        await refused(ledger, work(handle, claim=OTHER_PROCESS), HeadMoved)

    async def test_one_of_two_claims_wins(self, ledger: Ledger, reopen: Reopen) -> None:
        """Two processes that open a turn on one handle: the other is told, and its message is not there."""
        handle = await begin(ledger, 1)
        other = await reopen()
        outcomes: list[str] = []

        async def claim(own: Ledger, text: str) -> None:
            try:
                await open_turn(own, handle, text, owner=OwnerId(text))
            except (HeadMoved, Busy):
                outcomes.append("lost")
            else:
                outcomes.append(text)

        async with anyio.create_task_group() as group:
            group.start_soon(claim, ledger, "one")
            group.start_soon(claim, other, "two")
        (winner,) = set(outcomes) - {"lost"}
        assert await texts(ledger, handle.session) == [winner]
        assert (await ledger.session(ANN, handle.session)).lease_owner == winner

    async def test_a_claim_ends_a_turn_that_was_left_open(self, ledger: Ledger) -> None:
        """Its planned calls were not run, its started ones are unknown, and it is abandoned."""
        handle = await turn_with_calls(ledger)
        taken = await do(ledger, handle, claim=OTHER_PROCESS, evicts=THIS_PROCESS)
        turn = await turn_of(ledger, handle)
        assert (turn.state, turn.epoch, turn.finished_at is None) == (TurnState.ABANDONED, taken.epoch, False)
        assert await call_states(ledger, taken) == [CallState.UNKNOWN, CallState.NOT_RUN]
        await refused(ledger, work(taken, fence=as_holder(handle)), Fenced)
        await check(ledger, ANN, handle.session)

    async def test_a_claim_may_go_on_with_the_open_turn(self, ledger: Ledger) -> None:
        """If it sets that turn running again: its calls and its approval are as they were."""
        handle = await turn_with_calls(ledger, ask=True)
        number = await open_number(ledger, handle)
        parked = SetTurn(turn=number, state=TurnState.WAITING)
        handle = await do(ledger, handle, fence=as_holder(handle), set_turn=parked, release=True)
        assert (await ledger.session(ANN, handle.session)).lease_owner is None
        running = SetTurn(turn=number, state=TurnState.RUNNING)
        handle = await do(ledger, handle, claim=OTHER_PROCESS, set_turn=running)
        turn = await turn_of(ledger, handle)
        assert (turn.state, turn.epoch, turn.finished_at) == (TurnState.RUNNING, handle.epoch, None)
        assert await call_states(ledger, handle) == [CallState.STARTED, CallState.PLANNED]
        (approval,) = await ledger.approvals(ANN, handle.session)
        assert approval.state == ApprovalState.PENDING

    @pytest.mark.parametrize("state", [TurnState.RUNNING, TurnState.WAITING])
    async def test_a_cut_settles_the_turn(self, ledger: Ledger, state: TurnState) -> None:
        """Running or waiting: interrupted for the reason given, calls settled, approvals expired, lease gone."""
        handle = await turn_with_calls(ledger, ask=True)
        number = await open_number(ledger, handle)
        held = SetTurn(turn=number, state=state)
        handle = await do(ledger, handle, fence=as_holder(handle), set_turn=held)
        cut = await do(ledger, handle, op=Note(kind=OpKind.STOP), cut=True, cut_reason="stopped")
        turn = await turn_of(ledger, handle)
        assert (turn.state, turn.end_reason, turn.epoch) == (TurnState.INTERRUPTED, "stopped", cut.epoch)
        assert turn.finished_at is not None
        assert cut.epoch == handle.epoch + 1
        assert await call_states(ledger, cut) == [CallState.UNKNOWN, CallState.NOT_RUN]
        (approval,) = await ledger.approvals(ANN, handle.session)
        assert approval.state == ApprovalState.EXPIRED
        assert (await ledger.session(ANN, handle.session)).lease_owner is None
        await check(ledger, ANN, handle.session)

    async def test_a_cut_for_a_dead_owner_abandons(self, ledger: Ledger) -> None:
        """Nobody interrupted that turn; its process ended."""
        handle = await turn_with_calls(ledger)
        await do(ledger, handle, cut=True, evicts=THIS_PROCESS, cut_reason="its process ended")
        turn = await turn_of(ledger, handle)
        assert (turn.state, turn.end_reason) == (TurnState.ABANDONED, "its process ended")

    async def test_a_cut_and_a_claim_in_one_commit_are_one_epoch(self, ledger: Ledger) -> None:
        """The turn that was open is interrupted, the new one is the claimer's."""
        handle = await turn_with_calls(ledger)
        first = await open_number(ledger, handle)
        opened = OpenTurn(turn=handle.version, principal=ANN, model="m")
        both = await add(
            ledger,
            handle,
            user("no, this"),
            cut=True,
            cut_reason="interrupt",
            claim=THIS_PROCESS,
            open_turn=opened,
        )
        old, new = await ledger.turn(ANN, both.session, first), await ledger.turn(ANN, both.session)
        assert old is not None
        assert new is not None
        assert (both.epoch, old.state, new.state) == (
            handle.epoch + 1,
            TurnState.INTERRUPTED,
            TurnState.RUNNING,
        )
        assert (await ledger.session(ANN, both.session)).lease_owner == THIS_PROCESS

    async def test_a_cut_moves_the_head_in_the_same_commit(self, ledger: Ledger) -> None:
        """Undo while a turn runs: calls settled on the old tip, head moved, late writer fenced."""
        start = await exchange(ledger, await begin(ledger, 1), "a")
        holder = await open_turn(ledger, start, "b")
        op = MoveHead(kind=OpKind.UNDO, to=start.head)
        handle = await do(ledger, holder, op=op, cut=True, cut_reason="undo")
        assert handle.head == start.head
        late = Append(messages=(user("late"),), turn=2)
        await refused(ledger, work(handle, op=late, fence=as_holder(holder)), Fenced)
        assert await texts(ledger, handle.session) == ["a", "re a"]

    async def test_a_cut_leaves_ended_turns_alone(self, ledger: Ledger) -> None:
        """Where nothing runs, a cut only raises the epoch."""
        handle = await run_turn(ledger, await begin(ledger, 1), "a", tool_text="x")
        before = await ledger.turn(ANN, handle.session), await ledger.calls(ANN, handle.session)
        cut = await do(ledger, handle, op=Note(kind=OpKind.LEAVE), cut=True, cut_reason="new")
        assert (await ledger.turn(ANN, handle.session), await ledger.calls(ANN, handle.session)) == before
        assert cut.epoch == handle.epoch + 1

    async def test_release_gives_the_lease_back(self, ledger: Ledger) -> None:
        """Without a new epoch; then anybody may claim."""
        handle = await run_turn(ledger, await begin(ledger, 1), "a")
        assert (await ledger.session(ANN, handle.session)).lease_owner is None
        assert handle.epoch == 2
        assert (await open_turn(ledger, handle, "b", owner=OTHER_PROCESS)).epoch == 3

    async def test_beats_are_for_the_holder_alone(self, ledger: Ledger) -> None:
        """True while owner and epoch are its own; a beat changes no version."""
        start = await begin(ledger, 1)
        assert not await ledger.beat(start.session, THIS_PROCESS, start.epoch)
        handle = await open_turn(ledger, start, "a")
        assert await ledger.beat(handle.session, THIS_PROCESS, handle.epoch)
        assert not await ledger.beat(handle.session, OTHER_PROCESS, handle.epoch)
        assert not await ledger.beat(handle.session, THIS_PROCESS, handle.epoch - 1)
        assert not await ledger.beat(session_id(9), THIS_PROCESS, 1)
        assert await handle_of(ledger, handle.session) == handle
        await do(ledger, handle, claim=OTHER_PROCESS, evicts=THIS_PROCESS)
        assert not await ledger.beat(handle.session, THIS_PROCESS, handle.epoch)

    async def test_a_closed_ledger_says_so(self, ledger: Ledger) -> None:
        """Closing twice is nothing; reading or writing afterwards is an error, never an empty answer."""
        handle = await begin(ledger, 1)
        await ledger.close()
        await ledger.close()
        with pytest.raises(LedgerError):
            await ledger.sessions(ANN)
        with pytest.raises(LedgerError):
            await say(ledger, handle, "lost")
        with pytest.raises(LedgerError):
            await ledger.search(ANN, "lost")


def keyed(handle: Handle, key: str, text: str, **rest: Any) -> Commit:
    """A commit that says one thing under a key."""
    op = Append(messages=(user(text),), turn=1)
    return work(handle, op=op, idempotency_key=key, **rest)


async def turn_with_calls(ledger: Ledger, *, ask: bool = False) -> Handle:
    """A turn in the middle of two calls: the first started, the second planned (and asked about)."""
    start = await begin(ledger, 1)
    turn, calls = turn_after(start), (tool_call(start, 0), tool_call(start, 1))
    handle = await open_turn(ledger, start, "go")
    asked = AskApproval(
        id=ApprovalId("apv"), call=calls[1].id, args_sha256="x", asker=ANN, expires_at=START_MS * 2
    )
    handle = await do(
        ledger,
        handle,
        fence=as_holder(handle),
        op=Append(messages=(assistant("both", *calls),), turn=turn),
        plan=tuple(plan(call, turn, n) for n, call in enumerate(calls)),
        ask=(asked,) if ask else (),
    )
    return await move_call(ledger, handle, calls[0].id, CallState.STARTED)


async def open_number(ledger: Ledger, handle: Handle) -> int:
    """The number of the newest turn."""
    turn = await turn_of(ledger, handle)
    return turn.turn


async def call_states(ledger: Ledger, handle: Handle) -> list[CallState]:
    return [call.state for call in await ledger.calls(ANN, handle.session)]
