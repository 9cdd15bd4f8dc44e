"""A session's history as a value without ids, so that a copy in another ledger can be compared with the original."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from clew.domain.conversation.ids import PrincipalId, SessionId, SummaryId
from clew.domain.conversation.messages import Body, Head, Message, Role, Status, UserBody
from clew.domain.ledger.rows import SummaryRow
from clew.runtime.ports.ledger import Ledger
from clew.testing.invariants import Tree, read_tree


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A message, and after which it stands: the number of that message in the order they were written, from 1."""

    after: int
    turn: int
    step: int
    role: Role
    actor: str
    status: Status
    text: str
    body: Body | None
    created_at: int
    blobs: tuple[bytes, ...]


class Summarised(msgspec.Struct, frozen=True, kw_only=True):
    """A summary with the one it fell in for."""

    upto: int
    text: str
    focus: str | None
    model: str | None
    tokens: tuple[int, int]
    created_at: int
    previous: Summarised | None


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Two sessions with equal histories say the same, in the same order, with the same turnings."""

    messages: tuple[Told, ...]
    summaries: tuple[Summarised, ...]
    """By what they say: when two are made in which order is not part of a history."""
    head: int
    in_force: Summarised | None


async def history_of(ledger: Ledger, principal: PrincipalId, session: SessionId) -> History:
    """The whole tree, undone tips included. Reads all of it into memory."""
    row = await ledger.session(principal, session)
    tree = await read_tree(ledger, principal, session)
    messages = sorted(tree.messages.values(), key=lambda message: message.id)
    numbers = {message.head: number for number, message in enumerate(messages, 1)}
    told = [
        _told(
            message, numbers.get(_before(tree, message), 0), await _blobs(ledger, principal, message, session)
        )
        for message in messages
    ]
    summaries = _summaries(await ledger.summaries(principal, session), numbers)
    in_force = row.handle.summary
    return History(
        messages=tuple(told),
        summaries=tuple(sorted(summaries.values(), key=repr)),
        head=numbers.get(row.handle.head, 0),
        in_force=None if in_force is None else summaries[in_force],
    )


def _before(tree: Tree, message: Message) -> Head:
    """The position before a message: the start of its root for a first one."""
    at = Head(message.branch, message.seq - 1)
    while (parent := tree.branches[at.branch].parent) is not None and at.seq <= parent.seq:
        at = Head(parent.branch, at.seq)
    return at


async def _blobs(
    ledger: Ledger, principal: PrincipalId, message: Message, session: SessionId
) -> tuple[bytes, ...]:
    named = [attachment.sha256 for attachment in message.attachments]
    if isinstance(message.body, UserBody) and message.body.original:
        named.append(message.body.original)
    return tuple([(await ledger.blob(principal, session, sha256)).bytes for sha256 in named])


def _told(message: Message, after: int, blobs: tuple[bytes, ...]) -> Told:
    return Told(
        after=after,
        turn=message.turn,
        step=message.step,
        role=message.role,
        actor=message.actor,
        status=message.status,
        text=message.text,
        body=message.body,
        created_at=message.created_at,
        blobs=blobs,
    )


def _summaries(rows: tuple[SummaryRow, ...], numbers: Mapping[Head, int]) -> dict[SummaryId, Summarised]:
    found: dict[SummaryId, Summarised] = {}
    for row in rows:
        found[row.id] = Summarised(
            upto=numbers[row.upto],
            text=row.text,
            focus=row.focus,
            model=row.model,
            tokens=(row.tokens_before, row.tokens_after),
            created_at=row.created_at,
            previous=None if row.previous is None else found[row.previous],
        )
    return found
