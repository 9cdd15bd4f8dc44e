"""Subagents: their answers are the results of the call, their words are in nobody's history, and no limit is passed unsaid."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from clew.adapters.stores.memory import Disk, MemoryLedger
from clew.adapters.stores.sqlite import SqliteLedger
from clew.domain.conversation.ids import LOCAL, PrincipalId, SessionId
from clew.domain.conversation.messages import Role, Status, ToolBody
from clew.domain.ledger.commits import Caps, Commit, Committed
from clew.domain.ledger.errors import NotFound, StoreUnusable
from clew.domain.ledger.rows import ApprovalState, Origin, SessionRow, TurnState
from clew.domain.models.answer import AskedCall, FailureKind, Usage
from clew.domain.models.request import ModelProfile, ModelRequest, ToolTurn, UserTurn
from clew.domain.tools.policy import ApprovalMode
from clew.domain.tools.spec import Effect, ToolResult
from clew.runtime.delegating import DelegateLimits
from clew.runtime.ports.models import Cost
from clew.runtime.ports.people import CallOutput, Consent, NobodyToAsk, TurnNews, nobody_watches
from clew.runtime.sides import PROMPT
from clew.runtime.talk import Notify, Talk
from clew.runtime.turns import TurnSettings, TurnStatus
from clew.testing.scripted_model import Hold, Step, ask, fail, say
from clew.testing.virtual_time import Program, simulate
from clew.testing.world import Answers, GivenTools, RecordingTool, World, exchange

pytestmark = pytest.mark.anyio
LIMITS = DelegateLimits()


def delegate(*tasks: str) -> AskedCall:
    return AskedCall(
        provider_id="", name="delegate", arguments=msgspec.json.encode({"tasks": tasks}).decode()
    )


def task_of(request: ModelRequest) -> str | None:
    """What a subagent was asked to do; None for the conversation itself."""
    if PROMPT.strip() not in request.system:
        return None
    first = request.messages[0]
    assert isinstance(first, UserTurn)
    return str(first.parts[0]).split('user">\\n')[-1].split("\\n</event>")[0]


def script(
    *calls: AskedCall, of: Callable[[str, ModelRequest], Step] | None = None
) -> Callable[[ModelRequest], Step]:
    """A conversation that asks for these calls and then says what came; subagents answer as `of` says."""

    def step(request: ModelRequest) -> Step:
        task = task_of(request)
        if task is not None:
            return of(task, request) if of is not None else say(f"the answer to {task}")
        last = request.messages[-1]
        return say("all is done") if isinstance(last, ToolTurn) else Step(calls=calls)

    return step


async def results(world: World, session: SessionId) -> list[tuple[Status, str]]:
    path = await world.ledger.path(LOCAL, session)
    return [(m.status, m.text) for m in path if isinstance(m.body, ToolBody)]


async def sides(world: World, session: SessionId) -> list[SessionRow]:
    return [row for row in await world.ledger.children(LOCAL, session) if row.origin == Origin.SIDE]


class Full(MemoryLedger):
    """Refuses as many ends of turns that failed."""

    left = 1

    async def commit(self, work: Commit) -> Committed:
        if self.left and work.set_turn is not None and work.set_turn.state == TurnState.FAILED:
            self.left -= 1
            raise StoreUnusable("The disk is full; nothing was written.")
        return await super().commit(work)


async def test_a_subagent_whose_end_could_not_be_written_does_not_stand_as_running() -> None:
    """Its turn ends before the call has a result, which says why there is no answer."""
    down = fail(FailureKind.BAD_REQUEST, "No.")
    world = World(ledger := Full(), script(delegate("count apples"), of=lambda *_: down), delegate=LIMITS)
    outcome = await exchange(world.talk(), "count the fruit")
    assert (outcome.status, ledger.left) == (TurnStatus.DONE, 0)
    (row,) = await sides(world, outcome.handle.session)
    turn = await world.ledger.turn(LOCAL, row.id)
    assert turn is not None
    assert (turn.state, turn.end_reason) == (TurnState.INTERRUPTED, "stopped")
    assert [text for _, text in await results(world, outcome.handle.session)] == [
        "[The disk is full; nothing was written.]"
    ]


async def test_answers_are_results_and_nothing_else_of_them_is_in_the_conversation(
    ledger: SqliteLedger,
) -> None:
    """Each subagent has a session, a prompt and usage rows of its own, and is shown its task alone; lists and search of
    the owner do not come to it, and deleting the conversation deletes it."""
    tool = RecordingTool("mark")
    world = World(ledger, script(delegate("count apples", "count pears")), delegate=LIMITS, tools=[tool])
    talk, news = world.talk(), list[TurnNews]()
    outcome = await exchange(talk, "count the fruit", news=news)
    assert (outcome.status, outcome.text, talk.session) == (
        TurnStatus.DONE,
        "all is done",
        outcome.handle.session,
    )
    session = outcome.handle.session
    rows = await sides(world, session)
    assert [(row.surface, row.title, row.end_reason) for row in rows] == [
        ("delegate", "count apples", "done"),
        ("delegate", "count pears", "done"),
    ]
    ((status, text),) = await results(world, session)
    assert status == Status.OK
    for row, fruit in zip(rows, ("apples", "pears"), strict=True):
        assert f"[subagent {row.id}, done]\nthe answer to count {fruit}" in text
        (opening, answer) = await ledger.path(LOCAL, row.id)
        assert (opening.role, opening.text, answer.role) == (Role.EVENT, f"count {fruit}", Role.ASSISTANT)
        assert (await ledger.usage(LOCAL, row.id)).calls == 1
        found = await ledger.search(LOCAL, fruit)
        assert {hit.session for hit in found.hits} == {session}  # the call and its result
        assert (await ledger.search(LOCAL, fruit, session=row.id)).hits
    assert (await ledger.usage(LOCAL, session)).calls == 2
    subs = [each.request for each in world.model.sent if task_of(each.request) is not None]
    assert [len(request.messages) for request in subs] == [1, 1]
    assert all("count the fruit" not in str(request.messages) for request in subs)
    assert {tuple(tool.name for tool in request.tools) for request in subs} == {("mark",)}
    shown = "".join(event.text for event in news if isinstance(event, CallOutput))
    assert "├─ 1 count apples\n" in shown
    assert "└─ 2 done\n" in shown
    assert [row.id for row in await ledger.sessions(LOCAL)] == [session]
    assert len(await ledger.sessions(LOCAL, sides=True)) == 3
    await ledger.forget(LOCAL, session, world.clock.now_ms())
    for row in rows:
        with pytest.raises(NotFound):
            await ledger.session(LOCAL, row.id)
    assert not (await ledger.search(LOCAL, "apples")).hits


def test_fifty_at_once_are_bounded_and_that_is_said() -> None:
    """So many run side by side, so many a turn; each of the others is one sentence, and the turn goes on."""
    at_work, most, seconds = 0, 0, 1.0

    async def works(*_: object) -> ToolResult:
        nonlocal at_work, most
        at_work, most = at_work + 1, max(most, at_work + 1)
        await asyncio.sleep(seconds)
        at_work -= 1
        return ToolResult(text="done")

    tool = RecordingTool("mark", answer=works)

    def of(task: str, request: ModelRequest) -> Step:
        return say("done") if isinstance(request.messages[-1], ToolTurn) else ask("mark")

    async def program() -> tuple[list[tuple[Status, str]], int]:
        world = World(
            MemoryLedger(),
            script(*(delegate(f"task {n}") for n in range(50)), of=of),
            delegate=LIMITS,
            tools=[tool],
        )
        outcome = await exchange(world.talk(), "go")
        assert outcome.status == TurnStatus.DONE
        return await results(world, outcome.handle.session), len(await sides(world, outcome.handle.session))

    said, begun = simulate(3, program())
    refused = [text for status, text in said if status == Status.ERROR]
    assert (begun, len(tool.ran), len(refused), most) == (16, 16, 34, 4)
    assert set(refused) == {"[Not begun: a turn has at most 16 subagents (delegate.per_turn).]"}


async def test_many_tasks_in_one_call_are_bounded_too() -> None:
    """Those beyond the limit are named among the results, and a longer list is refused as it stands."""
    tasks = [f"task {n}" for n in range(20)]
    world = World(MemoryLedger(), script(delegate(*tasks)), delegate=LIMITS)
    outcome = await exchange(world.talk(), "go")
    ((status, text),) = await results(world, outcome.handle.session)
    assert (status, text.count("[subagent "), text.count("[Not begun:")) == (Status.OK, 16, 4)
    world = World(MemoryLedger(), script(delegate(*tasks, *tasks, *tasks)), delegate=LIMITS)
    outcome = await exchange(world.talk(), "go")
    ((status, text),) = await results(world, outcome.handle.session)
    assert status == Status.ERROR
    assert "length <= 50" in text
    assert not await sides(world, outcome.handle.session)


def test_one_that_never_ends_reaches_its_limit_and_the_turn_goes_on() -> None:
    """The limit is said; what it had said by then is kept."""

    async def program() -> tuple[list[tuple[Status, str]], TurnState | None]:
        def of(task: str, request: ModelRequest) -> Step:
            return say("as far as I got", Hold()) if task == "endless" else say("ready")

        world = World(
            MemoryLedger(), script(delegate("endless", "short"), of=of), delegate=DelegateLimits(seconds=60)
        )
        outcome = await exchange(world.talk(), "go")
        assert outcome.text == "all is done"
        (first, _) = await sides(world, outcome.handle.session)
        turn = await world.ledger.turn(LOCAL, first.id)
        return await results(world, outcome.handle.session), turn.state if turn else None

    ((status, text),), state = simulate(1, program())
    assert (status, state) == (Status.OK, TurnState.INTERRUPTED)
    assert "interrupted: The turn reached its limit of 60 seconds.]" in text, "no word for a person"
    assert "as far as I got" in text
    assert "done]\nready" in text


@pytest.mark.parametrize("dies_at", [0, 3, 7])
async def test_after_a_crash_finished_ones_are_not_run_again(ledger: SqliteLedger, dies_at: int) -> None:
    """Of eight that a killed process left, those that had ended are read, also where the call had no result yet; the
    others are gone on with; the turn ends with all results, in one session each."""
    hold = Hold()

    def first(task: str, request: ModelRequest) -> Step:
        return say("early") if int(task) < dies_at else say("I beg", hold)

    calls = [delegate(str(n)) for n in range(8)]
    before = World(ledger, script(*calls, of=first), delegate=DelegateLimits(at_once=8))
    talk = before.talk()
    turn = await talk.say("go", nobody_watches, NobodyToAsk())
    running = asyncio.create_task(turn.finish())
    await hold.reached()
    session = turn.session
    async with asyncio.timeout(30):  # until all the others stand there, and those that are quick have ended
        while before.model.open_streams < 8 - dies_at:  # noqa: ASYNC110
            await asyncio.sleep(0)
        while sum([row.ended_at is not None for row in await sides(before, session)]) < dies_at:  # noqa: ASYNC110
            await asyncio.sleep(0)
    asked: list[str] = []

    def second(task: str, request: ModelRequest) -> Step:
        asked.append(task)
        return say("late")

    after = World(ledger, script(of=second), delegate=DelegateLimits(at_once=8), owner="two", seed=1)
    after.owners.dead.add("me")
    outcome = await after.talk(session).recover(nobody_watches, NobodyToAsk())
    assert outcome is not None
    assert (outcome.status, outcome.text) == (TurnStatus.DONE, "all is done")
    assert sorted(asked) == [str(n) for n in range(dies_at, 8)]
    said = await results(after, session)
    assert sorted(text.split("\n")[1] for _, text in said) == ["early"] * dies_at + ["late"] * (8 - dies_at)
    assert len(await sides(after, session)) == 8
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await results(after, session) == said


async def test_stopping_the_turn_stops_its_subagents() -> None:
    """Their end is on disk when the turn's is."""
    hold = Hold()
    world = World(
        MemoryLedger(), script(delegate("a", "b"), of=lambda *_: say("so far", hold)), delegate=LIMITS
    )
    talk = world.talk()
    turn = await talk.say("go", nobody_watches, NobodyToAsk())
    running = asyncio.create_task(turn.finish())
    await hold.reached()
    assert await talk.stop()
    turn.look()
    outcome = await running
    assert outcome.status == TurnStatus.INTERRUPTED
    rows = await sides(world, turn.session)
    assert {(row.end_reason, row.ended_at is None) for row in rows} == {("interrupted", False)}
    states = [await world.ledger.turn(LOCAL, row.id) for row in rows]
    assert states
    assert all(state is None or state.state == TurnState.INTERRUPTED for state in states)
    assert world.model.open_streams == 0


