"""How a turn begins: with something said, with something said before (retry), or where it waited for an approval.

The opening is one commit: the lease, the message, the inbox rows it came from and the turn's row. A process that is
certainly dead is evicted in that same commit, and its open turn is ended there.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from clew.domain.conversation.ids import PrincipalId
from clew.domain.ledger.commits import (
    Append,
    AsObserver,
    Commit,
    OpenTurn,
    SessionPatch,
    SetTurn,
)
from clew.domain.ledger.errors import Busy, HeadMoved, KeyReused, Refused
from clew.domain.ledger.rows import TASK, Handle, InboxRow, SessionRow, TurnRow, TurnState
from clew.domain.turn.prompt import Overlay
from clew.runtime.ports.ledger import Ledger
from clew.runtime.turns.job import Means, TurnJob
from clew.runtime.turns.leases import Holder
from clew.runtime.turns.openings import Again, GoOn, Hear, Opening, Say, Work
from clew.runtime.turns.waiting import (
    event_message,
    event_messages,
    events_among,
    message_of_person,
)

TRIES_MAX = 50
TITLE_CHARACTERS_MAX = 60


class OpenedTurn(msgspec.Struct, frozen=True, kw_only=True):
    """`recovers` is the key of the tool batch that was interrupted, and `hint` what the model is told of it, until an answer
    to it is recorded. `ended` is the turn that waited for an approval until this one began."""

    handle: Handle
    turn: int
    row: SessionRow
    recovers: str | None = None
    hint: Overlay | None = None
    ended: int | None = None


class LeftOpen(Busy):
    """A process that ended left a turn of this session in the middle: it is finished first, see `Recover`."""


async def open_turn(means: Means, job: TurnJob) -> OpenedTurn:
    """Claims the session and commits the opening.

    Raises Busy when a living process is in the middle of a turn, LeftOpen when one that ended left it there; Refused when
    there is nothing to start from.
    """
    ledger, principal, session, opening = means.ledger, job.principal, job.session, job.opening
    for _ in range(TRIES_MAX):
        row = await ledger.session(principal, session)
        claim = await claimed(means, job, row)
        try:
            newest = await ledger.turn(principal, row.id)
            turn = await _turn_number(ledger, principal, row, opening, newest)
        except LeftOpen:
            if (await ledger.session(principal, session)).handle == row.handle:
                raise
            continue  # it is not left: it began just now
        events = (
            events_among(await ledger.queued(principal, session)) if isinstance(opening, Say | Hear) else []
        )
        work = _opened(claim, job, turn)
        if isinstance(opening, Say):
            work = _say(work, row, opening, turn, events)
        elif isinstance(opening, Hear):
            work = _hear(work, opening, turn, events)
        elif isinstance(opening, Work):
            task = event_message(TASK, opening.task, 0)
            op = Append(messages=(task,), turn=turn)
            work = msgspec.structs.replace(work, op=op, idempotency_key=opening.key)
        try:
            committed = await ledger.commit(work)
        except HeadMoved:
            continue  # decided again from what the ledger now says
        except KeyReused as error:
            raise Refused("A message with this key was already taken.") from error
        if committed.repeated:
            raise Refused("This message was already taken.")
        ended = newest.turn if newest is not None and newest.state == TurnState.WAITING else None
        return OpenedTurn(handle=committed.handle, turn=turn, row=row, ended=ended if ended != turn else None)
    raise Busy("This session changes too quickly to start a turn.", "")


async def claimed(means: Means, job: TurnJob, row: SessionRow) -> Commit:
    """A commit that claims the session as it was read. Raises Busy when its holder lives.

    What the tools of a dead one left running is ended first: nobody works beside the dead.
    """
    holder = means.leases.look(row.id, row.lease_owner, row.handle.epoch, row.lease_beat)
    if holder == Holder.LIVING:
        sentence = f"Another process is in the middle of a turn of session {row.id}."
        raise Busy(sentence, str(row.lease_owner))
    if holder == Holder.DEAD and row.lease_owner is not None:
        burial = await means.owners.bury(row.lease_owner)
        if burial.left:
            sentence = f"{burial.left} processes that a dead Clew's tools started will not end; its turn waits for them."
            raise Busy(sentence, row.lease_owner)
    return Commit(
        session=row.id,
        actor=job.principal,
        at=means.clock.now_ms(),
        fence=AsObserver(version=row.handle.version, head=row.handle.head),
        claim=means.owners.me,
        evicts=row.lease_owner if holder in (Holder.DEAD, Holder.SILENT) else None,
        seen_beat=row.lease_beat if holder == Holder.SILENT else None,
    )


async def _turn_number(
    ledger: Ledger, principal: PrincipalId, row: SessionRow, opening: Opening, newest: TurnRow | None
) -> int:
    if isinstance(opening, GoOn):
        if newest is None or newest.state != TurnState.WAITING:
            raise Refused("No turn of this session is waiting.")
        return newest.turn
    if newest is not None and newest.state == TurnState.RUNNING:
        raise LeftOpen(f"Turn {newest.turn} of session {row.id} was left in the middle.", "")
    head = row.handle.head
    last = await ledger.path(principal, row.id, head, above=max(head.seq - 1, 0))
    if isinstance(opening, Again) and not (last and last[-1].opens_turn):
        raise Refused("There is no message to answer again.")
    return max(newest.turn if newest else 0, last[-1].turn if last else 0) + 1


def _opened(claim: Commit, job: TurnJob, turn: int) -> Commit:
    if isinstance(job.opening, GoOn):
        return msgspec.structs.replace(claim, set_turn=SetTurn(turn=turn, state=TurnState.RUNNING))
    opened = OpenTurn(
        turn=turn, principal=job.principal, model=job.model.profile.name, conversation=job.conversation
    )
    return msgspec.structs.replace(claim, open_turn=opened)


def _say(work: Commit, row: SessionRow, say: Say, turn: int, events: Sequence[InboxRow]) -> Commit:
    message, blobs = message_of_person(
        say.text, say.files, say.cwd, actor=work.actor, speaker=say.speaker, step=0
    )
    patch = None if row.title or row.temporary else SessionPatch(title=first_words(message.text))
    return msgspec.structs.replace(
        work,
        op=Append(messages=(*event_messages(events, 0), message), turn=turn),
        blobs=blobs,
        take=(*(row.id for row in events), *say.inbox),
        patch=patch,
        idempotency_key=say.key,
    )


def _hear(work: Commit, hear: Hear, turn: int, events: Sequence[InboxRow]) -> Commit:
    """Raises Refused when what is to be heard was taken already."""
    if not set(hear.inbox) <= {row.id for row in events}:
        raise Refused("What happened was told already.")
    op = Append(messages=event_messages(events, 0), turn=turn)
    return msgspec.structs.replace(work, op=op, take=tuple(row.id for row in events))


def first_words(text: str) -> str | None:
    """A title for a session that has none: the start of what was said first."""
    line = " ".join(text.replace("\0", " ").split())
    if len(line) <= TITLE_CHARACTERS_MAX:
        return line or None
    return line[: TITLE_CHARACTERS_MAX - 1].rsplit(" ", 1)[0] + "…"
