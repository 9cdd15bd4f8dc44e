"""Turns in which something goes wrong: each ends in the ledger, says one sentence, and leaves the session usable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.adapters.stores.memory.state import State
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.conversation.messages import Role, Status
from clew.domain.ledger.commits import Commit, Committed, Note
from clew.domain.ledger.errors import Busy, Refused, StoreUnusable
from clew.domain.ledger.rows import ApprovalState, CallState, OpKind, TurnRow, TurnState
from clew.domain.models.answer import Answer, AskedCall, Failure, FailureKind, ModelEvent, TextDelta, Usage
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.domain.tools.policy import ApprovalMode
from clew.domain.tools.spec import Effect, JsonObject, ToolResult
from clew.domain.turn.prefix import Instructions
from clew.runtime.commands import CommandError
from clew.runtime.ports.people import Consent, NobodyToAsk, Question, TextShown, TurnNews, nobody_watches
from clew.runtime.ports.tools import ToolContext
from clew.runtime.talk import Talk
from clew.runtime.turns import TurnOutcome, TurnSettings, TurnStatus
from clew.runtime.turns.openings import Say
from clew.runtime.turns.running import RunningTurn
from clew.testing.scripted_model import Hold, Step, ask, say
from clew.testing.virtual_time import simulate
from clew.testing.world import Answers, RecordingTool, World, command, exchange

pytestmark = pytest.mark.anyio


class Disk(MemoryLedger):
    """A store that fails or waits when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: Callable[[Commit], bool] = lambda _: False
        self.waits: Callable[[Commit], bool] = lambda _: False
        self.reached = asyncio.Event()
        self.released = asyncio.Event()

    async def commit(self, work: Commit) -> Committed:
        if self.fails(work):
            raise StoreUnusable("The disk is full; nothing was written.")
        if self.waits(work):
            self.reached.set()
            await self.released.wait()
        return await super().commit(work)


@pytest.fixture
def disk() -> Disk:
    return Disk()


class OddModel(World):
    """Asks a model that breaks the promises of its port."""

    def __init__(self, ledger: MemoryLedger, events: Callable[[], AsyncIterator[ModelEvent]]) -> None:
        super().__init__(ledger)
        self.services.models.client = _Odd(events)  # type: ignore[attr-defined]


class _Odd:
    def __init__(self, events: Callable[[], AsyncIterator[ModelEvent]]) -> None:
        self._events = events

    def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncIterator[ModelEvent]:
        return self._events()

    async def profile(self, model: str) -> ModelProfile:
        return ModelProfile(name=model, provider="scripted")

    async def models(self) -> tuple[str, ...]:
        return ()

    async def close(self) -> None:
        """Holds nothing."""


def session_of(talk: Talk) -> SessionId:
    assert talk.session is not None
    return talk.session


async def newest(talk: Talk) -> TurnRow:
    turn = await talk.services.ledger.turn(LOCAL, session_of(talk))
    assert turn is not None
    return turn


async def states(talk: Talk) -> list[CallState]:
    return [row.state for row in await talk.services.ledger.calls(LOCAL, session_of(talk))]


async def begun(talk: Talk, text: str) -> tuple[RunningTurn, asyncio.Task[TurnOutcome]]:
    turn = await talk.say(text, nobody_watches, NobodyToAsk())
    return turn, asyncio.create_task(turn.finish())


# -- the model -----------------------------------------------------------------------------------------------------
async def test_an_answer_without_an_end_is_a_failure(disk: Disk) -> None:
    """What was shown of it is kept."""

    async def events() -> AsyncIterator[ModelEvent]:
        yield TextDelta("half")

    talk = OddModel(disk, events).talk()
    outcome = await exchange(talk, "hi")
    assert (outcome.status, outcome.error and outcome.error[0]) == (TurnStatus.FAILED, "garbage")
    assert (await newest(talk)).state == TurnState.FAILED