class LentTools(GivenTools):
    """Counts what is opened, what works beside it, and what of that is open still."""

    def __init__(self) -> None:
        super().__init__(())
        self.opened, self.beside_it, self.left = 0, 0, 0

    async def open(self, session: SessionId, principal: PrincipalId, cwd: Path, notify: Notify) -> LentTools:
        self.opened += 1
        return self

    def beside(self) -> LentTools:
        self.beside_it += 1
        self.left += 1
        return self

    async def close(self) -> None:
        self.left -= 1


async def test_subagents_wait_for_no_server() -> None:
    """Theirs are like those of the turn, which are the only ones that are opened; they are closed with them."""
    world, tools = World(MemoryLedger(), script(delegate(*"abcdefgh")), delegate=LIMITS), LentTools()
    world.services = msgspec.structs.replace(world.services, toolmaker=tools)
    await exchange(world.talk(), "go")
    assert (tools.opened, tools.beside_it, tools.left) == (1, 8, 0)


async def test_a_subagent_asks_the_same_person() -> None:
    """One question at a time, which says who asks; the answer is recorded where the call stands. With nobody there it
    ends with that, and waits for nothing."""
    tool = RecordingTool("mark", effect=Effect.EXECUTE)

    def of(task: str, request: ModelRequest) -> Step:
        return say("marked") if isinstance(request.messages[-1], ToolTurn) else ask("mark")

    world = World(MemoryLedger(), script(delegate("a", "b"), of=of), delegate=LIMITS, tools=[tool])
    person = Answers(Consent.ONCE)
    outcome = await exchange(world.talk(), "go", approver=person)
    assert len(tool.ran) == 2
    assert sorted(question.line for question in person.asked) == [
        "subagent 1: mark {}",
        "subagent 2: mark {}",
    ]
    for row in await sides(world, outcome.handle.session):
        (approval,) = await world.ledger.approvals(LOCAL, row.id)
        assert approval.state == ApprovalState.CONSUMED
    outcome = await exchange(world.talk(outcome.handle.session), "again")
    assert (outcome.status, len(tool.ran)) == (TurnStatus.DONE, 2)
    *_, (status, text) = await results(world, outcome.handle.session)
    assert status == Status.ERROR
    assert text.count("nobody was there to give it. Make that call yourself") == 2


