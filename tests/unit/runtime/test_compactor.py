"""Summaries over a ledger: one wins, nobody forks, nothing is lost, and what fails leaves everything as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.adapters.stores.memory.state import Disk
from clew.domain.compaction.cut import standing
from clew.domain.compaction.policy import Plan
from clew.domain.conversation.ids import SessionId
from clew.domain.ledger.commits import Caps, Commit, Committed, Compact
from clew.domain.ledger.errors import StoreUnusable
from clew.domain.ledger.rows import CompactionLease, Handle
from clew.domain.models.answer import FailureKind, StopReason, Usage
from clew.domain.models.request import ModelProfile, ModelRequest, TextPart, UserTurn
from clew.runtime.compaction import (
    Compacted,
    CompactionAsk,
    CompactionSettings,
    Compactor,
    NotCompacted,
    Outcome,
    Trigger,
    WhyNot,
)
from clew.runtime.compaction.memory import Memory
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.models import Cost
from clew.testing.invariants import check
from clew.testing.ledgers import (
    ANN,
    OTHER_PROCESS,
    begin,
    exchange,
    expand,
    fork,
    handle_of,
    redo,
    session_id,
    texts,
    undo,
)
from clew.testing.scripted_model import Hold, ScriptedModel, Step, ask, fail, say
from clew.testing.virtual_time import simulate
from clew.testing.world import HandClock, NamedOwners, OneModel

on_a_loop = pytest.mark.anyio
WINDOW: Final = 4_000
TOLD: Final = "word " * 60


def compactor(
    ledger: Ledger, model: ScriptedModel, owner: str = "me", settings: CompactionSettings | None = None
) -> Compactor:
    return Compactor(
        ledger=ledger, owners=NamedOwners(owner), models=OneModel(model), clock=HandClock(), settings=settings
    )


def scripted(script: Sequence[Step] | Callable[[ModelRequest], Step], window: int = WINDOW) -> ScriptedModel:
    return ScriptedModel(script, profile=ModelProfile(name="scripted-model", context_window=window))


def notes(request: ModelRequest) -> Step:
    return say("## Goal\nThe notes.")


def asking(session: SessionId, trigger: Trigger = Trigger.PREFLIGHT, **more: object) -> CompactionAsk:
    asked = CompactionAsk(
        principal=ANN,
        session=session,
        trigger=trigger,
        model=ModelProfile(name="m", context_window=WINDOW),
        saw=None,
    )
    return msgspec.structs.replace(asked, **more)


async def full(ledger: Ledger, number: int = 1, turns: int = 25) -> Handle:
    """A session that fills most of the window."""
    return await exchange(ledger, await started(ledger, number), *(f"{n} {TOLD}" for n in range(turns)))


async def started(ledger: Ledger, number: int = 1) -> Handle:
    await ledger.add_principal(ANN, "Ann", "user")
    return await begin(ledger, number)


async def shown(ledger: Ledger, session: SessionId) -> list[str]:
    """What a request of the session is made of: the summary's text, then the messages that stand."""
    row = await ledger.session(ANN, session)
    summary = next((s for s in await ledger.summaries(ANN, session) if s.id == row.handle.summary), None)
    stands = [m.text for m in standing(await ledger.path(ANN, session), summary)]
    return stands if summary is None else [summary.text, *stands]


def assert_compacted(outcome: Outcome) -> Compacted:
    assert isinstance(outcome, Compacted), outcome
    return outcome


def assert_not(outcome: Outcome, why: WhyNot) -> NotCompacted:
    assert isinstance(outcome, NotCompacted), outcome
    assert outcome.why == why
    return outcome


