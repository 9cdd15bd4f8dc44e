"""The rows that go with a turn: its state, its calls, approvals, inbox, usage and replies."""

from __future__ import annotations

from typing import Final

from msgspec.structs import asdict, replace

from clew.adapters.stores.memory.spending import estimate_reserved, write_usage
from clew.adapters.stores.memory.state import State, StoredReply
from clew.domain.conversation.ids import CallId, ConversationId, InboxId, OutboxId, SessionId
from clew.domain.ledger.commits import (
    AddReply,
    Append,
    AskApproval,
    Commit,
    ConsumeApproval,
    MoveCall,
    OpenTurn,
    PlanCall,
    SetTurn,
)
from clew.domain.ledger.errors import Refused
from clew.domain.ledger.fences import TURN_IS_OVER
from clew.domain.ledger.rows import (
    DELEGATE,
    ApprovalRow,
    ApprovalState,
    Blob,
    CallRow,
    CallState,
    InboxState,
    Origin,
    SessionRow,
    TurnRow,
    TurnState,
)

_UNSPENT: Final = frozenset({ApprovalState.PENDING, ApprovalState.APPROVED})
_CUT: Final = {CallState.PLANNED: CallState.NOT_RUN, CallState.STARTED: CallState.UNKNOWN}
_LEGAL: Final = frozenset(
    {
        (CallState.PLANNED, CallState.STARTED),
        (CallState.PLANNED, CallState.NOT_RUN),
        (CallState.PLANNED, CallState.FINISHED),
        (CallState.STARTED, CallState.FINISHED),
        (CallState.STARTED, CallState.UNKNOWN),
        (CallState.UNKNOWN, CallState.STARTED),
        (CallState.UNKNOWN, CallState.FINISHED),
    }
)


def settle_turns(state: State, work: Commit, ended: TurnState, reason: str) -> None:
    """Ends a turn left open, and settles its calls: planned ones were not run, started ones are unknown.

    A claim that sets the turn running again goes on with it. Whoever works for one that ends ends too.
    """
    for turn in [turn for turn in state.turns.values() if turn.session == work.session]:
        if turn.state.is_open and _goes_on(work, turn):
            estimate_reserved(state, work.session, turn.turn)
        elif turn.state.is_open:
            _end_turns(state, work.session, ended, reason, work.at)
            _end_subagents(state, work.session, ended, reason, work.at)


def _end_turns(state: State, session: SessionId, ended: TurnState, reason: str, at: int) -> None:
    epoch = state.sessions[session].handle.epoch
    for key, turn in state.turns.items():
        if turn.session == session and turn.state.is_open:
            estimate_reserved(state, session, turn.turn)
            state.turns[key] = replace(turn, state=ended, end_reason=reason, finished_at=at, epoch=epoch)
            _settle_calls(state, session, turn.turn, at)


def _end_subagents(state: State, session: SessionId, ended: TurnState, reason: str, at: int) -> None:
    for row in list(state.sessions.values()):
        works = (row.parent, row.origin, row.surface, row.ended_at) == (session, Origin.SIDE, DELEGATE, None)
        if works:
            handle = replace(row.handle, epoch=row.handle.epoch + 1)
            state.sessions[row.id] = replace(
                row, handle=handle, lease_owner=None, ended_at=at, end_reason=ended
            )
            _end_turns(state, row.id, ended, reason, at)
            _end_subagents(state, row.id, ended, reason, at)


def _goes_on(work: Commit, turn: TurnRow) -> bool:
    change = work.set_turn
    resumed = change is not None and (change.turn, change.state) == (turn.turn, TurnState.RUNNING)
    return resumed and not work.cut


def _settle_calls(state: State, session: SessionId, turn: int, at: int) -> None:
    epoch = state.sessions[session].handle.epoch
    for call in [row for row in state.calls.values() if (row.session, row.turn) == (session, turn)]:
        if call.state in _CUT:
            state.calls[call.id] = _moved(call, _CUT[call.state], at, epoch)
        for approval in state.approvals.values():
            if approval.call == call.id and approval.state in _UNSPENT:
                state.approvals[approval.id] = replace(approval, state=ApprovalState.EXPIRED)


def write_turn_rows(state: State, work: Commit) -> None:
    """Writes every row that rides along with the op, under the session's epoch as this commit leaves it."""
    if work.gives_task and _is_late(state, state.sessions[work.session]):
        raise Refused(TURN_IS_OVER)
    if work.open_turn is not None:
        _open_turn(state, work, work.open_turn)
    if work.set_turn is not None:
        _set_turn(state, work, work.set_turn)
    for plan in work.plan:
        _plan(state, work, plan)
    for ask in work.ask:
        _ask(state, work, ask)
    if work.consume is not None:
        _consume(state, work, work.consume)
    for move in work.calls:
        _move_call(state, work, move)
    _take(state, work)
    write_usage(state, work)
    for blob in work.blobs:
        state.blobs.setdefault(blob.sha256, Blob(**asdict(blob)))
    for reply in work.replies:
        _add_reply(state, work, reply)


def cancel_queued(state: State, work: Commit) -> int:
    """Cancels what still waits for this session. Returns how many messages that were."""
    waiting = waiting_in(state, work.session)
    for ident in waiting:
        _cancel(state, work, ident)
    return sum(state.inbox[ident].kind == "message" for ident in waiting)


def _cancel(state: State, work: Commit, ident: InboxId) -> None:
    cancelled = replace(state.inbox[ident], state=InboxState.CANCELLED, settled_at=work.at)
    state.inbox[ident] = replace(cancelled, settled_by=work.cut_reason or None)


