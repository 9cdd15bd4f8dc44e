"""A commit as SQL: the order in which the rows of one transaction are written.

Runs inside the writer's transaction. It checks what it can say in words; the guards in the database check again.
Order: fence, epoch, op and messages, turn, calls, approvals, inbox, usage, replies, patch, what it opens.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import apsw
import msgspec
from msgspec.structs import asdict, replace

from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.jobs import keep_job
from clew.adapters.stores.sqlite.open_session import open_session, point_conversation, store_prefix, write_op
from clew.adapters.stores.sqlite.paths import in_tree, normalised, on_path, summary_on_path
from clew.adapters.stores.sqlite.small_writes import receive
from clew.adapters.stores.sqlite.spending import estimate_reserved
from clew.adapters.stores.sqlite.turn_rows import cut_turn, write_turn_rows
from clew.domain.conversation.ids import BranchId, PrincipalId, SessionId, SummaryId
from clew.domain.conversation.messages import Head, blobs_named
from clew.domain.ledger.commits import (
    MOVES,
    Append,
    Commit,
    Committed,
    Compact,
    Expand,
    MoveHead,
    Note,
    SessionPatch,
)
from clew.domain.ledger.errors import HeadMoved, KeyReused, NotFound, Refused
from clew.domain.ledger.fences import check_claim, check_fence, payload_of
from clew.domain.ledger.jobs import placed
from clew.domain.ledger.rows import Handle, OpKind, Prefix, TurnState

_encode: Final = msgspec.json.Encoder().encode


class Seen(NamedTuple):
    """The session row as this transaction found it."""

    owner: PrincipalId
    head_branch: BranchId
    head_seq: int
    version: int
    epoch: int
    summary: SummaryId | None
    lease_owner: str | None
    lease_beat: int
    is_tip: bool
    """Whether the head is the end of a branch of this session: an append goes on there."""

    @property
    def head(self) -> Head:
        return Head(self.head_branch, self.head_seq)


_SEEN: Final = """
-- a session that this principal may write, unless it was deleted
SELECT s.owner, s.head_branch, s.head_seq, s.version, s.epoch, s.summary_id, s.lease_owner, s.lease_beat,
  b.session_id = s.id AND s.head_seq = coalesce((SELECT max(seq) FROM message WHERE branch = b.id), b.parent_seq)
FROM session s JOIN branch b ON b.id = s.head_branch
WHERE s.id = ?1 AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = ?1)
  AND (s.owner = ?2 OR EXISTS (SELECT 1 FROM share WHERE session_id = ?1 AND principal = ?2 AND may = 'write'))
"""


def commit(db: apsw.Connection, work: Commit) -> Committed:
    """Does all of it, or raises and leaves the transaction to be rolled back."""
    rows = fetch(db, _SEEN, (work.session, work.actor))
    if not rows:
        raise NotFound(f"There is no session {work.session}.")
    seen = Seen(*rows[0])
    payload = _payload_hash(work)
    known = _known(db, work, payload)
    if known is not None:
        return known
    check_fence(work.fence, epoch=seen.epoch, version=seen.version, head=seen.head)
    epoch, cancelled = _take_over(db, work, seen)
    _store_blobs(db, work)
    handle = _write_op(db, work, seen, epoch, payload)
    write_turn_rows(db, work, epoch)
    if work.patch is not None:
        _patch(db, work.session, work.patch)
    for item in work.receives:
        receive(db, item)
    for job in work.jobs:
        keep_job(db, placed(job, handle.head))
    opened = open_session(db, work.opens, work.actor, work.at) if work.opens else None
    if work.conversation is not None:
        point_conversation(db, work.conversation)
    return Committed(handle=handle, opened=opened, cancelled=cancelled)


def committed_before(db: apsw.Connection, work: Commit) -> Committed | None:
    """The outcome of this very commit, if the file has it: by its key, the only thing that tells it from another."""
    return _known(db, work, _payload_hash(work))


def _payload_hash(work: Commit) -> bytes | None:
    if work.idempotency_key is None:
        return None
    return payload_of(work)


def _known(db: apsw.Connection, work: Commit, payload: bytes | None) -> Committed | None:
    """The first commit's outcome, when this key was used before."""
    if payload is None:
        return None
    rows = fetch(
        db,
        "SELECT to_branch, to_seq, version, epoch, to_summary, payload_hash FROM op WHERE session_id = ? AND idempotency_key = ?",
        (work.session, work.idempotency_key),
    )
    if not rows:
        return None
    branch, seq, version, epoch, summary, first = rows[0]
    if first != payload:
        raise KeyReused(f"The key {work.idempotency_key} was used for something else.")
    handle = Handle(
        session=work.session, head=Head(branch, seq), version=version, epoch=epoch, summary=summary
    )
    return Committed(handle=handle, repeated=True)