@on_a_loop
async def test_a_summary_stands_for_the_older_part() -> None:
    """The session keeps its id, head and messages; its requests are within the target; what it took is counted."""
    ledger, model = MemoryLedger(), scripted(notes)
    before = await full(ledger)
    path = await ledger.path(ANN, before.session)
    made = assert_compacted(await compactor(ledger, model).compact(asking(before.session, turn=7)))
    after = await handle_of(ledger, before.session)
    assert (after.head, after.epoch, after.summary) == (before.head, before.epoch, made.summary.id)
    assert await ledger.path(ANN, before.session) == path
    assert (await shown(ledger, before.session))[0] == "## Goal\nThe notes."
    assert (await shown(ledger, before.session))[-1] == path[-1].text
    assert made.summary.tokens_after <= WINDOW * 0.25 < WINDOW * 0.75 < made.summary.tokens_before
    assert len(model.sent) == (await ledger.usage(ANN, before.session)).calls
    assert await ledger.compaction(ANN, before.session) is None
    await check(ledger, ANN, before.session)


@on_a_loop
async def test_the_next_summary_carries_the_notes_on() -> None:
    """It is given the notes before it and the messages after those, not the covered messages again."""
    ledger, model = MemoryLedger(), scripted(notes)
    handle = await full(ledger)
    maker = compactor(ledger, model)
    first = assert_compacted(await maker.compact(asking(handle.session)))
    handle = await exchange(
        ledger, await handle_of(ledger, handle.session), *(f"later {n} {TOLD}" for n in range(25))
    )
    sent = len(model.sent)
    second = assert_compacted(await maker.compact(asking(handle.session, saw=handle.summary)))
    asked = "".join(words(sent.request) for sent in model.sent[sent:])
    assert "<notes_so_far>\n## Goal\nThe notes.\n" in asked
    assert "[1] user" not in asked
    assert second.summary.previous == first.summary.id
    await check(ledger, ANN, handle.session)


def words(request: ModelRequest) -> str:
    (turn,) = request.messages
    assert isinstance(turn, UserTurn)
    (part,) = turn.parts
    assert isinstance(part, TextPart)
    return part.text


