"""Runs one turn: takes the machine's effects, performs them, brings back what became of them.

Everything that waits (the model, the tools, the person) runs as a task of its own and posts an event; all commits are
made here, one after the other. Stopping cancels the tasks first and records the end after. When the session belongs to
somebody else meanwhile, the work is cancelled and nothing more is written or shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path

import msgspec

from clew.domain.conversation.ids import ApprovalId, CallId, PrincipalId, SessionId
from clew.domain.conversation.messages import Status, ToolCall
from clew.domain.ledger.commits import AsObserver, Commit, Note, SessionPatch
from clew.domain.ledger.errors import Fenced, HeadMoved, NotFound
from clew.domain.ledger.rows import ApprovalState, CallState, Handle, OpKind, Prefix, SessionRow, TurnState
from clew.domain.models.answer import (
    Answer,
    CallDelta,
    Failure,
    FailureKind,
    Retrying,
    TextDelta,
    ThinkingDelta,
    Usage,
)
from clew.domain.tools.policy import ApprovalMode
from clew.domain.tools.session_settings import SessionSettings, read_settings, write_settings
from clew.domain.turn.machine import (
    Allowed,
    Answered,
    AnswerRecorded,
    AskModel,
    CallStarted,
    CancelWork,
    Close,
    Closed,
    Decide,
    Deferred,
    Denied,
    Effect,
    Event,
    Failed,
    Lost,
    Opened,
    Park,
    Parked,
    Phase,
    RecordAnswer,
    RecordResult,
    ResultRecorded,
    Returned,
    RunTool,
    StartCall,
    StopRequested,
    TurnMachine,
    WorkCancelled,
)
from clew.domain.turn.prefix import Instructions, freeze
from clew.domain.turn.prompt import Overlay
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.models import ModelChoice
from clew.runtime.ports.owners import Owners
from clew.runtime.ports.people import (
    Approver,
    AttemptVoid,
    CallAnnounced,
    CallEnded,
    CallRunning,
    Consent,
    Noticed,
    Question,
    StepRecorded,
    TextShown,
    ThinkingShown,
    Watch,
)
from clew.runtime.ports.tools import Tool
from clew.runtime.ports.world import Chance, Clock
from clew.runtime.turns.calls import CallDesk
from clew.runtime.turns.context import TurnContext
from clew.runtime.turns.opening import GoOn, OpenedTurn, Opening, open_turn
from clew.runtime.turns.outcome import CallOutcome, TurnOutcome, TurnStatus
from clew.runtime.turns.recording import Recorder


class TurnSettings(msgspec.Struct, frozen=True, kw_only=True):
    max_steps: int = 50
    max_seconds: float = 1800
    lease_seconds: float = 30
    approval_mode: ApprovalMode = ApprovalMode.ASK
    approval_expires_seconds: float = 86400


class TurnJob(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn needs to know of its surroundings."""

    principal: PrincipalId
    session: SessionId
    opening: Opening
    model: ModelChoice
    tools: Sequence[Tool]
    cwd: Path
    instructions: Sequence[Instructions] = ()
    overlays: Sequence[Overlay] = ()
    approval_mode: ApprovalMode | None = None
    notify: Callable[[str, str], Awaitable[None]]
    """Takes (kind, text) of what tools started and what ended after they returned."""


class TurnRunner:
    """Starts turns. One runner serves a whole process."""

    def __init__(
        self, *, ledger: Ledger, owners: Owners, clock: Clock, chance: Chance, settings: TurnSettings
    ) -> None:
        self.ledger = ledger
        self.owners = owners
        self.clock = clock
        self.chance = chance
        self.settings = settings

    async def begin(self, job: TurnJob, watch: Watch, approver: Approver) -> RunningTurn:
        """Commits the opening; the returned turn is then run with `finish`. Raises Busy, Refused, NotFound."""
        prefix = freeze(job.model.profile, [tool.spec for tool in job.tools], job.instructions)
        await self._refreeze(job, prefix, watch)
        opened = await open_turn(
            self.ledger,
            self.owners,
            principal=job.principal,
            session=job.session,
            opening=job.opening,
            model=job.model.profile.name,
            at=self.clock.now_ms(),
        )
        return RunningTurn(self, job, opened, prefix, watch, approver)

    async def run(self, job: TurnJob, watch: Watch, approver: Approver) -> TurnOutcome:
        """Begins and finishes a turn."""
        return await (await self.begin(job, watch, approver)).finish()

    async def _refreeze(self, job: TurnJob, prefix: Prefix, watch: Watch) -> None:
        """Freezes the prefix with the session; a changed one is an op of its own, and said."""
        while True:
            row = await self.ledger.session(job.principal, job.session)
            if row.prefix == prefix.sha256:
                return
            work = Commit(
                session=row.id,
                actor=job.principal,
                at=self.clock.now_ms(),
                fence=AsObserver(version=row.handle.version, head=row.handle.head),
                op=Note(kind=OpKind.REFREEZE),
                patch=SessionPatch(prefix=prefix),
            )
            try:
                await self.ledger.commit(work)
            except HeadMoved:
                continue  # looks again
            if row.prefix is not None:
                watch(
                    Noticed(
                        "The model, its tools or the project's instructions changed: the prompt was frozen anew."
                    )
                )
            return