async def test_a_model_client_that_raises_ends_the_turn_as_failed(disk: Disk) -> None:
    """On disk, with what was shown, and without an exception for whoever runs the turn."""

    async def events() -> AsyncIterator[ModelEvent]:
        yield TextDelta("half")
        raise RuntimeError("a bug")

    talk = OddModel(disk, events).talk()
    outcome = await exchange(talk, "hi")
    assert outcome.status == TurnStatus.FAILED
    assert outcome.error is not None
    assert outcome.error[0] == "internal"
    assert isinstance(outcome.cause, RuntimeError)
    assert [m.text for m in await disk.path(LOCAL, session_of(talk))] == ["hi", "half"]
    assert (await newest(talk)).state == TurnState.FAILED


async def test_only_the_first_end_of_a_stream_counts(disk: Disk) -> None:
    """A client that goes on after its answer is not listened to."""

    async def events() -> AsyncIterator[ModelEvent]:
        yield Answer(text="done")
        yield Failure(kind=FailureKind.CUT, message="and yet")

    assert (await exchange(OddModel(disk, events).talk(), "hi")).text == "done"


async def test_what_a_failed_call_used_is_kept(disk: Disk) -> None:
    """As the provider told it."""

    async def events() -> AsyncIterator[ModelEvent]:
        yield Failure(kind=FailureKind.CUT, message="cut", usage=Usage(input=7, output=3))

    talk = OddModel(disk, events).talk()
    outcome = await exchange(talk, "hi")
    assert (outcome.usage.input, outcome.usage.output) == (7, 3)
    assert (await disk.usage(LOCAL, session_of(talk))).input == 7


async def test_a_call_that_nobody_answered_used_nothing(disk: Disk) -> None:
    """No estimate is made for a server that is not there."""

    async def events() -> AsyncIterator[ModelEvent]:
        yield Failure(kind=FailureKind.NETWORK, message="Nothing answers.")

    talk = OddModel(disk, events).talk()
    assert (await exchange(talk, "hi")).usage == Usage()
    assert (await disk.usage(LOCAL, session_of(talk))).calls == 0


async def test_what_a_stopped_call_used_is_estimated(disk: Disk) -> None:
    """A call that was cut is not free."""
    hold = Hold()
    talk = World(disk, [say("some words that were shown", hold)]).talk()
    turn, running = await begun(talk, "hi")
    await hold.reached()
    turn.stop("stopped")
    outcome = await running
    assert outcome.usage.estimated
    used = await disk.usage(LOCAL, session_of(talk))
    assert used.input > 0
    assert used.output > 0


# -- tools -----------------------------------------------------------------------------------------------------------
async def test_a_tool_that_raises_is_a_result(disk: Disk) -> None:
    """The model sees it, and the turn goes on."""

    async def breaks(arguments: JsonObject, context: ToolContext) -> ToolResult:
        raise ValueError("a bug")

    talk = World(disk, [ask("t"), say("I see")], tools=[RecordingTool("t", answer=breaks)]).talk()
    outcome = await exchange(talk, "hi")
    assert outcome.text == "I see"
    (result,) = [m for m in await disk.path(LOCAL, session_of(talk)) if m.role == Role.TOOL]
    assert result.status == Status.ERROR
    assert "a bug" in result.text


async def test_a_tool_that_cannot_describe_a_call_is_described_for_it(disk: Disk) -> None:
    """Showing a call never ends the turn."""

    class Mute(RecordingTool):
        def describe(self, arguments: JsonObject) -> str:
            raise KeyError("path")

    outcome = await exchange(World(disk, [ask("t"), say("ok")], tools=[Mute("t")]).talk(), "hi")
    assert outcome.text == "ok"


async def test_a_result_that_comes_with_the_stop_is_kept(disk: Disk) -> None:
    """The call is finished, not unknown, and the turn ends as stopped."""
    turns: list[RunningTurn] = []

    async def stops_first(arguments: JsonObject, context: ToolContext) -> ToolResult:
        turns[0].stop("stopped")
        return ToolResult(text="done")

    talk = World(disk, [ask("t")], tools=[RecordingTool("t", answer=stops_first)]).talk()
    turn, running = await begun(talk, "hi")
    turns.append(turn)
    outcome = await running
    assert (outcome.status, outcome.error) == (TurnStatus.INTERRUPTED, None)
    assert await states(talk) == [CallState.FINISHED]
    assert (await newest(talk)).state == TurnState.INTERRUPTED


