"""The turn machine: what follows what, and what never may."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clew.domain.conversation.ids import CallId
from clew.domain.conversation.messages import Status, ToolCall
from clew.domain.ledger.rows import CallState, TurnState
from clew.domain.models.answer import Answer, AskedCall, Failure, FailureKind
from clew.domain.tools.spec import ToolResult
from clew.domain.turn.machine import (
    LEGAL,
    Allowed,
    Answered,
    AnswerRecorded,
    AskModel,
    Broke,
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
    IllegalMove,
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
    Unsettled,
    WorkCancelled,
)


def a_call(n: int) -> ToolCall:
    return ToolCall(id=CallId(f"s-1-1-{n}"), name="read", arguments="{}")


def asking() -> TurnMachine:
    machine = TurnMachine(max_steps=5)
    assert machine.receive(Opened()) == (AskModel(1),)
    return machine


def calling(*calls: ToolCall) -> TurnMachine:
    machine = asking()
    asked = tuple(AskedCall(provider_id="", name=c.name, arguments=c.arguments) for c in calls)
    machine.receive(Answered(Answer(text="", calls=asked)))
    assert machine.receive(AnswerRecorded(calls)) == tuple(Decide(c) for c in calls)
    return machine


def test_an_answer_without_calls_ends_the_turn_with_its_own_commit() -> None:
    """There is no moment at which the reply is on disk and the turn still open."""
    machine = asking()
    assert machine.receive(Answered(Answer(text="hello"))) == (
        RecordAnswer(Answer(text="hello"), 1, closes=True),
    )
    assert machine.receive(AnswerRecorded(())) == ()
    assert machine.is_over


def test_a_call_is_started_on_disk_before_it_runs_and_recorded_after() -> None:
    """planned → started → run → recorded → the next step."""
    call = a_call(0)
    machine = calling(call)
    assert machine.receive(Allowed(call.id)) == (StartCall(call, None),)
    assert machine.receive(CallStarted(call.id)) == (RunTool(call),)
    result = ToolResult(text="ok")
    assert machine.receive(Returned(call.id, result)) == (RecordResult(call, result, 1),)
    assert machine.receive(ResultRecorded(call.id)) == (AskModel(2),)


def test_the_next_step_waits_for_every_result() -> None:
    """A request never holds a call without its result."""
    first, second = a_call(0), a_call(1)
    machine = calling(first, second)
    machine.receive(Denied(first.id, "no"))
    assert machine.receive(ResultRecorded(first.id)) == ()
    machine.receive(Denied(second.id, "no"))
    assert machine.receive(ResultRecorded(second.id)) == (AskModel(2),)


def test_a_refused_call_is_a_result_the_model_sees() -> None:
    """Nothing is started for it."""
    call = a_call(0)
    refusal = ToolResult(text="no", status=Status.REFUSED)
    assert calling(call).receive(Denied(call.id, "no")) == (RecordResult(call, refusal, 1),)


def test_a_turn_parks_only_when_nothing_else_is_open() -> None:
    """Calls that need nobody's yes are done first."""
    waits, runs = a_call(0), a_call(1)
    machine = calling(waits, runs)
    assert machine.receive(Deferred(waits.id)) == ()
    machine.receive(Allowed(runs.id))
    machine.receive(CallStarted(runs.id))
    machine.receive(Returned(runs.id, ToolResult(text="")))
    assert machine.receive(ResultRecorded(runs.id)) == (Park(),)
    machine.receive(Parked())
    assert machine.phase == Phase.PARKED


def test_stopping_cancels_first_and_settles_what_was_open() -> None:
    """Started calls are unknown, planned ones were not run, and what was shown is kept."""
    started, planned = a_call(0), a_call(1)
    machine = calling(started, planned)
    machine.receive(Allowed(started.id))
    machine.receive(CallStarted(started.id))
    assert machine.receive(StopRequested("stopped")) == (CancelWork(),)
    (close,) = machine.receive(WorkCancelled(""))
    assert isinstance(close, Close)
    assert close.state == TurnState.INTERRUPTED
    assert close.unsettled == (
        Unsettled(started, CallState.STARTED, CallState.UNKNOWN),
        Unsettled(planned, CallState.PLANNED, CallState.NOT_RUN),
    )
    assert machine.receive(StopRequested("again")) == ()
    machine.receive(Closed())
    assert machine.is_over


def test_stopping_while_the_last_answer_is_being_recorded_loses_to_it() -> None:
    """The reply is on disk: there is nothing left to interrupt."""
    machine = asking()
    machine.receive(Answered(Answer(text="done")))
    assert machine.receive(StopRequested("stopped")) == (CancelWork(),)
    assert machine.receive(AnswerRecorded(())) == ()
    assert machine.receive(WorkCancelled("")) == ()
    assert machine.is_over


