"""Short ways to do to a ledger what the program does: open, say, run a turn, undo, fork, compact.

Each writes with the handle it is given and returns the next one, so a test can keep an old handle and be stale.
Time is derived from the version: the same steps give the same rows.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from msgspec.structs import replace

from clew.domain.conversation.ids import (
    ID_ALPHABET,
    SESSION_ID_LENGTH,
    CallId,
    ConversationId,
    OwnerId,
    PrincipalId,
    SessionId,
    call_id,
)
from clew.domain.conversation.messages import (
    AssistantBody,
    Attachment,
    EventBody,
    Head,
    Message,
    NewMessage,
    Role,
    ToolBody,
    ToolCall,
    UserBody,
)
from clew.domain.ledger.commits import (
    Append,
    AsHolder,
    AsObserver,
    Commit,
    Compact,
    Expand,
    MoveCall,
    MoveHead,
    NewBlob,
    NewJob,
    NewSession,
    OpenTurn,
    PlanCall,
    PointConversation,
    Receive,
    Received,
    SetTurn,
)
from clew.domain.ledger.navigation import redo_target
from clew.domain.ledger.rows import CallState, ConversationRow, Handle, OpKind, Origin, TurnRow, TurnState
from clew.runtime.ports.ledger import Ledger

ANN: Final = PrincipalId("ann")
BOB: Final = PrincipalId("bob")
CLEO: Final = PrincipalId("cleo")
EVE: Final = PrincipalId("eve")
"""The stranger: nothing is ever shared with her."""
PEOPLE: Final = (ANN, BOB, CLEO, EVE)
THIS_PROCESS: Final = OwnerId("this-process")
OTHER_PROCESS: Final = OwnerId("other-process")
START_MS: Final = 1_700_000_000_000


class StillClock:
    """A moment that does not pass."""

    def now_ms(self) -> int:
        return START_MS

    def monotonic(self) -> float:
        return 0.0


def session_id(number: int) -> SessionId:
    """The number-th id: no two share their first three characters, so each has short prefixes of its own."""
    base = len(ID_ALPHABET)
    front = "".join(ID_ALPHABET[number // base**power % base] for power in range(3))
    return SessionId(front.ljust(SESSION_ID_LENGTH, "0"))


def sha256(content: bytes | str) -> str:
    """As the ledger names content."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


# -- messages ------------------------------------------------------------------------------------------------------
def user(
    text: str, *attachments: Attachment, step: int = 0, actor: str = ANN, original: str | None = None
) -> NewMessage:
    """What a person sent; with a step above 0 it joined a running turn."""
    body = UserBody(attachments=attachments, original=original)
    return NewMessage(
        role=Role.USER, text=text, step=step, actor=actor, body=body if body != UserBody() else None
    )


def assistant(text: str, *calls: ToolCall, step: int = 1) -> NewMessage:
    """What the model said, and which tools it asked for."""
    body = AssistantBody(calls=calls) if calls else None
    return NewMessage(role=Role.ASSISTANT, text=text, step=step, actor="model", body=body)


def tool_result(call: ToolCall, text: str, *attachments: Attachment, step: int = 1) -> NewMessage:
    """What a tool answered."""
    body = ToolBody(call=call.id, name=call.name, attachments=attachments)
    return NewMessage(role=Role.TOOL, text=text, step=step, actor=call.name, body=body)


def event(text: str, kind: str = "process_ended") -> NewMessage:
    """What happened outside the talk."""
    return NewMessage(role=Role.EVENT, text=text, step=0, actor="shell", body=EventBody(kind=kind))


def tool_call(handle: Handle, n: int = 0, *, step: int = 1, name: str = "read_file") -> ToolCall:
    """The n-th call of a step of the turn that `handle` is about to open."""
    ident = call_id(handle.session, turn_after(handle), step, n)
    return ToolCall(id=ident, name=name, arguments=f'{{"n": {n}}}', provider_id=f"call_{n}")


def attachment(content: bytes, name: str | None = None) -> tuple[Attachment, NewBlob]:
    """A reference, and the bytes it refers to."""
    blob = NewBlob(sha256=sha256(content), media_type="image/png", bytes=content)
    reference = Attachment(sha256=blob.sha256, media_type=blob.media_type, size=len(content), name=name)
    return reference, blob


# -- sessions and commits ------------------------------------------------------------------------------------------
def moment(handle: Handle) -> int:
    """The time of a handle's next commit."""
    return START_MS + 1000 * handle.version


def turn_after(handle: Handle) -> int:
    """The number of the turn that the next commit belongs to, if it starts one."""
    return handle.version


def as_observer(handle: Handle) -> AsObserver:
    return AsObserver(version=handle.version, head=handle.head)


