"""The turn as a machine without IO: events in, effects out, and a table of which event may come when.

Every event but a model's or a tool's word is the news of a commit: a step begins only after the one before is on disk.
The runtime performs the effects and brings back what became of them; it adds no decision of its own.

    open ── Opened ──▶ asking ── Answered ──▶ recording ── AnswerRecorded ──▶ calling ── all results ──▶ asking …
                         │                        └─ no calls: the turn is over with that commit
                         └─ Failed ──▶ closing ── Closed ──▶ over

    anywhere ── StopRequested, Broke ──▶ stopping ── WorkCancelled, and what had returned is recorded ──▶ closing
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from clew.domain.conversation.ids import ApprovalId, CallId
from clew.domain.conversation.messages import Status, ToolCall
from clew.domain.ledger.rows import CallState, TurnState
from clew.domain.models.answer import Answer, Failure
from clew.domain.tools.spec import ToolResult
from clew.domain.turn.repeats import REPEATS_MAX, Repeats

GO_ON: Final = "Say “go on” to continue."
"""What a person is told where a turn came to its limit."""


class Phase(StrEnum):
    OPEN = "open"
    ASKING = "asking"
    RECORDING = "recording"
    CALLING = "calling"
    STOPPING = "stopping"
    CLOSING = "closing"
    PARKED = "parked"
    OVER = "over"


# -- events ------------------------------------------------------------------------------------------------------
class Opened(msgspec.Struct, frozen=True):
    """The turn's row and opening message are committed."""


class Answered(msgspec.Struct, frozen=True):
    answer: Answer


class Failed(msgspec.Struct, frozen=True):
    failure: Failure


class AnswerRecorded(msgspec.Struct, frozen=True):
    """The model's message is committed, its calls planned."""

    calls: tuple[ToolCall, ...]


class Allowed(msgspec.Struct, frozen=True):
    """The call may run; `approval` is spent in the commit that starts it."""

    call: CallId
    approval: ApprovalId | None = None


class Denied(msgspec.Struct, frozen=True):
    call: CallId
    reason: str


class Deferred(msgspec.Struct, frozen=True):
    """Somebody must be asked, and nobody is here."""

    call: CallId


class CallStarted(msgspec.Struct, frozen=True):
    """That the call starts is committed."""

    call: CallId


class Returned(msgspec.Struct, frozen=True):
    call: CallId
    result: ToolResult


class ResultRecorded(msgspec.Struct, frozen=True):
    call: CallId


class StopRequested(msgspec.Struct, frozen=True):
    """The turn should end: a person wants it, or a limit was reached, which `error` says in a sentence."""

    reason: str
    error: str | None = None


class Broke(msgspec.Struct, frozen=True):
    """Something failed that nobody expected to: the turn ends, as failed. `call` is one whose result was not recorded."""

    reason: str
    error: str
    call: CallId | None = None


class WorkCancelled(msgspec.Struct, frozen=True):
    """Model call and tools are no longer running. `partial` is what had been shown of an answer."""

    partial: str


class Parked(msgspec.Struct, frozen=True):
    """The turn waits in the ledger for an approval, without a lease."""


class Closed(msgspec.Struct, frozen=True):
    """The turn's end is committed."""


class Lost(msgspec.Struct, frozen=True):
    """Somebody else owns the session now: nothing more may be published."""


Event = (
    Opened | Answered | Failed | AnswerRecorded | Allowed | Denied | Deferred | CallStarted | Returned | ResultRecorded
    | StopRequested | Broke | WorkCancelled | Parked | Closed | Lost
)  # fmt: skip


# -- effects -----------------------------------------------------------------------------------------------------
class AskModel(msgspec.Struct, frozen=True):
    step: int


class RecordAnswer(msgspec.Struct, frozen=True):
    """Commit the answer; with `closes` the turn ends in the same commit."""

    answer: Answer
    step: int
    closes: bool


class Decide(msgspec.Struct, frozen=True):
    """Find out whether the call may run."""

    call: ToolCall


class StartCall(msgspec.Struct, frozen=True):
    """Commit that the call starts."""

    call: ToolCall
    approval: ApprovalId | None


class RunTool(msgspec.Struct, frozen=True):
    call: ToolCall


class RecordResult(msgspec.Struct, frozen=True):
    call: ToolCall
    result: ToolResult
    step: int


class Park(msgspec.Struct, frozen=True):
    """Commit that the turn waits, and give up the lease."""


class CancelWork(msgspec.Struct, frozen=True):
    """Cancel the model call and the tools' processes."""


class Unsettled(msgspec.Struct, frozen=True):
    """A call without a result: as it is, and as it ends with its turn."""

    call: ToolCall
    was: CallState
    ends: CallState


class Close(msgspec.Struct, frozen=True):
    """Commit the end: what was shown of an answer, what became of each open call, and the turn's state."""

    state: TurnState
    reason: str
    step: int
    partial: str = ""
    error: str | None = None
    unsettled: tuple[Unsettled, ...] = ()


