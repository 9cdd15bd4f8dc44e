"""Sessions written as the runtime writes them: through the port, naming what was seen."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable

from benchmarks.workload import Message
from clew.domain.conversation.ids import (
    LOCAL,
    CallId,
    ConversationId,
    OutboxId,
    OwnerId,
    PrincipalId,
    SessionId,
    call_id,
)
from clew.domain.conversation.messages import AssistantBody, Head, NewMessage, Role, ToolBody, ToolCall
from clew.domain.ledger.commits import (
    AddReply,
    Append,
    AsHolder,
    AsObserver,
    Commit,
    MoveCall,
    MoveHead,
    NewSession,
    OpenTurn,
    PlanCall,
    PointConversation,
    Receive,
    SetTurn,
)
from clew.domain.ledger.rows import CallState, Handle, OpKind, Origin, TurnState
from clew.runtime.ports.ledger import Ledger

OWNER = OwnerId("bench")
MODEL = "bench-model"
ACCOUNT = "telegram:bench"


def session_id(number: int) -> SessionId:
    return SessionId(f"{number:012d}")


class Scribe:
    """Turns messages of the workload into ours, and counts the session's turns and steps."""

    def __init__(self, session: SessionId) -> None:
        self._session = session
        self._calls: dict[str, CallId] = {}
        self.turn = 0
        self._step = 0

    def write(self, message: Message) -> NewMessage:
        match message["role"]:
            case "user":
                self.turn += 1
                self._step = 0
                return NewMessage(role=Role.USER, text=message["content"], step=0, actor=LOCAL)
            case "assistant":
                self._step += 1
                body = AssistantBody(calls=self._plan(message), model=MODEL)
                return self._message(Role.ASSISTANT, message["content"], MODEL, body)
            case _:
                name = message["tool_name"]
                call = self._calls[message["tool_call_id"]]
                return self._message(Role.TOOL, message["content"], name, ToolBody(call=call, name=name))

    def _plan(self, message: Message) -> tuple[ToolCall, ...]:
        self._calls = {
            call["id"]: call_id(self._session, self.turn, self._step, n)
            for n, call in enumerate(message.get("tool_calls", ()))
        }
        return tuple(
            ToolCall(
                id=self._calls[call["id"]],
                name=call["function"]["name"],
                arguments=call["function"]["arguments"],
                provider_id=call["id"],
            )
            for call in message.get("tool_calls", ())
        )

    def _message(self, role: Role, text: str, actor: str, body: AssistantBody | ToolBody) -> NewMessage:
        return NewMessage(role=role, text=text, step=self._step, actor=actor, body=body)


class Talk:
    """One session, and what its writer last saw of it."""

    def __init__(self, ledger: Ledger, handle: Handle, actor: PrincipalId = LOCAL) -> None:
        self.ledger = ledger
        self.handle = handle
        self.actor = actor
        self.scribe = Scribe(handle.session)

    async def commit(self, work: Commit) -> None:
        self.handle = (await self.ledger.commit(work)).handle

    async def append(self, *messages: NewMessage, key: str | None = None) -> None:
        """One commit of messages and nothing else."""
        op = Append(turn=self.scribe.turn, messages=messages)
        await self.commit(self.work(op=op, idempotency_key=key))

    async def write(self, messages: Iterable[Message]) -> None:
        """Messages of the workload in one commit."""
        await self.append(*map(self.scribe.write, messages))

    async def move(self, kind: OpKind, to: Head) -> None:
        await self.commit(self.observed(op=MoveHead(kind=kind, to=to)))

    def work(self, **rows: object) -> Commit:
        """A commit by whoever holds the session's turn."""
        fence = AsHolder(epoch=self.handle.epoch, head=self.handle.head)
        return Commit(session=self.handle.session, actor=self.actor, at=_at(), fence=fence, **rows)  # type: ignore[arg-type]

    def observed(self, **rows: object) -> Commit:
        """A commit by anybody else."""
        fence = AsObserver(version=self.handle.version, head=self.handle.head)
        return Commit(session=self.handle.session, actor=self.actor, at=_at(), fence=fence, **rows)  # type: ignore[arg-type]


