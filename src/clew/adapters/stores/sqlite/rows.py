"""SQL rows to values, and the predicate that every read applies first: may this principal see this session?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from clew.domain.conversation.messages import Body, Head, Message, Role, Status
from clew.domain.ledger.rows import (
    ApprovalRow,
    ApprovalState,
    CallRow,
    CallState,
    CompactionLease,
    Handle,
    InboxRow,
    InboxState,
    OpKind,
    OpRow,
    Origin,
    ReplyRow,
    SessionRow,
    SummaryRow,
    TurnRow,
    TurnState,
)

Row = tuple[Any, ...]

SESSION_COLUMNS: Final = (
    "s.id, s.owner, s.surface, s.title, s.model, s.cwd, s.settings, s.prefix_sha256, s.parent_session, s.origin,"
    " s.head_branch, s.head_seq, s.version, s.epoch, s.summary_id, s.lease_owner, s.lease_beat, s.last_active_at, s.created_at,"
    " s.ended_at, s.end_reason, s.archived_at, s.temporary"
)
VISIBLE: Final = (
    "NOT EXISTS (SELECT 1 FROM purge WHERE session_id = s.id)"
    " AND (s.owner = ?1 OR EXISTS (SELECT 1 FROM share WHERE session_id = s.id AND principal = ?1))"
)
"""?1 is the principal. Deleted sessions are nobody's."""
MESSAGE_COLUMNS: Final = (
    "m.id, m.branch, m.seq, m.turn, m.step, m.role, m.actor, m.status, m.text, m.body, m.created_at"
)

_decode_body: Final = msgspec.json.Decoder(Body).decode
_ROLE: Final = {role.value: role for role in Role}
_STATUS: Final = {status.value: status for status in Status}
_OP_KIND: Final = {kind.value: kind for kind in OpKind}
_ORIGIN: Final = {origin.value: origin for origin in Origin}


def messages(found: Iterable[Row]) -> list[Message]:
    """Messages from rows of MESSAGE_COLUMNS, each made as it is read: half of what loading a history costs is here."""
    made: list[Message] = []
    add, roles, statuses, decode = made.append, _ROLE, _STATUS, _decode_body
    for ident, branch, seq, turn, step, role, actor, status, text, body, at in found:
        given = None if body is None else decode(body)
        add(Message(ident, branch, seq, turn, step, roles[role], actor, statuses[status], text, given, at))
    return made


def session(row: Row) -> SessionRow:
    """A session from SESSION_COLUMNS."""
    handle = Handle(
        session=row[0], head=Head(row[10], row[11]), version=row[12], epoch=row[13], summary=row[14]
    )
    return SessionRow(
        id=row[0],
        owner=row[1],
        surface=row[2],
        title=row[3],
        model=row[4],
        cwd=row[5],
        settings=row[6],
        prefix=row[7],
        parent=row[8],
        origin=_ORIGIN[row[9]],
        handle=handle,
        lease_owner=row[15],
        lease_beat=row[16],
        last_active_at=row[17],
        created_at=row[18],
        ended_at=row[19],
        end_reason=row[20],
        archived_at=row[21],
        temporary=bool(row[22]),
    )


OP_COLUMNS: Final = (
    "session_id, version, kind, from_branch, from_seq, to_branch, to_seq, from_summary, to_summary, epoch,"
    " idempotency_key, actor, at"
)


def op(row: Row) -> OpRow:
    """An op from OP_COLUMNS."""
    return OpRow(
        session=row[0],
        version=row[1],
        kind=_OP_KIND[row[2]],
        from_head=None if row[3] is None else Head(row[3], row[4]),
        to_head=Head(row[5], row[6]),
        from_summary=row[7],
        to_summary=row[8],
        epoch=row[9],
        idempotency_key=row[10],
        actor=row[11],
        at=row[12],
    )


TURN_COLUMNS: Final = "session_id, turn, conversation, principal, model, state, crashes, epoch, started_at, finished_at, end_reason, error"


def turn(row: Row) -> TurnRow:
    """A turn from TURN_COLUMNS."""
    return TurnRow(
        session=row[0],
        turn=row[1],
        conversation=row[2],
        principal=row[3],
        model=row[4],
        state=TurnState(row[5]),
        crashes=row[6],
        epoch=row[7],
        started_at=row[8],
        finished_at=row[9],
        end_reason=row[10],
        error=row[11],
    )


CALL_COLUMNS: Final = (
    "id, session_id, turn, step, n, provider_id, name, args_sha256, state, safe_to_repeat, epoch, planned_at, started_at,"
    " finished_at"
)


def call(row: Row) -> CallRow:
    """A tool call from CALL_COLUMNS."""
    return CallRow(
        id=row[0],
        session=row[1],
        turn=row[2],
        step=row[3],
        n=row[4],
        provider_id=row[5],
        name=row[6],
        args_sha256=row[7],
        state=CallState(row[8]),
        safe_to_repeat=bool(row[9]),
        epoch=row[10],
        planned_at=row[11],
        started_at=row[12],
        finished_at=row[13],
    )


COMPACTION_LEASE: Final = "SELECT lease_owner, beat FROM job WHERE kind = 'compaction' AND key = ?"


def compaction_lease(row: Row) -> CompactionLease:
    """A lease from COMPACTION_LEASE."""
    return CompactionLease(holder=row[0], beat=row[1])


SUMMARY_COLUMNS: Final = (
    "id, branch, upto_seq, previous, text, focus, model, tokens_before, tokens_after, created_at"
)


def summary(row: Row) -> SummaryRow:
    """A summary from SUMMARY_COLUMNS."""
    return SummaryRow(
        id=row[0],
        upto=Head(row[1], row[2]),
        previous=row[3],
        text=row[4],
        focus=row[5],
        model=row[6],
        tokens_before=row[7],
        tokens_after=row[8],
        created_at=row[9],
    )


INBOX_COLUMNS: Final = "id, account, external_key, conversation, n, session_id, principal, kind, body, state, turn, at, settled_at, settled_by"


def inbox(row: Row) -> InboxRow:
    """A received message from INBOX_COLUMNS."""
    return InboxRow(
        id=row[0],
        account=row[1],
        external_key=row[2],
        conversation=row[3],
        n=row[4],
        session=row[5],
        principal=row[6],
        kind=row[7],
        body=row[8],
        state=InboxState(row[9]),
        turn=row[10],
        at=row[11],
        settled_at=row[12],
        settled_by=row[13],
    )


REPLY_COLUMNS: Final = "id, conversation, turn, kind, part, body, state, key, platform_id"


def reply(row: Row) -> ReplyRow:
    """A row of the outbox from REPLY_COLUMNS."""
    return ReplyRow(
        id=row[0],
        conversation=row[1],
        turn=row[2],
        kind=row[3],
        part=row[4],
        body=row[5],
        state=row[6],
        key=row[7],
        platform_id=row[8],
    )


APPROVAL_COLUMNS: Final = "a.id, a.call, a.args_sha256, a.asker, a.state, a.decided_by, a.expires_at"


def approval(row: Row) -> ApprovalRow:
    """An approval from APPROVAL_COLUMNS."""
    return ApprovalRow(
        id=row[0],
        call=row[1],
        args_sha256=row[2],
        asker=row[3],
        state=ApprovalState(row[4]),
        decided_by=row[5],
        expires_at=row[6],
    )
