"""A session's tree in lines: its branches, where they part, where the head stands, and the tips that were undone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from clew.domain.conversation.ids import BranchId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head, Message
from clew.domain.ledger.rows import BranchRow, Origin, SessionRow, TurnState
from clew.runtime.commands.moving import shortened
from clew.runtime.ports.ledger import Ledger
from clew.runtime.turns import TurnRunner

DEPTH_SHOWN_MAX: Final = 20


async def draw(ledger: Ledger, runner: TurnRunner, principal: PrincipalId, session: SessionId) -> list[str]:
    """One line a turn; children are indented under the message they start from."""
    row = await ledger.session(principal, session)
    branches = await ledger.branches(principal, session)
    messages = {b.id: await ledger.segment(principal, session, b.id) for b in branches}
    lines = [f"{row.id}  {row.title or 'untitled'}"]
    lines += _drawn(branches, messages, row.handle.head)
    return lines + await _beside(ledger, runner, principal, session, 1)


async def _beside(
    ledger: Ledger, runner: TurnRunner, principal: PrincipalId, session: SessionId, depth: int
) -> list[str]:
    """Forks and side sessions, with theirs under them."""
    lines: list[str] = []
    for child in await ledger.children(principal, session):
        is_side = child.origin == Origin.SIDE
        facts = [child.surface, await _state(ledger, runner, principal, child)] if is_side else []
        facts += [child.end_reason or "ended"] if child.ended_at is not None and not is_side else []
        told = f"  ({', '.join(facts)})" if facts else ""
        lines.append(f"{'  ' * depth}↳ {child.origin} {child.id}  {child.title or 'untitled'}{told}")
        if is_side and depth < DEPTH_SHOWN_MAX:
            lines += await _beside(ledger, runner, principal, child.id, depth + 1)
    return lines


async def _state(ledger: Ledger, runner: TurnRunner, principal: PrincipalId, side: SessionRow) -> str:
    """How a side session came out, or how far it is."""
    if side.ended_at is not None:
        return side.end_reason or "ended"
    turn = await ledger.turn(principal, side.id)
    if turn is None:
        return "not begun"
    if turn.state == TurnState.RUNNING and await runner.under_way(principal, side.id) is None:
        return "left in the middle"
    return str(turn.state)


def _drawn(
    branches: tuple[BranchRow, ...], messages: dict[BranchId, tuple[Message, ...]], head: Head
) -> Iterator[str]:
    """Without recursion: a branch for each of a thousand retries is a thousand deep."""
    children: dict[Head, list[BranchRow]] = {}
    for branch in branches:
        if branch.parent is not None:
            children.setdefault(branch.parent, []).append(branch)
    to_draw = [_walk(root, messages[root.id], children, head, 0) for root in branches if root.parent is None]
    to_draw.reverse()
    while to_draw:
        for line, below, depth in to_draw[-1]:
            yield line
            if below:
                walks = [_walk(child, messages[child.id], children, head, depth + 1) for child in below]
                to_draw.extend(reversed(walks))
                break
        else:
            to_draw.pop()


def _walk(
    branch: BranchRow,
    messages: tuple[Message, ...],
    children: Mapping[Head, Sequence[BranchRow]],
    head: Head,
    depth: int,
) -> Iterator[tuple[str, Sequence[BranchRow], int]]:
    """A branch's lines, each with the branches to be drawn under it."""
    margin = "  " * min(depth, DEPTH_SHOWN_MAX)
    start = Head(branch.id, 0)
    if head == start or start in children:
        mark = "  ◀ head" if head == start else ""
        yield f"{margin}     before the first message{mark}", children.get(start, ()), depth
    for message in messages:
        mark = "  ◀ head" if message.head == head else ""
        is_tip = message.seq == branch.tip
        below = children.get(message.head, ())
        if message.opens_turn or mark or is_tip or below:
            tip = f"  (tip {branch.id}.{message.seq})" if is_tip and not mark else ""
            yield (
                f"{margin}{message.seq:4} {message.role}: {shortened(message)}{tip}{mark}",
                below,
                depth,
            )