Effect = AskModel | RecordAnswer | Decide | StartCall | RunTool | RecordResult | Park | CancelWork | Close

_ANYWHERE: Final = frozenset({StopRequested, Broke, Lost})
LEGAL: Final[Mapping[Phase, frozenset[type]]] = {
    Phase.OPEN: _ANYWHERE | {Opened},
    Phase.ASKING: _ANYWHERE | {Answered, Failed},
    Phase.RECORDING: _ANYWHERE | {AnswerRecorded},
    Phase.CALLING: _ANYWHERE | {Allowed, Denied, Deferred, CallStarted, Returned, ResultRecorded, Parked},
    Phase.STOPPING: _ANYWHERE | {
        Answered, Failed, AnswerRecorded, Allowed, Denied, Deferred, CallStarted, Returned, ResultRecorded, Parked, WorkCancelled,
    },
    Phase.CLOSING: _ANYWHERE | {Closed},
    Phase.PARKED: _ANYWHERE,
    Phase.OVER: _ANYWHERE | {WorkCancelled},
}  # fmt: skip
"""Which events may come in which phase. Anything else is a bug of the runtime, and raises."""


class IllegalMove(Exception):
    """The runtime sent an event that cannot happen in this phase."""


class _Open(msgspec.Struct):
    """A call whose result is not recorded yet."""

    call: ToolCall
    state: CallState
    deferred: bool = False
    has_returned: bool = False
    """Its result is on its way to the disk."""


class _End(msgspec.Struct, frozen=True):
    """How a turn that was stopped will end."""

    state: TurnState
    reason: str
    error: str | None