def as_holder(handle: Handle) -> AsHolder:
    return AsHolder(epoch=handle.epoch, head=handle.head)


def work(handle: Handle, *, actor: PrincipalId = ANN, **rest: Any) -> Commit:
    """A commit against this handle, as an observer unless a fence is given."""
    rest.setdefault("fence", as_observer(handle))
    rest.setdefault("at", moment(handle))
    return Commit(session=handle.session, actor=actor, **rest)


async def do(ledger: Ledger, handle: Handle, *, actor: PrincipalId = ANN, **rest: Any) -> Handle:
    """Commits and returns the next handle."""
    return (await ledger.commit(work(handle, actor=actor, **rest))).handle


def new_session(number: int, *, owner: PrincipalId = ANN, **rest: Any) -> NewSession:
    rest.setdefault("origin", Origin.FORK if "at" in rest else Origin.NEW)
    return NewSession(id=session_id(number), owner=owner, **{"surface": "terminal", **rest})


async def begin(
    ledger: Ledger, number: int = 1, *, owner: PrincipalId = ANN, when: int = START_MS, **rest: Any
) -> Handle:
    """Opens the number-th session."""
    return await ledger.open(new_session(number, owner=owner, **rest), actor=owner, at=when)


async def fork(
    ledger: Ledger, parent: Handle, number: int, *, owner: PrincipalId = ANN, **rest: Any
) -> Handle:
    """Forks at the parent's head, or at `at`."""
    rest.setdefault("at", parent.head)
    return await begin(ledger, number, owner=owner, parent=parent.session, **rest)


async def say(ledger: Ledger, handle: Handle, *texts: str, actor: PrincipalId = ANN) -> Handle:
    """Each text is a message a person sent to start a turn, in a commit of its own."""
    for text in texts:
        handle = await add(ledger, handle, user(text, actor=actor), actor=actor)
    return handle


async def add(
    ledger: Ledger, handle: Handle, *messages: NewMessage, actor: PrincipalId = ANN, **rest: Any
) -> Handle:
    """Appends messages in one commit."""
    op = Append(messages=messages, turn=turn_after(handle))
    return await do(ledger, handle, actor=actor, op=op, **rest)


async def exchange(ledger: Ledger, handle: Handle, *texts: str, actor: PrincipalId = ANN) -> Handle:
    """For each text a turn of two messages: what was said, and an answer that repeats it."""
    for text in texts:
        said = user(text, actor=actor), assistant(f"re {text}")
        handle = await add(ledger, handle, *said, actor=actor)
    return handle


async def open_turn(
    ledger: Ledger, handle: Handle, text: str, *, owner: OwnerId = THIS_PROCESS, **rest: Any
) -> Handle:
    """A person's message opens a turn, and a process claims it."""
    turn = turn_after(handle)
    opened = OpenTurn(turn=turn, principal=ANN, model="model")
    return await add(ledger, handle, user(text), claim=owner, open_turn=opened, **rest)


def plan(call: ToolCall, turn: int, n: int = 0, *, step: int = 1, safe: bool = False) -> PlanCall:
    """The row that goes with a call in an assistant's message."""
    return PlanCall(
        id=call.id,
        turn=turn,
        step=step,
        n=n,
        provider_id=call.provider_id,
        name=call.name,
        args_sha256=sha256(call.arguments),
        safe_to_repeat=safe,
    )


async def ask_tool(ledger: Ledger, handle: Handle, turn: int, call: ToolCall, **rest: Any) -> Handle:
    """The model asks for one tool; the call is planned with its message."""
    op = Append(messages=(assistant("Let me look.", call),), turn=turn)
    fence = as_holder(handle)
    return await do(ledger, handle, fence=fence, op=op, plan=(plan(call, turn),), **rest)


async def move_call(ledger: Ledger, handle: Handle, call: CallId, to: CallState, **rest: Any) -> Handle:
    return await do(ledger, handle, fence=as_holder(handle), calls=(MoveCall(id=call, to=to),), **rest)


async def run_turn(
    ledger: Ledger, handle: Handle, text: str, answer: str = "Done.", tool_text: str | None = None
) -> Handle:
    """A whole turn as the program runs it, every step a commit; with one tool call if `tool_text` is given."""
    turn = turn_after(handle)
    call = tool_call(handle)
    handle = await open_turn(ledger, handle, text)
    if tool_text is not None:
        handle = await ask_tool(ledger, handle, turn, call)
        handle = await move_call(ledger, handle, call.id, CallState.STARTED)
        result = Append(messages=(tool_result(call, tool_text),), turn=turn)
        handle = await move_call(ledger, handle, call.id, CallState.FINISHED, op=result)
    last = Append(messages=(assistant(answer, step=2),), turn=turn)
    done = SetTurn(turn=turn, state=TurnState.DONE, end_reason="answered")
    return await do(ledger, handle, fence=as_holder(handle), op=last, set_turn=done, release=True)