async def test_an_event_that_is_cancelled_on_its_way_to_disk_does_not_lose_the_turn(disk: Disk) -> None:
    """A tool is stopped while its event is being committed: the end is recorded behind it."""

    async def notifies(arguments: JsonObject, context: ToolContext) -> ToolResult:
        disk.waits = lambda work: True
        await context.notify("note", "it happened")
        return ToolResult(text="")

    talk = World(disk, [ask("t")], tools=[RecordingTool("t", answer=notifies)]).talk()
    turn, running = await begun(talk, "hi")
    await disk.reached.wait()
    turn.stop("stopped")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    disk.waits = lambda work: False
    disk.released.set()
    outcome = await running
    assert (outcome.status, outcome.error) == (TurnStatus.INTERRUPTED, None)
    assert (await newest(talk)).state == TurnState.INTERRUPTED
    assert "it happened" in [m.text for m in await disk.path(LOCAL, session_of(talk))]


# -- stopping ----------------------------------------------------------------------------------------------------------
async def test_a_turn_stopped_before_it_runs_ends_at_once(disk: Disk) -> None:
    """The message is kept and no model is asked to the end."""
    talk = World(disk, [say("never", Hold())]).talk()
    turn = await talk.say("hi", nobody_watches, NobodyToAsk())
    turn.stop("stopped")
    assert (await turn.finish()).status == TurnStatus.INTERRUPTED
    assert (await disk.path(LOCAL, session_of(talk)))[0].text == "hi"


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_turn_records_its_end_before_the_cancellation_passes_on(
    disk: Disk, times: int
) -> None:
    """However often it is cancelled."""
    hold = Hold()
    talk = World(disk, [say("half", hold)]).talk()
    _, running = await begun(talk, "hi")
    await hold.reached()
    for _ in range(times):
        running.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await newest(talk)).state == TurnState.INTERRUPTED
    assert [m.text for m in await disk.path(LOCAL, session_of(talk))] == ["hi", "half"]


async def test_a_turn_cancelled_in_a_commit_ends_in_the_ledger(disk: Disk) -> None:
    """The commit is finished, the answer is kept, and nothing is left open."""
    disk.waits = lambda work: bool(work.usage)
    talk = World(disk, [say("the answer")]).talk()
    _, running = await begun(talk, "hi")
    await disk.reached.wait()
    running.cancel()
    await asyncio.sleep(0)
    disk.released.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await newest(talk)).state == TurnState.DONE
    assert (await disk.session(LOCAL, session_of(talk))).lease_owner is None


async def test_a_stop_from_another_process_keeps_what_was_shown(disk: Disk) -> None:
    """As the interrupted reply; whoever ran the turn hears that it was stopped, not that it was taken over."""
    hold = Hold()
    talk = World(disk, [say("half", hold), say("ok")]).talk()
    _, running = await begun(talk, "hi")
    await hold.reached()
    other = World(disk, owner="other", seed=1).talk(talk.session)
    assert await command(other, "/stop") == "Stopped."
    assert talk.running is not None
    talk.running.look()
    outcome = await running
    assert (outcome.status, outcome.error, outcome.text) == (TurnStatus.INTERRUPTED, None, "half")
    last = (await disk.path(LOCAL, session_of(talk)))[-1]
    assert (last.text, last.status) == ("half", Status.INTERRUPTED)
    assert (await exchange(talk, "next")).text == "ok"


async def test_a_turn_notices_at_once_that_a_command_ended_it(disk: Disk) -> None:
    """It does not go on until its next beat."""
    hold = Hold()
    world = World(disk, [say("half", hold)], settings=TurnSettings(lease_seconds=3000))
    talk = world.talk()
    _, running = await begun(talk, "hi")
    await hold.reached()
    await command(talk, "/undo")
    async with asyncio.timeout(5):
        outcome = await running
    assert outcome.error is not None
    assert outcome.error[0] == "fenced"
    assert world.model.open_streams == 0
    assert await disk.path(LOCAL, session_of(talk)) == ()


