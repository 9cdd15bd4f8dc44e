"""What recovery and limits stand on: turns that were left open, silent owners, words told once, money set aside."""

from __future__ import annotations

from functools import partial

import pytest

from clew.domain.conversation.messages import Status
from clew.domain.ledger.commits import (
    AddReply,
    AddUsage,
    Append,
    Caps,
    MoveCall,
    Note,
    OpenTurn,
    Reserve,
    SessionPatch,
    SetTurn,
    UsageState,
)
from clew.domain.ledger.errors import Busy, CapReached, Fenced, NotFound, Refused
from clew.domain.ledger.rows import (
    DELEGATE,
    TASK,
    CallState,
    Handle,
    InboxState,
    OpKind,
    Origin,
    TurnState,
    Unfinished,
)
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase, refused
from clew.testing.invariants import check
from clew.testing.ledgers import (
    ANN,
    BOB,
    OTHER_PROCESS,
    START_MS,
    THIS_PROCESS,
    as_holder,
    ask_tool,
    begin,
    do,
    event,
    handle_of,
    move_call,
    open_turn,
    place,
    receive,
    run_turn,
    texts,
    tool_call,
    tool_result,
    turn_of,
    user,
    work,
)

DAY_MS = 86_400_000


class RecoveryContract(LedgerCase):
    """Finding what another process left, and going on with it."""

    async def test_a_turn_that_nobody_ended_is_found(self, ledger: Ledger) -> None:
        """With whoever claims it; one that ended or waits for an approval is not."""
        handle = await open_turn(ledger, await begin(ledger, 1), "a")
        await run_turn(ledger, await begin(ledger, 2), "b")
        waiting = await open_turn(ledger, await begin(ledger, 3), "c")
        parked = SetTurn(turn=1, state=TurnState.WAITING)
        await do(ledger, waiting, fence=as_holder(waiting), set_turn=parked, release=True)
        left = Unfinished(
            session=handle.session, turn=1, principal=ANN, lease_owner=THIS_PROCESS, lease_beat=0
        )
        assert await ledger.unfinished() == (left,)
        await ledger.beat(handle.session, THIS_PROCESS, handle.epoch)
        assert [row.lease_beat for row in await ledger.unfinished()] == [1]

    async def test_a_crashed_turn_is_gone_on_with_in_one_commit(self, ledger: Ledger) -> None:
        """Claimed, its calls settled with their results, one more crash counted; the approval rows are left alone."""
        start = await begin(ledger, 1)
        call = tool_call(start)
        handle = await ask_tool(ledger, await open_turn(ledger, start, "a"), 1, call)
        handle = await move_call(ledger, handle, call.id, CallState.STARTED)
        unknown = tool_result(call, "Not known.")
        op = Append(messages=(unknown,), turn=1, kind=OpKind.RECOVER)
        taken = await do(
            ledger,
            handle,
            op=op,
            claim=OTHER_PROCESS,
            evicts=THIS_PROCESS,
            calls=(MoveCall(id=call.id, to=CallState.UNKNOWN),),
            set_turn=SetTurn(turn=1, state=TurnState.RUNNING, crashed=True),
        )
        assert taken.epoch == handle.epoch + 1
        turn = await turn_of(ledger, handle)
        assert (turn.state, turn.crashes) == (TurnState.RUNNING, 1)
        assert (await ledger.ops(ANN, handle.session))[0].kind == OpKind.RECOVER
        assert (await texts(ledger, handle.session))[-1] == "Not known."
        await check(ledger, ANN, handle.session)

    @pytest.mark.parametrize("ends", ["cut", "evicted", "replaced", "failed", "recovered", "deleted"])
    async def test_whatever_ends_a_turn_ends_its_subagents(self, ledger: Ledger, ends: str) -> None:
        """In the same commit: turns, calls and sessions, theirs too, and whoever is at them has lost them. What works beside
        the session for other reasons goes on, and so does what a person makes of a subagent that had ended."""
        handle = await open_turn(ledger, await begin(ledger, 1), "a")
        child = await self._beside(ledger, handle, 2)
        below = await self._beside(ledger, child, 3)
        resumed, review = (
            await self._beside(ledger, handle, 4),
            await self._beside(ledger, handle, 5, "review"),
        )
        await do(ledger, resumed, fence=as_holder(resumed), patch=SessionPatch(ended_at=START_MS))
        match ends:
            case "cut":
                await do(ledger, handle, op=Note(kind=OpKind.STOP), cut=True, cut_reason="stopped")
            case "evicted":
                note = Note(kind=OpKind.RECOVER)
                await do(ledger, handle, op=note, cut=True, cut_reason="stale", evicts=THIS_PROCESS)
            case "replaced":
                await do(ledger, handle, claim=OTHER_PROCESS, evicts=THIS_PROCESS)
            case "failed":
                failed = SetTurn(turn=1, state=TurnState.FAILED, end_reason="server")
                await do(ledger, handle, fence=as_holder(handle), set_turn=failed, release=True)
            case "recovered":
                goes_on = SetTurn(turn=1, state=TurnState.RUNNING, crashed=True)
                taken = await do(ledger, handle, claim=OTHER_PROCESS, evicts=THIS_PROCESS, set_turn=goes_on)
                assert (await turn_of(ledger, below)).state == TurnState.RUNNING
                done = SetTurn(turn=1, state=TurnState.DONE, end_reason="answered")
                await do(ledger, taken, fence=as_holder(taken), set_turn=done, release=True)
            case _:
                await ledger.forget(ANN, handle.session, START_MS)
        assert {left.session for left in await ledger.unfinished()} & {child.session, below.session} == set()
        if ends == "deleted":
            return
        for each in (child, below):
            row, turn = await ledger.session(ANN, each.session), await turn_of(ledger, each)
            assert (row.handle.epoch, row.lease_owner, row.end_reason) == (each.epoch + 1, None, turn.state)
            assert turn.state in (TurnState.INTERRUPTED, TurnState.ABANDONED, TurnState.FAILED)
            assert [call.state for call in await ledger.calls(ANN, each.session)] == [CallState.UNKNOWN]
            await refused(ledger, work(each, fence=as_holder(each), op=Note(kind=OpKind.SETTINGS)), Fenced)
            await check(ledger, ANN, each.session)
        for each in (resumed, review):
            assert (await turn_of(ledger, each)).state == TurnState.RUNNING

    async def test_a_turn_that_goes_on_keeps_its_subagents(self, ledger: Ledger) -> None:
        """While it waits for an approval too."""
        handle = await open_turn(ledger, await begin(ledger, 1), "a")
        child = await self._beside(ledger, handle, 2)
        parked = SetTurn(turn=1, state=TurnState.WAITING)
        handle = await do(ledger, handle, fence=as_holder(handle), set_turn=parked, release=True)
        goes_on = SetTurn(turn=1, state=TurnState.RUNNING)
        await do(ledger, handle, claim=OTHER_PROCESS, set_turn=goes_on)
        assert (await turn_of(ledger, child)).state == TurnState.RUNNING

    @pytest.mark.parametrize("is_open", [True, False])
    @pytest.mark.parametrize("is_first", [True, False])
    async def test_a_subagent_begins_only_while_its_turn_is_open(
        self, ledger: Ledger, is_first: bool, is_open: bool
    ) -> None:
        """Whether it was made before its turn was ended, or after. What a person says to it begins one all the same."""
        parent = await open_turn(ledger, await begin(ledger, 1), "a")
        beside = partial(begin, ledger, 2, origin=Origin.SIDE, parent=parent.session, surface=DELEGATE)
        side = await beside() if is_first else None
        if not is_open:
            await do(ledger, parent, op=Note(kind=OpKind.STOP), cut=True, cut_reason="stopped")
            if is_first:
                await open_turn(ledger, await handle_of(ledger, parent.session), "b")
        side = side or await beside()
        opened = OpenTurn(turn=1, principal=ANN, model="model")
        task = Append(messages=(event("task", kind=TASK),), turn=1)
        gives = work(side, op=task, claim=THIS_PROCESS, open_turn=opened)
        if is_open:
            await ledger.commit(gives)
        else:
            await refused(ledger, gives, Refused)
            await open_turn(ledger, await handle_of(ledger, side.session), "said by a person")
        await check(ledger, ANN, side.session)

    async def _beside(self, ledger: Ledger, parent: Handle, number: int, surface: str = DELEGATE) -> Handle:
        """A side session in the middle of a turn, with a call under way."""
        side = await begin(ledger, number, origin=Origin.SIDE, parent=parent.session, surface=surface)
        call = tool_call(side)
        handle = await ask_tool(ledger, await open_turn(ledger, side, "task"), 1, call)
        return await move_call(ledger, handle, call.id, CallState.STARTED)

    async def test_an_append_is_an_append_or_a_recovery(self, ledger: Ledger) -> None:
        """No other kind of op brings messages."""
        handle = await begin(ledger, 1)
        for kind in (OpKind.UNDO, OpKind.TITLE, OpKind.COMPACT):
            await refused(ledger, work(handle, op=Append(messages=(user("a"),), turn=1, kind=kind)), Refused)

    async def test_a_recovery_without_messages_leaves_the_head_alone(self, ledger: Ledger) -> None:
        """It is a note."""
        handle = await run_turn(ledger, await begin(ledger, 1), "a")
        noted = await do(ledger, handle, op=Note(kind=OpKind.RECOVER))
        assert (noted.head, noted.version) == (handle.head, handle.version + 1)

    async def test_a_silent_owner_is_evicted_only_at_the_beat_that_was_seen(self, ledger: Ledger) -> None:
        """Whoever has beaten since lives."""
        handle = await open_turn(ledger, await begin(ledger, 1), "a")
        assert await ledger.beat(handle.session, THIS_PROCESS, handle.epoch)
        late = work(handle, claim=OTHER_PROCESS, evicts=THIS_PROCESS, seen_beat=0)
        await refused(ledger, late, Busy)
        await do(ledger, handle, claim=OTHER_PROCESS, evicts=THIS_PROCESS, seen_beat=1)
        row = await ledger.session(ANN, handle.session)
        assert (row.lease_owner, row.lease_beat) == (OTHER_PROCESS, 0)
        assert not await ledger.beat(handle.session, THIS_PROCESS, handle.epoch)

    async def test_a_notice_is_told_once(self, ledger: Ledger) -> None:
        """A key that is known adds nothing, and stops nothing."""
        handle = await run_turn(ledger, await begin(ledger, 1), "a")
        chat = await place(ledger, handle)
        notice = AddReply(conversation=chat, turn=1, part=0, kind="notice", key="n1", body="We are back.")
        handle = await do(ledger, handle, replies=(notice,))
        await do(ledger, handle, replies=(notice,))
        (row,) = await ledger.replies(ANN, handle.session)
        assert (row.kind, row.body, row.state, row.key) == ("notice", "We are back.", "pending", "n1")
        await ledger.settle_reply(row.id, "sent", None)
        assert [row.state for row in await ledger.replies(ANN, handle.session)] == ["sent"]
        with pytest.raises(Refused):  # somebody else was about to tell it
            await ledger.settle_reply(row.id, "sent", None)

    async def test_a_key_is_known_in_its_session(self, ledger: Ledger) -> None:
        """And nowhere else."""
        one, two = await begin(ledger, 1), await begin(ledger, 2)
        await do(ledger, one, op=Note(kind=OpKind.RECOVER), idempotency_key="recover:1")
        assert await ledger.has_key(ANN, one.session, "recover:1")
        assert not await ledger.has_key(ANN, two.session, "recover:1")

    async def test_what_was_received_is_read_with_what_became_of_it(self, ledger: Ledger) -> None:
        """A message that joins a running turn is consumed by the commit that stores it."""
        handle = await begin(ledger, 1)
        chat = await place(ledger, handle)
        one, two = [await receive(ledger, handle, chat, key) for key in ("one", "two")]
        handle = await open_turn(ledger, handle, "a", take=(one.id,))
        joined = Append(messages=(user("two", step=1),), turn=1)
        await do(ledger, handle, fence=as_holder(handle), op=joined, take=(two.id,))
        rows = await ledger.received(ANN, handle.session)
        assert [(row.external_key, row.state, row.turn, row.at) for row in rows] == [
            ("one", InboxState.CONSUMED, 1, START_MS),
            ("two", InboxState.CONSUMED, 1, START_MS),
        ]
        assert [row.external_key for row in await ledger.received(ANN, handle.session, limit=1)] == ["two"]

    async def test_a_result_may_be_unknown(self, ledger: Ledger) -> None:
        """A call whose outcome is unknown may be started again, and finish."""
        start = await begin(ledger, 1)
        call = tool_call(start)
        handle = await ask_tool(ledger, await open_turn(ledger, start, "a"), 1, call)
        for state in (CallState.STARTED, CallState.UNKNOWN, CallState.STARTED):
            handle = await move_call(ledger, handle, call.id, state)
        done = Append(messages=(tool_result(call, "done"),), turn=1)
        await move_call(ledger, handle, call.id, CallState.FINISHED, op=done)
        path = await ledger.path(ANN, handle.session)
        assert path[-1].status == Status.OK


