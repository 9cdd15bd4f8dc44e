"""Where a process can be made to end: every kind of write, before and after it, and three moments between writes.

A write is known by the shape of what it commits, not by the code that asked for it, so no production module knows of
this table. `before` means with the rows written and the transaction open; `after` means durable, and nobody told.
Each point has a way to get there: what was said before, and what the process that is to end there is told to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple

from clew.domain.conversation.messages import Role
from clew.domain.ledger.commits import Append, Commit, Compact, Expand, MoveHead, Note, Receive
from clew.domain.ledger.rows import CallState, OpKind, TurnState
from clew.runtime.turns.waiting import MESSAGE, unpack

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
LONG_TALK: Final = ("{} hello" + " and so on" * 300,) * 2
ASKING: Final = MappingProxyType({"CLEW__APPROVAL__MODE": "ask"})

CAPPED: Final = MappingProxyType(
    {
        "CLEW__LIMITS__USD_PER_SESSION": "1000",
        "CLEW__MODEL__INPUT_USD_PER_MTOK": "1",
        "CLEW__MODEL__OUTPUT_USD_PER_MTOK": "1",
    }
)


class Way(NamedTuple):
    """How a process comes to a point. `{}` stands for a word that is said once only, ` | ` parts lines typed into a chat;
    `{session}` is one that is there for this way alone.

    What follows the words is for the scripted model (`torture_model`): the calls that it asks for, one after the other.
    """

    last: str
    first: tuple[str, ...] = ()
    environ: Mapping[str, str] = _NOTHING
    is_new: bool = False
    """In a session of its own."""
    crashes: tuple[str, ...] = ()
    """Before that, processes die at these points: the first in a turn with a call, the others in what follows."""
    at: str = ""
    """The write that it is, where another way to it has its name."""


class Write(NamedTuple):
    name: str
    way: Way


def _takes(work: Commit) -> bool:
    return isinstance(work.op, Append) and any(m.role == Role.USER for m in work.op.messages)


def _brings(role: Role, work: Commit) -> bool:
    return isinstance(work.op, Append) and any(m.role == role for m in work.op.messages)


def _moves(kind: OpKind, work: Commit) -> bool:
    return isinstance(work.op, MoveHead) and work.op.kind == kind


def _notes(kind: OpKind, work: Commit) -> bool:
    return isinstance(work.op, Note) and work.op.kind == kind


def _recovers(work: Commit) -> bool:
    return isinstance(work.op, Append) and work.op.kind == OpKind.RECOVER


def _ends(work: Commit, *states: TurnState) -> bool:
    return work.set_turn is not None and work.set_turn.state in states


SHAPES: Final[tuple[tuple[str, Callable[[Commit], bool]], ...]] = (
    ("acknowledge", lambda work: _recovers(work) and _brings(Role.ASSISTANT, work)),
    ("claim", lambda work: _ends(work, TurnState.RUNNING) and work.evicts is not None),
    ("go on", lambda work: _ends(work, TurnState.RUNNING)),
    ("take", lambda work: work.open_turn is not None and _takes(work) and bool(work.take)),
    ("opening", lambda work: work.open_turn is not None and _takes(work)),
    ("again", lambda work: work.open_turn is not None),
    ("steer", lambda work: _takes(work) and bool(work.take)),
    ("refreeze", partial(_notes, OpKind.REFREEZE)),
    ("plan", lambda work: bool(work.plan)),
    ("answer", lambda work: _ends(work, TurnState.DONE)),
    ("park", lambda work: _ends(work, TurnState.WAITING)),
    ("close", lambda work: work.set_turn is not None),
    ("ask", lambda work: bool(work.ask)),
    ("start", lambda work: any(call.to == CallState.STARTED for call in work.calls)),
    ("result", partial(_brings, Role.TOOL)),
    ("event", partial(_brings, Role.EVENT)),
    ("undo", partial(_moves, OpKind.UNDO)),
    ("redo", partial(_moves, OpKind.REDO)),
    ("retry", partial(_moves, OpKind.RETRY)),
    ("resume", partial(_moves, OpKind.RESUME)),
    ("stop", partial(_notes, OpKind.STOP)),
    ("leave", partial(_notes, OpKind.LEAVE)),
    ("title", partial(_notes, OpKind.TITLE)),
    ("settings", partial(_notes, OpKind.SETTINGS)),
    ("set aside", partial(_notes, OpKind.RECOVER)),
    ("compact", lambda work: isinstance(work.op, Compact)),
    ("expand", lambda work: isinstance(work.op, Expand)),
    ("reserve", lambda work: work.reserve is not None),
    ("cancel", lambda work: bool(work.cancel)),
    ("count", lambda work: bool(work.usage)),
)
"""The first that fits names a commit."""

WRITES: Final = (
    Write("open", Way("{} hello", is_new=True)),
    Write("opening", Way("{} hello")),
    Write("refreeze", Way("{} hello", is_new=True)),
    Write("reserve", Way("{} shell", environ=CAPPED)),
    Write("plan", Way("{} shell")),
    Write("start", Way("{} shell read")),
    Write("result", Way("{} shell shell+read")),
    Write("answer", Way("{} shell")),
    Write("receive", Way("{} wait | {} hello")),
    Write("take", Way("{} wait | {} shell")),
    Write("steer", Way("{} wait shell | /steer {} hello")),
    Write("ask", Way("{} shell", environ=ASKING)),
    Write("park", Way("{} shell", environ=ASKING)),
    Write("decide", Way("/approve", first=("{} shell",), environ=ASKING)),
    Write("deny", Way("/deny", first=("{} shell",), environ=ASKING, at="decide")),
    Write("go on", Way("/approve", first=("{} shell",), environ=ASKING)),
    Write("close", Way("{} shell fail")),
    Write("event", Way("{} background wait")),
    Write("undo", Way("/undo", first=("{} hello",))),
    Write("redo", Way("/redo", first=("{} shell", "/undo"))),
    Write("retry", Way("/retry", first=("{} shell",))),
    Write("again", Way("/retry", first=("{} shell",))),
    Write("stop", Way("/stop", first=("{} shell",), environ=ASKING)),
    Write("claim", Way("{} hello", crashes=("after start",))),
    Write("notice", Way("{} hello", crashes=("after result",))),
    Write("acknowledge", Way("{} hello", crashes=("after result",))),
    Write("set aside", Way("{} hello", crashes=("after result", *("after claim",) * 3))),
    Write("cancel", Way("{} wait | /queue {} hello | /undo | {} hello")),
    Write("compaction lease", Way("/compress", first=LONG_TALK)),
    Write("compact", Way("/compress", first=LONG_TALK)),
    Write("compaction end", Way("/compress", first=LONG_TALK)),
    Write("expand", Way("/expand", first=(*LONG_TALK, "/compress"))),
    Write("point", Way("{} hello | {} hello", first=("/branch",))),
    Write("leave", Way("/new")),
    Write("take_job", Way("/new | {} hello", first=("{} hello",))),
    Write("count", Way("/new | {} hello", first=("{} hello",))),
    Write("move_job", Way("/new | {} hello", first=("{} hello",))),
    Write("subagent's answer", Way("{} delegate", at="answer")),
    Write("settings", Way("{} delegate")),
    Write("background", Way("/background {} shell | {} hello", at="open")),
    Write("its answer", Way("/background {} shell | {} wait", at="answer")),
    Write("its result", Way("/background {} shell | {} wait", at="receive:2")),
    Write("title", Way("/title {}")),
    Write("delete", Way("/delete {session}")),
    Write("erase", Way("/delete {session}")),
    Write("delete end", Way("/delete {session}")),
)
"""Every write that a session lives by. `MOMENTS` are what happens between two of them."""

MOMENTS: Final = (
    Write("first token", Way("{} hello")),
    Write("before tool", Way("{} shell")),
    Write("in tool", Way("{} linger", is_new=True)),
    Write("after tool", Way("{} shell")),
)
POINTS: Final[Mapping[str, Way]] = MappingProxyType(
    {f"{when} {write.name}": write.way for write in WRITES for when in ("before", "after")}
    | {moment.name: moment.way for moment in MOMENTS}
)


_SMALL_WRITES: Final = {
    "open_and_point": "open",
    "settle_reply": "notice",
    "point_conversation": "point",
    "lease_compaction": "compaction lease",
    "end_compaction": "compaction end",
    "_condemn": "delete",
    "_delete_messages": "erase",
    "_strip": "erase",
    "_strip_session": "erase",
    "drop_facts_of": "erase",
    "_finish": "delete end",
}


SERVING: Final = tuple(
    f"{when} {write}" for write in ("take_reply", "add_reply") for when in ("before", "after")
)
"""Writes that only the gateway makes: a message that arrived, a reply on its way, what became of it."""


def shape_of(work: Callable[..., object]) -> str:
    """The name of a write, as the ledger hands it to its writer."""
    said = _said(work)
    if isinstance(said, Commit):
        return next((name for name, fits in SHAPES if fits(said)), "other")
    name = (work.func if isinstance(work, partial) else work).__name__
    return _SMALL_WRITES.get(name, name)


def texts_of(work: Callable[..., object]) -> tuple[str, ...]:
    """What people said that a write makes durable."""
    match _said(work):
        case Commit(op=Append(messages=messages)):
            return tuple(message.text for message in messages if message.role == Role.USER)
        case Receive(kind=kind, body=body) if kind == MESSAGE:
            return (unpack(body).text,)
        case _:
            return ()


def _said(work: Callable[..., object]) -> object:
    return next(iter(work.keywords.values()), None) if isinstance(work, partial) else None