async def test_a_session_deleted_in_mid_turn_ends_it(disk: Disk) -> None:
    """Nothing is written for it any more, and the conversation goes on in a new session."""
    hold = Hold()
    world = World(disk, [say("half", hold), say("fresh")], settings=TurnSettings(lease_seconds=3000))
    talk = world.talk()
    _, running = await begun(talk, "hi")
    await hold.reached()
    old = session_of(talk)
    await command(talk, f"/delete {old}")
    async with asyncio.timeout(5):
        assert (await running).status == TurnStatus.INTERRUPTED
    assert talk.session != old
    assert (await exchange(talk, "again")).text == "fresh"


# -- limits ------------------------------------------------------------------------------------------------------------
async def test_a_turn_that_takes_too_long_says_so(disk: Disk) -> None:
    """As a limit, in a sentence, with what was shown."""
    talk = World(disk, [say("half", Hold())], settings=TurnSettings(max_seconds=0.05)).talk()
    outcome = await exchange(talk, "hi")
    assert outcome.status == TurnStatus.REFUSED
    assert outcome.error is not None
    assert outcome.error[0] == "time_limit"
    assert "0.05 seconds" in outcome.error[1]
    assert outcome.text == "half"
    assert (await newest(talk)).error == outcome.error[1]


def test_the_time_of_a_turn_stands_still_while_a_person_is_asked() -> None:
    """Whoever thinks for hours before saying yes loses nothing."""
    limits = TurnSettings(max_seconds=60)

    class Slow:
        async def ask(self, question: Question) -> Consent | None:
            await asyncio.sleep(limits.max_seconds * 60)
            return Consent.ONCE

    async def scenario() -> str:
        tool = RecordingTool("t", effect=Effect.EDIT)
        talk = World(MemoryLedger(), [ask("t"), say("ok")], tools=[tool], settings=limits).talk()
        return (await exchange(talk, "hi", approver=Slow())).text

    assert simulate(0, scenario()) == "ok"


# -- the disk ----------------------------------------------------------------------------------------------------------
async def test_a_disk_that_is_full_for_a_moment_ends_the_turn_on_disk(disk: Disk) -> None:
    """With what was shown, in one sentence; the next message works."""
    talk = World(disk, [say("the answer"), say("ok")]).talk()
    disk.fails = lambda work: bool(work.usage) and work.release and _once(seen)
    seen: list[int] = []
    outcome = await exchange(talk, "hi")
    assert (outcome.status, outcome.error) == (
        TurnStatus.FAILED,
        ("store", "The disk is full; nothing was written."),
    )
    assert outcome.text == "the answer"
    assert [m.text for m in await disk.path(LOCAL, session_of(talk))] == ["hi", "the answer"]
    assert (await newest(talk)).state == TurnState.FAILED
    assert (await exchange(talk, "next")).text == "ok"


def _once(seen: list[int]) -> bool:
    seen.append(1)
    return len(seen) == 1


async def test_a_disk_that_stays_full_ends_the_turn_in_words(disk: Disk) -> None:
    """Nothing raises; when there is room again the session goes on, here and in another process."""
    script: list[Step] = [ask("t"), say("later"), say("ok")]
    talk = World(disk, script, tools=[RecordingTool("t")]).talk()
    await talk.ensure_session()
    disk.fails = lambda work: bool(work.calls) or work.release
    outcome = await exchange(talk, "hi")
    assert (outcome.status, outcome.error) == (
        TurnStatus.FAILED,
        ("store", "The disk is full; nothing was written."),
    )
    disk.fails = lambda work: False
    assert (await exchange(talk, "next")).text == "ok"
    assert await states(talk) == [CallState.NOT_RUN]


async def test_a_failing_beat_does_not_end_the_turn(disk: Disk) -> None:
    """A missed beat proves nothing."""
    hold = Hold()

    class NoBeats(Disk):
        async def beat(self, session: SessionId, owner: str, epoch: int) -> bool:
            hold.release()
            raise StoreUnusable("The disk is full; nothing was written.")

    ledger = NoBeats()
    talk = World(ledger, [say("a", hold, "b")], settings=TurnSettings(lease_seconds=1.5)).talk()
    assert (await exchange(talk, "hi")).text == "ab"


