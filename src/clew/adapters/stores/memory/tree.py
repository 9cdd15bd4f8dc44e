"""Where positions stand: the path of a head, and what belongs to a session's own tree."""

from __future__ import annotations

from typing import NamedTuple

from clew.adapters.stores.memory.state import State
from clew.domain.conversation.ids import BranchId, SessionId, SummaryId
from clew.domain.conversation.messages import Head, Message
from clew.domain.ledger.errors import Corrupt, Refused


class Segment(NamedTuple):
    """The part of a path that one branch owns: seq in (low, high]. Empty where a path only passes through."""

    branch: BranchId
    low: int
    high: int


def segments(state: State, head: Head) -> list[Segment]:
    """The path of a head, one segment a branch, the root's first."""
    found: list[Segment] = []
    at: Head | None = head
    while at is not None:
        parent = state.branches[at.branch].parent
        low = parent.seq if parent else 0
        found.append(Segment(at.branch, low, max(low, at.seq)))
        at = Head(parent.branch, min(parent.seq, at.seq)) if parent else None
    return found[::-1]


def messages_to(state: State, head: Head) -> tuple[Message, ...]:
    """The dense path of a head. Raises Corrupt where a message is missing."""
    positions = [
        Head(part.branch, seq) for part in segments(state, head) for seq in range(part.low + 1, part.high + 1)
    ]
    if len(positions) != head.seq or any(at not in state.messages for at in positions):
        raise Corrupt("A message of this history is missing.")
    return tuple(state.messages[at] for at in positions)


def normalised(state: State, head: Head) -> Head:
    """The same position, named by the branch that owns it."""
    at = head
    while (parent := state.branches[at.branch].parent) is not None and at.seq <= parent.seq:
        at = Head(parent.branch, at.seq)
    return at


def on_path(state: State, head: Head, position: Head) -> bool:
    """Whether a normalised position is on the path of a head."""
    return any(
        part.branch == position.branch and (part.low < position.seq <= part.high or position.seq == 0)
        for part in segments(state, head)
    )


def reach(state: State, session: SessionId) -> dict[BranchId, int]:
    """The session's tree: its own branches to their tips, its ancestors' as far as the path it was forked from."""
    fork = state.forks.get(session)
    tree = {part.branch: part.high for part in segments(state, fork)} if fork else {}
    tree |= {row.id: row.tip for row in state.branches.values() if row.session == session}
    return dict(sorted(tree.items()))


def placed(state: State, session: SessionId, position: Head) -> Head:
    """The position, normalised. Raises Refused when it is not in the session's tree."""
    tree = reach(state, session)
    if position.branch in state.branches and position.seq >= 0:
        at = normalised(state, position)
        if at.seq <= tree.get(at.branch, -1):
            return at
    raise Refused("That position is not in this session.")


def summary_for(state: State, summary: SummaryId | None, head: Head) -> SummaryId | None:
    """The summary, or the nearest one before it, that stands for messages of this path; None when none does."""
    while summary is not None:
        row = state.summaries[summary].row
        if on_path(state, head, row.upto):
            return summary
        summary = row.previous
    return None