def _take_over(db: apsw.Connection, work: Commit, seen: Seen) -> tuple[int, int]:
    """Raises the epoch where the commit asks for it. Returns the epoch to write under and how many were cancelled."""
    claims = work.claim is not None
    check_claim(work, seen.lease_owner, seen.lease_beat)
    epoch = seen.epoch
    if work.cut or claims:
        epoch += 1
        db.execute(
            "UPDATE session SET epoch = ?, lease_owner = ?, lease_beat = 0 WHERE id = ?",
            (epoch, work.claim, work.session),
        )
        if _resumes(work):
            assert work.set_turn is not None, "what resumes sets a turn"
            estimate_reserved(db, work.session, work.set_turn.turn)
        else:
            cut_turn(db, work, epoch)
    elif work.release:
        db.execute("UPDATE session SET lease_owner = NULL WHERE id = ?", (work.session,))
    cancelled = 0
    if work.cancel_queued:
        ended = fetch(
            db,
            "UPDATE inbox SET state = 'cancelled', epoch = ?, settled_at = ?, settled_by = ?"
            " WHERE session_id = ? AND state = 'queued' RETURNING kind",
            (epoch, work.at, work.cut_reason or None, work.session),
        )
        cancelled = sum(kind == "message" for (kind,) in ended)
    return epoch, cancelled


def _resumes(work: Commit) -> bool:
    """A claim that goes on with the turn that waited, instead of ending it."""
    return not work.cut and work.set_turn is not None and work.set_turn.state == TurnState.RUNNING


def _store_blobs(db: apsw.Connection, work: Commit) -> None:
    for blob in work.blobs:
        db.execute(
            "INSERT INTO blob(sha256, media_type, bytes) SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM blob WHERE sha256 = ?1)",
            (blob.sha256, blob.media_type, blob.bytes),
        )


def _write_op(db: apsw.Connection, work: Commit, seen: Seen, epoch: int, payload: bytes | None) -> Handle:
    before = Handle(
        session=work.session, head=seen.head, version=seen.version, epoch=epoch, summary=seen.summary
    )
    if work.op is None:
        if payload is not None:
            raise Refused("A commit without an op has nothing to hang a key on.")
        return before
    kind, to, summary = _aim(db, work, seen)
    after = replace(before, head=to, version=seen.version + 1, summary=summary)
    key = work.idempotency_key
    write_op(db, before, after, kind, actor=work.actor, at=work.at, key=key, payload=payload)
    if isinstance(work.op, Append):
        _write_messages(db, work.op, to, work.at)
    return after


def _aim(db: apsw.Connection, work: Commit, seen: Seen) -> tuple[OpKind, Head, SummaryId | None]:
    """Where head and summary pointer go."""
    match work.op:
        case Append() as op:
            if not op.messages or op.kind not in (OpKind.APPEND, OpKind.RECOVER):
                raise Refused("An append needs a message.")
            branch = _branch_to_append(db, work.session, seen)
            return op.kind, Head(branch, seen.head_seq + len(op.messages)), seen.summary
        case MoveHead() as op:
            to = _checked_move(db, work.session, op)
            return op.kind, to, _summary_after(db, work.session, seen, op.kind, to)
        case Compact() as op:
            return OpKind.COMPACT, seen.head, _new_summary(db, work, op, seen)
        case Expand():
            return OpKind.EXPAND, seen.head, _previous_summary(db, seen)
        case Note() as op:
            return op.kind, seen.head, seen.summary
        case None:
            raise AssertionError("no op has no aim")


def _branch_to_append(db: apsw.Connection, session: SessionId, seen: Seen) -> BranchId:
    """The head's branch when the head is its tip and it is this session's; else a new one that starts there."""
    if seen.is_tip:
        return seen.head_branch
    db.execute(
        "INSERT INTO branch(session_id, parent_branch, parent_seq) VALUES(?, ?, ?)",
        (session, seen.head_branch, seen.head_seq),
    )
    return BranchId(db.last_insert_rowid())


