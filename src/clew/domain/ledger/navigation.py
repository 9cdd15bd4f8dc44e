"""Where undo and redo lead. Pure: the ledger's rows go in, a head comes out."""

from __future__ import annotations

from collections.abc import Iterable

from clew.domain.conversation.messages import Head
from clew.domain.ledger.rows import OpKind, OpRow


def redo_target(newest_first: Iterable[OpRow]) -> Head | None:
    """The head that the newest undo not yet taken back came from; None when there is nothing to redo.

    Undos and redos pair like brackets; any other op that moved the head closes the list.
    Ops that left the head alone are looked through.
    """
    taken_back = 0
    for op in newest_first:
        if op.from_head == op.to_head:
            continue
        if op.kind == OpKind.REDO:
            taken_back += 1
        elif op.kind != OpKind.UNDO:
            return None
        elif taken_back:
            taken_back -= 1
        else:
            return op.from_head
    return None