async def test_the_caps_of_the_conversation_cover_them(ledger: SqliteLedger) -> None:
    """Together they cannot pass what the session may spend, and one alone not what `delegate.usd` says."""

    def price(usage: Usage) -> Cost:
        return Cost(usd=usage.output / 1000, source="test")

    async def spent(cap: float | None, each: float | None) -> tuple[list[tuple[Status, str]], float]:
        settings = TurnSettings(approval_mode=ApprovalMode.ALL, caps=Caps(usd_per_session=cap))
        world = World(
            ledger,
            script(*(delegate(f"task {n}") for n in range(8))),
            delegate=DelegateLimits(at_once=8, usd=each),
            settings=settings,
            price=price,
            profile=ModelProfile(name="scripted-model", provider="scripted", max_output=5),
            seed=0 if cap else 1,
        )
        session = (await exchange(world.talk(), "go")).handle.session
        return await results(world, session), (await ledger.spent(LOCAL, session, 0)).in_session

    said, usd = await spent(0.0351, None)
    assert round(usd, 6) == 0.035  # seven calls: the conversation's own, and six
    refused = [text for status, text in said if status == Status.ERROR]
    assert len(said) == 8
    assert len(refused) == 2
    assert all("(limits.usd_per_session)" in text for text in refused)
    said, usd = await spent(None, 0.001)
    assert len(said) == 8
    assert all("allowed for one subagent (delegate.usd)" in text for _, text in said)
    assert round(usd, 6) == 0.01


