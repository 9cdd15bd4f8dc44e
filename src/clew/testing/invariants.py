"""What holds of every ledger at every moment, asked through the port alone.

Used after each step of a simulation and after each attack on a store. A broken invariant is an AssertionError that
names it; nothing here writes. The checks read everything of a session: they are for tests, not for a running program.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Final

import msgspec

from clew.domain.conversation.ids import BranchId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head, Message, ToolBody
from clew.domain.ledger.errors import NotFound
from clew.domain.ledger.rows import BranchRow, CallState, OpKind, OpRow, SessionRow
from clew.runtime.ports.ledger import Ledger

PAGE: Final = 64
KEEPS_HEAD: Final = frozenset(OpKind) - {
    OpKind.CREATE,
    OpKind.APPEND,
    OpKind.RECOVER,
    OpKind.UNDO,
    OpKind.REDO,
    OpKind.RETRY,
    OpKind.RESUME,
    OpKind.IMPORT,
}

KEEPS_SUMMARY: Final = frozenset(OpKind) - {
    OpKind.CREATE,
    OpKind.UNDO,
    OpKind.REDO,
    OpKind.RETRY,
    OpKind.RESUME,
    OpKind.IMPORT,
    OpKind.COMPACT,
    OpKind.EXPAND,
}

Read = Callable[[], Awaitable[object]]


class Tree(msgspec.Struct, frozen=True):
    """All a session has: its branches, and the messages on them by position."""

    branches: dict[BranchId, BranchRow]
    messages: dict[Head, Message]

    def path(self, head: Head) -> list[Message]:
        """Walked message by message from the head back, as slowly as the words say it."""
        found: list[Message] = []
        at: Head | None = head
        while at is not None and at.seq > 0:
            parent = self.branches[at.branch].parent
            if parent is not None and at.seq <= parent.seq:
                at = Head(parent.branch, at.seq)
                continue
            require(at in self.messages, f"message {at} is missing")
            found.append(self.messages[at])
            at = Head(at.branch, at.seq - 1)
        return found[::-1]

    def is_position(self, head: Head) -> bool:
        """Whether this is a message of the tree, or the start of a root, named by the branch that owns it."""
        if head.seq > 0:
            return head in self.messages
        branch = self.branches.get(head.branch)
        return head.seq == 0 and branch is not None and branch.parent is None


async def check(ledger: Ledger, principal: PrincipalId, session: SessionId) -> None:
    """Everything that must hold of one session. Raises AssertionError."""
    row = await ledger.session(principal, session)
    tree = await read_tree(ledger, principal, session)
    await check_path(ledger, principal, row, tree)
    await check_ops(ledger, principal, row, tree)
    await check_summary(ledger, principal, row)
    await check_calls(ledger, principal, row, tree)
    await check_attachments(ledger, principal, session, tree)


async def check_all(ledger: Ledger, principal: PrincipalId) -> int:
    """Checks every session in a principal's list, read page by page. Returns how many."""
    count = 0
    last: tuple[int, str] | None = None
    while page := await ledger.sessions(principal, limit=PAGE, before=last, sides=True):
        keys = [(row.last_active_at, str(row.id)) for row in page]
        require(keys == sorted(keys, reverse=True), "the list of sessions is not newest first")
        require(last is None or keys[0] < last, "a page of the list repeats the one before")
        for row in page:
            await check(ledger, principal, row.id)
        count += len(page)
        last = keys[-1]
    return count


async def check_hidden(ledger: Ledger, stranger: PrincipalId, session: SessionId) -> None:
    """No read says anything of a session to somebody who may not see it, not even that it is there."""
    listed = [row.id for row in await ledger.sessions(stranger, limit=1000, sides=True)]
    require(session not in listed, "a foreign session is listed")
    for name, read in reads_of(ledger, stranger, session).items():
        try:
            answer = await read()
        except NotFound:
            continue
        raise AssertionError(f"{name} of a foreign session answered {answer!r}")