def test_the_step_limit_is_said() -> None:
    """The turn ends with a sentence, not with silence."""
    machine = TurnMachine(max_steps=1)
    machine.receive(Opened())
    call = a_call(0)
    machine.receive(
        Answered(Answer(text="", calls=(AskedCall(provider_id="", name="read", arguments="{}"),)))
    )
    machine.receive(AnswerRecorded((call,)))
    machine.receive(Denied(call.id, "no"))
    (close,) = machine.receive(ResultRecorded(call.id))
    assert isinstance(close, Close)
    assert close.reason == "step_limit"
    assert close.error is not None


def test_a_failure_keeps_what_was_shown() -> None:
    """The partial text of the last attempt goes with the end of the turn."""
    failure = Failure(kind=FailureKind.CUT, message="cut", partial="half")
    (close,) = asking().receive(Failed(failure))
    assert isinstance(close, Close)
    assert (close.state, close.partial, close.error) == (TurnState.FAILED, "half", "cut")


def test_whoever_lost_the_session_only_cancels() -> None:
    """Nothing is recorded under a foreign epoch."""
    machine = calling(a_call(0))
    assert machine.receive(Lost()) == (CancelWork(),)
    assert machine.is_over


def test_a_turn_found_in_the_ledger_goes_on_where_it_stood() -> None:
    """A planned call is decided upon, one that is safe to repeat starts again, and without open calls the next step follows."""
    planned, repeated = a_call(0), a_call(1)
    calls = [(planned, CallState.PLANNED), (repeated, CallState.UNKNOWN)]
    machine, effects = TurnMachine.resumed(max_steps=5, step=1, calls=calls)
    assert effects == (Decide(planned), StartCall(repeated, None))
    machine.receive(StopRequested("stopped"))
    (close,) = machine.receive(WorkCancelled(""))
    assert isinstance(close, Close)
    assert close.unsettled[1] == Unsettled(repeated, CallState.UNKNOWN, CallState.UNKNOWN)
    assert TurnMachine.resumed(max_steps=5, step=2, calls=[])[1] == (AskModel(3),)


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_says_what_may_come(phase: Phase) -> None:
    """The table covers all phases, and losing the session is possible in each."""
    assert Lost in LEGAL[phase]


def test_an_event_out_of_place_is_a_bug_that_raises() -> None:
    """A result before the turn was opened cannot happen."""
    with pytest.raises(IllegalMove):
        TurnMachine(max_steps=1).receive(ResultRecorded(CallId("x")))


@settings(max_examples=300)
@given(st.data())
def test_any_course_of_events_ends_and_never_runs_an_unstarted_call(data: st.DataObject) -> None:
    """A runtime that answers effects in any order, and stops or loses the turn at any moment, reaches the end."""
    machine = TurnMachine(max_steps=4)
    pending: list[Event] = [Opened()]
    started: set[CallId] = set()
    recorded: set[CallId] = set()
    for _ in range(400):
        if not pending:
            break
        event = pending.pop(data.draw(st.integers(0, len(pending) - 1)))
        if not machine.is_over and data.draw(st.integers(0, 40)) == 0:
            interruptions: list[Event] = [StopRequested("stop"), Broke("internal", "!"), Lost()]
            pending.append(data.draw(st.sampled_from(interruptions)))
        for effect in machine.receive(event) if type(event) in LEGAL[machine.phase] else ():
            if isinstance(effect, RunTool):
                assert effect.call.id in started
            if isinstance(effect, StartCall):
                assert effect.call.id not in started
                started.add(effect.call.id)
            if isinstance(effect, RecordResult):
                assert effect.call.id not in recorded
                recorded.add(effect.call.id)
            pending.extend(_answer_to(effect, data))
    assert machine.is_over
    assert not pending or machine.is_over


def _answer_to(effect: Effect, data: st.DataObject) -> list[Event]:
    match effect:
        case AskModel(step):
            calls = data.draw(st.integers(0, 3))
            asked = tuple(AskedCall(provider_id=f"{step}{n}", name="t", arguments="{}") for n in range(calls))
            failure = Failure(kind=FailureKind.SERVER, message="down")
            return [
                Failed(failure)
                if data.draw(st.integers(0, 9)) == 0
                else Answered(Answer(text="", calls=asked))
            ]
        case RecordAnswer(answer, step, _):
            return [
                AnswerRecorded(
                    tuple(
                        ToolCall(id=CallId(f"{step}-{n}"), name="t", arguments="{}")
                        for n in range(len(answer.calls))
                    )
                )
            ]
        case Decide(call):
            verdicts: list[Event] = [Allowed(call.id), Denied(call.id, "no"), Deferred(call.id)]
            return [data.draw(st.sampled_from(verdicts))]
        case StartCall(call, _):
            return [CallStarted(call.id)]
        case RunTool(call):
            return [Returned(call.id, ToolResult(text=""))]
        case RecordResult(call, _, _):
            return [ResultRecorded(call.id)]
        case Park():
            return [Parked()]
        case CancelWork():
            return [WorkCancelled("")]
        case Close():
            return [Closed()]