async def test_a_subagent_delegates_as_deep_as_is_allowed() -> None:
    """Its own are under it, and shown below it; at the limit it has no such tool."""

    def of(task: str, request: ModelRequest) -> Step:
        has_tool = any(tool.name == "delegate" for tool in request.tools)
        assert has_tool == (task == "outer")
        return (
            Step(calls=(delegate("inner"),))
            if has_tool and len(request.messages) == 1
            else say(f"{task} done")
        )

    world = World(MemoryLedger(), script(delegate("outer"), of=of), delegate=DelegateLimits(depth=2))
    news: list[TurnNews] = []
    outcome = await exchange(world.talk(), "go", news=news)
    (outer,) = await sides(world, outcome.handle.session)
    (inner,) = await sides(world, outer.id)
    assert inner.title == "inner"
    assert any(isinstance(event, CallOutput) and event.text == "│  ├─ inner\n" for event in news)
    ((_, text),) = await results(world, outcome.handle.session)
    assert text == f"[subagent {outer.id}, done]\nouter done"


@pytest.mark.parametrize("seed", range(16))
def test_killed_at_any_instant_it_ends_with_all_results_or_says_what_is_missing(seed: int) -> None:
    """Twice over: no subagent that had finished is asked again, none runs its tool twice, and none has two sessions."""
    simulate(seed, _killed_twice(random.Random(seed)))


