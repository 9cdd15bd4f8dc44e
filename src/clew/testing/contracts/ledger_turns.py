"""Turns, tool calls, approvals, inbox, replies and usage: a side effect happens at most once, a message is taken once."""

from __future__ import annotations

from typing import Any

import pytest

from clew.domain.conversation.ids import ApprovalId, CallId, ConversationId, InboxId, OutboxId
from clew.domain.conversation.messages import ToolCall
from clew.domain.ledger.commits import (
    AddReply,
    AddUsage,
    Append,
    AskApproval,
    ConsumeApproval,
    MoveCall,
    Note,
    OpenTurn,
    SetTurn,
    UsageState,
)
from clew.domain.ledger.errors import NotFound, Refused
from clew.domain.ledger.rows import (
    ApprovalState,
    CallState,
    Handle,
    InboxState,
    OpKind,
    TurnState,
    UsageTotals,
)
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase, Reopen, refused
from clew.testing.invariants import check
from clew.testing.ledgers import (
    ANN,
    BOB,
    START_MS,
    arriving,
    as_holder,
    ask_tool,
    begin,
    do,
    moment,
    move_call,
    open_turn,
    place,
    plan,
    receive,
    run_turn,
    session_id,
    sha256,
    texts,
    tool_call,
    turn_of,
    user,
    work,
)

P, S, F, U, N = CallState.PLANNED, CallState.STARTED, CallState.FINISHED, CallState.UNKNOWN, CallState.NOT_RUN
WAYS: dict[CallState, tuple[CallState, ...]] = {P: (), S: (S,), F: (S, F), U: (S, U), N: (N,)}
"""How a call gets into each state."""
LEGAL = {(P, S), (P, N), (P, F), (S, F), (S, U), (U, S), (U, F)}
LATER = 10**9


class TurnContract(LedgerCase):
    """The rows of a turn."""

    async def test_a_whole_turn_is_recorded_step_by_step(self, ledger: Ledger) -> None:
        """Message, call planned, started, finished with its result, answer, done: each a commit of its own."""
        handle = await run_turn(ledger, await begin(ledger, 1), "read it", "Here.", tool_text="content")
        assert await texts(ledger, handle.session) == ["read it", "Let me look.", "content", "Here."]
        turn = await turn_of(ledger, handle)
        assert (turn.state, turn.end_reason, turn.principal, turn.model) == (
            TurnState.DONE,
            "answered",
            ANN,
            "model",
        )
        assert (turn.started_at, turn.finished_at) == (START_MS + 1000, moment(handle) - 1000)
        (call,) = await ledger.calls(ANN, handle.session)
        assert (call.state, call.name, call.provider_id) == (F, "read_file", "call_0")
        assert call.planned_at <= (call.started_at or 0) <= (call.finished_at or 0)
        await check(ledger, ANN, handle.session)

    async def test_turns_are_read_by_number_or_the_newest(self, ledger: Ledger) -> None:
        """None where there is none."""
        handle = await begin(ledger, 1)
        assert await ledger.turn(ANN, handle.session) is None
        handle = await run_turn(ledger, await run_turn(ledger, handle, "a"), "b")
        newest = await turn_of(ledger, handle)
        assert await ledger.turn(ANN, handle.session, newest.turn) == newest
        first = await turn_of(ledger, handle, 1)
        assert first.turn < newest.turn
        assert await ledger.turn(ANN, handle.session, 99) is None

    async def test_a_turn_is_opened_once(self, ledger: Ledger) -> None:
        """Its number is taken, whatever became of it."""
        handle = await run_turn(ledger, await begin(ledger, 1), "a")
        again = OpenTurn(turn=1, principal=ANN, model=None)
        await refused(ledger, work(handle, open_turn=again), Refused)

    async def test_one_turn_at_a_time_is_open(self, ledger: Ledger) -> None:
        """A second one waits for the end of the first, also where that waits for an approval."""
        handle = await open_turn(ledger, await begin(ledger, 1), "a")
        second = OpenTurn(turn=2, principal=ANN, model=None)
        await refused(ledger, work(handle, open_turn=second), Refused)
        parked = SetTurn(turn=1, state=TurnState.WAITING)
        handle = await do(ledger, handle, fence=as_holder(handle), set_turn=parked, release=True)
        await refused(ledger, work(handle, open_turn=second), Refused)

    async def test_a_turn_that_ended_stays_ended(self, ledger: Ledger) -> None:
        """Neither running again nor ending otherwise; an unknown turn is refused too."""
        handle = await run_turn(ledger, await begin(ledger, 1), "a")
        for state in (TurnState.RUNNING, TurnState.WAITING, TurnState.FAILED):
            await refused(ledger, work(handle, set_turn=SetTurn(turn=1, state=state)), Refused)
        await refused(ledger, work(handle, set_turn=SetTurn(turn=7, state=TurnState.DONE)), Refused)

    async def test_a_failed_turn_says_why(self, ledger: Ledger) -> None:
        """Its reason and error are kept in words."""
        handle = await open_turn(ledger, await begin(ledger, 1), "a")
        failed = SetTurn(turn=1, state=TurnState.FAILED, end_reason="model", error="429: too many")
        await do(ledger, handle, fence=as_holder(handle), set_turn=failed, release=True)
        turn = await turn_of(ledger, handle)
        assert (turn.state, turn.end_reason, turn.error) == (TurnState.FAILED, "model", "429: too many")