async def test_a_beat_that_finds_the_lease_given_up_is_no_loss() -> None:
    """The commit that ended the turn gave it up; the answer stands."""
    looked = asyncio.Event()

    class GivenUp(MemoryLedger):
        async def beat(self, session: SessionId, owner: str, epoch: int) -> bool:
            looked.set()
            return False

        async def commit(self, work: Commit) -> Committed:
            committed = await super().commit(work)
            if work.release:
                turn.look()
                await looked.wait()
            return committed

    hold = Hold()
    talk = World(GivenUp(), [say("a", hold)], settings=TurnSettings(lease_seconds=3000)).talk()
    turn, running = await begun(talk, "hi")
    await hold.reached()
    hold.release()
    assert (await running).status == TurnStatus.DONE


# -- whoever watches ---------------------------------------------------------------------------------------------------
async def test_a_watch_that_raises_does_not_touch_the_turn(disk: Disk) -> None:
    """It is told nothing more; the answer is recorded, and the outcome says why nobody saw it."""
    told: list[TurnNews] = []

    def breaks(news: TurnNews) -> None:
        told.append(news)
        raise BrokenPipeError

    talk = World(disk, [say("a", "b")]).talk()
    turn = await talk.say("hi", breaks, NobodyToAsk())
    outcome = await turn.finish()
    assert (outcome.status, outcome.text) == (TurnStatus.DONE, "ab")
    assert told == [TextShown("a")]
    assert isinstance(outcome.cause, BrokenPipeError)


# -- asking ------------------------------------------------------------------------------------------------------------
def two_edits() -> list[Step]:
    calls = tuple(AskedCall(provider_id=f"p{n}", name="change", arguments="{}") for n in range(2))
    return [Step(calls=calls), say("ok")]


async def test_a_yes_for_the_session_answers_the_questions_beside_it(disk: Disk) -> None:
    """Two calls of one step: the person is asked once."""
    tool = RecordingTool("change", effect=Effect.EDIT)
    answers = Answers(Consent.SESSION)
    await exchange(World(disk, two_edits(), tools=[tool]).talk(), "hi", approver=answers)
    assert len(answers.asked) == 1
    assert len(tool.ran) == 2


async def test_a_mode_set_in_mid_turn_survives_a_yes_for_the_session(disk: Disk) -> None:
    """The answer changes what it is about, and nothing else."""
    tool = RecordingTool("change", effect=Effect.EXECUTE)
    talk = World(disk, [ask("change"), say("ok")], tools=[tool]).talk()

    class SetsMode:
        async def ask(self, question: Question) -> Consent | None:
            await talk.command("/mode accept-edits")
            return Consent.SESSION

    await exchange(talk, "hi", approver=SetsMode())
    assert "accept-edits" in await command(talk, "/mode")
    assert '"change"' in (await disk.session(LOCAL, session_of(talk))).settings


@pytest.mark.parametrize(("decided", "runs"), [("/approve", 1), ("/deny", 0)])
async def test_a_decision_made_elsewhere_counts(disk: Disk, decided: str, runs: int) -> None:
    """Whatever is answered after it at the terminal."""
    tool = RecordingTool("change", effect=Effect.EDIT)
    talk = World(disk, [ask("change"), say("ok")], tools=[tool]).talk()

    class Late:
        async def ask(self, question: Question) -> Consent | None:
            other = World(disk, owner="other", seed=1).talk(talk.session)
            await command(other, f"{decided} {question.approval}")
            return Consent.NO if runs else Consent.ONCE

    assert (await exchange(talk, "hi", approver=Late())).text == "ok"
    assert len(tool.ran) == runs


async def test_a_yes_that_comes_too_late_is_none(disk: Disk) -> None:
    """The call is refused with the reason, and the turn goes on."""
    tool = RecordingTool("change", effect=Effect.EDIT)
    world = World(disk, [ask("change"), say("ok")], tools=[tool])

    class VeryLate:
        async def ask(self, question: Question) -> Consent | None:
            world.clock.advance(100_000)
            return Consent.ONCE

    talk = world.talk()
    assert (await exchange(talk, "hi", approver=VeryLate())).text == "ok"
    assert tool.ran == []
    assert "expired" in (await disk.path(LOCAL, session_of(talk)))[-2].text


