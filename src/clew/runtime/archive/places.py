"""Where a position of a file is in the ledger it is being imported into.

A branch of the file need not become one branch of the ledger: a fork's branches start at the tip of one they were forked
from, and here that is one run of messages. What stays the same is the tree: which message follows which.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

import msgspec

from clew.domain.conversation.ids import BranchId
from clew.domain.conversation.messages import Head
from clew.runtime.archive.errors import ImportFailed
from clew.runtime.archive.lines import Position

START: Final[Position] = (1, 0)


class _Branch(msgspec.Struct):
    """`pieces` says from which seq on the messages are on which branch of the ledger."""

    parent: Position | None
    tip: int
    pieces: list[tuple[int, BranchId]]


class Places:
    """The tree of one file, as far as it was read."""

    def __init__(self, root: Head) -> None:
        self._root = root
        self._branches: dict[int, _Branch] = {}

    def add(self, number: int, parent: Position | None) -> None:
        """The next branch. Only the first has no parent; any other starts on one before it."""
        if number != len(self._branches) + 1:
            raise ImportFailed(f"branch {len(self._branches) + 1} is missing")
        if (parent is None) != (number == 1) or (parent is not None and parent[0] >= number):
            raise ImportFailed(f"branch {number} starts nowhere")
        self._branches[number] = _Branch(parent, parent[1] if parent else 0, [])

    def check_next(self, number: int, seq: int) -> None:
        """Whether this is where the branch's next message goes. Raises ImportFailed."""
        branch = self._known(number)
        if seq != branch.tip + 1:
            raise ImportFailed(f"message {branch.tip + 1} of branch {number} is missing")
        if branch.parent is not None and seq == branch.parent[1] + 1:
            self.check(branch.parent)

    def extend(self, number: int, seq: int) -> None:
        """The message is on its way into the ledger."""
        self._branches[number].tip = seq

    def put(self, number: int, first: int, there: BranchId) -> None:
        """From `first` on the branch's messages are on this branch of the ledger."""
        pieces = self._branches[number].pieces
        if not pieces or pieces[-1][1] != there:
            pieces.append((first, there))

    def check(self, position: Position) -> None:
        """Whether there is a message at the position, or it is the start. Raises ImportFailed."""
        number, seq = self._owner(position)
        if seq > self._known(number).tip:
            raise ImportFailed(f"there is no message {seq} on branch {position[0]}")

    def find(self, position: Position) -> Head:
        """Where a message that was put is now."""
        number, seq = self._owner(position)
        if seq == 0:
            return self._root
        pieces = self._known(number).pieces
        return Head(pieces[bisect_right(pieces, (seq, BranchId(1 << 62))) - 1][1], seq)

    def _owner(self, position: Position) -> Position:
        """The same position, named by the branch that owns it."""
        number, seq = position
        branch = self._known(number)
        while branch.parent is not None and seq <= branch.parent[1]:
            number = branch.parent[0]
            branch = self._known(number)
        return number, seq

    def _known(self, number: int) -> _Branch:
        if number not in self._branches:
            raise ImportFailed(f"there is no branch {number}")
        return self._branches[number]