def waiting_in(state: State, session: SessionId) -> list[InboxId]:
    """What waits in the inbox for a session, in order."""
    rows = [row for row in state.inbox.values() if row.session == session and row.state == InboxState.QUEUED]
    return [row.id for row in sorted(rows, key=lambda row: (row.conversation, row.n))]


def _epoch(state: State, work: Commit) -> int:
    return state.sessions[work.session].handle.epoch


def _is_late(state: State, row: SessionRow) -> bool:
    """Whether it is a subagent whose turn is over: it was ended with it, or begun after it."""
    if (row.origin, row.surface) != (Origin.SIDE, DELEGATE):
        return False
    works = any(turn.session == row.parent and turn.state.is_open for turn in state.turns.values())
    return row.ended_at is not None or not works


def _open_turn(state: State, work: Commit, opened: OpenTurn) -> None:
    key = work.session, opened.turn
    if key in state.turns:
        raise Refused(f"Turn {opened.turn} exists already.")
    if any(turn.session == work.session and turn.state.is_open for turn in state.turns.values()):
        raise Refused("A turn of this session is open.")
    _known_conversation(state, opened.conversation)
    state.turns[key] = TurnRow(
        **asdict(opened),
        session=work.session,
        state=TurnState.RUNNING,
        crashes=0,
        epoch=_epoch(state, work),
        started_at=work.at,
        finished_at=None,
        end_reason=None,
        error=None,
    )


def _set_turn(state: State, work: Commit, change: SetTurn) -> None:
    key = work.session, change.turn
    row = state.turns.get(key)
    if row is None:
        raise Refused(f"This session has no turn {change.turn}.")
    if not row.state.is_open and change.state != row.state:
        raise Refused(f"Turn {change.turn} has ended.")
    state.turns[key] = now = replace(
        row,
        state=change.state,
        end_reason=change.end_reason,
        error=change.error,
        finished_at=None if change.state.is_open else work.at,
        crashes=row.crashes + change.crashed,
        epoch=_epoch(state, work),
    )
    if not now.state.is_open and (now.crashes or now.state != TurnState.DONE):
        ended = TurnState.ABANDONED if change.state == TurnState.DONE else change.state
        _end_subagents(state, work.session, ended, change.end_reason or "abandoned", work.at)


def _plan(state: State, work: Commit, plan: PlanCall) -> None:
    place = (work.session, plan.turn, plan.step, plan.n)
    taken = {(row.session, row.turn, row.step, row.n) for row in state.calls.values()}
    if plan.id in state.calls or place in taken:
        raise Refused(f"Call {plan.id} exists already.")
    if (work.session, plan.turn) not in state.turns:
        raise Refused(f"This session has no turn {plan.turn}.")
    state.calls[plan.id] = CallRow(
        **asdict(plan),
        session=work.session,
        state=CallState.PLANNED,
        epoch=_epoch(state, work),
        planned_at=work.at,
        started_at=None,
        finished_at=None,
    )


def _move_call(state: State, work: Commit, move: MoveCall) -> None:
    call = _own_call(state, work, move.id)
    if (call.state, move.to) not in _LEGAL:
        raise Refused(f"Call {move.id} is {call.state} and cannot become {move.to}.")
    state.calls[call.id] = _moved(call, move.to, work.at, _epoch(state, work))


def _moved(call: CallRow, to: CallState, at: int, epoch: int) -> CallRow:
    started = at if to == CallState.STARTED else call.started_at
    finished = at if to in (CallState.FINISHED, CallState.NOT_RUN) else call.finished_at
    return replace(call, state=to, started_at=started, finished_at=finished, epoch=epoch)


def _own_call(state: State, work: Commit, ident: CallId) -> CallRow:
    call = state.calls.get(ident)
    if call is None or call.session != work.session:
        raise Refused(f"This session has no call {ident}.")
    return call


def _ask(state: State, work: Commit, ask: AskApproval) -> None:
    _own_call(state, work, ask.call)
    if ask.id in state.approvals:
        raise Refused(f"Approval {ask.id} exists already.")
    state.approvals[ask.id] = ApprovalRow(**asdict(ask), state=ApprovalState.PENDING, decided_by=None)


def _consume(state: State, work: Commit, consume: ConsumeApproval) -> None:
    row = state.approvals.get(consume.id)
    granted = (
        row is not None
        and state.calls[row.call].session == work.session
        and row.state == ApprovalState.APPROVED
        and row.args_sha256 == consume.args_sha256
        and row.expires_at > work.at
    )
    if row is None or not granted:
        raise Refused("This call is not approved, or its approval is spent.")
    state.approvals[row.id] = replace(row, state=ApprovalState.CONSUMED)


def _take(state: State, work: Commit) -> None:
    turn = work.open_turn.turn if work.open_turn else work.op.turn if isinstance(work.op, Append) else None
    for ident in work.take:
        if ident not in waiting_in(state, work.session):
            raise Refused("This message was already taken or cancelled.")
        state.inbox[ident] = replace(
            state.inbox[ident], state=InboxState.CONSUMED, turn=turn, settled_at=work.at
        )
    for ident in work.cancel:
        if ident not in waiting_in(state, work.session):
            raise Refused("This message was already taken or cancelled.")
        _cancel(state, work, ident)


def _add_reply(state: State, work: Commit, reply: AddReply) -> None:
    if any(stored.row.key == reply.key for stored in state.outbox.values()):
        return  # whoever it is for was told
    _known_conversation(state, reply.conversation)
    told = state.sessions[work.session].handle.head if reply.body is None else None
    stored = StoredReply(session=work.session, message=told, row=reply, state="pending", next_at=work.at)
    state.outbox[OutboxId(state.next_id())] = stored


def _known_conversation(state: State, ident: ConversationId | None) -> None:
    if ident is not None and state.conversation_by_id(ident) is None:
        raise Refused("There is no such conversation.")