class CallContract(LedgerCase):
    """The states of tool calls."""

    @pytest.mark.parametrize("start", WAYS)
    @pytest.mark.parametrize("to", list(CallState))
    async def test_calls_move_only_as_the_table_says(
        self, ledger: Ledger, start: CallState, to: CallState
    ) -> None:
        """A finished call is never started again; an unknown one only when somebody says so."""
        handle, call = await planned(ledger)
        for state in WAYS[start]:
            handle = await move_call(ledger, handle, call.id, state)
        if (start, to) in LEGAL:
            handle = await move_call(ledger, handle, call.id, to)
            (row,) = await ledger.calls(ANN, handle.session)
            assert (row.state, row.epoch) == (to, handle.epoch)
        else:
            move = MoveCall(id=call.id, to=to)
            await refused(ledger, work(handle, fence=as_holder(handle), calls=(move,)), Refused)

    async def test_a_call_is_planned_once(self, ledger: Ledger) -> None:
        """Neither its id nor its place in the turn is taken twice; and its turn must be there."""
        handle, call = await planned(ledger)
        fence = as_holder(handle)
        other = tool_call(handle, 1)
        for bad in (plan(call, 1, 5), plan(other, 1, 0), plan(other, 44)):
            await refused(ledger, work(handle, fence=fence, plan=(bad,)), Refused)

    async def test_calls_come_in_the_order_they_were_asked_for(self, ledger: Ledger) -> None:
        """By turn, step and place, whatever order they were written in."""
        handle, _ = await planned(ledger)
        fence = as_holder(handle)
        rows = [
            plan(tool_call(handle, n, step=step), 1, n, step=step) for step, n in ((3, 0), (2, 1), (2, 0))
        ]
        handle = await do(ledger, handle, fence=fence, plan=tuple(rows))
        places = [(row.step, row.n) for row in await ledger.calls(ANN, handle.session)]
        assert places == [(1, 0), (2, 0), (2, 1), (3, 0)]
        assert await ledger.calls(ANN, handle.session, 1) == await ledger.calls(ANN, handle.session)
        assert await ledger.calls(ANN, handle.session, 2) == ()

    async def test_an_unknown_call_does_not_move(self, ledger: Ledger) -> None:
        """Neither one that was never planned nor another session's."""
        _, foreign = await planned(ledger, number=2)
        handle, _ = await planned(ledger)
        for ident in (CallId("nothing"), foreign.id):
            move = MoveCall(id=ident, to=S)
            await refused(ledger, work(handle, fence=as_holder(handle), calls=(move,)), Refused)


