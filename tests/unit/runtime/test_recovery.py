"""Turns that a process left in the middle: gone on with once, told once, and never at the cost of a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from clew.adapters.stores.memory import Disk, MemoryLedger
from clew.adapters.stores.sqlite import SqliteLedger
from clew.domain.conversation.ids import LOCAL, OwnerId, PrincipalId, SessionId
from clew.domain.conversation.messages import Role, Status
from clew.domain.ledger.errors import Busy
from clew.domain.ledger.rows import CallState, InboxState, OpKind, TurnState
from clew.domain.models.answer import AskedCall
from clew.domain.routing.splitting import TextLimit
from clew.domain.tools.policy import ApprovalMode
from clew.domain.tools.spec import Effect, JsonObject, ToolResult
from clew.runtime.ports.people import (
    CallOutput,
    Consent,
    NobodyToAsk,
    Noticed,
    TextShown,
    TurnNews,
    nobody_watches,
)
from clew.runtime.ports.tools import ToolContext
from clew.runtime.recovery import Recovery
from clew.runtime.sessions import Place
from clew.runtime.talk import Notify, Talk
from clew.runtime.turns import TurnOutcome, TurnSettings, TurnStatus
from clew.runtime.turns.leases import Holder, LeaseWatch
from clew.testing.scripted_model import Hold, Script, Step, ask, say
from clew.testing.virtual_time import Program, simulate
from clew.testing.world import (
    TERMINAL,
    Answers,
    GivenTools,
    HandClock,
    NamedOwners,
    RecordingTool,
    World,
    exchange,
)


@asynccontextmanager
async def killed(world: World, hold: Hold, session: SessionId | None = None) -> AsyncIterator[SessionId]:
    """A process that says something, comes as far as the hold and does nothing more until the end of the test."""
    talk = world.talk(session)
    if session is None:
        turn = await talk.say("do it", nobody_watches, NobodyToAsk())
        running = asyncio.create_task(turn.finish())
    else:
        running = asyncio.create_task(finished(talk.recover(nobody_watches, NobodyToAsk())))
    await hold.reached()
    assert talk.session is not None
    try:
        yield talk.session
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def finished(recovering: object) -> TurnOutcome:
    outcome = await recovering  # type: ignore[misc]
    assert isinstance(outcome, TurnOutcome)
    return outcome


def another(
    ledger: SqliteLedger,
    script: Script,
    *dead: str,
    tools: tuple[RecordingTool, ...] = (),
    mode: ApprovalMode = ApprovalMode.ALL,
    owner: str = "two",
) -> World:
    """A process that was started after others ended."""
    world = World(ledger, script, tools=tools, mode=mode, owner=owner, seed=len(dead))
    world.owners.dead.update(dead)
    return world


def stuck(hold: Hold) -> Callable[[JsonObject, ToolContext], object]:
    """A tool that never comes back."""

    async def run(arguments: JsonObject, context: ToolContext) -> ToolResult:
        await hold.stand()
        return ToolResult(text="never")

    return run


def tool(hold: Hold | None = None, *, safe: bool = False, effect: Effect = Effect.EXECUTE) -> RecordingTool:
    answer = None if hold is None else stuck(hold)
    return RecordingTool("mark", effect=effect, safe_to_repeat=safe, answer=answer)  # type: ignore[arg-type]


def sent(world: World, n: int) -> str:
    """All the text of the n-th request."""
    return str(world.model.sent[n].request.messages)


def notices(news: list[TurnNews]) -> list[str]:
    return [each.text for each in news if isinstance(each, Noticed) and "stopped" in each.text]


@pytest.mark.anyio
async def test_a_notice_for_a_chat_platform_is_its_gateways_to_tell(ledger: SqliteLedger) -> None:
    """A terminal that goes on with its turn leaves the notice in the outbox, for the place it belongs to."""
    hold = Hold()
    first = another(ledger, [ask("mark"), say("never", hold)], tools=(tool(),), owner="one")
    far = Place(route_key="telegram:bot::1::", surface="telegram", holds=TextLimit(most=4096))
    phone = Talk(first.services, LOCAL, far, Path("/work"))
    running = asyncio.create_task((await phone.say("do it", nobody_watches, NobodyToAsk())).finish())
    await hold.reached()
    assert phone.session is not None
    second = another(ledger, [say("done")], "one", tools=(tool(),))
    news: list[TurnNews] = []
    outcome = await second.talk(phone.session).recover(news.append, NobodyToAsk())
    assert outcome is not None
    assert notices(news) == []
    (left,) = [row for row in await ledger.replies(LOCAL, phone.session) if row.kind == "notice"]
    assert (left.state, left.surface) == ("pending", "telegram")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.anyio
async def test_a_turn_killed_after_a_stored_result_is_answered_by_the_next_process(
    ledger: SqliteLedger,
) -> None:
    """The tool ran once; the hint is in that turn's requests and in nothing that is stored; the next request has none."""
    hold = Hold()
    marked = tool()
    first = another(ledger, [ask("mark"), say("never", hold)], tools=(marked,), owner="one")
    async with killed(first, hold) as session:
        second = another(ledger, [say("done"), say("fine")], "one", tools=(marked,))
        talk = second.talk(session)
        news: list[TurnNews] = []
        outcome = await talk.recover(news.append, NobodyToAsk())
        assert outcome is not None
        assert (outcome.status, outcome.text, outcome.turn) == (TurnStatus.DONE, "done", 1)
        assert len(marked.ran) == 1
        assert len(notices(news)) == 1
        assert "mark: finished" in notices(news)[0]
        assert "<recovery" in sent(second, 0)
        await exchange(talk, "and now?")
        assert "<recovery" not in sent(second, 1)
        path = await ledger.path(LOCAL, session)
        assert [m.text for m in path if m.role == Role.USER] == ["do it", "and now?"]
        assert not any("recovery" in m.text or "stopped in the middle" in m.text for m in path)
        assert [op.kind for op in await ledger.ops(LOCAL, session)].count(OpKind.RECOVER) == 1
        turn = await ledger.turn(LOCAL, session, 1)
        assert turn is not None
        assert (turn.state, turn.crashes) == (TurnState.DONE, 1)
        assert second.owners.buried == ["one"]  # what its tools left running is ended before anything else