# -- moving the head -----------------------------------------------------------------------------------------------
async def move(ledger: Ledger, handle: Handle, kind: OpKind, to: Head, *, actor: PrincipalId = ANN) -> Handle:
    return await do(ledger, handle, actor=actor, op=MoveHead(kind=kind, to=to))


async def undo(ledger: Ledger, handle: Handle, turns: int = 1, *, actor: PrincipalId = ANN) -> Handle:
    """Takes back the newest turns, in one op."""
    starts = await ledger.turn_starts(actor, handle.session, turns)
    to = await ledger.before(actor, handle.session, starts[turns - 1].head)
    return await move(ledger, handle, OpKind.UNDO, to, actor=actor)


async def redo(ledger: Ledger, handle: Handle, *, actor: PrincipalId = ANN) -> Handle:
    """Takes back the newest undo."""
    to = redo_target(await ledger.ops(actor, handle.session, limit=1000))
    if to is None:
        raise AssertionError("there is nothing to redo")
    return await move(ledger, handle, OpKind.REDO, to, actor=actor)


async def compact(
    ledger: Ledger, handle: Handle, upto: int, text: str = "What was said.", *, actor: PrincipalId = ANN
) -> Handle:
    """A summary stands for the first `upto` messages."""
    path = await ledger.path(actor, handle.session)
    op = Compact(upto=path[upto - 1].head, text=text)
    return await do(ledger, handle, actor=actor, op=op)


async def expand(ledger: Ledger, handle: Handle, *, actor: PrincipalId = ANN) -> Handle:
    return await do(ledger, handle, actor=actor, op=Expand())


# -- places --------------------------------------------------------------------------------------------------------
async def place(
    ledger: Ledger, handle: Handle, route_key: str = "telegram:1", version: int = 0
) -> ConversationId:
    """Points a conversation at a session, and returns its id."""
    await ledger.point(
        PointConversation(route_key=route_key, surface="telegram", version=version, to=handle.session)
    )
    return (await place_of(ledger, route_key)).id


async def receive(
    ledger: Ledger, handle: Handle, conversation: ConversationId, key: str, **rest: Any
) -> Received:
    """A platform's message arrives."""
    return await ledger.receive(arriving(handle, conversation, key, **rest))


def arriving(handle: Handle, conversation: ConversationId, key: str, **rest: Any) -> Receive:
    item = Receive(
        account="telegram",
        external_key=key,
        conversation=conversation,
        session=handle.session,
        principal=ANN,
        kind="text",
        body=f"body of {key}",
        at=START_MS,
    )
    return replace(item, **rest)


def job(handle: Handle, conversation: ConversationId | None, key: str, **rest: Any) -> NewJob:
    """Work of Ann's that is due a second after the start."""
    new = NewJob(
        kind="test",
        key=key,
        owner=ANN,
        session=handle.session,
        conversation=conversation,
        payload=f"payload of {key}",
        next_at=START_MS + 1000,
    )
    return replace(new, **rest)


# -- looking -------------------------------------------------------------------------------------------------------
async def texts(
    ledger: Ledger, session: SessionId, *, who: PrincipalId = ANN, at: Head | None = None
) -> list[str]:
    """The texts of the path."""
    return [message.text for message in await ledger.path(who, session, at)]


async def handle_of(ledger: Ledger, session: SessionId, *, who: PrincipalId = ANN) -> Handle:
    return (await ledger.session(who, session)).handle


async def turn_of(ledger: Ledger, handle: Handle, number: int | None = None) -> TurnRow:
    """A turn that is there: the newest, or one by its number."""
    row = await ledger.turn(ANN, handle.session, number)
    assert row is not None
    return row


async def place_of(ledger: Ledger, route_key: str) -> ConversationRow:
    """A place that is there."""
    row = await ledger.conversation(route_key)
    assert row is not None
    return row


async def found(
    ledger: Ledger, typed: str, *, who: PrincipalId = ANN, **rest: Any
) -> list[tuple[SessionId, int]]:
    """Session and position of every hit."""
    result = await ledger.search(who, typed, **rest)
    return [(hit.session, hit.position) for hit in result.hits]


def is_what_was_sent(stored: Message, sent: NewMessage) -> bool:
    """Whether a stored message is what was sent, byte for byte."""
    return (stored.role, stored.text, stored.step, stored.actor, stored.status, stored.body) == (
        sent.role,
        sent.text,
        sent.step,
        sent.actor,
        sent.status,
        sent.body,
    )