class TurnMachine:
    """One turn. `phase`, `step` and `is_lost` (it ended because somebody else owns the session) may be read; everything else goes through `receive`."""

    def __init__(self, *, max_steps: int, max_repeats: int = REPEATS_MAX) -> None:
        self.phase = Phase.OPEN
        self.step = 0
        self.is_lost = False
        self._max_steps = max_steps
        self._repeats = Repeats(max_repeats)
        self._open: dict[CallId, _Open] = {}
        self._end: _End | None = None
        self._partial: str | None = None
        """What had been shown when the work was cancelled; None until it is."""

    @classmethod
    def resumed(
        cls,
        *,
        max_steps: int,
        max_repeats: int = REPEATS_MAX,
        step: int,
        calls: Sequence[tuple[ToolCall, CallState]],
    ) -> tuple[TurnMachine, tuple[Effect, ...]]:
        """A turn found in the ledger with the calls that still have no result, and what to do first.

        A planned call is decided upon. One whose outcome is unknown was allowed before, and is given here only if it
        is safe to repeat: it starts again.
        """
        machine = cls(max_steps=max_steps, max_repeats=max_repeats)
        machine.step = step
        machine.phase = Phase.CALLING
        machine._open = {call.id: _Open(call, state) for call, state in calls}
        effects = [
            Decide(call) if state == CallState.PLANNED else StartCall(call, None) for call, state in calls
        ]
        return machine, tuple(effects) if effects else machine._next_step()

    @property
    def is_over(self) -> bool:
        return self.phase in (Phase.OVER, Phase.PARKED)

    def receive(self, event: Event) -> tuple[Effect, ...]:
        """What to do next. Raises IllegalMove for an event the table does not allow."""
        kind = type(event)
        if kind not in LEGAL[self.phase]:
            raise IllegalMove(f"{kind.__name__} while {self.phase}")
        return _HANDLERS[kind](self, event)

    # -- handlers, one an event ----------------------------------------------------------------------------------
    def _opened(self, _: Opened) -> tuple[Effect, ...]:
        return self._next_step()

    def _answered(self, event: Answered) -> tuple[Effect, ...]:
        if self.phase != Phase.ASKING:
            return ()
        self.phase = Phase.RECORDING
        return (RecordAnswer(event.answer, self.step, closes=not event.answer.calls),)

    def _failed(self, event: Failed) -> tuple[Effect, ...]:
        if self.phase != Phase.ASKING:
            return ()
        return self._close(
            TurnState.FAILED, event.failure.kind.value, event.failure.partial, event.failure.message
        )

    def _answer_recorded(self, event: AnswerRecorded) -> tuple[Effect, ...]:
        self._open = {call.id: _Open(call, CallState.PLANNED) for call in event.calls}
        if not event.calls:
            self.phase = Phase.OVER
            return ()
        if self.phase == Phase.STOPPING:
            return ()
        self.phase = Phase.CALLING
        return tuple(Decide(call) for call in event.calls)

    def _allowed(self, event: Allowed) -> tuple[Effect, ...]:
        if self.phase == Phase.STOPPING:
            return ()
        return (StartCall(self._open[event.call].call, event.approval),)

    def _denied(self, event: Denied) -> tuple[Effect, ...]:
        if self.phase == Phase.STOPPING:
            return ()
        return self._brought(event.call, ToolResult(text=event.reason, status=Status.REFUSED))

    def _deferred(self, event: Deferred) -> tuple[Effect, ...]:
        self._open[event.call].deferred = True
        return self._after_call()

    def _call_started(self, event: CallStarted) -> tuple[Effect, ...]:
        self._open[event.call].state = CallState.STARTED
        return () if self.phase == Phase.STOPPING else (RunTool(self._open[event.call].call),)

    def _returned(self, event: Returned) -> tuple[Effect, ...]:
        self._open[event.call].has_returned = True
        return self._brought(event.call, event.result)

    def _result_recorded(self, event: ResultRecorded) -> tuple[Effect, ...]:
        del self._open[event.call]
        return self._close_stopped() if self.phase == Phase.STOPPING else self._after_call()

    def _stop_requested(self, event: StopRequested) -> tuple[Effect, ...]:
        if self.phase in (Phase.CLOSING, Phase.PARKED, Phase.OVER, Phase.STOPPING):
            return ()
        self.phase = Phase.STOPPING
        self._end = _End(TurnState.INTERRUPTED, event.reason, event.error)
        return (CancelWork(),)

    def _broke(self, event: Broke) -> tuple[Effect, ...]:
        if self.phase in (Phase.CLOSING, Phase.PARKED, Phase.OVER):
            return ()
        was_stopping = self.phase == Phase.STOPPING
        self.phase = Phase.STOPPING
        self._end = _End(TurnState.FAILED, event.reason, event.error)
        if event.call in self._open:
            self._open[event.call].has_returned = False  # it is not waited for any more
        return self._close_stopped() if was_stopping else (CancelWork(),)

    def _work_cancelled(self, event: WorkCancelled) -> tuple[Effect, ...]:
        if self.phase == Phase.OVER:
            return ()
        self._partial = event.partial
        return self._close_stopped()

    def _parked(self, _: Parked) -> tuple[Effect, ...]:
        if self.phase != Phase.STOPPING:
            self.phase = Phase.PARKED
        return ()

    def _closed(self, _: Closed) -> tuple[Effect, ...]:
        self.phase = Phase.OVER
        return ()

    def _lost(self, _: Lost) -> tuple[Effect, ...]:
        if self.is_over:
            return ()
        self.phase = Phase.OVER
        self.is_lost = True
        return (CancelWork(),)

    def _brought(self, ident: CallId, result: ToolResult) -> tuple[Effect, ...]:
        call = self._open[ident].call
        self._repeats.note(call, result)
        return (RecordResult(call, result, self.step),)

    # -- shared steps --------------------------------------------------------------------------------------------
    def _after_call(self) -> tuple[Effect, ...]:
        if self.phase == Phase.STOPPING or any(not open_.deferred for open_ in self._open.values()):
            return ()
        return (Park(),) if self._open else self._next_step()

    def _next_step(self) -> tuple[Effect, ...]:
        if (looping := self._repeats.reached) is not None:
            return self._close(TurnState.FAILED, "repeat_limit", "", f"{looping} {GO_ON}")
        if self.step >= self._max_steps:
            sentence = f"The turn reached its limit of {self._max_steps} steps. {GO_ON}"
            return self._close(TurnState.FAILED, "step_limit", "", sentence)
        self.step += 1
        self.phase = Phase.ASKING
        return (AskModel(self.step),)

    def _close_stopped(self) -> tuple[Effect, ...]:
        """The end of a turn that was stopped, once nothing of it runs and every result that came is on disk."""
        if self._end is None or self._partial is None or any(o.has_returned for o in self._open.values()):
            return ()
        return self._close(self._end.state, self._end.reason, self._partial, self._end.error)

    def _close(self, state: TurnState, reason: str, partial: str, error: str | None) -> tuple[Effect, ...]:
        unsettled = tuple(
            Unsettled(
                o.call, o.state, CallState.NOT_RUN if o.state == CallState.PLANNED else CallState.UNKNOWN
            )
            for o in self._open.values()
        )
        self.phase = Phase.CLOSING
        return (Close(state, reason, self.step, partial, error, unsettled),)


_HANDLERS: Final[Mapping[type, Callable[..., tuple[Effect, ...]]]] = {
    Opened: TurnMachine._opened,
    Answered: TurnMachine._answered,
    Failed: TurnMachine._failed,
    AnswerRecorded: TurnMachine._answer_recorded,
    Allowed: TurnMachine._allowed,
    Denied: TurnMachine._denied,
    Deferred: TurnMachine._deferred,
    CallStarted: TurnMachine._call_started,
    Returned: TurnMachine._returned,
    ResultRecorded: TurnMachine._result_recorded,
    StopRequested: TurnMachine._stop_requested,
    Broke: TurnMachine._broke,
    WorkCancelled: TurnMachine._work_cancelled,
    Parked: TurnMachine._parked,
    Closed: TurnMachine._closed,
    Lost: TurnMachine._lost,
}