def reads_of(ledger: Ledger, who: PrincipalId, session: SessionId) -> dict[str, Read]:
    """Every read of the port that names a session."""
    start = Head(BranchId(1), 0)
    return {
        "session": lambda: ledger.session(who, session),
        "resolve": lambda: ledger.resolve(who, session),
        "path": lambda: ledger.path(who, session),
        "path at": lambda: ledger.path(who, session, start),
        "turn_starts": lambda: ledger.turn_starts(who, session, 10),
        "before": lambda: ledger.before(who, session, start),
        "summaries": lambda: ledger.summaries(who, session),
        "ops": lambda: ledger.ops(who, session),
        "turn": lambda: ledger.turn(who, session),
        "calls": lambda: ledger.calls(who, session),
        "approvals": lambda: ledger.approvals(who, session),
        "queued": lambda: ledger.queued(who, session),
        "received": lambda: ledger.received(who, session),
        "replies": lambda: ledger.replies(who, session),
        "has_key": lambda: ledger.has_key(who, session, "any"),
        "branches": lambda: ledger.branches(who, session),
        "segment": lambda: ledger.segment(who, session, start.branch),
        "prefix": lambda: ledger.prefix(who, session),
        "blob": lambda: ledger.blob(who, session, "0" * 64),
        "children": lambda: ledger.children(who, session),
        "search": lambda: ledger.search(who, "anything", session=session),
        "usage": lambda: ledger.usage(who, session),
    }


async def read_tree(ledger: Ledger, principal: PrincipalId, session: SessionId) -> Tree:
    """Reads every branch, and checks that each is a dense run of messages from its parent on."""
    branches = await ledger.branches(principal, session)
    require([row.id for row in branches] == sorted(row.id for row in branches), "branches out of order")
    messages: dict[Head, Message] = {}
    for row in branches:
        first = row.parent.seq + 1 if row.parent else 1
        segment = await ledger.segment(principal, session, row.id)
        seqs = [message.seq for message in segment]
        require(seqs == list(range(first, row.tip + 1)), f"branch {row.id} is not dense: {seqs}")
        require(all(message.branch == row.id for message in segment), f"branch {row.id} holds another's")
        messages |= {message.head: message for message in segment}
    tree = Tree({row.id: row for row in branches}, messages)
    for row in branches:
        rooted = row.parent is None or tree.is_position(row.parent)
        require(rooted, f"branch {row.id} starts at {row.parent}, which is not in the tree")
    ids = [message.id for message in messages.values()]
    require(len(ids) == len(set(ids)), "two messages have one id")
    return tree


async def check_path(ledger: Ledger, principal: PrincipalId, row: SessionRow, tree: Tree) -> None:
    """The history is the walk from the head back; every other way to read it agrees."""
    head = row.handle.head
    require(tree.is_position(head), f"the head {head} is not a position of the session's tree")
    path = await ledger.path(principal, row.id)
    require(list(path) == tree.path(head), "the path is not the walk from the head back")
    require([m.seq for m in path] == list(range(1, head.seq + 1)), "the path is not dense")
    require(all(a.id < b.id for a, b in pairwise(path)), "a message is older than the one before it")
    starts = await ledger.turn_starts(principal, row.id, len(path) + 1)
    require(
        list(starts) == [m for m in reversed(path) if m.opens_turn], "turn_starts disagrees with the path"
    )
    for earlier, later in pairwise(path):
        before = await ledger.before(principal, row.id, later.head)
        require(before == earlier.head, f"before {later.head} is {before}")