class ApprovalContract(LedgerCase):
    """Approvals: granted for exactly these arguments, in time, and spent once."""

    async def test_an_approval_is_asked_granted_and_spent(self, ledger: Ledger) -> None:
        """Pending, approved by a person, consumed in the commit that starts the call."""
        handle, call = await asked(ledger)
        (row,) = await ledger.approvals(ANN, handle.session)
        assert (row.state, row.call, row.asker, row.decided_by) == (ApprovalState.PENDING, call.id, ANN, None)
        decided = await ledger.decide(ANN, row.id, ApprovalState.APPROVED, START_MS)
        assert (decided.state, decided.decided_by) == (ApprovalState.APPROVED, ANN)
        handle = await do(ledger, handle, fence=as_holder(handle), **spend(call))
        assert [r.state for r in await ledger.approvals(ANN, handle.session, call.id)] == [
            ApprovalState.CONSUMED
        ]
        assert [c.state for c in await ledger.calls(ANN, handle.session)] == [S]

    async def test_an_approval_is_spent_once(self, ledger: Ledger) -> None:
        """The second time is refused, and the call it came with does not move."""
        handle, call = await asked(ledger)
        await ledger.decide(ANN, ApprovalId("apv"), ApprovalState.APPROVED, START_MS)
        handle = await do(ledger, handle, fence=as_holder(handle), **spend(call))
        handle = await move_call(ledger, handle, call.id, U)
        await refused(ledger, work(handle, fence=as_holder(handle), **spend(call)), Refused)

    @pytest.mark.parametrize("case", ["pending", "denied", "other arguments", "too late", "unknown"])
    async def test_nothing_else_starts_a_call(self, ledger: Ledger, case: str) -> None:
        """Not granted, denied, for other arguments, past its time, or never asked for."""
        handle, call = await asked(ledger)
        if case == "denied":
            await ledger.decide(ANN, ApprovalId("apv"), ApprovalState.DENIED, START_MS)
        elif case != "pending":
            await ledger.decide(ANN, ApprovalId("apv"), ApprovalState.APPROVED, START_MS)
        rest = spend(
            call,
            approval="other" if case == "unknown" else "apv",
            arguments="other" if case == "other arguments" else call.arguments,
        )
        at = START_MS + LATER if case == "too late" else START_MS
        await refused(ledger, work(handle, fence=as_holder(handle), at=at, **rest), Refused)

    async def test_an_approval_is_decided_once_and_in_time(self, ledger: Ledger) -> None:
        """Granted or denied, no third thing; a second decision, or a late one, is refused."""
        await asked(ledger)
        with pytest.raises(Refused):
            await ledger.decide(ANN, ApprovalId("apv"), ApprovalState.CONSUMED, START_MS)
        with pytest.raises(Refused):
            await ledger.decide(ANN, ApprovalId("apv"), ApprovalState.APPROVED, START_MS + LATER)
        await ledger.decide(ANN, ApprovalId("apv"), ApprovalState.DENIED, START_MS)
        with pytest.raises(Refused):
            await ledger.decide(ANN, ApprovalId("apv"), ApprovalState.APPROVED, START_MS)
        with pytest.raises(NotFound):
            await ledger.decide(ANN, ApprovalId("other"), ApprovalState.APPROVED, START_MS)

    async def test_approvals_come_oldest_first(self, ledger: Ledger) -> None:
        """In the order they were asked for, not that of their ids."""
        handle, call = await asked(ledger, "b")
        for ident in ("c", "a"):
            handle = await ask(ledger, handle, call, ident)
        rows = await ledger.approvals(ANN, handle.session, call.id)
        assert [row.id for row in rows] == ["b", "c", "a"]
        assert await ledger.approvals(ANN, handle.session, CallId("other")) == ()

    async def test_an_approval_outlives_a_restart(self, ledger: Ledger, reopen: Reopen) -> None:
        """Asked before, granted after, spent after that."""
        handle, call = await asked(ledger)
        await ledger.close()
        again = await reopen()
        await again.decide(ANN, ApprovalId("apv"), ApprovalState.APPROVED, START_MS)
        await do(again, handle, fence=as_holder(handle), **spend(call))

    async def test_an_approval_is_asked_for_a_call_of_the_session(self, ledger: Ledger) -> None:
        """Neither for one that is not there nor twice under one id; both are refused."""
        handle, call = await asked(ledger)
        fence = as_holder(handle)
        for bad in (asking(CallId("nothing"), "new"), asking(call.id, "apv")):
            await refused(ledger, work(handle, fence=fence, ask=(bad,)), Refused)