async def _killed_twice(chance: random.Random) -> None:
    disk = Disk()
    tool = RecordingTool("mark", effect=Effect.EXECUTE)

    def of(task: str, request: ModelRequest) -> Step:
        return say(f"answer {task}") if isinstance(request.messages[-1], ToolTurn) else ask("mark")

    calls = tuple(delegate(str(n)) for n in range(8))
    session: SessionId | None = None
    for life in range(3):
        world = World(
            MemoryLedger(disk), script(*calls, of=of), tools=[tool], mode=ApprovalMode.ALL, delegate=LIMITS,
            owner=str(life), seed=life,
        )  # fmt: skip
        world.owners.dead |= {str(before) for before in range(life)}
        ended = set[str]()
        if session is not None:
            for row in await sides(world, session):
                turn = await world.ledger.turn(LOCAL, row.id)
                ended |= {row.title or ""} if turn and turn.state == TurnState.DONE else set()
        process, talk = Program(), world.talk(session)
        running = process.start(_said(talk) if session is None else _recovered(talk))
        for _ in range(chance.randrange(180) if life < 2 else 1_000_000):
            if running.done():
                break
            await asyncio.sleep(0)
        process.kill()
        session = talk.session or session
        asked = {task_of(sent.request) for sent in world.model.sent}
        assert not asked & ended
        if running.done():
            assert running.result() == "all is done"
            break
    assert session is not None
    world = World(MemoryLedger(disk))
    rows, said = await sides(world, session), await results(world, session)
    assert len(said) == 8
    assert len(rows) == len({row.title for row in rows})
    ran = Counter(call.rsplit("-", 3)[0] for call, _ in tool.ran)
    assert set(ran.values()) <= {1}
    missing = [text for status, text in said if status == Status.NOT_RUN]
    assert all("before this call was run" in text for text in missing)
    done = [text.rsplit("answer ", 1) for status, text in said if status == Status.OK]
    assert all(head.endswith(", done]\n") for head, _ in done)
    assert len({task for _, task in done}) == 8 - len(missing)


async def _recovered(talk: Talk) -> str:
    outcome = await talk.recover(nobody_watches, NobodyToAsk())
    return (await exchange(talk, "and?")).text if outcome is None else outcome.text


async def _said(talk: Talk) -> str:
    return (await exchange(talk, "go")).text