def _checked_move(db: apsw.Connection, session: SessionId, op: MoveHead) -> Head:
    if op.kind not in MOVES:
        raise Refused(f"{op.kind} does not move a head.")
    known = fetch(db, "SELECT 1 FROM branch WHERE id = ?", (op.to.branch,))
    to = normalised(db, op.to) if known else op.to
    if not known or not in_tree(db, session, to):
        raise Refused("That position is not in this session.")
    return to


def _summary_after(
    db: apsw.Connection, session: SessionId, seen: Seen, kind: OpKind, to: Head
) -> SummaryId | None:
    """Undo falls back along `previous`; redo restores what the undo had."""
    summary = seen.summary
    if kind == OpKind.REDO:
        undone = fetch(
            db,
            "SELECT from_summary FROM op WHERE session_id = ? AND kind = 'undo' AND from_branch = ? AND from_seq = ?"
            " ORDER BY version DESC LIMIT 1",
            (session, to.branch, to.seq),
        )
        summary = undone[0][0] if undone else summary
    return summary_on_path(db, summary, to)


def _new_summary(db: apsw.Connection, work: Commit, op: Compact, seen: Seen) -> SummaryId:
    upto = normalised(db, op.upto)
    if upto.seq == 0 or not on_path(db, seen.head, upto):
        raise HeadMoved("The messages this summary stands for are no longer on the path.")
    if seen.summary is not None:
        reached = fetch(db, "SELECT upto_seq FROM summary WHERE id = ?", (seen.summary,))[0][0]
        if upto.seq < reached:
            raise HeadMoved("A summary that reaches further is already in force.")
    db.execute(
        "INSERT INTO summary(session_id, branch, upto_seq, previous, text, focus, model, tokens_before, tokens_after, created_at)"
        " VALUES(:session, :branch, :seq, :previous, :text, :focus, :model, :tokens_before, :tokens_after, :at)",
        {**asdict(op), **asdict(upto), "session": work.session, "previous": seen.summary, "at": work.at},
    )
    return SummaryId(db.last_insert_rowid())


def _previous_summary(db: apsw.Connection, seen: Seen) -> SummaryId | None:
    if seen.summary is None:
        raise Refused("There is no summary to take back.")
    previous: SummaryId | None = fetch(db, "SELECT previous FROM summary WHERE id = ?", (seen.summary,))[0][0]
    return previous


_MESSAGE: Final = """
INSERT INTO message(branch, seq, turn, step, role, actor, status, body, text, created_at) VALUES(?,?,?,?,?,?,?,?,?,?)
"""


def _write_messages(db: apsw.Connection, op: Append, to: Head, at: int) -> None:
    seq = to.seq - len(op.messages)
    for message in op.messages:
        seq += 1
        body = None if message.body is None else _encode(message.body)
        db.execute(
            _MESSAGE,
            (
                to.branch,
                seq,
                op.turn,
                message.step,
                message.role,
                message.actor,
                message.status,
                body,
                message.text,
                at,
            ),
        )
        for sha256 in blobs_named(message.body):
            _attach(db, db.last_insert_rowid(), sha256)


def _attach(db: apsw.Connection, message: int, sha256: str) -> None:
    if not fetch(db, "SELECT 1 FROM blob WHERE sha256 = ?", (sha256,)):
        raise Refused(f"The attachment {sha256[:12]} was never stored.")
    db.execute("INSERT INTO attachment(message, sha256) VALUES(?, ?)", (message, sha256))


def _patch(db: apsw.Connection, session: SessionId, patch: SessionPatch) -> None:
    columns: list[str] = []
    values: list[str | int | None] = []
    for name in patch.__struct_fields__:
        value = getattr(patch, name)
        if value is msgspec.UNSET:
            continue
        if isinstance(value, Prefix):
            store_prefix(db, value)
            columns.append("prefix_sha256 = ?")
            values.append(value.sha256)
        else:
            columns.append(f"{name} = ?")
            values.append(value)
    if columns:
        db.execute(f"UPDATE session SET {', '.join(columns)} WHERE id = ?", (*values, session))
