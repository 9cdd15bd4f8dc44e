"""A turn under way: takes the machine's effects, performs them, brings back what became of them.

Everything that waits (the model, the tools, the person) runs as a task and ends in an event; the turn's steps are
committed here, one after the other. Stopping cancels the tasks first and records the end after. When the session
belongs to somebody else meanwhile, the work is cancelled and nothing more is written or shown. Whatever breaks ends the
turn as failed, on disk if the disk still takes it; if it does not, the ledger holds the turn open until somebody goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from clew.domain.conversation.ids import SessionId
from clew.domain.conversation.messages import Status, ToolBody, ToolCall
from clew.domain.ledger.commits import AddUsage, Reserve, SessionPatch
from clew.domain.ledger.errors import (
    Fenced,
    HeadMoved,
    KeyReused,
    LedgerError,
    NotFound,
    Outdated,
    Refused,
)
from clew.domain.ledger.rows import CallState
from clew.domain.models.answer import Answer
from clew.domain.tools.session_settings import read_settings, write_settings
from clew.domain.turn.machine import (
    GO_ON,
    Answered,
    AnswerRecorded,
    AskModel,
    Broke,
    CallStarted,
    CancelWork,
    Close,
    Closed,
    Decide,
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
from clew.runtime.ports.people import (
    Approver,
    CallAnnounced,
    CallEnded,
    CallRunning,
    Consent,
    Noticed,
    Question,
    StepRecorded,
    TurnNews,
    Watch,
)
from clew.runtime.spending import PaidCalls
from clew.runtime.turns.asking import TOO_LATE, Asking
from clew.runtime.turns.calls import CallDesk
from clew.runtime.turns.context import TurnContext
from clew.runtime.turns.fitting import Fitting
from clew.runtime.turns.job import Means, TurnJob
from clew.runtime.turns.keeping import Lease, TimeLimit, notice_cut
from clew.runtime.turns.model_step import ModelStep
from clew.runtime.turns.opening import OpenedTurn
from clew.runtime.turns.openings import GoOn, Recover
from clew.runtime.turns.outcome import (
    CANCELLED,
    STOPPED_ELSEWHERE,
    TAKEN_OVER,
    Ending,
    Tally,
    TurnOutcome,
    TurnStatus,
    ending_of,
)
from clew.runtime.turns.recalling import TurnMemory
from clew.runtime.turns.recording import Recorder
from clew.runtime.turns.recovering import turn_messages
from clew.runtime.turns.steering import Steering
from clew.runtime.turns.tasks import Tasks
from clew.runtime.turns.watching import Watched

TASK = "turn"
"""What its calls of the model are made for, in the rows of what they used."""
NOT_ANSWERED = "This ends turn {}, which waited for an approval: its call is not run."
REFROZEN = "The model, its tools or the project's instructions changed: the prompt was frozen anew."


class _LeaseGone(msgspec.Struct, frozen=True):
    """A beat found the lease gone: lost, or given up by the commit that ended the turn."""


class RunningTurn:
    """One turn. Whoever began it calls `finish` once; everything else may be called at any time."""

    def __init__(  # noqa: PLR0917
        self,
        means: Means,
        job: TurnJob,
        opened: OpenedTurn,
        memory: TurnMemory,
        watch: Watch,
        approver: Approver,
    ) -> None:
        self._means = means
        self._job = job
        self._opened = opened
        self._memory = memory
        self._prefix = prefix = memory.prefix()
        self._watch = Watched(watch)
        self._machine = TurnMachine(
            max_steps=means.settings.max_steps, max_repeats=means.settings.max_repeats
        )
        self._news: asyncio.Queue[Event | _LeaseGone] = asyncio.Queue()
        self._tasks = Tasks(self._post, self._broke)
        self._tally = Tally()
        self._cause: Exception | None = None
        self._is_stopped = False
        self._run: asyncio.Task[TurnOutcome] | None = None
        profile = job.model.profile
        self._recorder = Recorder(
            means.ledger,
            principal=job.principal,
            handle=opened.handle,
            turn=opened.turn,
            model=profile.name,
            now_ms=means.clock.now_ms,
            recovers=opened.recovers,
            outbox=job.outbox,
            follows=job.follows,
        )
        self._hint = () if opened.hint is None else (opened.hint,)
        self._context = TurnContext(
            means.ledger,
            job.principal,
            job.session,
            prefix=prefix,
            profile=profile,
            overlays=(*job.overlays, *memory.overlays, *self._hint),
            effort=read_settings(opened.row.settings).effort,
        )
        self._lease = Lease(means, job.session, opened.handle.epoch)
        self._steering = Steering(means.ledger, job.principal, self._recorder, self._watch)
        self._model = ModelStep(self._watch, self._lease.confirm)
        self._fitting = Fitting(
            means, job, opened.turn, self._context, self._model, self._recorder, self._watch, self._forget
        )
        self._desk = _call_desk(means, job, opened, self._show_output, self._lease.confirm, self)
        self._limit = TimeLimit(means.settings.max_seconds, self._out_of_time)
        self._asking = Asking(means, job, self._desk, self._recorder, approver, self._limit)

    def _show_output(self, output: TurnNews) -> None:
        """What a tool says on the way is not on disk: it is shown only of a session that is certainly ours."""
        if self._lease.is_certain:
            self._watch(output)

    @property
    def turn(self) -> int:
        return self._opened.turn

    @property
    def session(self) -> SessionId:
        return self._job.session

    @property
    def epoch(self) -> int:
        """The session's epoch as long as this turn owns it."""
        return self._opened.handle.epoch

    def stop(self, reason: str) -> None:
        """Asks the turn to end; `finish` returns when its end is on disk. Safe at any time, any number of times."""
        self._is_stopped = True
        self._post(StopRequested(reason))

    def look(self) -> None:
        """Somebody may have ended the turn in the ledger: have it look now."""
        self._lease.look()

    async def record_event(self, kind: str, text: str) -> bool:
        """Stores something that happened outside the talk; False when the turn is over."""
        if self._machine.is_over or self._machine.phase == Phase.CLOSING:
            return False
        try:
            await self._recorder.event(kind, text, self._machine.step)
        except (Fenced, HeadMoved, NotFound):
            return False
        return True

    async def ask(self, question: Question) -> Consent | None:
        """`Approver` for whoever works for this turn: its person is asked, one question at a time, and no time counts."""
        return await self._asking.ask(question)

    async def finish(self) -> TurnOutcome:
        """Runs the turn to its end. Cancelling it stops the turn, and passes on once that is on disk."""
        run = self._run = asyncio.create_task(self._to_the_end())
        cancelled: asyncio.CancelledError | None = None
        while not run.done():
            try:
                await asyncio.wait([run])
            except asyncio.CancelledError as error:
                cancelled = error
                self.stop(CANCELLED)
        if cancelled is not None and not run.cancelled() and run.exception() is None:
            raise cancelled
        return run.result()

    @property
    def step(self) -> int:
        """The step that the model is asked for, or that was the last."""
        return self._machine.step

    @property
    def has_ended(self) -> bool:
        return self._run is not None and self._run.done()

    async def ended(self) -> None:
        """Returns when nothing of the turn runs any more; at once if `finish` was never called."""
        if self._run is not None:
            await asyncio.wait([self._run])

    async def _to_the_end(self) -> TurnOutcome:
        lease = asyncio.create_task(self._lease.kept())
        lease.add_done_callback(self._lease_ended)
        cut = asyncio.create_task(notice_cut(self._means, self._job.principal, self.session, self.epoch))
        cut.add_done_callback(lambda _: self._lease.look())
        self._limit.start()
        try:
            await self._begun()
            while not self._machine.is_over:
                event = await self._news.get()
                if not isinstance(event, _LeaseGone):
                    await self._perform_all(self._machine.receive(event))
                elif not self._recorder.has_released:
                    await self._perform_all(self._machine.receive(Lost()))
            self._fitting.turn_ended()
            outcome = await self._outcome()
            if self._recorder.has_asked:
                self._job.asked()
            return outcome
        finally:
            self._limit.stop()
            lease.cancel()
            cut.cancel()
            await self._tasks.cancel()
            await self._job.model.turn_ended()
            await self._recorder.settled()

    # -- events and effects --------------------------------------------------------------------------------------
    def _post(self, event: Event) -> None:
        self._news.put_nowait(event)

    def _out_of_time(self) -> None:
        seconds = self._means.settings.max_seconds
        sentence = f"The turn reached its limit of {seconds:g} seconds. {GO_ON}"
        self._post(StopRequested("time_limit", sentence))

    def _lease_ended(self, lease: asyncio.Task[None]) -> None:
        if lease.cancelled():
            return
        error = lease.exception()
        if isinstance(error, Exception):
            self._broke(error)
        else:
            self._news.put_nowait(_LeaseGone())

    def _broke(self, error: Exception, call: ToolCall | None = None) -> None:
        """What an error means for the turn: it is not ours any more, or it ends as failed."""
        if isinstance(error, Fenced | HeadMoved | NotFound | KeyReused):
            self._post(Lost())
            return
        self._cause = self._cause or error
        self._post(Broke(*_in_words(error), call.id if call is not None else None))

    async def _begun(self) -> None:
        """The first effects, and what has to be on disk before them. A stop that came before keeps them from being done.

        A turn that is gone on with is known first: however it ends, its calls end with it.
        """
        goes_on = isinstance(self._job.opening, GoOn | Recover)
        if self._opened.ended is not None:
            self._watch(Noticed(NOT_ANSWERED.format(self._opened.ended)))
        if self._is_stopped and not goes_on:
            return
        try:
            effects = await self._first_effects()
        except Exception as error:  # noqa: BLE001 - the supervisor: the turn stays as it is, for the next to go on with
            self._broke(error)
            self._post(Lost())
            return
        if self._is_stopped:
            return
        try:
            if self._opened.row.prefix != self._prefix.sha256:
                await self._refreeze()
                if self._opened.row.prefix is not None:
                    self._watch(Noticed(REFROZEN))
        except Exception as error:  # noqa: BLE001 - the supervisor: it becomes the turn's end
            self._broke(error)
        else:
            await self._perform_all(effects)

    async def _refreeze(self) -> None:
        patch = SessionPatch(prefix=self._prefix)
        if self._memory.is_new:
            row = await self._means.ledger.session(self._job.principal, self.session)
            settings = msgspec.structs.replace(read_settings(row.settings), core=self._memory.upto)
            patch = msgspec.structs.replace(patch, settings=write_settings(settings))
        await self._recorder.refreeze(patch)

    async def _forget(self) -> None:
        """What the person had forgotten since the turn began is in no request from here on."""
        if await self._memory.forgot(self._means.ledger):
            self._prefix = self._memory.prefix()
            overlays = (*self._job.overlays, *self._memory.overlays, *self._hint)
            self._context.begins_with(self._prefix, overlays)
            await self._recorder.refreeze(SessionPatch(prefix=self._prefix))

    async def _first_effects(self) -> tuple[Effect, ...]:
        if not isinstance(self._job.opening, GoOn | Recover):
            return self._machine.receive(Opened())
        row = await self._means.ledger.session(self._job.principal, self.session)
        messages = await turn_messages(self._means, self._job, row, self.turn)
        calls = await self._means.ledger.calls(self._job.principal, self.session, self.turn)
        states = {call.id: call.state for call in calls}
        answered = {m.body.call for m in messages if isinstance(m.body, ToolBody)}
        batch = next((m.calls for m in reversed(messages) if m.calls), ())
        self._machine, effects = TurnMachine.resumed(
            max_steps=self._means.settings.max_steps,
            max_repeats=self._means.settings.max_repeats,
            step=max((m.step for m in messages), default=0),
            calls=[(call, states[call.id]) for call in batch if call.id not in answered],
        )
        return effects

    async def _perform_all(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            try:
                await self._perform(effect)
            except Exception as error:  # noqa: BLE001 - the supervisor: it becomes the turn's end
                self._broke(error, effect.call if isinstance(effect, RecordResult) else None)
                if isinstance(effect, Close):
                    self._post(Lost())  # its end cannot be recorded: nothing more can be done here
                return

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case AskModel(step):
                self._tasks.start(lambda: self._ask_model(step))
            case RecordAnswer(answer, step, closes):
                await self._record_answer(answer, step, closes)
            case Decide(call):
                self._tasks.start(lambda: self._asking.verdict(call))
            case StartCall():
                await self._start_call(effect)
            case RunTool(call):
                self._tasks.start(lambda: self._run_tool(call))
            case RecordResult():
                await self._record_result(effect)
            case Park():
                await self._recorder.park()
                self._post(Parked())
            case CancelWork():
                await self._tasks.cancel()
                await self._job.model.turn_ended()
                self._post(WorkCancelled(self._model.partial))
            case Close():
                await self._close(effect)

    async def _ask_model(self, step: int) -> Answered | Failed:
        await self._steering.take(step)
        self._model.begin_step(self._paid_calls(step))
        return await self._fitting.ask(f"{self.session}-{self.turn}-{step}")

    def _paid_calls(self, step: int) -> PaidCalls:
        caps = self._means.settings.caps.today(self._means.clock.now_ms())
        return PaidCalls(self._job.model, self._set_aside, caps=caps, turn=self.turn, step=step, task=TASK)

    async def _set_aside(self, reserve: Reserve, used: tuple[AddUsage, ...]) -> None:
        await self._recorder.set_aside(reserve, used)
        self._tally.used(used)

    async def _record_answer(self, answer: Answer, step: int, closes: bool) -> None:
        used, is_safe = self._model.used(), self._desk.is_safe_to_repeat
        calls = await self._recorder.answer(answer, step, used=used, closes=closes, is_safe=is_safe)
        self._model.recorded()
        self._tally.text = answer.text
        self._tally.used(used)
        self._watch(StepRecorded(text=answer.text, usage=answer.usage, stop=answer.stop))
        for call in calls:
            self._tally.note(call, CallState.PLANNED)
            self._watch(
                CallAnnounced(
                    call=call.id, name=call.name, line=self._desk.line(call), arguments=call.arguments
                )
            )
        self._post(AnswerRecorded(calls))

    async def _start_call(self, start: StartCall) -> None:
        try:
            await self._recorder.start(start.call, start.approval)
        except Refused:
            if start.approval is None:
                raise
            self._post(Denied(start.call.id, TOO_LATE))  # it ran out between the yes and the start
            return
        self._tally.note(start.call, CallState.STARTED)
        self._watch(CallRunning(start.call.id))
        self._post(CallStarted(start.call.id))

    async def _run_tool(self, call: ToolCall) -> Returned:
        return Returned(call.id, await self._desk.run(call))

    async def _record_result(self, record: RecordResult) -> None:
        call, result = record.call, record.result
        self._tally.note(call, await self._recorder.result(call, result, record.step))
        self._watch(CallEnded(call=call.id, status=result.status, text=result.text, diff=result.diff))
        self._post(ResultRecorded(call.id))

    async def _close(self, close: Close) -> None:
        used = self._model.used()
        await self._recorder.close(close, used)
        self._tally.used(used)
        for left in close.unsettled:
            self._tally.note(left.call, left.ends)
            status = Status.UNKNOWN if left.ends == CallState.UNKNOWN else Status.NOT_RUN
            self._watch(CallEnded(call=left.call.id, status=status, text="The turn ended.", diff=""))
        self._tally.closed = close
        self._post(Closed())

    async def _outcome(self) -> TurnOutcome:
        tally, closed = self._tally, self._tally.closed
        is_lost = self._machine.is_lost
        waiting = tuple(self._asking.waiting) if self._machine.phase == Phase.PARKED else ()
        if is_lost and self._cause is None:
            stopped = await self._recorder.keep_shown(self._model.partial, self._machine.step)
            ending = STOPPED_ELSEWHERE if stopped else TAKEN_OVER
        elif is_lost and self._cause is not None:
            ending = Ending(TurnStatus.FAILED, _in_words(self._cause))
        else:
            ending = ending_of(closed, waiting)
        shown = self._model.partial if is_lost else closed.partial if closed is not None else tally.text
        return TurnOutcome(
            handle=self._recorder.handle,
            turn=self.turn,
            status=ending.status,
            text=shown,
            model=self._job.model.profile.name,
            usage=tally.usage,
            cost_usd=tally.cost_usd,
            calls=tally.calls,
            error=ending.error,
            waiting_for=waiting,
            cause=self._cause or self._watch.error,
        )


def _in_words(error: Exception) -> tuple[str, str]:
    """A code and a sentence for what ended a turn."""
    if isinstance(error, Outdated):
        return "outdated", str(error)
    if isinstance(error, LedgerError):
        return "store", str(error)
    return "internal", f"An error inside Clew ended the turn: {error!r}."


def _call_desk(  # noqa: PLR0917
    means: Means,
    job: TurnJob,
    opened: OpenedTurn,
    watch: Watch,
    still_ours: Callable[[], Awaitable[None]],
    approver: Approver,
) -> CallDesk:
    own = read_settings(opened.row.settings)
    return CallDesk(
        job.tools,
        session=job.session,
        principal=job.principal,
        cwd=job.cwd,
        mode=own.approval or job.approval_mode or means.settings.approval_mode,
        allowed=frozenset(own.allow),
        watch=watch,
        still_ours=still_ours,
        notify=job.notify,
        approver=approver,
        output_bytes=means.settings.tool_output_bytes,
    )