@pytest.mark.anyio
async def test_a_call_that_had_started_is_unknown_and_one_that_was_planned_is_not_run(
    ledger: SqliteLedger,
) -> None:
    """Rule 7: at most once, and the model is told which is which."""
    hold = Hold()
    first = another(ledger, [ask("mark"), say("x")], tools=(tool(hold),), owner="one")
    async with killed(first, hold) as session:
        marked = tool()
        second = another(ledger, [say("ok")], "one", tools=(marked,))
        await second.talk(session).recover(nobody_watches, NobodyToAsk())
        assert marked.ran == []
        (call,) = await ledger.calls(LOCAL, session)
        assert call.state == CallState.UNKNOWN
        (result,) = [m for m in await ledger.path(LOCAL, session) if m.role == Role.TOOL]
        assert result.status == Status.UNKNOWN
        assert "[outcome unknown]" in sent(second, 0)


@pytest.mark.anyio
async def test_a_call_that_is_safe_to_repeat_runs_again_under_its_own_id(ledger: SqliteLedger) -> None:
    """The id is the idempotency key: the same after every recovery."""
    hold = Hold()
    first_tool, second_tool = tool(hold, safe=True), tool(safe=True)
    first = another(ledger, [ask("mark"), say("x")], tools=(first_tool,), owner="one")
    async with killed(first, hold) as session:
        second = another(ledger, [say("ok")], "one", tools=(second_tool,))
        await second.talk(session).recover(nobody_watches, NobodyToAsk())
        assert [call for call, _ in second_tool.ran] == [call for call, _ in first_tool.ran]
        (call,) = await ledger.calls(LOCAL, session)
        assert call.state == CallState.FINISHED


