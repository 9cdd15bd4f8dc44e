"""The rows that go with a turn: its state, its calls, approvals, inbox, usage and replies."""

from __future__ import annotations

from typing import Final

import apsw
from msgspec.structs import asdict

from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.spending import estimate_reserved, write_usage
from clew.domain.conversation.ids import SessionId
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
from clew.domain.ledger.rows import DELEGATE, CallState, TurnState

ABANDONED: Final = "abandoned"
_SUBAGENTS: Final = """
-- sessions that still work for the session's turn, and those that work for theirs
WITH RECURSIVE below(id) AS (
  SELECT id FROM session WHERE parent_session = ?1 AND origin = 'side' AND surface = ?2 AND ended_at IS NULL
  UNION SELECT s.id FROM below b JOIN session s ON s.parent_session = b.id
    WHERE s.origin = 'side' AND s.surface = ?2 AND s.ended_at IS NULL
)
SELECT id FROM below
"""
_IS_LATE: Final = """
-- a subagent whose turn is over: it was ended with it, or begun after it
SELECT 1 FROM session s WHERE s.id = ?1 AND s.origin = 'side' AND s.surface = ?2 AND (s.ended_at IS NOT NULL
  OR NOT EXISTS (SELECT 1 FROM turn WHERE session_id = s.parent_session AND state IN ('running','waiting')))
"""


def cut_turn(db: apsw.Connection, work: Commit, epoch: int) -> None:
    """Ends a turn that is still open, and whoever works for it."""
    by_person = work.cut and work.evicts is None
    state = TurnState.INTERRUPTED if by_person else TurnState.ABANDONED
    reason = work.cut_reason or ("its process ended" if work.evicts else ABANDONED)
    if _end_turns(db, work.session, state, reason, work.at, epoch):
        _end_subagents(db, work.session, state, reason, work.at)


def _end_subagents(db: apsw.Connection, session: SessionId, state: TurnState, reason: str, at: int) -> None:
    """A turn that is over has no subagents: none that a process left in the middle, and none that is still at work."""
    for (ident,) in fetch(db, _SUBAGENTS, (session, DELEGATE)):
        query = (
            "UPDATE session SET epoch = epoch + 1, lease_owner = NULL, ended_at = ?2, end_reason = ?3 WHERE id = ?1"
            " RETURNING epoch"
        )
        [(epoch,)] = fetch(db, query, (ident, at, state))
        _end_turns(db, ident, state, reason, at, epoch)


def _end_turns(  # noqa: PLR0917
    db: apsw.Connection, session: SessionId, state: TurnState, reason: str, at: int, epoch: int
) -> bool:
    """Ends turns that are still open and settles their calls: planned ones were not run, started ones are unknown.

    False when none was open.
    """
    open_turns = fetch(
        db, "SELECT turn FROM turn WHERE session_id = ? AND state IN ('running','waiting')", (session,)
    )
    for (turn,) in open_turns:
        db.execute(
            "UPDATE turn SET state = ?, end_reason = ?, finished_at = ?, epoch = ? WHERE session_id = ? AND turn = ?",
            (state, reason, at, epoch, session, turn),
        )
        key = (session, turn)
        db.execute(
            "UPDATE tool_call SET state = 'not_run', epoch = ?3, finished_at = ?4"
            " WHERE session_id = ?1 AND turn = ?2 AND state = 'planned'",
            (*key, epoch, at),
        )
        db.execute(
            "UPDATE tool_call SET state = 'unknown', epoch = ?3"
            " WHERE session_id = ?1 AND turn = ?2 AND state = 'started'",
            (*key, epoch),
        )
        db.execute(
            "UPDATE approval SET state = 'expired', epoch = ?3 WHERE state IN ('pending','approved')"
            " AND call IN (SELECT id FROM tool_call WHERE session_id = ?1 AND turn = ?2)",
            (*key, epoch),
        )
        estimate_reserved(db, *key)
    return bool(open_turns)


def write_turn_rows(db: apsw.Connection, work: Commit, epoch: int) -> None:
    """Writes every row that rides along with the op, under the commit's epoch."""
    if work.gives_task and fetch(db, _IS_LATE, (work.session, DELEGATE)):
        raise Refused(TURN_IS_OVER)
    if work.open_turn is not None:
        _open_turn(db, work.session, work.open_turn, epoch, work.at)
    for plan in work.plan:
        _plan(db, work.session, plan, epoch, work.at)
    for ask in work.ask:
        _ask(db, work.session, ask, epoch)
    if work.consume is not None:
        _consume(db, work.session, work.consume, epoch, work.at)
    for move in work.calls:
        _move_call(db, work.session, move, epoch, work.at)
    if work.set_turn is not None:
        _set_turn(db, work.session, work.set_turn, epoch, work.at)
    _take(db, work, epoch)
    write_usage(db, work)
    for reply in work.replies:
        _add_reply(db, work, reply)


def _open_turn(db: apsw.Connection, session: SessionId, turn: OpenTurn, epoch: int, at: int) -> None:
    db.execute(
        "INSERT INTO turn(session_id, turn, conversation, principal, model, state, epoch, started_at)"
        " VALUES(?,?,?,?,?,'running',?,?)",
        (session, turn.turn, turn.conversation, turn.principal, turn.model, epoch, at),
    )