class _Broken(msgspec.Struct, frozen=True):
    """A task ended with an error that nobody expected."""

    error: BaseException


class RunningTurn:
    """A turn under way."""

    def __init__(  # noqa: PLR0917
        self,
        runner: TurnRunner,
        job: TurnJob,
        opened: OpenedTurn,
        prefix: Prefix,
        watch: Watch,
        approver: Approver,
    ) -> None:
        self._runner = runner
        self._job = job
        self._watch = watch
        self._approver = approver
        self._settings = read_settings(opened.row.settings)
        self._machine = TurnMachine(max_steps=runner.settings.max_steps)
        self._news: asyncio.Queue[Event | _Broken] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._partial = ""
        self._text = ""
        self._usage = Usage()
        self._calls: dict[CallId, CallOutcome] = {}
        self._waiting: list[ApprovalId] = []
        self._ended: Close | None = None
        self._lost = False
        profile = job.model.profile
        self._recorder = Recorder(
            runner.ledger,
            principal=job.principal,
            handle=opened.handle,
            turn=opened.turn,
            model=profile.name,
            price=job.model.price,
            now_ms=runner.clock.now_ms,
        )
        self._context = TurnContext(
            runner.ledger,
            job.principal,
            job.session,
            prefix=prefix,
            profile=profile,
            overlays=job.overlays,
        )
        self._desk = _desk(job, opened.row, self._settings, runner.settings, watch)

    @property
    def turn(self) -> int:
        return self._recorder.turn

    @property
    def session(self) -> SessionId:
        return self._job.session

    def stop(self, reason: str) -> None:
        """Asks the turn to end; `finish` returns when its end is on disk. Safe at any time, any number of times."""
        self._news.put_nowait(StopRequested(reason))

    async def record_event(self, kind: str, text: str) -> bool:
        """Stores something that happened outside the talk; False when the turn is over."""
        if self._machine.is_over or self._machine.phase == Phase.CLOSING:
            return False
        try:
            await self._recorder.event(kind, text, self._machine.step)
        except (Fenced, HeadMoved, NotFound):
            return False
        return True

    async def finish(self) -> TurnOutcome:
        """Runs the turn to its end. Cancelling it stops the turn and records that first."""
        beats = asyncio.create_task(self._beat())
        alarm = asyncio.get_running_loop().call_later(
            self._runner.settings.max_seconds, self.stop, "time_limit"
        )
        try:
            await self._perform_all(await self._first_effects())
            while not self._machine.is_over:
                try:
                    event = await self._news.get()
                except asyncio.CancelledError:
                    self.stop("cancelled")
                    continue
                await self._handle(event)
        finally:
            alarm.cancel()
            beats.cancel()
            await self._cancel_tasks()
        return self._outcome()

    # -- events and effects --------------------------------------------------------------------------------------
    async def _first_effects(self) -> tuple[Effect, ...]:
        if not isinstance(self._job.opening, GoOn):
            return self._machine.receive(Opened())
        ledger, principal, session = self._runner.ledger, self._job.principal, self.session
        rows = {row.id: row for row in await ledger.calls(principal, session, self.turn)}
        path = await ledger.path(principal, session)
        answered = {
            m.body.call
            for m in path
            if m.turn == self.turn and m.body is not None and hasattr(m.body, "call")
        }
        asked = [m for m in path if m.turn == self.turn and m.calls]
        step = asked[-1].step
        waiting = [
            (call, rows[call.id].state, rows[call.id].safe_to_repeat)
            for call in asked[-1].calls
            if call.id not in answered
        ]
        self._machine, effects = TurnMachine.resumed(
            max_steps=self._runner.settings.max_steps, step=step, calls=waiting
        )
        return effects

    async def _handle(self, event: Event | _Broken) -> None:
        if isinstance(event, _Broken):
            await self._cancel_tasks()
            failure = Failure(
                kind=FailureKind.SERVER, message=f"An error inside Clew ended the turn: {event.error!r}"
            )
            await self._perform_all(
                (Close(TurnState.FAILED, "internal", self._machine.step, error=failure.message),)
            )
            raise event.error
        await self._perform_all(self._machine.receive(event))

    async def _perform_all(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            try:
                await self._perform(effect)
            except (Fenced, HeadMoved, NotFound):
                self._lost = True
                self._news.put_nowait(Lost())
                return

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case AskModel(step):
                self._spawn(self._ask_model(step))
            case RecordAnswer(answer, step, closes):
                await self._record_answer(answer, step, closes)
            case Decide(call):
                self._spawn(self._decide(call))
            case StartCall(call, approval):
                await self._recorder.start(call, approval)
                self._note(call, CallState.STARTED)
                self._watch(CallRunning(call.id))
                self._post(CallStarted(call.id))
            case RunTool(call):
                self._spawn(self._run_tool(call))
            case RecordResult() as record:
                await self._record_result(record)
            case Park():
                await self._recorder.park()
                self._post(Parked())
            case CancelWork():
                await self._cancel_tasks()
                self._post(WorkCancelled(self._partial))
            case Close() as close:
                await self._recorder.close(close)
                for call, state in close.unsettled:
                    self._note(call, state)
                self._ended = close
                self._post(Closed())

    def _post(self, event: Event) -> None:
        self._news.put_nowait(event)

    # -- the model -----------------------------------------------------------------------------------------------
    async def _ask_model(self, step: int) -> None:
        self._partial = ""
        ready = await self._context.request(self._recorder.handle)
        key = f"{self.session}-{self.turn}-{step}"
        async for event in self._job.model.client.stream(ready.request, blobs=ready.blobs, key=key):
            match event:
                case TextDelta(text):
                    self._partial += text
                    self._watch(TextShown(text))
                case ThinkingDelta(text):
                    self._watch(ThinkingShown(text))
                case CallDelta():
                    pass  # shown when it is whole and recorded
                case Retrying():
                    self._partial = ""
                    self._watch(AttemptVoid(reason=event.reason, after_seconds=event.after_seconds))
                case Answer():
                    self._post(Answered(event))
                case Failure():
                    self._post(Failed(event))

    async def _record_answer(self, answer: Answer, step: int, closes: bool) -> None:
        calls = await self._recorder.answer(answer, step, closes=closes, is_safe=self._desk.is_safe_to_repeat)
        self._partial = ""
        self._text = answer.text
        self._usage = _sum(self._usage, answer.usage)
        self._watch(StepRecorded(text=answer.text, usage=answer.usage))
        for call in calls:
            self._note(call, CallState.PLANNED)
            self._watch(CallAnnounced(call=call.id, name=call.name, line=self._desk.line(call)))
        self._post(AnswerRecorded(calls))

    # -- the tools -----------------------------------------------------------------------------------------------
    async def _decide(self, call: ToolCall) -> None:
        if not self._desk.needs_approval(call):
            self._post(Allowed(call.id))
            return
        approval = await self._standing_approval(call)
        if approval is not None:
            self._post(approval)
            return
        await self._ask_person(call)

    async def _standing_approval(self, call: ToolCall) -> Allowed | Denied | None:
        """A decision made before this process took the turn up."""
        ledger = self._runner.ledger
        for row in await ledger.approvals(self._job.principal, self.session, call.id):
            if row.state == ApprovalState.APPROVED and row.expires_at > self._runner.clock.now_ms():
                return Allowed(call.id, row.id)
            if row.state == ApprovalState.DENIED:
                return Denied(call.id, "The person refused this call.")
        return None

    async def _ask_person(self, call: ToolCall) -> None:
        approval = ApprovalId(self._runner.chance.token(8))
        expires = self._runner.clock.now_ms() + int(self._runner.settings.approval_expires_seconds * 1000)
        await self._recorder.ask(call, approval, expires)
        line = self._desk.line(call)
        question = Question(
            approval=approval, call=call.id, name=call.name, line=line, arguments=call.arguments
        )
        consent = await self._approver.ask(question)
        if consent is None:
            self._waiting.append(approval)
            self._post(Deferred(call.id))
            return
        now = self._runner.clock.now_ms()
        state = ApprovalState.DENIED if consent == Consent.NO else ApprovalState.APPROVED
        await self._runner.ledger.decide(self._job.principal, approval, state, now)
        if consent == Consent.NO:
            self._post(Denied(call.id, "The person refused this call."))
            return
        if consent == Consent.SESSION:
            await self._allow_for_session(call.name)
        self._post(Allowed(call.id, approval))

    async def _allow_for_session(self, name: str) -> None:
        self._desk.allow_for_session(name)
        allow = tuple(sorted({*self._settings.allow, name}))
        self._settings = msgspec.structs.replace(self._settings, allow=allow)
        await self._recorder.patch(SessionPatch(settings=write_settings(self._settings)))

    async def _run_tool(self, call: ToolCall) -> None:
        result = await self._desk.run(call)
        self._post(Returned(call.id, result))

    async def _record_result(self, record: RecordResult) -> None:
        await self._recorder.result(record.call, record.result, record.step)
        state = (
            CallState.NOT_RUN
            if record.result.status in (Status.REFUSED, Status.NOT_RUN)
            else CallState.FINISHED
        )
        self._note(record.call, CallState.UNKNOWN if record.result.status == Status.UNKNOWN else state)
        result = record.result
        self._watch(CallEnded(call=record.call.id, status=result.status, text=result.text, diff=result.diff))
        self._post(ResultRecorded(record.call.id))

    def _note(self, call: ToolCall, state: CallState) -> None:
        self._calls[call.id] = CallOutcome(id=call.id, name=call.name, state=state)

    # -- tasks ---------------------------------------------------------------------------------------------------
    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(self._supervised(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _supervised(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except (Fenced, HeadMoved, NotFound):
            self._lost = True
            self._post(Lost())
        except Exception as error:  # noqa: BLE001 - the supervisor: recorded as the turn's end, then raised again
            self._news.put_nowait(_Broken(error))

    async def _cancel_tasks(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _beat(self) -> None:
        """Shows other processes that this one lives, and notices when the session is no longer ours."""
        while True:
            await asyncio.sleep(self._runner.settings.lease_seconds / 3)
            mine = await self._runner.ledger.beat(
                self.session, self._runner.owners.me, self._recorder.handle.epoch
            )
            if not mine:
                self._lost = True
                self._post(Lost())
                return

    # -- the end -------------------------------------------------------------------------------------------------
    def _outcome(self) -> TurnOutcome:
        return TurnOutcome(
            handle=self._recorder.handle,
            turn=self.turn,
            status=self._status(),
            text=self._ended.partial if self._ended is not None else self._text,
            model=self._job.model.profile.name,
            usage=self._usage,
            cost_usd=self._recorder.cost_usd,
            calls=tuple(self._calls.values()),
            error=self._error(),
            waiting_for=tuple(self._waiting),
        )

    def _status(self) -> TurnStatus:
        if self._lost or (self._ended is not None and self._ended.state == TurnState.INTERRUPTED):
            return TurnStatus.INTERRUPTED
        if self._waiting:
            return TurnStatus.REFUSED
        if self._ended is None:
            return TurnStatus.DONE
        return TurnStatus.REFUSED if self._ended.reason == "step_limit" else TurnStatus.FAILED

    def _error(self) -> tuple[str, str] | None:
        if self._lost:
            return (
                "fenced",
                "The session was taken over or changed by somebody else; this turn ended there.",
            )
        if self._waiting:
            return ("approval", f"Waiting for approval {', '.join(self._waiting)}.")
        if self._ended is None or self._ended.state == TurnState.INTERRUPTED:
            return None
        return (self._ended.reason, self._ended.error or self._ended.reason)


def _desk(
    job: TurnJob, row: SessionRow, own: SessionSettings, settings: TurnSettings, watch: Watch
) -> CallDesk:
    return CallDesk(
        job.tools,
        session=row.id,
        principal=job.principal,
        cwd=job.cwd,
        mode=own.approval or job.approval_mode or settings.approval_mode,
        allowed=frozenset(own.allow),
        watch=watch,
        notify=job.notify,
    )


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(
        input=a.input + b.input,
        output=a.output + b.output,
        cache_read=a.cache_read + b.cache_read,
        cache_write=a.cache_write + b.cache_write,
        estimated=a.estimated or b.estimated,
    )


__all__ = ["Handle", "RunningTurn", "TurnJob", "TurnRunner", "TurnSettings"]