def _at() -> int:
    return time.time_ns() // 1_000_000


async def start(ledger: Ledger, number: int, owner: PrincipalId = LOCAL, title: str | None = None) -> Talk:
    """Opens a session."""
    new = NewSession(id=session_id(number), owner=owner, surface="bench", origin=Origin.NEW, title=title)
    return Talk(ledger, await ledger.open(new, actor=owner, at=_at()), owner)


class Chat(Talk):
    """A session that a conversation points at: a place where somebody writes."""

    conversation: ConversationId

    async def whole_turn(self, number: int, messages: list[Message], reply: OutboxId) -> None:
        """From received to delivered in nine commits: inbox, user message, planned calls, each call started and
        finished, the reply, and its delivery."""
        received = await self.ledger.receive(self._receive(number, messages[0]["content"]))
        user, asked, *results, answer = map(self.scribe.write, messages)
        turn = self.scribe.turn
        opened = OpenTurn(turn=turn, principal=LOCAL, model=MODEL, conversation=self.conversation)
        said = Append(turn=turn, messages=(user,))
        await self.commit(self.work(op=said, open_turn=opened, take=(received.id,), claim=OWNER))
        plan = _planned(turn, asked)
        await self.commit(self.work(op=Append(turn=turn, messages=(asked,)), plan=plan))
        for call, result in zip(plan, results, strict=True):
            await self.commit(self.work(calls=(MoveCall(id=call.id, to=CallState.STARTED),)))
            done = (MoveCall(id=call.id, to=CallState.FINISHED),)
            await self.commit(self.work(op=Append(turn=turn, messages=(result,)), calls=done))
        await self.commit(self._answered(turn, answer, f"{self.handle.session}:{turn}:0"))
        await self.ledger.settle_reply(reply, "sent", "99")

    def _receive(self, number: int, text: str) -> Receive:
        return Receive(
            account=ACCOUNT,
            external_key=f"{self.handle.session}:{number}",
            conversation=self.conversation,
            session=self.handle.session,
            principal=LOCAL,
            kind="message",
            body=text,
            at=_at(),
        )

    def _answered(self, turn: int, answer: NewMessage, key: str) -> Commit:
        reply = AddReply(conversation=self.conversation, turn=turn, part=0, kind="reply", key=key)
        return self.work(
            op=Append(turn=turn, messages=(answer,)),
            set_turn=SetTurn(turn=turn, state=TurnState.DONE, end_reason="answered"),
            replies=(reply,),
            release=True,
        )


def _planned(turn: int, asked: NewMessage) -> tuple[PlanCall, ...]:
    calls = asked.body.calls if isinstance(asked.body, AssistantBody) else ()
    return tuple(
        PlanCall(
            id=call.id,
            turn=turn,
            step=asked.step,
            n=n,
            provider_id=call.provider_id,
            name=call.name,
            args_sha256=hashlib.sha256(call.arguments.encode()).hexdigest(),
            safe_to_repeat=False,
        )
        for n, call in enumerate(calls)
    )


async def start_chat(ledger: Ledger, number: int) -> Chat:
    """Opens a conversation and its first session, in one commit."""
    new = NewSession(
        id=session_id(number), owner=LOCAL, surface="telegram", origin=Origin.NEW, title=f"chat {number}"
    )
    route = f"telegram:bench:{100_000 + number}"
    place = PointConversation(route_key=route, surface="telegram", version=0, to=new.id)
    chat = Chat(ledger, await ledger.open(new, actor=LOCAL, at=_at(), conversation=place))
    row = await ledger.conversation(route)
    assert row is not None
    chat.conversation = row.id
    return chat