class InboxContract(LedgerCase):
    """Messages received and not yet taken."""

    async def test_a_message_is_received_once(self, ledger: Ledger, reopen: Reopen) -> None:
        """The same key of the same account is the same message, also after it was taken and after a restart."""
        handle, chat = await at_place(ledger)
        first = await receive(ledger, handle, chat, "k1")
        second = await receive(ledger, handle, chat, "k1", body="other words")
        assert (first.n, first.duplicate) == (1, False)
        assert (second.id, second.n, second.duplicate) == (first.id, 1, True)
        other = await receive(ledger, handle, chat, "k1", account="another bot")
        assert (other.n, other.duplicate) == (2, False)
        await take(ledger, handle, first.id)
        await ledger.close()
        again = await reopen()
        assert (await receive(again, handle, chat, "k1")).duplicate

    async def test_waiting_messages_come_in_order(self, ledger: Ledger) -> None:
        """Numbered per conversation, as they arrived, with what they said."""
        handle, chat = await at_place(ledger)
        other = await place(ledger, handle, "telegram:2")
        for key in ("b", "a", "c"):
            await receive(ledger, handle, chat, key)
        assert (await receive(ledger, handle, other, "d", body="text \0 數")).n == 1
        rows = await ledger.queued(ANN, handle.session)
        assert [(row.external_key, row.n, row.state) for row in rows] == [
            ("b", 1, InboxState.QUEUED),
            ("a", 2, InboxState.QUEUED),
            ("c", 3, InboxState.QUEUED),
            ("d", 1, InboxState.QUEUED),
        ]
        assert rows[3].body == "text \0 數"

    async def test_a_message_is_taken_once(self, ledger: Ledger) -> None:
        """In the commit that opens its turn; a second time is refused, with all that came with it."""
        handle, chat = await at_place(ledger)
        first, second = [await receive(ledger, handle, chat, key) for key in "ab"]
        handle = await take(ledger, handle, first.id)
        assert [row.id for row in await ledger.queued(ANN, handle.session)] == [second.id]
        op = Append(messages=(user("twice"),), turn=9)
        await refused(ledger, work(handle, op=op, take=(second.id, first.id)), Refused)
        await refused(ledger, work(handle, op=op, take=(InboxId(10**6),)), Refused)

    async def test_a_commit_receives_what_it_sets_free(self, ledger: Ledger) -> None:
        """With all else that it does, or not at all; a known key is received once."""
        handle, chat = await at_place(ledger)
        await receive(ledger, handle, chat, "a")
        items = tuple(arriving(handle, chat, key) for key in "ab")
        op = Append(messages=(user("more"),), turn=9)
        await refused(ledger, work(handle, op=op, receives=items, take=(InboxId(10**6),)), Refused)
        await do(ledger, handle, op=op, receives=items)
        rows = await ledger.queued(ANN, handle.session)
        assert [(row.external_key, row.n) for row in rows] == [("a", 1), ("b", 2)]

    async def test_a_message_is_taken_by_the_session_it_was_bound_to(self, ledger: Ledger) -> None:
        """Another session, even of the same owner, is refused it."""
        handle, chat = await at_place(ledger)
        other = await begin(ledger, 2)
        waiting = await receive(ledger, handle, chat, "a")
        await refused(ledger, work(other, take=(waiting.id,)), Refused)
        assert len(await ledger.queued(ANN, handle.session)) == 1

    async def test_cancelling_counts_the_messages_that_waited(self, ledger: Ledger) -> None:
        """Only this session's, only what was still waiting; an event is cancelled too, and is no message."""
        handle, chat = await at_place(ledger)
        other = await begin(ledger, 2)
        kinds = {"a": "message", "b": "message", "c": "event", "d": "message"}
        taken, *waiting = [await receive(ledger, handle, chat, key, kind=kind) for key, kind in kinds.items()]
        await receive(ledger, other, chat, "other's")
        handle = await take(ledger, handle, taken.id)
        leave = work(handle, op=Note(kind=OpKind.LEAVE), cancel_queued=True, cut_reason="new")
        assert (await ledger.commit(leave)).cancelled == 2
        assert await ledger.queued(ANN, handle.session) == ()
        assert len(await ledger.queued(ANN, other.session)) == 1
        settled = [(row.state, row.settled_by) for row in await ledger.received(ANN, handle.session)]
        assert settled == [(InboxState.CONSUMED, None), *[(InboxState.CANCELLED, "new")] * 3]
        after = work(handle, fence=as_holder(handle), take=(waiting[0].id,))
        await refused(ledger, after, Refused)

    async def test_one_message_that_waits_can_be_taken_back(self, ledger: Ledger) -> None:
        """The others go on waiting; it moves no head, and cannot be taken back twice or after it was taken."""
        handle, chat = await at_place(ledger)
        taken, back, stays = [await receive(ledger, handle, chat, key) for key in "abc"]
        handle = await take(ledger, handle, taken.id)
        committed = await ledger.commit(work(handle, cancel=(back.id,), cut_reason="undo"))
        assert (committed.handle.head, committed.handle.version) == (handle.head, handle.version)
        assert [row.id for row in await ledger.queued(ANN, handle.session)] == [stays.id]
        rows = await ledger.received(ANN, handle.session)
        assert [row.settled_by for row in rows] == [None, "undo", None]
        assert [row.settled_at is not None for row in rows] == [True, True, False]
        await refused(ledger, work(handle, cancel=(stays.id, back.id)), Refused)
        await refused(ledger, work(handle, cancel=(taken.id,)), Refused)

    async def test_a_message_needs_its_session(self, ledger: Ledger) -> None:
        """One for a session that is not there is an error, so that nobody acknowledges it."""
        handle, chat = await at_place(ledger)
        with pytest.raises(NotFound):
            await receive(ledger, handle, chat, "k", session=session_id(9))
        assert await ledger.queued(ANN, handle.session) == ()