@pytest.mark.anyio
async def test_a_question_survives_the_process_that_asked_it(ledger: SqliteLedger) -> None:
    """The planned call still waits for its answer, and is asked about again under the same approval."""

    class NeverAnswers:
        async def ask(self, question: object) -> Consent | None:
            await hold.stand()
            return None

    hold = Hold()
    first = World(ledger, [ask("mark")], tools=(tool(),), owner="one")
    talk = first.talk()
    turn = await talk.say("do it", nobody_watches, NeverAnswers())
    running = asyncio.create_task(turn.finish())
    await hold.reached()
    marked, yes = tool(), Answers(Consent.ONCE)
    second = another(ledger, [say("ok")], "one", tools=(marked,), mode=ApprovalMode.ASK)
    outcome = await second.talk(talk.session).recover(nobody_watches, yes)
    assert outcome is not None
    assert (outcome.text, len(marked.ran), len(yes.asked)) == ("ok", 1, 1)
    assert talk.session is not None
    assert len(await ledger.approvals(LOCAL, talk.session)) == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.anyio
async def test_a_recovery_that_is_killed_tells_nobody_twice(ledger: SqliteLedger) -> None:
    """The model is told again until it has answered; the person once a batch."""
    hold, again = Hold(), Hold()
    first = another(ledger, [ask("mark"), say("x", hold)], tools=(tool(),), owner="one")
    async with killed(first, hold) as session:
        second = another(ledger, [say("y", again)], "one", tools=(tool(),))
        async with killed(second, again, session):
            third = another(ledger, [say("done")], "one", "two", owner="three")
            news: list[TurnNews] = []
            outcome = await third.talk(session).recover(news.append, NobodyToAsk())
            assert outcome is not None
            assert outcome.text == "done"
            assert notices(news) == []
            assert "<recovery" in sent(third, 0)
            assert len(await ledger.replies(LOCAL, session)) == 1
            turn = await ledger.turn(LOCAL, session)
            assert turn is not None
            assert turn.crashes == 2


@pytest.mark.anyio
async def test_once_the_model_has_answered_the_hint_is_gone(ledger: SqliteLedger) -> None:
    """A crash after the acknowledgement is another batch's."""
    hold, again = Hold(), Hold()
    first = another(ledger, [ask("mark"), say("x", hold)], tools=(tool(),), owner="one")
    async with killed(first, hold) as session:
        script = [ask("mark"), say("y", again)]
        second = another(ledger, script, "one", tools=(tool(),))
        async with killed(second, again, session):
            third = another(ledger, [say("done")], "one", "two", owner="three")
            news: list[TurnNews] = []
            await third.talk(session).recover(news.append, NobodyToAsk())
            assert len(notices(news)) == 1
            assert len(await ledger.replies(LOCAL, session)) == 2
            kinds = [op.kind for op in await ledger.ops(LOCAL, session)]
            assert kinds.count(OpKind.RECOVER) == 2


@pytest.mark.anyio
async def test_a_turn_that_was_cut_in_mid_answer_is_simply_asked_again(ledger: SqliteLedger) -> None:
    """No tool had run: there is nothing to hint at and nobody to alarm."""
    hold = Hold()
    first = another(ledger, [say("half", hold)], owner="one")
    async with killed(first, hold) as session:
        second = another(ledger, [say("whole")], "one")
        news: list[TurnNews] = []
        await second.talk(session).recover(news.append, NobodyToAsk())
        assert notices(news) == []
        assert sent(second, 0) == sent(first, 0)
        assert [m.text for m in await ledger.path(LOCAL, session)] == ["do it", "whole"]


@pytest.mark.anyio
@pytest.mark.parametrize("has_called", [False, True])
async def test_what_happened_meanwhile_is_told_in_the_turn_that_goes_on(
    ledger: SqliteLedger, has_called: bool
) -> None:
    """Such as that the session moved to another directory; once, and after the results of its calls."""
    hold = Hold()
    steps = [*([ask("mark")] if has_called else []), say("never", hold)]
    async with killed(another(ledger, steps, tools=(tool(),), owner="one"), hold) as session:
        second = another(ledger, [say("done"), say("more")], "one", tools=(tool(),))
        talk = second.talk(session)
        await talk.happened("moved", "The session moved.")
        outcome = await talk.recover(nobody_watches, NobodyToAsk())
        assert outcome is not None
        assert outcome.status == TurnStatus.DONE
        assert "The session moved." in sent(second, 0)
        await exchange(talk, "and now?")
        assert sent(second, 1).count("The session moved.") == 1
        roles = [m.role for m in await ledger.path(LOCAL, session) if m.turn == 1]
        calls = [Role.ASSISTANT, Role.TOOL] if has_called else []
        assert roles == [Role.USER, *calls, Role.EVENT, Role.ASSISTANT]