class SpendingContract(LedgerCase):
    """Money is set aside in the transaction that looks at the caps."""

    async def test_a_reservation_that_could_pass_a_cap_is_refused(self, ledger: Ledger) -> None:
        """What is spent and what is set aside both count; the cap itself may be reached."""
        handle = await begin(ledger, 1)
        await do(ledger, handle, usage=(spent(0.25, step=1),), reserve=reserve(0.25, step=2, session=0.75))
        await refused(ledger, work(handle, reserve=reserve(0.26, step=3, session=0.75)), CapReached)
        await do(ledger, handle, reserve=reserve(0.25, step=3, session=0.75))

    async def test_each_cap_has_its_own_sum(self, ledger: Ledger) -> None:
        """A session's, its owner's of a day, and everybody's of a day; the error names the setting."""
        one, two = await begin(ledger, 1), await begin(ledger, 2)
        other = await begin(ledger, 3, owner=BOB)
        await do(ledger, one, usage=(spent(1.0),))
        await do(ledger, two, reserve=reserve(1.0, session=1.0))
        with pytest.raises(CapReached) as caught:
            await ledger.commit(work(two, reserve=reserve(0.5, step=2, user_day=2.0)))
        assert caught.value.cap == "usd_per_user_day"
        await do(ledger, other, actor=BOB, reserve=reserve(0.5, user_day=2.0))
        with pytest.raises(CapReached) as caught:
            await ledger.commit(work(other, actor=BOB, reserve=reserve(0.5, step=2, day=2.5)))
        assert caught.value.cap == "usd_per_day"

    async def test_a_new_day_begins_at_nothing(self, ledger: Ledger) -> None:
        """What was used before it does not count; a session's cap knows no day."""
        handle = await begin(ledger, 1)
        await do(ledger, handle, at=START_MS, usage=(spent(1.0),))
        tomorrow = START_MS + DAY_MS
        reserved = reserve(1.0, step=2, day=1.0, user_day=1.0, began=tomorrow)
        await do(ledger, handle, at=tomorrow, reserve=reserved)
        late = reserve(0.1, step=3, session=1.0, began=tomorrow)
        await refused(ledger, work(handle, at=tomorrow, reserve=late), CapReached)

    async def test_a_reservation_is_settled_by_what_was_used(self, ledger: Ledger) -> None:
        """One row a call: the figures take the reservation's place."""
        handle = await begin(ledger, 1)
        await do(ledger, handle, reserve=reserve(0.9, session=1.0))
        assert (await ledger.usage(ANN, handle.session)).calls == 0
        await do(ledger, handle, usage=(spent(0.1),))
        totals = await ledger.usage(ANN, handle.session)
        assert (totals.calls, totals.cost_usd) == (1, 0.1)
        await do(ledger, handle, reserve=reserve(0.9, step=2, session=1.0))

    async def test_a_turn_that_is_cut_leaves_an_estimate(self, ledger: Ledger) -> None:
        """Nobody will bring the figures: the dearest case stands, and counts."""
        handle = await open_turn(ledger, await begin(ledger, 1), "a")
        handle = await do(ledger, handle, fence=as_holder(handle), reserve=reserve(0.9, session=1.0))
        cut: Handle = await do(ledger, handle, cut=True, op=Note(kind=OpKind.STOP))
        totals = await ledger.usage(ANN, cut.session)
        assert (totals.calls, totals.cost_usd) == (1, 0.9)

    async def test_a_turn_that_is_gone_on_with_keeps_what_the_dead_process_may_have_spent(
        self, ledger: Ledger
    ) -> None:
        """Its call is asked again at the same step: both count."""
        handle = await open_turn(ledger, await begin(ledger, 1), "a")
        handle = await do(ledger, handle, fence=as_holder(handle), reserve=reserve(0.9, session=2.0))
        running = SetTurn(turn=1, state=TurnState.RUNNING, crashed=True)
        handle = await do(ledger, handle, claim=OTHER_PROCESS, evicts=THIS_PROCESS, set_turn=running)
        await do(ledger, handle, reserve=reserve(0.9, session=2.0))
        await do(ledger, handle, usage=(spent(0.1),))
        totals = await ledger.usage(ANN, handle.session)
        assert (totals.calls, totals.cost_usd) == (2, 1.0)

    async def test_what_was_set_aside_twice_under_one_name_counts_twice(self, ledger: Ledger) -> None:
        """Whoever did so first is dead, and may have spent it: it becomes an estimate."""
        handle = await begin(ledger, 1)
        await do(ledger, handle, reserve=reserve(0.5, session=2.0))
        await do(ledger, handle, reserve=reserve(0.5, session=2.0))
        assert (await ledger.spent(ANN, handle.session, 0)).in_session == 1.0
        await do(ledger, handle, usage=(spent(0.25),))
        totals = await ledger.usage(ANN, handle.session)
        assert (totals.calls, totals.cost_usd) == (2, 0.75)

    async def test_what_counts_against_the_caps_can_be_read(self, ledger: Ledger) -> None:
        """With what is set aside, and only by whoever may read the session."""
        one, two = await begin(ledger, 1), await begin(ledger, 2)
        other = await begin(ledger, 3, owner=BOB)
        await do(ledger, one, at=START_MS, usage=(spent(1.0),))
        tomorrow = START_MS + DAY_MS
        await do(ledger, one, at=tomorrow, usage=(spent(0.5, step=2),))
        await do(ledger, two, at=tomorrow, reserve=reserve(0.25))
        await do(ledger, other, actor=BOB, at=tomorrow, usage=(spent(0.125),))
        found = await ledger.spent(ANN, one.session, tomorrow)
        assert (found.in_session, found.by_owner, found.by_all) == (1.5, 0.75, 0.875)
        found = await ledger.spent(ANN, None, tomorrow)
        assert (found.in_session, found.by_owner, found.by_all) == (0.0, 0.75, 0.875)
        with pytest.raises(NotFound):
            await ledger.spent(ANN, other.session, tomorrow)


def spent(usd: float, *, step: int = 1) -> AddUsage:
    return AddUsage(
        turn=1, step=step, attempt=1, task="turn", model="model", state=UsageState.SETTLED, input=10, cost_usd=usd
    )  # fmt: skip


def reserve(
    usd: float,
    *,
    step: int = 1,
    session: float | None = None,
    user_day: float | None = None,
    day: float | None = None,
    began: int = 0,
) -> Reserve:
    usage = AddUsage(
        turn=1, step=step, attempt=1, task="turn", model="model", state=UsageState.RESERVED, cost_usd=usd
    )
    caps = Caps(usd_per_session=session, usd_per_user_day=user_day, usd_per_day=day, day_began=began)
    return Reserve(usage=usage, caps=caps)
