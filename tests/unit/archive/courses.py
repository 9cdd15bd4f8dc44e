"""Random courses of a conversation, to be lived through in any ledger."""

from __future__ import annotations

from typing import Final

import msgspec
from hypothesis import strategies as st

from clew.domain.conversation.ids import SessionId
from clew.domain.conversation.messages import (
    AssistantBody,
    Attachment,
    NewMessage,
    Role,
    Status,
    Thinking,
    ToolCall,
    UserBody,
)
from clew.domain.ledger.commits import Append, Compact, NewBlob
from clew.domain.ledger.navigation import redo_target
from clew.domain.ledger.rows import Handle, OpKind
from clew.runtime.ports.ledger import Ledger
from clew.testing.ledgers import (
    ANN,
    attachment,
    begin,
    do,
    event,
    expand,
    fork,
    move,
    redo,
    tool_call,
    tool_result,
    undo,
)

NASTY: Final = (
    "",
    "\0",
    "  \r\n ",
    "a\u2028b",
    "\ufeff",
    "🧵",
    "```\n",
    '{"type":"end"}',
    "e\u0301",
    "\x1b[0m",
)
TEXTS: Final = st.one_of(
    st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)


class Say(msgspec.Struct, frozen=True):
    """A turn: a person's text, with a file or not, and an answer, with a tool or not, in one commit or in several."""

    text: str
    answer: str
    file: bytes | None
    uses_tool: bool
    status: Status
    at_once: bool


class Move(msgspec.Struct, frozen=True):
    """The head goes somewhere: `pick` chooses among what there is."""

    kind: OpKind
    pick: int


class Summarise(msgspec.Struct, frozen=True):
    text: str
    pick: int


class Step(msgspec.Struct, frozen=True):
    """`expand`, `event` or `fork`: what follows a fork happens in it."""

    kind: str


Course = list[Say | Move | Summarise | Step]

says = st.builds(
    Say,
    TEXTS,
    TEXTS,
    st.none() | st.binary(max_size=5),
    st.booleans(),
    st.sampled_from(Status),
    st.booleans(),
)
moves = st.builds(
    Move,
    st.sampled_from([OpKind.UNDO, OpKind.REDO, OpKind.RETRY, OpKind.RESUME]),
    st.integers(min_value=0, max_value=20),
)
summarises = st.builds(Summarise, TEXTS, st.integers(min_value=0, max_value=20))
steps = st.sampled_from([Step("expand"), Step("event"), Step("fork")])
courses: st.SearchStrategy[Course] = st.lists(
    st.one_of(says, says, moves, moves, summarises, steps), max_size=14
)


class Life:
    """One course, lived in a ledger. `sessions` are the one it began with and its forks."""

    def __init__(self, ledger: Ledger, number: int) -> None:
        self.ledger = ledger
        self.sessions: list[SessionId] = []
        self._number = number

    async def live(self, course: Course) -> None:
        handle = await begin(self.ledger, self._number)
        self.sessions.append(handle.session)
        for step in course:
            handle = await self._take(handle, step)
            if handle.session not in self.sessions:
                self.sessions.append(handle.session)

    async def _take(self, handle: Handle, step: Say | Move | Summarise | Step) -> Handle:
        match step:
            case Say():
                return await self._say(handle, step)
            case Move():
                return await self._move(handle, step)
            case Summarise():
                return await self._summarise(handle, step)
            case Step(kind="expand"):
                return await expand(self.ledger, handle) if handle.summary is not None else handle
            case Step(kind="fork"):
                number = self._number + len(self.sessions)
                return await fork(self.ledger, handle, number, summary=handle.summary)
            case Step():
                return await do(
                    self.ledger, handle, op=Append(messages=(event("It ended."),), turn=handle.version)
                )

    async def _say(self, handle: Handle, said: Say) -> Handle:
        files = () if said.file is None else (attachment(said.file, "a.png"),)
        messages = _messages(handle, said, *(reference for reference, _ in files))
        blobs: tuple[NewBlob, ...] = tuple(blob for _, blob in files)
        turn = handle.version
        if said.at_once:
            return await do(self.ledger, handle, op=Append(messages=messages, turn=turn), blobs=blobs)
        for message in messages:
            handle = await do(self.ledger, handle, op=Append(messages=(message,), turn=turn), blobs=blobs)
            blobs = ()
        return handle

    async def _move(self, handle: Handle, moved: Move) -> Handle:
        starts = await self.ledger.turn_starts(ANN, handle.session, 100)
        if moved.kind == OpKind.UNDO and starts:
            return await undo(self.ledger, handle, 1 + moved.pick % len(starts))
        if moved.kind == OpKind.REDO and redo_target(await self.ledger.ops(ANN, handle.session, limit=1000)):
            return await redo(self.ledger, handle)
        if moved.kind == OpKind.RETRY and starts:
            return await move(self.ledger, handle, OpKind.RETRY, starts[moved.pick % len(starts)].head)
        if moved.kind == OpKind.RESUME:
            branches = await self.ledger.branches(ANN, handle.session)
            branch = branches[moved.pick % len(branches)]
            messages = await self.ledger.segment(ANN, handle.session, branch.id)
            return await move(self.ledger, handle, OpKind.RESUME, messages[-1].head) if messages else handle
        return handle

    async def _summarise(self, handle: Handle, summarised: Summarise) -> Handle:
        path = await self.ledger.path(ANN, handle.session)
        known = {row.id: row.upto.seq for row in await self.ledger.summaries(ANN, handle.session)}
        reached = 0 if handle.summary is None else known[handle.summary]
        positions = [message.head for message in path if message.seq >= reached]
        if not positions:
            return handle
        upto = positions[summarised.pick % len(positions)]
        op = Compact(upto=upto, text=summarised.text, focus="f", model="m", tokens_before=9, tokens_after=3)
        return await do(self.ledger, handle, op=op)


def _messages(handle: Handle, said: Say, *files: Attachment) -> tuple[NewMessage, ...]:
    body = UserBody(attachments=files, cwd="/work")
    asked = NewMessage(role=Role.USER, text=said.text, step=0, actor=ANN, body=body)
    calls = (tool_call(handle),) if said.uses_tool else ()
    answered = NewMessage(
        role=Role.ASSISTANT, text=said.answer, step=1, actor="model", status=said.status, body=_thought(calls)
    )
    return (asked, answered, *(tool_result(call, said.answer, *files) for call in calls))


def _thought(calls: tuple[ToolCall, ...]) -> AssistantBody | None:
    thinking = (Thinking(text="Hm.", signature="s", model="m"),) if calls else ()
    return AssistantBody(calls=calls, thinking=thinking) if calls else None
