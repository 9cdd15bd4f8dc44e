"""Where an op leads: the head and the summary in force after it, and the messages an append brings."""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import asdict, replace

from clew.adapters.stores.memory.opening import new_branch
from clew.adapters.stores.memory.state import State, StoredSummary
from clew.adapters.stores.memory.tree import normalised, on_path, placed, summary_for
from clew.domain.conversation.ids import BranchId, MessageId, SummaryId
from clew.domain.conversation.messages import Head, Message, NewMessage, blobs_named
from clew.domain.ledger.commits import MOVES, Append, Commit, Compact, Expand, MoveHead, Note, Op
from clew.domain.ledger.errors import HeadMoved, Refused
from clew.domain.ledger.rows import Handle, OpKind, SummaryRow


def aim(state: State, work: Commit, op: Op, seen: Handle) -> tuple[OpKind, Head, SummaryId | None]:
    """Kind, head and summary after the op. Raises Refused or HeadMoved when it cannot be."""
    match op:
        case Append():
            if not op.messages or op.kind not in (OpKind.APPEND, OpKind.RECOVER):
                raise Refused("An append needs a message.")
            branch = _branch_to_append(state, seen)
            return op.kind, Head(branch, seen.head.seq + len(op.messages)), seen.summary
        case MoveHead():
            if op.kind not in MOVES:
                raise Refused(f"{op.kind} does not move a head.")
            to = placed(state, work.session, op.to)
            before = _undone_summary(state, seen, to) if op.kind == OpKind.REDO else seen.summary
            return op.kind, to, summary_for(state, before, to)
        case Compact():
            return OpKind.COMPACT, seen.head, _summarise(state, work, op, seen)
        case Expand():
            if seen.summary is None:
                raise Refused("There is no summary to take back.")
            return OpKind.EXPAND, seen.head, state.summaries[seen.summary].row.previous
        case Note():
            return op.kind, seen.head, seen.summary
        case _:
            assert_never(op)


def _branch_to_append(state: State, seen: Handle) -> BranchId:
    """The head's branch when the head is its tip and it is this session's; else a new one that starts there."""
    branch = state.branches[seen.head.branch]
    if branch.session == seen.session and branch.tip == seen.head.seq:
        return branch.id
    return new_branch(state, seen.session, seen.head)


def _undone_summary(state: State, seen: Handle, to: Head) -> SummaryId | None:
    """What was in force where the undo that is taken back came from.

    Undos and redos pair like brackets, so the newest undo from that position is the one.
    """
    for version in range(seen.version, 0, -1):
        op = state.ops[seen.session, version]
        if op.kind == OpKind.UNDO and op.from_head == to:
            return op.from_summary
    return seen.summary


def _summarise(state: State, work: Commit, op: Compact, seen: Handle) -> SummaryId:
    upto = normalised(state, op.upto) if op.upto.branch in state.branches else op.upto
    if upto.seq < 1 or upto.branch not in state.branches or not on_path(state, seen.head, upto):
        raise HeadMoved("The messages this summary stands for are not on the path.")
    if seen.summary is not None and upto.seq < state.summaries[seen.summary].row.upto.seq:
        raise HeadMoved("A summary that reaches further is already in force.")
    ident = SummaryId(state.next_id())
    row = SummaryRow(
        **{**asdict(op), "upto": upto, "text": storable(op.text)},
        id=ident,
        previous=seen.summary,
        created_at=work.at,
    )
    state.summaries[ident] = StoredSummary(session=work.session, row=row)
    return ident


def write_messages(state: State, work: Commit, op: Append, head: Head) -> None:
    """Puts the messages before the new head. Raises Refused for an attachment that nobody stored."""
    first = head.seq - len(op.messages) + 1
    known = state.blobs.keys() | {blob.sha256 for blob in work.blobs}
    for seq, message in enumerate(op.messages, first):
        missing = set(blobs_named(message.body)) - known
        if missing:
            raise Refused(f"The attachment {min(missing)[:12]} was never stored.")
        at = Head(head.branch, seq)
        state.messages[at] = _stored(MessageId(state.next_id()), at, op.turn, message, work.at)
    state.branches[head.branch] = replace(state.branches[head.branch], tip=head.seq)


def _stored(ident: MessageId, at: Head, turn: int, message: NewMessage, created_at: int) -> Message:
    return Message(
        **{**asdict(message), "text": storable(message.text)},
        **asdict(at),
        id=ident,
        turn=turn,
        created_at=created_at,
    )


def storable(text: str) -> str:
    """The text itself. Raises Refused for a lone surrogate: what cannot be written must not look as if it were."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Refused("This text is not valid Unicode; clean it first.") from None
    return text