@pytest.mark.anyio
async def test_an_old_turn_is_only_announced(ledger: SqliteLedger) -> None:
    """Its calls are settled, the session goes on, and the sentence is said once."""
    hold = Hold()
    first = another(ledger, [ask("mark")], tools=(tool(hold),), owner="one")
    async with killed(first, hold) as session:
        second = another(ledger, [say("hello")], "one")
        second.clock.advance(3601)
        news: list[TurnNews] = []
        talk = second.talk(session)
        assert await talk.recover(news.append, NobodyToAsk()) is None
        assert len(notices(news)) == 1
        assert notices(news)[0].endswith(
            "too long ago to go on with it. Before anything else is said, /retry runs it again."
        )
        assert (await exchange(talk, "hi", news=news)).text == "hello"
        assert len(notices(news)) == 1
        turn = await ledger.turn(LOCAL, session, 1)
        assert turn is not None
        assert (turn.state, turn.end_reason) == (TurnState.ABANDONED, "stale")


@pytest.mark.anyio
async def test_a_turn_that_ends_its_process_again_and_again_is_set_aside(ledger: SqliteLedger) -> None:
    """After three recoveries that crashed; the session takes the next message."""
    async with AsyncExitStack() as processes:
        session: SessionId | None = None
        for n in range(4):
            hold = Hold()
            dead = tuple(f"p{k}" for k in range(n))
            process = another(ledger, [ask("mark")], *dead, tools=(tool(hold),), owner=f"p{n}")
            session = await processes.enter_async_context(killed(process, hold, session))
        assert session is not None
        last = another(ledger, [say("hello")], "p0", "p1", "p2", "p3", owner="last")
        news: list[TurnNews] = []
        talk = last.talk(session)
        assert await talk.recover(news.append, NobodyToAsk()) is None
        assert any("set aside" in each.text for each in news if isinstance(each, Noticed))
        calls = await ledger.calls(LOCAL, session)
        assert [call.state for call in calls] == [CallState.UNKNOWN] * 4
        assert (await exchange(talk, "hi")).text == "hello"


@pytest.mark.anyio
async def test_a_message_that_finds_a_turn_left_open_is_on_disk_first(ledger: SqliteLedger) -> None:
    """The old turn is finished, then the message has its own: one behind the other, none lost."""
    hold, again = Hold(), Hold()
    first = another(ledger, [say("half", hold)], owner="one")
    async with killed(first, hold) as session:
        second = another(ledger, [say("whole", again), say("yours")], "one")
        talk = second.talk(session)
        beginning = asyncio.create_task(exchange(talk, "and this"))
        await again.reached()
        (waiting,) = await ledger.queued(LOCAL, session)
        assert "and this" in waiting.body
        again.release()
        assert (await beginning).text == "yours"
        said = [m.text for m in await ledger.path(LOCAL, session) if m.role == Role.USER]
        assert said == ["do it", "and this"]
        (row,) = await ledger.received(LOCAL, session)
        assert (row.state, row.turn) == (InboxState.CONSUMED, 2)


def test_a_beat_of_another_turn_proves_nothing() -> None:
    """Each claim counts its beats from zero: the same owner with the same beat may have begun just now."""
    owners, clock = NamedOwners(), HandClock()
    watch = LeaseWatch(owners, clock, 30)
    session, other = SessionId("s"), OwnerId("other")
    assert watch.look(session, other, 1, 0) == Holder.LIVING
    clock.advance(31)
    assert watch.look(session, other, 2, 0) == Holder.LIVING
    clock.advance(31)
    assert watch.look(session, other, 2, 0) == Holder.SILENT


def test_a_silent_owner_loses_its_turn_and_publishes_nothing_more() -> None:
    """Seen with the same beat for a whole lease by the observer's own clock; when it wakes it says why it ends."""
    simulate(1, _silent_owner())