class OutboxContract(LedgerCase):
    """Replies and usage."""

    async def test_a_reply_is_written_once(self, ledger: Ledger) -> None:
        """A second one under the same key adds nothing: whoever it is for was told."""
        handle, chat = await at_place(ledger)
        op = Append(messages=(user("a"),), turn=1)
        reply = AddReply(conversation=chat, turn=1, part=0, kind="reply", key="r1")
        handle = await do(ledger, handle, op=op, replies=(reply,))
        notice = AddReply(conversation=chat, turn=1, part=0, kind="notice", key="r1", body="again")
        await do(ledger, handle, op=op, replies=(notice,))
        assert [row.kind for row in await ledger.replies(ANN, handle.session)] == ["reply"]

    async def test_an_unknown_reply_cannot_be_settled(self, ledger: Ledger) -> None:
        """A handle that names nothing is an error, never a guess."""
        with pytest.raises(NotFound):
            await ledger.settle_reply(OutboxId(10**6), "sent", None)

    async def test_usage_sums_what_was_settled(self, ledger: Ledger) -> None:
        """Reservations do not count; a failed call does; the price is None until one is known."""
        one, two = await begin(ledger, 1), await begin(ledger, 2)
        nothing = UsageTotals(input=0, output=0, cache_read=0, cache_write=0, cost_usd=None, calls=0)
        assert await ledger.usage(ANN) == nothing
        await do(ledger, one, usage=(used(UsageState.RESERVED, cost_usd=9.0), used(UsageState.FAILED)))
        assert (await ledger.usage(ANN)).cost_usd is None
        await do(ledger, one, usage=(used(UsageState.SETTLED, cost_usd=0.5),))
        await do(ledger, two, usage=(used(UsageState.ESTIMATED, cost_usd=0.25),))
        total = UsageTotals(
            input=20, output=4, cache_read=6, cache_write=8, cost_usd=0.5, calls=2, unpriced=1
        )
        assert await ledger.usage(ANN, one.session) == total
        everything = UsageTotals(
            input=30, output=6, cache_read=9, cache_write=12, cost_usd=0.75, calls=3, unpriced=1
        )
        assert await ledger.usage(ANN) == everything
        assert await ledger.usage(BOB) == nothing


async def planned(ledger: Ledger, *, number: int = 1) -> tuple[Handle, ToolCall]:
    """A running turn with one planned call."""
    start = await begin(ledger, number)
    call = tool_call(start)
    handle = await open_turn(ledger, start, "go")
    return await ask_tool(ledger, handle, start.version, call), call


def asking(call: CallId, ident: str) -> AskApproval:
    return AskApproval(
        id=ApprovalId(ident),
        call=call,
        args_sha256=sha256('{"n": 0}'),
        asker=ANN,
        expires_at=START_MS + LATER,
    )


async def ask(ledger: Ledger, handle: Handle, call: ToolCall, ident: str) -> Handle:
    return await do(ledger, handle, fence=as_holder(handle), ask=(asking(call.id, ident),))


async def asked(ledger: Ledger, ident: str = "apv") -> tuple[Handle, ToolCall]:
    """A planned call that waits for an approval."""
    handle, call = await planned(ledger)
    return await ask(ledger, handle, call, ident), call


def spend(call: ToolCall, approval: str = "apv", arguments: str | None = None) -> dict[str, Any]:
    """Starts a call with its approval, as one commit must."""
    args = sha256(call.arguments if arguments is None else arguments)
    consume = ConsumeApproval(id=ApprovalId(approval), args_sha256=args)
    return {"consume": consume, "calls": (MoveCall(id=call.id, to=S),)}


async def at_place(ledger: Ledger) -> tuple[Handle, ConversationId]:
    """A session, and the place that points at it."""
    handle = await begin(ledger, 1)
    return handle, await place(ledger, handle)


async def take(ledger: Ledger, handle: Handle, ident: InboxId) -> Handle:
    return await open_turn(ledger, handle, "taken", take=(ident,))


def used(state: UsageState, cost_usd: float | None = None) -> AddUsage:
    return AddUsage(
        turn=1,
        step=1,
        attempt=1,
        task="turn",
        model="m",
        state=state,
        input=10,
        output=2,
        cache_read=3,
        cache_write=4,
        cost_usd=cost_usd,
    )
