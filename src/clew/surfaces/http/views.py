"""What the session API sends, and how it is made of what the ledger says. The document at /openapi.json is made of these types."""

from __future__ import annotations

from typing import Literal

import msgspec

from clew.domain.conversation.messages import AssistantBody, Head, Message, Role, Status, ToolBody
from clew.domain.ledger.rows import ApprovalRow, BranchRow, Hit, OpRow, SessionRow, TurnRow


class Position(msgspec.Struct, kw_only=True):
    branch: int
    seq: int


class Session(msgspec.Struct, kw_only=True):
    """The columns of the view v_session, and where the session stands."""

    id: str
    parent_id: str | None
    origin: str
    live: bool
    end_reason: str | None
    title: str | None
    surface: str
    owner: str
    model: str | None
    created_at: int
    last_active_at: int
    version: int
    """Of the newest op: the id of the last event of /events."""
    head: Position


class SessionList(msgspec.Struct, kw_only=True):
    data: list[Session]
    next: str | None
    """To be given as `before` for the next page; null where there is none."""


class CalledTool(msgspec.Struct, kw_only=True):
    id: str
    name: str
    arguments: str


class File(msgspec.Struct, kw_only=True):
    sha256: str
    media_type: str
    size: int
    name: str | None


class SessionMessage(msgspec.Struct, kw_only=True):
    id: int
    branch: int
    position: int
    turn: int
    step: int
    role: Role
    actor: str
    status: Status
    text: str
    calls: list[CalledTool]
    call: str | None
    """The call that this is the result of."""
    files: list[File]
    created_at: int


class MessageList(msgspec.Struct, kw_only=True):
    data: list[SessionMessage]
    next: int | None
    """To be given as `after` for the next page; null at the head."""


class Found(msgspec.Struct, kw_only=True):
    session: str
    title: str | None
    message: int
    position: int
    role: Role
    snippet: str
    created_at: int


class FoundList(msgspec.Struct, kw_only=True):
    data: list[Found]
    incomplete_since: int | None


class Branch(msgspec.Struct, kw_only=True):
    id: int
    session: str
    parent: Position | None
    tip: int


class Tree(msgspec.Struct, kw_only=True):
    session: Session
    branches: list[Branch]
    children: list[Session]


class Approval(msgspec.Struct, kw_only=True):
    id: str
    call: str
    state: str
    expires_at: int


class ApprovalList(msgspec.Struct, kw_only=True):
    data: list[Approval]


class Done(msgspec.Struct, kw_only=True):
    """What a command did, in a sentence, and the session after it."""

    text: str
    session: Session


class Accepted(msgspec.Struct, kw_only=True):
    """The message is on disk, and answered in its turn: follow /events."""

    received: int
    session: Session


class OpEvent(msgspec.Struct, kw_only=True):
    """An event of the stream that has an id: one change of the session. Its messages replace the deltas before it."""

    version: int
    kind: str
    head: Position
    messages: list[SessionMessage]
    actor: str
    at: int


class TurnEvent(msgspec.Struct, kw_only=True):
    turn: int
    state: str
    error: str | None


class DeltaEvent(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Said on the way, without an id: what is on disk comes as an op."""

    kind: Literal["text", "thinking", "void", "call", "output", "notice"]
    text: str = ""
    call: str = ""


class GoneEvent(msgspec.Struct, forbid_unknown_fields=True):
    """The session is not there any more: the last event."""


def position(head: Head) -> Position:
    return Position(branch=head.branch, seq=head.seq)


def session(row: SessionRow) -> Session:
    return Session(
        id=row.id,
        parent_id=row.parent,
        origin=row.origin,
        live=row.ended_at is None and row.archived_at is None,
        end_reason=row.end_reason,
        title=row.title,
        surface=row.surface,
        owner=row.owner,
        model=row.model,
        created_at=row.created_at,
        last_active_at=row.last_active_at,
        version=row.handle.version,
        head=position(row.handle.head),
    )


def message(one: Message) -> SessionMessage:
    calls = one.body.calls if isinstance(one.body, AssistantBody) else ()
    return SessionMessage(
        id=one.id,
        branch=one.branch,
        position=one.seq,
        turn=one.turn,
        step=one.step,
        role=one.role,
        actor=one.actor,
        status=one.status,
        text=one.text,
        calls=[CalledTool(id=call.id, name=call.name, arguments=call.arguments) for call in calls],
        call=one.body.call if isinstance(one.body, ToolBody) else None,
        files=[
            File(sha256=file.sha256, media_type=file.media_type, size=file.size, name=file.name)
            for file in one.attachments
        ],
        created_at=one.created_at,
    )


def found(hit: Hit) -> Found:
    return Found(
        session=hit.session,
        title=hit.title,
        message=hit.message,
        position=hit.position,
        role=hit.role,
        snippet=hit.snippet,
        created_at=hit.created_at,
    )


def branch(row: BranchRow) -> Branch:
    parent = None if row.parent is None else position(row.parent)
    return Branch(id=row.id, session=row.session, parent=parent, tip=row.tip)


def approval(row: ApprovalRow) -> Approval:
    return Approval(id=row.id, call=row.call, state=row.state, expires_at=row.expires_at)


def op(row: OpRow, messages: list[SessionMessage]) -> OpEvent:
    return OpEvent(
        version=row.version,
        kind=row.kind,
        head=position(row.to_head),
        messages=messages,
        actor=row.actor,
        at=row.at,
    )


def turn(row: TurnRow) -> TurnEvent:
    return TurnEvent(turn=row.turn, state=row.state, error=row.error)
