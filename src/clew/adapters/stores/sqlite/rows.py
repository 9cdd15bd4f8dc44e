"""SQL rows to values, and the predicate that every read applies first: may this principal see this session?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from clew.domain.conversation.messages import Body, Head, Message, Role, Status
from clew.domain.ledger.rows import CallRow, Handle, OpRow, Origin, SessionRow, SummaryRow

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


TURN_COLUMNS: Final = "session_id, turn, conversation, principal, model, state, crashes, epoch, started_at, finished_at, end_reason, error"
INBOX_COLUMNS: Final = "id, account, external_key, conversation, n, session_id, principal, kind, body, state, turn, at, settled_at, settled_by, sent_by"
REPLY_COLUMNS: Final = (
    "o.id, o.conversation, o.turn, o.kind, o.part, o.body, o.state, o.key, c.surface, o.platform_id, o.reason"
)
APPROVAL_COLUMNS: Final = (
    "a.id, a.call, a.args_sha256, a.asker, a.state, a.decided_by, a.expires_at, a.decided_at"
)
COMPACTION_LEASE: Final = "SELECT lease_owner, beat FROM job WHERE kind = 'compaction' AND key = ?"

Value = TypeVar("Value", bound=msgspec.Struct)


def one(kind: type[Value], row: Sequence[Any]) -> Value:
    """The value of a row whose columns come in the order of the value's fields."""
    return msgspec.convert(dict(zip(kind.__struct_fields__, row, strict=True)), kind)


def many(kind: type[Value], found: Iterable[Sequence[Any]]) -> tuple[Value, ...]:
    """A value a row."""
    return tuple(one(kind, row) for row in found)


OP_COLUMNS: Final = (
    "session_id, version, kind, from_branch, from_seq, to_branch, to_seq, from_summary, to_summary, epoch,"
    " idempotency_key, actor, at"
)


def op(row: Row) -> OpRow:
    """An op from OP_COLUMNS."""
    session, version, kind, branch, seq, to_branch, to_seq, *rest = row
    before = None if branch is None else Head(branch, seq)
    return one(OpRow, (session, version, kind, before, Head(to_branch, to_seq), *rest))


CALL_COLUMNS: Final = (
    "id, session_id, turn, step, n, provider_id, name, args_sha256, state, safe_to_repeat, epoch, planned_at, started_at,"
    " finished_at"
)


def call(row: Row) -> CallRow:
    """A tool call from CALL_COLUMNS."""
    before, safe, after = row[:9], row[9], row[10:]
    return one(CallRow, (*before, bool(safe), *after))


SUMMARY_COLUMNS: Final = (
    "id, branch, upto_seq, previous, text, focus, model, tokens_before, tokens_after, created_at"
)


def summary(row: Row) -> SummaryRow:
    """A summary from SUMMARY_COLUMNS."""
    ident, branch, seq, *rest = row
    return one(SummaryRow, (ident, Head(branch, seq), *rest))
