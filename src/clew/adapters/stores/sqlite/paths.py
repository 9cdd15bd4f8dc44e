"""Where a head stands in the tree: branches are few, so walking them is cheap at any length of history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import apsw

from clew.adapters.stores.sqlite.connection import fetch
from clew.domain.conversation.ids import BranchId, SessionId, SummaryId
from clew.domain.conversation.messages import Head


class Segment(NamedTuple):
    """The part of a path that one branch owns: seq in (low, high]."""

    branch: BranchId
    low: int
    high: int


PATH: Final = """
-- from a head (branch ?1, seq ?2) back to its root: one row per branch
WITH RECURSIVE path(branch, low, high, parent) AS (
  SELECT id, parent_seq, ?2, parent_branch FROM branch WHERE id = ?1
  UNION ALL
  SELECT b.id, b.parent_seq, min(p.low, p.high), b.parent_branch FROM path p JOIN branch b ON b.id = p.parent
)
"""
_SEGMENTS: Final = f"{PATH} SELECT branch, low, high FROM path"


def walk(db: apsw.Connection, head: Head) -> Iterator[Segment]:
    """The path of a head, newest branch first, read as far as it is asked for. Empty stretches are left out."""
    for branch, low, high in db.execute(_SEGMENTS, (head.branch, head.seq)):
        if high > low:
            yield Segment(branch, low, high)


def segments(db: apsw.Connection, head: Head) -> list[Segment]:
    """The whole path of a head, newest branch first."""
    return list(walk(db, head))


def normalised(db: apsw.Connection, head: Head) -> Head:
    """The same position, named by the branch that owns it."""
    branch, seq = head.branch, head.seq
    while True:
        row = fetch(db, "SELECT parent_branch, parent_seq FROM branch WHERE id = ?", (branch,))[0]
        if row[0] is None or seq > row[1]:
            return Head(branch, seq)
        branch = row[0]


def on_path(db: apsw.Connection, head: Head, position: Head) -> bool:
    """Whether a normalised position is on the path of a head (the start of everything always is)."""
    if position.seq == 0:
        return True
    return any(s.branch == position.branch and s.low < position.seq <= s.high for s in walk(db, head))


def in_tree(db: apsw.Connection, session: SessionId, position: Head) -> bool:
    """Whether a normalised position is in a session's own tree: its branches, and the path it was forked from."""
    owner = fetch(db, "SELECT session_id, parent_branch FROM branch WHERE id = ?", (position.branch,))
    if not owner:
        return False
    if owner[0][0] == session:
        return _exists(db, position, owner[0][1] is None)
    fork = fetch(
        db,
        "SELECT parent_branch, parent_seq FROM session WHERE id = ? AND parent_branch IS NOT NULL",
        (session,),
    )
    if not fork:
        return False
    if position.seq == 0:
        return position == normalised(db, Head(fork[0][0], 0))
    return on_path(db, Head(*fork[0]), position)


def _exists(db: apsw.Connection, position: Head, is_root: bool) -> bool:
    if position.seq == 0:
        return is_root
    found = fetch(db, "SELECT 1 FROM message WHERE branch = ? AND seq = ?", (position.branch, position.seq))
    return bool(found)


def summary_on_path(db: apsw.Connection, summary: SummaryId | None, head: Head) -> SummaryId | None:
    """The summary, or the nearest earlier one, that stands for messages of this path; None if there is none."""
    while summary is not None:
        branch, upto, previous = fetch(
            db, "SELECT branch, upto_seq, previous FROM summary WHERE id = ?", (summary,)
        )[0]
        if on_path(db, head, Head(branch, upto)):
            return summary
        summary = previous
    return None