def _set_turn(db: apsw.Connection, session: SessionId, turn: SetTurn, epoch: int, at: int) -> None:
    finished = None if turn.state.is_open else at
    set_now = fetch(
        db,
        "UPDATE turn SET state = ?, end_reason = ?, error = ?, finished_at = ?, epoch = ?, crashes = crashes + ?"
        " WHERE session_id = ? AND turn = ? RETURNING crashes",
        (turn.state, turn.end_reason, turn.error, finished, epoch, turn.crashed, session, turn.turn),
    )
    if not set_now:
        raise Refused(f"This session has no turn {turn.turn}.")
    [(crashes,)] = set_now
    # One that was answered in the process that began it has heard of all of its subagents: it need not look for them.
    if finished is not None and (crashes or turn.state != TurnState.DONE):
        state = TurnState.ABANDONED if turn.state == TurnState.DONE else turn.state
        _end_subagents(db, session, state, turn.end_reason or ABANDONED, at)


def _plan(db: apsw.Connection, session: SessionId, plan: PlanCall, epoch: int, at: int) -> None:
    db.execute(
        "INSERT INTO tool_call(id, session_id, turn, step, n, provider_id, name, args_sha256, state, safe_to_repeat, epoch,"
        " planned_at) VALUES(:id, :session, :turn, :step, :n, :provider_id, :name, :args_sha256, 'planned', :safe_to_repeat, :epoch,"
        " :at)",
        {**asdict(plan), "session": session, "epoch": epoch, "at": at},
    )


def _move_call(db: apsw.Connection, session: SessionId, move: MoveCall, epoch: int, at: int) -> None:
    started = at if move.to == CallState.STARTED else None
    finished = at if move.to in (CallState.FINISHED, CallState.NOT_RUN) else None
    db.execute(
        "UPDATE tool_call SET state = ?, epoch = ?, started_at = coalesce(?, started_at),"
        " finished_at = coalesce(?, finished_at) WHERE id = ? AND session_id = ?",
        (move.to, epoch, started, finished, move.id, session),
    )
    if db.changes() != 1:
        raise Refused(f"This session has no call {move.id}.")


def _ask(db: apsw.Connection, session: SessionId, ask: AskApproval, epoch: int) -> None:
    if not fetch(db, "SELECT 1 FROM tool_call WHERE id = ? AND session_id = ?", (ask.call, session)):
        raise Refused(f"This session has no call {ask.call}.")
    db.execute(
        "INSERT INTO approval(id, call, n, args_sha256, asker, state, expires_at, epoch)"
        " SELECT ?1, ?2, coalesce(max(n), 0) + 1, ?3, ?4, 'pending', ?5, ?6 FROM approval WHERE call = ?2",
        (ask.id, ask.call, ask.args_sha256, ask.asker, ask.expires_at, epoch),
    )


def _consume(db: apsw.Connection, session: SessionId, consume: ConsumeApproval, epoch: int, at: int) -> None:
    db.execute(
        "UPDATE approval SET state = 'consumed', epoch = ? WHERE id = ? AND state = 'approved' AND args_sha256 = ?"
        " AND expires_at > ? AND call IN (SELECT id FROM tool_call WHERE session_id = ?)",
        (epoch, consume.id, consume.args_sha256, at, session),
    )
    if db.changes() != 1:
        raise Refused("This call is not approved, or its approval is spent.")


def _take(db: apsw.Connection, work: Commit, epoch: int) -> None:
    turn = work.open_turn.turn if work.open_turn else work.op.turn if isinstance(work.op, Append) else None
    for row in work.take:
        db.execute(
            "UPDATE inbox SET state = 'consumed', turn = ?, epoch = ?, settled_at = ? WHERE id = ? AND session_id = ? AND state = 'queued'",
            (turn, epoch, work.at, row, work.session),
        )
        if db.changes() != 1:
            raise Refused("This message was already taken or cancelled.")
    for row in work.cancel:
        db.execute(
            "UPDATE inbox SET state = 'cancelled', epoch = ?, settled_at = ?, settled_by = ? WHERE id = ? AND session_id = ? AND state = 'queued'",
            (epoch, work.at, work.cut_reason or None, row, work.session),
        )
        if db.changes() != 1:
            raise Refused("This message was already taken or cancelled.")


def _add_reply(db: apsw.Connection, work: Commit, reply: AddReply) -> None:
    if fetch(db, "SELECT 1 FROM outbox WHERE key = ?", (reply.key,)):
        return  # whoever it is for was told
    db.execute(
        "INSERT INTO outbox(session_id, conversation, turn, message, body, part, kind, state, key, next_at)"
        " SELECT :session, :conversation, :turn, CASE WHEN :body IS NULL THEN (SELECT m.id FROM message m"
        "   JOIN session s ON s.id = :session WHERE m.branch = s.head_branch AND m.seq = s.head_seq) END, :body, :part, :kind,"
        "   'pending', :key, :at",
        {**asdict(reply), "session": work.session, "at": work.at},
    )