async def check_ops(ledger: Ledger, principal: PrincipalId, row: SessionRow, tree: Tree) -> None:
    """The ops are one unbroken chain from the creation to now, and every place the head ever stood is still there."""
    ops = await all_ops(ledger, principal, row.id)
    handle = row.handle
    require([op.version for op in ops] == list(range(1, handle.version + 1)), "the ops are not dense")
    first, last = ops[0], ops[-1]
    require(first.kind == OpKind.CREATE and first.from_head is None, "the first op is not the creation")
    require(last.to_head == handle.head, "the last op does not lead to the head")
    require(last.to_summary == handle.summary, "the last op does not lead to the summary in force")
    for one, two in pairwise(ops):
        require(one.to_head == two.from_head, f"op {two.version} does not start where op {one.version} ended")
        require(one.to_summary == two.from_summary, f"op {two.version} starts with another summary")
        require(one.epoch <= two.epoch <= handle.epoch, f"op {two.version} is of epoch {two.epoch}")
    for op in ops:
        require(op.kind not in KEEPS_HEAD or op.from_head == op.to_head, f"{op.kind} moved the head")
        keeps = op.kind not in KEEPS_SUMMARY or op.from_summary == op.to_summary
        require(keeps, f"{op.kind} changed the summary")
        require(tree.is_position(op.to_head), f"op {op.version} led to {op.to_head}, which is gone")
    for tip in {row.to_head for row in ops}:
        reached = await ledger.path(principal, row.id, tip)
        require(list(reached) == tree.path(tip), f"the path to {tip} is another")


async def all_ops(ledger: Ledger, principal: PrincipalId, session: SessionId) -> list[OpRow]:
    """Every op, oldest first, read page by page."""
    found: list[OpRow] = []
    below: int | None = None
    while page := await ledger.ops(principal, session, below=below, limit=PAGE):
        found += page
        below = page[-1].version
    return found[::-1]


async def check_summary(ledger: Ledger, principal: PrincipalId, row: SessionRow) -> None:
    """The summary in force, and all it could fall back to, stand for messages of the path."""
    known = {summary.id: summary for summary in await ledger.summaries(principal, row.id)}
    require(list(known) == sorted(known), "summaries are not oldest first")
    on_path = {message.head for message in await ledger.path(principal, row.id)}
    ident, reach = row.handle.summary, row.handle.head.seq
    while ident is not None:
        require(ident in known, f"summary {ident} is not one of the session's")
        upto = known[ident].upto
        require(upto in on_path, f"summary {ident} stands for {upto}, which is off the path")
        require(upto.seq <= reach, f"summary {ident} reaches further than the one after it")
        ident, reach = known[ident].previous, upto.seq


async def check_calls(ledger: Ledger, principal: PrincipalId, row: SessionRow, tree: Tree) -> None:
    """No call is left in the air: an open one has an open turn, a finished one a result, and none has both."""
    calls = await ledger.calls(principal, row.id)
    places = [(call.turn, call.step, call.n) for call in calls]
    require(places == sorted(set(places)), "calls are not in order, or one place holds two")
    answered = {m.body.call for m in tree.messages.values() if isinstance(m.body, ToolBody)}
    for call in calls:
        turn = await ledger.turn(principal, row.id, call.turn)
        require(turn is not None, f"call {call.id} has no turn")
        is_open = turn is not None and turn.state.is_open
        in_the_air = call.state in (CallState.PLANNED, CallState.STARTED)
        require(is_open or not in_the_air, f"call {call.id} is {call.state} though its turn has ended")
        require(call.state != CallState.FINISHED or call.id in answered, f"call {call.id} has no result")
        require(not in_the_air or call.id not in answered, f"call {call.id} is {call.state} and has a result")
        require(call.epoch <= row.handle.epoch, f"call {call.id} was written by a later epoch")
    known = {call.id for call in calls}
    asked = {approval.call for approval in await ledger.approvals(principal, row.id)}
    require(asked <= known, "an approval is for a call that is not there")


async def check_attachments(ledger: Ledger, principal: PrincipalId, session: SessionId, tree: Tree) -> None:
    """Every attachment that a message names can be read."""
    for attachment in {a for message in tree.messages.values() for a in message.attachments}:
        blob = await ledger.blob(principal, session, attachment.sha256)
        require(len(blob.bytes) == attachment.size, f"attachment {attachment.sha256} has another size")


def require(holds: bool, sentence: str) -> None:
    """An assertion that also holds where assertions are switched off."""
    if not holds:
        raise AssertionError(sentence)