async def test_a_question_of_a_stopped_turn_waits_for_nothing(disk: Disk) -> None:
    """/approve says that nothing waits, instead of a yes that does nothing."""
    asked = asyncio.Event()

    class Never:
        async def ask(self, question: Question) -> Consent | None:
            asked.set()
            await asyncio.Event().wait()
            return None

    tool = RecordingTool("change", effect=Effect.EDIT)
    talk = World(disk, [ask("change")], tools=[tool]).talk()
    turn = await talk.say("hi", nobody_watches, Never())
    running = asyncio.create_task(turn.finish())
    await asked.wait()
    turn.stop("stopped")
    assert (await running).status == TurnStatus.INTERRUPTED
    with pytest.raises(CommandError, match="No approval is waiting"):
        await command(talk, "/approve")
    assert "waiting" not in await command(talk, "/why")


async def test_an_expired_approval_names_the_way_on(disk: Disk) -> None:
    """The turn still waits, and /retry asks again."""
    tool = RecordingTool("change", effect=Effect.EDIT)
    world = World(disk, [ask("change"), ask("change")], tools=[tool])
    talk = world.talk()
    await exchange(talk, "hi")
    world.clock.advance(100_000)
    with pytest.raises(CommandError, match="/retry asks again"):
        await command(talk, "/approve")
    await command(talk, "/retry")
    rows = await disk.approvals(LOCAL, session_of(talk))
    assert [row.state for row in rows] == [ApprovalState.EXPIRED, ApprovalState.PENDING]


async def test_a_waiting_turn_goes_on_once_whoever_says_so(disk: Disk) -> None:
    """Two processes take it up at the same time: one does, the other hears why not."""
    tool = RecordingTool("change", effect=Effect.EDIT)
    talk = World(disk, [ask("change")], tools=[tool]).talk()
    outcome = await exchange(talk, "hi")
    reply = await talk.command(f"/approve {outcome.waiting_for[0]}")
    assert reply.opening is not None
    opening = reply.opening
    worlds = [World(disk, [say("ok")], tools=[tool], owner=name, seed=n) for n, name in enumerate("ab", 5)]

    async def goes_on(world: World) -> str:
        turn = await world.talk(talk.session).begin(opening, nobody_watches, NobodyToAsk())
        return (await turn.finish()).text

    came = await asyncio.gather(*(goes_on(world) for world in worlds), return_exceptions=True)
    assert [c for c in came if c == "ok"] == ["ok"]
    assert [type(c) in (Busy, Refused) for c in came if c != "ok"] == [True]
    assert len(tool.ran) == 1


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_turn_that_cannot_go_on_takes_its_calls_along(disk: Disk, stopped: bool) -> None:
    """The prompt has to be frozen anew and cannot be, or the stop was quicker: no call stays planned in a turn that ended."""
    world = World(disk, [ask("change")], tools=[RecordingTool("change", effect=Effect.EDIT)])
    talk = world.talk()
    outcome = await exchange(talk, "hi")
    reply = await talk.command(f"/approve {outcome.waiting_for[0]}")
    assert reply.opening is not None
    world.instructions.append(Instructions(source="AGENTS.md", text="be brief"))
    disk.fails = lambda work: isinstance(work.op, Note) and work.op.kind == OpKind.REFREEZE
    turn = await talk.begin(reply.opening, nobody_watches, NobodyToAsk())
    if stopped:
        turn.stop("stopped")
    ended = await turn.finish()
    assert ended.status == (TurnStatus.INTERRUPTED if stopped else TurnStatus.FAILED)
    assert await states(talk) == [CallState.NOT_RUN]


# -- beginning ---------------------------------------------------------------------------------------------------------
async def test_a_turn_that_runs_here_is_not_cut_by_another_message_here(disk: Disk) -> None:
    """Busy: the message belongs into the queue."""
    hold = Hold()
    world = World(disk, [say("a", hold, "b"), say("c")])
    talk = world.talk()
    _, running = await begun(talk, "hi")
    await hold.reached()
    with pytest.raises(Busy):
        await exchange(world.talk(talk.session), "and this")
    hold.release()
    assert (await running).text == "ab"
    assert (await exchange(talk, "next")).text == "c"


