"""What happens in a session, as server-sent events.

Rule: an event with an id is one op of the session, and its id is the op's version: whoever comes back with the last id it
saw gets every later op, once, also from another process after a crash. Everything else is said on the way, without an id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.messages import Message, Role
from clew.domain.ledger.errors import NotFound
from clew.domain.ledger.rows import OpKind, OpRow, TurnState
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.people import (
    AttemptVoid,
    CallAnnounced,
    CallOutput,
    Noticed,
    StepRecorded,
    TextShown,
    ThinkingShown,
    TurnNews,
)
from clew.surfaces.http import views
from clew.surfaces.http.errors import bad_request
from clew.surfaces.http.lines import Lines

LOOK_SECONDS: Final = 0.5
"""How often the ledger is asked for what other processes, and other surfaces of this one, did."""
PAGE: Final = 64
_APPENDS: Final = frozenset({OpKind.APPEND, OpKind.RECOVER})


class Event(msgspec.Struct, frozen=True, kw_only=True):
    event: str
    data: bytes
    id: int | None = None

    def encoded(self) -> bytes:
        named = b"" if self.id is None else b"id: %d\n" % self.id
        return b"%sevent: %s\ndata: %s\n\n" % (named, self.event.encode(), self.data)


async def first_version(ledger: Ledger, who: PrincipalId, session: SessionId, last: int | None) -> int:
    """After which op the events begin: the last one seen, or now. Raises NotFound; ApiError for one that is to come."""
    version = (await ledger.session(who, session)).handle.version
    if last is not None and last > version:
        raise bad_request(f"There is no event {last} yet: the last is {version}.", "Last-Event-ID")
    return version if last is None else last


async def follow(
    ledger: Ledger, lines: Lines, who: PrincipalId, session: SessionId, seen: int, *, seconds: float
) -> AsyncIterator[Event]:
    """For so long, or to the end of the session. Begins with the state of its newest turn, if there is one. What is answered comes
    before its answer, whose pieces come before the op that holds it whole."""
    newest: tuple[int, TurnState] | None = None
    now = asyncio.get_running_loop().time
    ends = now() + seconds
    with lines.following(session) as follower:
        try:
            while True:
                is_told = False
                for news in follower.taken():
                    if isinstance(news, StepRecorded):  # what comes next is of another step
                        async for op in _since(ledger, who, session, seen):
                            seen = op.version
                            yield _committed(op, await _appended(ledger, who, session, op))
                    elif (delta := _delta(news)) is not None:
                        if not is_told:  # what is answered comes before its answer
                            async for op in _since(ledger, who, session, seen):
                                messages = await _appended(ledger, who, session, op)
                                if any(message.role is Role.ASSISTANT for message in messages):
                                    break  # this delta may be of that answer
                                seen = op.version
                                yield _committed(op, messages)
                            is_told = True
                        yield Event(event="delta", data=msgspec.json.encode(delta))
                async for op in _since(ledger, who, session, seen):
                    seen = op.version
                    yield _committed(op, await _appended(ledger, who, session, op))
                turn = await ledger.turn(who, session)
                if turn is not None and newest != (turn.turn, turn.state):
                    newest = turn.turn, turn.state
                    yield Event(event="turn", data=msgspec.json.encode(views.turn(turn)))
                if (left := ends - now()) <= 0:
                    return
                await follower.wait(min(LOOK_SECONDS, left))
        except NotFound:
            yield Event(event="gone", data=msgspec.json.encode(views.GoneEvent()))


async def _since(ledger: Ledger, who: PrincipalId, session: SessionId, seen: int) -> AsyncIterator[OpRow]:
    """The ops after a version, oldest first, in pages: versions have no gaps."""
    upto = (await ledger.session(who, session)).handle.version
    while seen < upto:
        page = await ledger.ops(who, session, below=min(seen + PAGE, upto) + 1, limit=PAGE)
        later = [op for op in reversed(page) if op.version > seen]
        if not later:
            return
        for op in later:
            seen = op.version
            yield op


async def _appended(ledger: Ledger, who: PrincipalId, session: SessionId, op: OpRow) -> Sequence[Message]:
    """The messages that an op brought."""
    if op.kind not in _APPENDS:
        return ()
    above = 0 if op.from_head is None else op.from_head.seq
    return await ledger.path(who, session, op.to_head, above=above)


def _committed(op: OpRow, messages: Sequence[Message]) -> Event:
    data = msgspec.json.encode(views.op(op, [views.message(message) for message in messages]))
    return Event(event="op", data=data, id=op.version)


def _delta(news: TurnNews) -> views.DeltaEvent | None:
    match news:
        case TextShown(text=text):
            return views.DeltaEvent(kind="text", text=text)
        case ThinkingShown(text=text):
            return views.DeltaEvent(kind="thinking", text=text)
        case AttemptVoid(reason=reason):
            return views.DeltaEvent(kind="void", text=reason)
        case CallAnnounced(call=call, line=line):
            return views.DeltaEvent(kind="call", text=line, call=call)
        case CallOutput(call=call, text=text):
            return views.DeltaEvent(kind="output", text=text, call=call)
        case Noticed(text=text):
            return views.DeltaEvent(kind="notice", text=text)
        case _:
            return None