class Queue:
    """What the runtime does: commits are made one after the other, whatever waits ends when it ends, and news queue up."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self._waiting: list[Event] = []
        self.news: list[Event] = [Opened()]
        self.states: dict[CallId, CallState] = {}
        self.closes = 0

    def perform(self, effect: Effect) -> None:
        match effect:
            case AskModel() | Decide() | RunTool():
                self._waiting += _answer_to(effect, self._data)
            case CancelWork():
                self._end_waiting()
            case Close():
                self.closes += 1
                for left in effect.unsettled:
                    self._move(left.call.id, left.ends)
            case RecordResult(call, result, _):
                if self._data.draw(st.integers(0, 15)) == 0:
                    self.news.append(Broke("store", "disk full", call.id))
                    return
                self._move(call.id, CallState.FINISHED if result.status == Status.OK else CallState.NOT_RUN)
            case StartCall(call, _):
                self._move(call.id, CallState.STARTED)
            case _:
                pass
        if not isinstance(effect, AskModel | Decide | RunTool):
            self.news += _answer_to(effect, self._data)

    def let_something_end(self) -> None:
        if self._waiting:
            self.news.append(self._waiting.pop(self._data.draw(st.integers(0, len(self._waiting) - 1))))

    def interrupt(self) -> None:
        choices: list[Event] = [StopRequested("stop"), Broke("internal", "!"), Lost()]
        self.news.append(self._data.draw(st.sampled_from(choices)))

    def _end_waiting(self) -> None:
        """What is cancelled may have ended just before."""
        self.news += [event for event in self._waiting if self._data.draw(st.booleans())]
        self._waiting.clear()

    def _move(self, call: CallId, to: CallState) -> None:
        """As the ledger allows it."""
        legal = {
            (CallState.PLANNED, CallState.STARTED), (CallState.PLANNED, CallState.NOT_RUN),
            (CallState.STARTED, CallState.FINISHED), (CallState.STARTED, CallState.UNKNOWN),
        }  # fmt: skip
        assert (self.states.get(call, CallState.PLANNED), to) in legal
        self.states[call] = to


@settings(max_examples=500)
@given(st.data())
def test_news_in_the_order_of_the_runtime_are_always_legal(data: st.DataObject) -> None:
    """Whenever it is stopped or something breaks: no illegal move, one end, and no call settled twice."""
    machine, queue = TurnMachine(max_steps=4), Queue(data)
    for _ in range(400):
        if machine.is_over:
            break
        if data.draw(st.integers(0, 12)) == 0:
            queue.interrupt()
        if not queue.news or data.draw(st.booleans()):
            queue.let_something_end()
        if queue.news:
            for effect in machine.receive(queue.news.pop(0)):
                queue.perform(effect)
    assert machine.is_over
    assert queue.closes <= 1


def test_a_result_that_comes_with_the_stop_is_recorded_before_the_end() -> None:
    """The call is finished, and the turn's end does not settle it once more."""
    machine = calling(a_call(0))
    machine.receive(Allowed(a_call(0).id))
    machine.receive(CallStarted(a_call(0).id))
    machine.receive(StopRequested("stopped"))
    (record,) = machine.receive(Returned(a_call(0).id, ToolResult(text="done")))
    assert isinstance(record, RecordResult)
    assert machine.receive(WorkCancelled("")) == ()
    (close,) = machine.receive(ResultRecorded(a_call(0).id))
    assert isinstance(close, Close)
    assert close.unsettled == ()


def test_a_turn_stopped_while_it_parks_ends() -> None:
    """Its calls were not run."""
    machine = calling(a_call(0))
    (park,) = machine.receive(Deferred(a_call(0).id))
    assert park == Park()
    machine.receive(StopRequested("stopped"))
    assert machine.receive(Parked()) == ()
    (close,) = machine.receive(WorkCancelled(""))
    assert isinstance(close, Close)
    assert close.unsettled == (Unsettled(a_call(0), CallState.PLANNED, CallState.NOT_RUN),)