async def test_of_two_messages_at_once_one_begins(disk: Disk) -> None:
    """In one process or in two; the other is Busy, and nothing of it is stored."""
    first = World(disk, [say("a"), say("b")])
    talk = first.talk()
    await talk.ensure_session()
    second = World(disk, [say("c")], owner="other", seed=1)
    talks = [talk, first.talk(talk.session), second.talk(talk.session)]
    came = await asyncio.gather(
        *(t.say(f"m{n}", nobody_watches, NobodyToAsk()) for n, t in enumerate(talks)), return_exceptions=True
    )
    begun_turns = [c for c in came if isinstance(c, RunningTurn)]
    assert len(begun_turns) == 1
    assert all(isinstance(c, Busy) for c in came if not isinstance(c, RunningTurn))
    await begun_turns[0].finish()
    assert len([m for m in await disk.path(LOCAL, session_of(talk)) if m.role == Role.USER]) == 1


async def test_the_same_message_is_taken_once(disk: Disk) -> None:
    """Its key says that it is the same, whatever happened in between."""
    talk = World(disk, [say("a"), say("b")]).talk()
    opening = Say(text="hi", key="k")
    await (await talk.begin(opening, nobody_watches, NobodyToAsk())).finish()
    with pytest.raises(Refused, match="already taken"):
        await talk.begin(opening, nobody_watches, NobodyToAsk())
    assert (await exchange(talk, "other")).text == "b"


async def test_who_may_not_begin_changes_nothing(disk: Disk) -> None:
    """Neither the head nor the frozen prompt of a session in which another process works."""
    hold = Hold()
    talk = World(disk, [say("a", hold)]).talk()
    _, running = await begun(talk, "hi")
    await hold.reached()
    other = World(disk, owner="other", seed=1)
    other.instructions.append(Instructions(source="AGENTS.md", text="be brief"))
    before = (await disk.session(LOCAL, session_of(talk))).handle
    with pytest.raises(Busy):
        await exchange(other.talk(talk.session), "and this")
    assert (await disk.session(LOCAL, session_of(talk))).handle == before
    hold.release()
    assert (await running).status == TurnStatus.DONE
    ops = await disk.ops(LOCAL, session_of(talk), limit=100)
    assert [op.kind for op in ops].count(OpKind.REFREEZE) == 1


async def test_an_event_that_another_turn_takes_first_does_not_refuse_the_message(disk: Disk) -> None:
    """What waits is looked at again whenever the session moved."""
    world = World(disk, [say("a"), say("b")])
    talk = world.talk()
    await exchange(talk, "1")
    notify = talk._notify_for(session_of(talk))
    await notify("note", "it happened")
    other = World(disk, [say("c")], owner="other", seed=1)

    taken = asyncio.Event()
    original = disk._write

    async def overtaken(shape: str, work: Callable[[State], object]) -> object:
        if not taken.is_set():
            taken.set()
            await exchange(other.talk(talk.session), "quicker")
        return await original(shape, work)

    disk._write = overtaken  # type: ignore[method-assign,assignment]
    assert (await exchange(talk, "2")).text == "b"
    texts = [m.text for m in await disk.path(LOCAL, session_of(talk))]
    assert texts.count("it happened") == 1


async def test_a_lease_that_a_broken_turn_of_this_process_left_is_taken(disk: Disk) -> None:
    """The open turn is finished first, its calls settled."""
    tool = RecordingTool("t")
    world = World(disk, [ask("t"), say("first"), say("ok")], tools=[tool], mode=ApprovalMode.ALL)
    talk = world.talk()
    await talk.ensure_session()
    disk.fails = lambda work: work.set_turn is not None or bool(work.calls)
    await exchange(talk, "hi")
    disk.fails = lambda work: False
    assert (await newest(talk)).state == TurnState.RUNNING
    assert (await exchange(world.talk(talk.session), "next")).text == "ok"
    first = await disk.turn(LOCAL, session_of(talk), 1)
    assert first is not None
    assert first.state == TurnState.DONE
