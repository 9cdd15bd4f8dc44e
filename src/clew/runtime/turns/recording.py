"""Each effect of a turn as the one commit that records it. Every commit carries the holder's fence."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from clew.domain.conversation.ids import ApprovalId, InboxId, PrincipalId, SessionId, SummaryId, call_id
from clew.domain.conversation.messages import (
    AssistantBody,
    Attachment,
    NewMessage,
    Role,
    Status,
    ToolBody,
    ToolCall,
)
from clew.domain.conversation.text import clean
from clew.domain.ledger.commits import (
    AddReply,
    AddUsage,
    Append,
    AsHolder,
    AskApproval,
    AsObserver,
    Commit,
    ConsumeApproval,
    MoveCall,
    NewBlob,
    NewJob,
    Note,
    PlanCall,
    Reserve,
    SessionPatch,
    SetTurn,
)
from clew.domain.ledger.errors import Fenced, LedgerError
from clew.domain.ledger.jobs import following
from clew.domain.ledger.rows import CallState, Handle, OpKind, TurnState
from clew.domain.models.answer import Answer
from clew.domain.tools.spec import ToolResult
from clew.domain.turn.machine import Close
from clew.domain.turn.recovery import settled_result
from clew.runtime.ports.ledger import Ledger
from clew.runtime.turns.calls import args_sha256
from clew.runtime.turns.outbox import Outbox
from clew.runtime.turns.outcome import STOPPED
from clew.runtime.turns.waiting import event_message

NOTHING_SAID: Final = "(The model answered with nothing.)"


class Recorder:
    """Writes one turn's steps. `handle` is the newest commit's."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        principal: PrincipalId,
        handle: Handle,
        turn: int,
        model: str,
        now_ms: Callable[[], int],
        recovers: str | None = None,
        outbox: Outbox | None = None,
        follows: frozenset[str] = frozenset(),
    ) -> None:
        """`recovers` is the key of an interrupted tool batch: the first answer acknowledges its recovery.

        With an `outbox`, whatever is said goes into it by the commit that says it. `follows` are the kinds of the jobs that
        an answered turn asks for.
        """
        self._follows = follows
        self.has_asked = False
        """Whether the turn's answer asked for jobs."""
        self._outbox = outbox
        self._ledger = ledger
        self._principal = principal
        self._model = model
        self._now_ms = now_ms
        self._in_order = asyncio.Lock()
        self._writing: set[asyncio.Task[None]] = set()
        self.has_released = False
        """Whether a commit of this turn gave the lease up."""
        self._recovers = recovers
        self.turn = turn
        self.handle = handle

    @property
    def session(self) -> SessionId:
        return self.handle.session

    async def answer(
        self,
        answer: Answer,
        step: int,
        *,
        used: tuple[AddUsage, ...],
        closes: bool,
        is_safe: Callable[[ToolCall], bool],
    ) -> tuple[ToolCall, ...]:
        """The model's message with its calls planned, and what it used; the turn's end too when there are none."""
        jobs = self._following() if closes else ()
        calls = tuple(
            ToolCall(
                id=call_id(self.session, self.turn, step, n),
                name=clean(asked.name).text,
                arguments=clean(asked.arguments).text,
                provider_id=asked.provider_id,
            )
            for n, asked in enumerate(answer.calls)
        )
        body = AssistantBody(calls=calls, thinking=answer.thinking)
        message = self._said(clean(answer.text).text, step, Status.OK, body)
        kind = OpKind.APPEND if self._recovers is None else OpKind.RECOVER
        await self._commit(
            op=Append(messages=(message,), turn=self.turn, kind=kind),
            idempotency_key=self._recovers,
            plan=tuple(self._plan(call, step, n, is_safe(call)) for n, call in enumerate(calls)),
            usage=used,
            set_turn=SetTurn(turn=self.turn, state=TurnState.DONE, end_reason="answered") if closes else None,
            release=closes,
            replies=self._answered(message.text, step, closes),
            jobs=jobs,
        )
        self._recovers = None
        self.has_asked = bool(jobs)
        return calls

    def summarised(self, summary: SummaryId) -> None:
        """Requests go by this summary from here on; a compaction moves no head, so what comes next still fits."""
        self.handle = msgspec.structs.replace(self.handle, summary=summary)

    async def refreeze(self, patch: SessionPatch) -> None:
        """The session's requests begin with another prefix from here on, which the patch holds."""
        await self._commit(op=Note(kind=OpKind.REFREEZE), patch=patch)

    async def ask(self, call: ToolCall, approval: ApprovalId, expires_at: int) -> None:
        ask = AskApproval(
            id=approval,
            call=call.id,
            args_sha256=args_sha256(call),
            asker=self._principal,
            expires_at=expires_at,
        )
        await self._commit(ask=(ask,))

    async def start(self, call: ToolCall, approval: ApprovalId | None) -> None:
        """planned → started, and the approval spent, in one commit."""
        consume = None if approval is None else ConsumeApproval(id=approval, args_sha256=args_sha256(call))
        await self._commit(calls=(MoveCall(id=call.id, to=CallState.STARTED),), consume=consume)

    async def result(self, call: ToolCall, result: ToolResult, step: int) -> CallState:
        """The result message; by the same commit the call is finished, unknown or never run. Returns which."""
        blobs = tuple(
            NewBlob(sha256=hashlib.sha256(f.bytes).hexdigest(), media_type=f.media_type, bytes=f.bytes)
            for f in result.files
        )
        attachments = tuple(
            Attachment(
                sha256=blob.sha256,
                media_type=blob.media_type,
                size=len(blob.bytes),
                name=file.name,
                is_sent=file.is_sent,
            )
            for blob, file in zip(blobs, result.files, strict=True)
        )
        body = ToolBody(call=call.id, name=call.name, attachments=attachments, diff=clean(result.diff).text)
        message = NewMessage(
            role=Role.TOOL,
            text=clean(result.text).text,
            step=step,
            actor=call.name,
            status=result.status,
            body=body,
        )
        state = _STATE_AFTER.get(result.status, CallState.FINISHED)
        await self._commit(
            op=Append(messages=(message,), turn=self.turn),
            calls=(MoveCall(id=call.id, to=state),),
            blobs=blobs,
            replies=self._sends(call, step, attachments),
        )
        return state

    async def patch(self, patch: SessionPatch) -> None:
        """Changes the session's own settings, as an audited op that leaves the head alone."""
        await self._commit(op=Note(kind=OpKind.SETTINGS), patch=patch)

    async def set_aside(self, reserve: Reserve, used: tuple[AddUsage, ...]) -> None:
        """Reserves what an attempt at the model may cost, and counts those before. Raises CapReached."""
        await self._commit(reserve=reserve, usage=used)

    async def event(self, kind: str, text: str, step: int) -> None:
        await self._commit(op=Append(messages=(event_message(kind, text, step),), turn=self.turn))

    async def join(
        self, messages: tuple[NewMessage, ...], blobs: tuple[NewBlob, ...], taken: tuple[InboxId, ...]
    ) -> None:
        """What waited in the inbox becomes part of this turn, in one commit. Raises Refused when a row waits no more."""
        await self._commit(op=Append(messages=messages, turn=self.turn), blobs=blobs, take=taken)

    async def park(self) -> None:
        """The turn waits for an approval: no lease is held."""
        await self._commit(set_turn=SetTurn(turn=self.turn, state=TurnState.WAITING), release=True)

    async def close(self, close: Close, used: tuple[AddUsage, ...]) -> None:
        """The end of a turn that did not end with an answer; `used` is what the call of the model took that failed."""
        messages: list[NewMessage] = []
        if close.partial or (close.state == TurnState.INTERRUPTED and not close.unsettled):
            messages.append(self._said(clean(close.partial).text, close.step, Status.INTERRUPTED, None))
        messages += [
            settled_result(left.call, left.ends, close.step, "The turn ended") for left in close.unsettled
        ]
        ended = SetTurn(turn=self.turn, state=close.state, end_reason=close.reason, error=close.error)
        await self._commit(
            op=Append(messages=tuple(messages), turn=self.turn) if messages else None,
            calls=tuple(
                MoveCall(id=left.call.id, to=left.ends) for left in close.unsettled if left.was != left.ends
            ),
            usage=used,
            set_turn=ended,
            release=True,
            replies=self._ended(close),
        )

    async def keep_shown(self, partial: str, step: int) -> bool:
        """After the session was lost: whether by a stop alone. Then what had been shown becomes the interrupted reply.

        Nothing is written when anything else happened since: whoever did it has seen the session without these words.
        """
        try:
            turn = await self._ledger.turn(self._principal, self.session, self.turn)
            row = await self._ledger.session(self._principal, self.session)
            alone = (row.handle.epoch, row.handle.head) == (self.handle.epoch + 1, self.handle.head)
            if turn is None or turn.end_reason != STOPPED or not alone:
                return False
            if partial:
                message = self._said(clean(partial).text, step, Status.INTERRUPTED, None)
                fence = AsObserver(version=row.handle.version, head=row.handle.head)
                append = Append(messages=(message,), turn=self.turn)
                await self._ledger.commit(
                    Commit(
                        session=self.session, actor=self._principal, at=self._now_ms(), fence=fence, op=append
                    )
                )
        except LedgerError:
            return False  # the session is somebody else's by now, or the file cannot be used
        return True

    async def settled(self) -> None:
        """Returns when no commit is on its way any more."""
        while self._writing:
            await asyncio.wait(set(self._writing))

    def _following(self) -> tuple[NewJob, ...]:
        return following(self._follows, self.session, self.turn, self._principal, self._now_ms())

    def _answered(self, text: str, step: int, closes: bool) -> tuple[AddReply, ...]:
        if self._outbox is None:
            return ()
        says = self._outbox.says(self.session, self.turn, step, text)
        return says or (self._outbox.tells(self.session, self.turn, step, NOTHING_SAID) if closes else ())

    def _sends(self, call: ToolCall, step: int, attachments: tuple[Attachment, ...]) -> tuple[AddReply, ...]:
        sent = [attachment for attachment in attachments if attachment.is_sent]
        if self._outbox is None:
            return ()
        return tuple(
            self._outbox.hands_over(self.turn, step, f"{call.id}:{n}", self._principal, attachment)
            for n, attachment in enumerate(sent)
        )

    def _ended(self, close: Close) -> tuple[AddReply, ...]:
        """What had been shown, which is the last message only if no result had to follow it; and why there is no more."""
        if self._outbox is None:
            return ()
        shown = close.partial if not close.unsettled else ""
        says = self._outbox.says(self.session, self.turn, close.step, clean(shown).text)
        error = close.error
        return says + (
            () if error is None else self._outbox.tells(self.session, self.turn, close.step, error)
        )

    def _said(self, text: str, step: int, status: Status, body: AssistantBody | None) -> NewMessage:
        kept = body if body is not None and body != AssistantBody() else None
        return NewMessage(
            role=Role.ASSISTANT, text=text, step=step, actor=self._model, status=status, body=kept
        )

    def _plan(self, call: ToolCall, step: int, n: int, safe: bool) -> PlanCall:
        return PlanCall(
            id=call.id,
            turn=self.turn,
            step=step,
            n=n,
            provider_id=call.provider_id,
            name=call.name,
            args_sha256=args_sha256(call),
            safe_to_repeat=safe,
        )

    async def _commit(self, **rows: object) -> None:
        """One at a time: each names the head that the one before left. Whoever waits may be cancelled, a commit is not:
        it may be on disk already, and the next one has to name what it left."""
        writing = asyncio.create_task(self._commit_next(rows))
        self._writing.add(writing)
        writing.add_done_callback(self._written)
        await asyncio.shield(writing)

    async def _commit_next(self, rows: Mapping[str, object]) -> None:
        async with self._in_order:
            fence = AsHolder(epoch=self.handle.epoch, head=self.handle.head)
            base = Commit(session=self.session, actor=self._principal, at=self._now_ms(), fence=fence)
            work = msgspec.structs.replace(base, **rows)
            committed = await self._ledger.commit(work)
            if committed.repeated and committed.handle.epoch != self.handle.epoch:
                raise Fenced("Another process has answered this already.")
            self.handle = committed.handle
            self.has_released |= work.release

    def _written(self, writing: asyncio.Task[None]) -> None:
        self._writing.discard(writing)
        if not writing.cancelled():
            writing.exception()  # whoever waits hears it; a canceller has stopped listening


_STATE_AFTER = {
    Status.UNKNOWN: CallState.UNKNOWN,
    Status.NOT_RUN: CallState.NOT_RUN,
    Status.REFUSED: CallState.NOT_RUN,
}