async def _silent_owner() -> None:
    disk, hold = Disk(), Hold()
    process, other = Program(), MemoryLedger(disk)
    settings = TurnSettings(approval_mode=ApprovalMode.ALL)
    first = World(MemoryLedger(disk), [say("half", hold, " more")], owner="one", settings=settings)
    talk, news = first.talk(), list[TurnNews]()
    turn = await process.start(talk.say("do it", news.append, NobodyToAsk()))
    running = process.start(turn.finish())
    await hold.reached()
    process.pause()
    second = World(other, [say("whole")], owner="two", seed=1, settings=settings)
    observer = second.talk(talk.session)
    for _ in range(2):  # the first look proves nothing, nor does half a lease
        with pytest.raises(Busy):
            await observer.recover(nobody_watches, NobodyToAsk())
        second.clock.advance(settings.lease_seconds / 2)
    second.clock.advance(settings.lease_seconds)
    outcome = await observer.recover(nobody_watches, NobodyToAsk())
    assert outcome is not None
    assert outcome.text == "whole"
    await asyncio.sleep(settings.lease_seconds + 1)
    hold.release()
    process.resume()
    lost = await running
    assert [each.text for each in news if isinstance(each, TextShown)] == ["half"]
    assert lost.error is not None
    assert lost.error[0] == "fenced"
    assert talk.session is not None
    assert [m.text for m in await other.path(LOCAL, talk.session)] == ["do it", "whole"]


def test_tools_of_a_silent_owner_say_and_do_nothing_more() -> None:
    """One that runs when the session is taken over is not heard any more; one that waits behind it is not begun."""
    simulate(1, _silent_tools())


async def _silent_tools() -> None:
    disk, hold, process = Disk(), Hold(), Program()

    async def talk_on(arguments: JsonObject, context: ToolContext) -> ToolResult:
        context.progress("before")
        await hold.stand()
        context.progress("after")
        return ToolResult(text="done")

    mark = RecordingTool("mark", effect=Effect.EXECUTE, answer=talk_on)
    settings = TurnSettings(approval_mode=ApprovalMode.ALL)
    calls = tuple(AskedCall(provider_id=n, name="mark", arguments="{}") for n in "ab")
    first = World(MemoryLedger(disk), [Step(calls=calls)], tools=[mark], owner="one", settings=settings)
    talk, news = first.talk(), list[TurnNews]()
    turn = await process.start(talk.say("do it", news.append, NobodyToAsk()))
    running = process.start(turn.finish())
    await hold.reached()
    process.pause()
    second = World(MemoryLedger(disk), [say("whole")], tools=[mark], owner="two", seed=1, settings=settings)
    second.owners.dead.add("one")
    await second.talk(talk.session).recover(nobody_watches, NobodyToAsk())
    await asyncio.sleep(settings.lease_seconds + 1)
    hold.release()
    process.resume()
    lost = await running
    assert [each.text for each in news if isinstance(each, CallOutput)] == ["before"]
    assert len(mark.ran) == 1
    assert lost.error is not None
    assert lost.error[0] == "fenced"


@pytest.mark.anyio
async def test_a_turn_that_ends_while_it_is_claimed_is_nothing_to_go_on_with() -> None:
    """Whoever finds the turn of another process, and then finds it ended, tells nobody."""
    ledger, hold, told = MemoryLedger(), Hold(), list[str]()
    turn = await World(ledger, [say(hold, "answer")]).talk().say("hi", nobody_watches, NobodyToAsk())
    running = asyncio.create_task(turn.finish())
    await hold.reached()

    class Meanwhile(GivenTools):
        async def open(
            self, session: SessionId, principal: PrincipalId, cwd: Path, notify: Notify
        ) -> GivenTools:
            hold.release()
            await running
            return self

    other = World(ledger, [say("never")], owner="other", seed=1)
    other.services = msgspec.structs.replace(other.services, toolmaker=Meanwhile(()))
    await Recovery(other.services, TERMINAL, lambda _, sentence: told.append(sentence)).once()
    assert (told, other.model.sent, running.result().text) == ([], [], "answer")