@on_a_loop
@pytest.mark.parametrize("other", list(Trigger))
@pytest.mark.parametrize("one", list(Trigger))
async def test_eight_at_once_make_one_summary(one: Trigger, other: Trigger) -> None:
    """Whatever started them, in one process and in several: one summary in force, one head, nothing said is lost."""
    disk = Disk()
    model = scripted(notes)
    ledger = MemoryLedger(disk)
    handle = await full(ledger)
    makers = [compactor(MemoryLedger(disk), model, owner) for owner in ("one", "other")]
    asked = [asking(handle.session, trigger) for trigger in (one, other)]
    outcomes = await asyncio.gather(*(makers[n % 2].compact(asked[n // 2 % 2]) for n in range(8)))
    made = [o for o in outcomes if isinstance(o, Compacted)]
    assert [o.adopted for o in made].count(False) == 1
    assert {o.why for o in outcomes if isinstance(o, NotCompacted)} <= {WhyNot.ELSEWHERE}
    assert len(model.sent) <= 3  # the parts of one pass
    after = await handle_of(ledger, handle.session)
    assert (after.head, after.version) == (handle.head, handle.version + 1)
    assert len(await ledger.summaries(ANN, handle.session)) == 1
    assert await ledger.children(ANN, handle.session) == ()
    await check(ledger, ANN, handle.session)


@on_a_loop
async def test_what_is_said_meanwhile_is_in_the_next_request() -> None:
    """The model writes while the conversation goes on: the summary covers what it saw, the rest stands, once."""
    hold = Hold()
    ledger, model = MemoryLedger(), scripted(lambda _: say("The notes.", hold))
    handle = await full(ledger)
    making = asyncio.create_task(compactor(ledger, model).compact(asking(handle.session)))
    await hold.reached()
    await exchange(ledger, handle, "said meanwhile")
    hold.release()
    made = assert_compacted(await making)
    path = await texts(ledger, handle.session)
    assert path.count("said meanwhile") == 1
    assert await shown(ledger, handle.session) == ["The notes.", *path[made.summary.upto.seq :]]
    await check(ledger, ANN, handle.session)


@on_a_loop
async def test_a_commit_that_meets_an_append_is_made_again() -> None:
    """The head moved between looking and writing; the covered range is still there, so the summary is too."""
    ledger = Overtaken(Disk())
    handle = await full(ledger)
    made = assert_compacted(await compactor(ledger, scripted(notes)).compact(asking(handle.session)))
    assert (await texts(ledger, handle.session))[-1] == "re quicker"
    assert (await handle_of(ledger, handle.session)).summary == made.summary.id
    assert not made.adopted
    await check(ledger, ANN, handle.session)


class Overtaken(MemoryLedger):
    """Somebody says something right before the first summary is written."""

    async def commit(self, work: Commit) -> Committed:
        if isinstance(work.op, Compact) and not (await super().path(ANN, work.session))[-1].text.endswith(
            "quicker"
        ):
            await exchange(MemoryLedger(self._disk), await handle_of(self, work.session), "quicker")
        return await super().commit(work)


@on_a_loop
async def test_a_summary_that_is_no_shorter_is_not_used() -> None:
    """A short conversation, and notes within their length that are longer than it."""
    ledger = MemoryLedger()
    handle = await exchange(ledger, await started(ledger), "a few words more " * 7, "b", "c")
    maker = compactor(ledger, scripted(lambda _: say("word " * 72)))
    failed = assert_not(await maker.compact(asking(handle.session, Trigger.COMMAND)), WhyNot.FAILED)
    assert failed.sentence.endswith("The summary was no shorter than what it stood for.")
    assert await handle_of(ledger, handle.session) == handle


@on_a_loop
async def test_a_summary_of_what_was_undone_meanwhile_is_dropped() -> None:
    """It would stand for messages that are off the path; the calls are counted all the same."""
    hold = Hold()
    ledger, model = MemoryLedger(), scripted(lambda _: say("The notes.", hold))
    handle = await full(ledger)
    making = asyncio.create_task(compactor(ledger, model).compact(asking(handle.session)))
    await hold.reached()
    undone = await undo(ledger, handle, 24)
    hold.release()
    assert_not(await making, WhyNot.CHANGED)
    assert await handle_of(ledger, handle.session) == undone
    assert (await ledger.usage(ANN, handle.session)).calls == len(model.sent)


@on_a_loop
async def test_the_loser_adopts_the_winners_summary() -> None:
    """A holder that was paused past its lease wakes up, finds another summary in force, and leaves it there."""
    hold = Hold()
    ledger = MemoryLedger()
    slow, quick = scripted(lambda _: say("slow", hold)), scripted(lambda _: say("quick"))
    handle = await full(ledger)
    sleeper = compactor(ledger, slow, "sleeper")
    making = asyncio.create_task(sleeper.compact(asking(handle.session)))
    await hold.reached()
    waker = Compactor(ledger=ledger, owners=Dead("sleeper"), models=OneModel(quick), clock=HandClock())
    won = assert_compacted(await waker.compact(asking(handle.session)))
    hold.release()
    adopted = assert_compacted(await making)
    assert (won.adopted, adopted.adopted) == (False, True)
    assert adopted.summary == won.summary
    assert (await shown(ledger, handle.session))[0] == "quick"
    assert len(await ledger.summaries(ANN, handle.session)) == 1
    assert (await ledger.usage(ANN, handle.session)).calls == len(slow.sent) + len(quick.sent)


class Dead(NamedOwners):
    """Knows that somebody is dead."""

    def __init__(self, dead: str) -> None:
        super().__init__("waker")
        self.dead = {dead}


def test_a_lease_that_stands_still_is_taken_over() -> None:
    """By whoever saw the same beat for the whole time on its own clock; the wall clock may jump an hour meanwhile."""

    async def scenario() -> None:
        ledger, model = MemoryLedger(), scripted(notes)
        handle = await full(ledger)
        clock = HandClock()
        maker = Compactor(ledger=ledger, owners=NamedOwners(), models=OneModel(model), clock=clock)
        await ledger.lease_compaction(handle.session, OTHER_PROCESS)
        clock.advance(3600)
        loop = asyncio.get_running_loop()
        assert_not(await maker.compact(asking(handle.session, Trigger.IDLE)), WhyNot.ELSEWHERE)
        began = loop.time()
        making = asyncio.create_task(maker.compact(asking(handle.session)))
        clock.advance(-7200)
        assert_compacted(await making)
        assert 120 <= loop.time() - began < 130
        assert len(await ledger.summaries(ANN, handle.session)) == 1

    simulate(1, scenario())


class Unleased(MemoryLedger):
    """A ledger whose table of leases is broken."""

    async def lease_compaction(
        self, session: SessionId, owner: str, *, over: CompactionLease | None = None
    ) -> CompactionLease:
        raise StoreUnusable("There is no such table.")


@on_a_loop
async def test_without_leases_there_is_at_worst_another_call() -> None:
    """Two processes at once, no lease to be had: each asks the model, one summary is in force, and it is said."""
    disk = Disk()
    handle = await full(MemoryLedger(disk))
    model = scripted(notes)
    makers = [compactor(Unleased(disk), model, owner) for owner in ("one", "other")]
    outcomes = await asyncio.gather(*(maker.compact(asking(handle.session)) for maker in makers))
    made = [assert_compacted(outcome) for outcome in outcomes]
    assert sorted(o.adopted for o in made) == [False, True]
    assert "Without a lease: There is no such table." in next(o.sentence for o in made if not o.adopted)
    assert len(await MemoryLedger(disk).summaries(ANN, handle.session)) == 1


FAILING: Final = {
    "429": fail(FailureKind.RATE_LIMITED),
    "500": fail(FailureKind.SERVER),
    "cut stream": fail(FailureKind.CUT, "The stream was cut.", "half of a"),
    "empty": Step(),
    "blank": say(" \n "),
    "tool call": ask("bash", "{}"),
    "withheld": Step(text="x", stop=StopReason.FILTERED),
    "1 MB of text": say(*["word " * 2_000] * 100, Hold()),  # it is not read to its end, which never comes
    "longer than the rest": say("word " * 3_000),
}


@on_a_loop
@pytest.mark.parametrize("step", FAILING.values(), ids=FAILING)
async def test_a_failure_changes_nothing_and_is_told_once(step: Step) -> None:
    """The history is whole, the person hears of it once, and it rests before the next try, each time longer."""
    ledger, model = MemoryLedger(), scripted(lambda _: step)
    handle = await full(ledger)
    maker = compactor(ledger, model)
    before = await shown(ledger, handle.session)
    first = assert_not(await maker.compact(asking(handle.session, turn=1)), WhyNot.FAILED)
    assert first.is_news
    assert first.sentence.startswith("The conversation was not summarised, and is as it was: ")
    assert_not(await maker.compact(asking(handle.session, Trigger.MID_TURN, turn=1)), WhyNot.RESTING)
    assert_not(await maker.compact(asking(handle.session, Trigger.OVERFLOW, turn=1)), WhyNot.RESTING)
    assert len(model.sent) == 1
    assert await handle_of(ledger, handle.session) == handle
    assert await shown(ledger, handle.session) == before
    was_refused = step.failure is not None and not step.deltas  # and then used nothing
    assert (await ledger.usage(ANN, handle.session)).calls == (0 if was_refused else 1)
    assert await ledger.compaction(ANN, handle.session) is None


@on_a_loop
async def test_a_summary_that_could_pass_a_cap_is_not_asked_for() -> None:
    """Its calls are set aside and counted like a turn's own."""
    ledger, model = MemoryLedger(), scripted(lambda _: say("The notes."))
    handle = await full(ledger)

    def price(usage: Usage) -> Cost:
        return Cost(usd=usage.output / 1e6, source="test")

    def maker(usd: float) -> Compactor:
        models, caps = OneModel(model, price), Caps(usd_per_session=usd)
        return Compactor(
            ledger=ledger,
            owners=NamedOwners(),
            models=models,
            clock=HandClock(),
            settings=CompactionSettings(caps=caps),
        )

    refused = assert_not(await maker(1e-6).compact(asking(handle.session, turn=1)), WhyNot.FAILED)
    assert "limits.usd_per_session" in refused.sentence
    assert not model.sent
    assert_compacted(await maker(1.0).compact(asking(handle.session, turn=1)))
    totals = await ledger.usage(ANN, handle.session)
    assert totals.calls == len(model.sent)
    assert totals.cost_usd == pytest.approx(len(model.sent) * 5 / 1e6)
    assert (await ledger.spent(ANN, handle.session, 0)).in_session == totals.cost_usd


def test_the_pause_after_failures_grows() -> None:
    """A minute, two, four, at most an hour; a success ends it."""
    now = [0.0]
    memory, session = Memory(60, lambda: now[0]), session_id(1)
    for pause in (60, 120, 240):
        assert memory.failed(session) is (pause == 60)
        now[0] += pause - 1
        assert memory.rests(session)
        now[0] += 1
        assert not memory.rests(session)
    for _ in range(50):
        memory.failed(session)
    now[0] += 3600
    assert not memory.rests(session)
    memory.failed(session)
    memory.succeeded(session)
    assert not memory.rests(session)
    assert memory.failed(session)


@on_a_loop
async def test_a_person_may_try_while_it_rests() -> None:
    """Each try of theirs is answered, and a success ends the rest."""
    fails = [True]
    model = scripted(lambda _: fail(FailureKind.SERVER) if fails[0] else say("notes"))
    ledger = MemoryLedger()
    handle = await full(ledger)
    maker = compactor(ledger, model)
    for _ in range(2):
        failed = await maker.compact(asking(handle.session, Trigger.COMMAND))
        assert assert_not(failed, WhyNot.FAILED).is_news
    assert_not(await maker.compact(asking(handle.session)), WhyNot.RESTING)
    fails[0] = False
    assert_compacted(await maker.compact(asking(handle.session, Trigger.COMMAND)))
    assert not maker.memory.rests(handle.session)


def test_a_model_that_never_answers_is_given_up() -> None:
    """After the time one call may take; the stream is closed."""

    async def scenario() -> None:
        ledger, model = MemoryLedger(), scripted(lambda _: say(Hold()))
        handle = await full(ledger)
        failed = assert_not(await compactor(ledger, model).compact(asking(handle.session)), WhyNot.FAILED)
        assert "took too long" in failed.sentence
        assert model.open_streams == 0
        assert (await ledger.usage(ANN, handle.session)).input > 0

    simulate(1, scenario())


@on_a_loop
async def test_a_turn_has_at_most_four_calls() -> None:
    """However many triggers there are in it: then it goes on without."""
    ledger, model = MemoryLedger(), scripted(notes, window=1_600)
    handle = await full(ledger, turns=60)
    maker = compactor(ledger, model, settings=CompactionSettings(cooldown_seconds=0))
    for n in range(6):
        await maker.compact(asking(handle.session, Trigger.OVERFLOW, turn=1, saw=handle.summary))
        handle = await exchange(
            ledger, await handle_of(ledger, handle.session), *(f"{n} {TOLD}" for _ in range(30))
        )
    assert len(model.sent) == 4
    assert_compacted(
        await maker.compact(asking(handle.session, Trigger.OVERFLOW, turn=2, saw=handle.summary))
    )


@on_a_loop
async def test_cancelling_leaves_everything_as_it_was() -> None:
    """The stream is closed, the lease is free, and the call is counted as an estimate."""
    hold = Hold()
    ledger, model = MemoryLedger(), scripted(lambda _: say("half", hold))
    handle = await full(ledger)
    making = asyncio.create_task(compactor(ledger, model).compact(asking(handle.session)))
    await hold.reached()
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert await handle_of(ledger, handle.session) == handle
    assert model.open_streams == 0
    assert await ledger.compaction(ANN, handle.session) is None
    assert (await ledger.usage(ANN, handle.session)).calls == 1


@on_a_loop
async def test_one_huge_message_takes_few_calls() -> None:
    """200 kB for an 8k window: alone it cannot be covered; behind a short one it is, in at most three calls."""
    ledger, model = MemoryLedger(), scripted(notes, window=8_000)
    maker = compactor(ledger, model)
    huge = "lorem ipsum " * 17_000
    handle = await exchange(ledger, await started(ledger), huge)
    eight = ModelProfile(name="m", context_window=8_000)
    handle = await exchange(ledger, handle, "short")
    assert_compacted(await maker.compact(asking(handle.session, model=eight)))
    assert 1 <= len(model.sent) <= 3
    assert sum(map(len, await shown(ledger, handle.session))) < 1_000
    assert (await texts(ledger, handle.session))[0] == huge


@on_a_loop
async def test_a_summary_model_with_a_small_window_is_refused_in_a_sentence() -> None:
    """Before it is asked anything."""
    ledger, model = MemoryLedger(), scripted(notes, window=600)
    handle = await full(ledger)
    failed = assert_not(await compactor(ledger, model).compact(asking(handle.session)), WhyNot.FAILED)
    assert failed.sentence.endswith("The window of scripted-model, 600 tokens, is too small for summaries.")
    assert model.sent == []


@on_a_loop
async def test_what_the_provider_counted_corrects_the_estimate() -> None:
    """With half the tokens estimated, there is room; with twice as many, there is not."""
    ledger, model = MemoryLedger(), scripted(notes)
    handle = await full(ledger, turns=30)
    maker = compactor(ledger, model)
    maker.memory.counted(handle.session, 4_000, 1_500)
    assert_not(await maker.compact(asking(handle.session)), WhyNot.NOT_NEEDED)
    maker.memory.counted(handle.session, 4_000, 8_000)
    assert_compacted(await maker.compact(asking(handle.session)))


@on_a_loop
async def test_undo_redo_fork_and_expand_around_summaries() -> None:
    """Each request is what the rules say; ten in a row follow each other; the fork changes nothing in its parent."""
    ledger, model = MemoryLedger(), scripted(notes)
    maker = compactor(ledger, model)
    handle = await full(ledger)
    everything = await texts(ledger, handle.session)
    made = []
    for n in range(10):
        ask_now = asking(handle.session, Trigger.COMMAND, saw=handle.summary)
        made.append(assert_compacted(await maker.compact(ask_now)).summary)
        handle = await exchange(
            ledger, await handle_of(ledger, handle.session), f"{n} {TOLD}", f"{n} more {TOLD}"
        )
        everything += (await texts(ledger, handle.session))[len(everything) :]
    assert [s.previous for s in made] == [None, *(s.id for s in made[:-1])]
    assert await texts(ledger, handle.session) == everything
    parent = await shown(ledger, handle.session)
    child = await fork(ledger, handle, 2, summary=handle.summary)
    assert await shown(ledger, child.session) == parent
    child = await exchange(ledger, child, f"only here {TOLD}")
    assert_compacted(await maker.compact(asking(child.session, Trigger.COMMAND, saw=child.summary)))
    assert await shown(ledger, handle.session) == parent
    back = await undo(ledger, handle, 2)  # the last summary covered nothing of these
    assert back.summary == made[-1].id
    back = await undo(ledger, back, 2)
    assert back.summary == made[-2].id if back.head.seq < made[-1].upto.seq else made[-1].id
    again = await redo(ledger, await redo(ledger, back))
    assert (again.head, await shown(ledger, again.session)) == (handle.head, parent)
    for previous in reversed([None, *(s.id for s in made[:-1])]):
        again = await expand(ledger, again)
        assert again.summary == previous
    assert await shown(ledger, again.session) == everything
    await check(ledger, ANN, handle.session)
    await check(ledger, ANN, child.session)


@on_a_loop
async def test_a_preview_does_nothing() -> None:
    """It says what would be covered."""
    ledger, model = MemoryLedger(), scripted(notes)
    handle = await full(ledger)
    planned = await compactor(ledger, model).preview(asking(handle.session, Trigger.COMMAND))
    assert isinstance(planned, Plan)
    assert model.sent == []
    assert await handle_of(ledger, handle.session) == handle


@on_a_loop
async def test_switched_off_only_a_person_summarises() -> None:
    """Every trigger but the command does nothing, and says so."""
    ledger, model = MemoryLedger(), scripted(notes)
    handle = await full(ledger)
    maker = compactor(ledger, model, settings=CompactionSettings(enabled=False))
    for trigger in set(Trigger) - {Trigger.COMMAND}:
        assert_not(await maker.compact(asking(handle.session, trigger)), WhyNot.DISABLED)
    assert_compacted(await maker.compact(asking(handle.session, Trigger.COMMAND)))
