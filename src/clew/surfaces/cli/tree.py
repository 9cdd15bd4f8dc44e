"""A session's tree in lines: its branches, where they part, where the head stands, and the tips that were undone."""

from __future__ import annotations

from clew.domain.conversation.ids import BranchId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head, Message
from clew.domain.ledger.rows import BranchRow
from clew.runtime.commands.moving import shortened
from clew.runtime.ports.ledger import Ledger


async def draw(ledger: Ledger, principal: PrincipalId, session: SessionId) -> list[str]:
    """One line a turn; children are indented under the message they start from."""
    row = await ledger.session(principal, session)
    branches = await ledger.branches(principal, session)
    messages = {b.id: await ledger.segment(principal, session, b.id) for b in branches}
    lines = [f"{row.id}  {row.title or 'untitled'}"]
    for root in (b for b in branches if b.parent is None):
        lines += _drawn(root, branches, messages, row.handle.head, 0)
    for child in await ledger.children(principal, session):
        lines.append(f"  ↳ {child.origin} {child.id}  {child.title or 'untitled'}")
    return lines


def _drawn(
    branch: BranchRow,
    branches: tuple[BranchRow, ...],
    messages: dict[BranchId, tuple[Message, ...]],
    head: Head,
    depth: int,
) -> list[str]:
    margin = "  " * depth
    lines: list[str] = []
    children = [b for b in branches if b.parent is not None and b.parent.branch == branch.id]
    if head == Head(branch.id, 0):
        lines.append(f"{margin}  ◀ head, before the first message")
    starting = [c for c in children if c.parent is not None and c.parent.seq == 0]
    for child in starting:
        lines += _drawn(child, branches, messages, head, depth + 1)
    for message in messages[branch.id]:
        mark = "  ◀ head" if message.head == head else ""
        is_tip = message.seq == branch.tip
        if message.opens_turn or mark or is_tip:
            tip = f"  (tip {branch.id}.{message.seq})" if is_tip and not mark else ""
            lines.append(f"{margin}{message.seq:4} {message.role}: {shortened(message)}{tip}{mark}")
        for child in children:
            if child.parent is not None and child.parent.seq == message.seq:
                lines += _drawn(child, branches, messages, head, depth + 1)
    return lines
