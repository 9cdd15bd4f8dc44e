"""Caps of spending in a turn: what could pass one is not asked for, and what was used is counted once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.adapters.stores.sqlite import open_ledger
from clew.adapters.system import SystemClock
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.ledger.commits import Caps, Commit, Committed, Reserve, UsageState
from clew.domain.ledger.rows import CallState, TurnState
from clew.domain.models.answer import (
    Answer,
    Failure,
    FailureKind,
    ModelEvent,
    Retrying,
    TextDelta,
    Usage,
)
from clew.domain.models.request import ImagePart, ModelProfile, ModelRequest, TextPart, UserTurn
from clew.domain.tools.spec import ToolResult
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.models import Cost
from clew.runtime.ports.people import NobodyToAsk, nobody_watches
from clew.runtime.spending import OUTPUT_TOKENS_MAX, input_tokens_max
from clew.runtime.talk import Talk
from clew.runtime.turns import TurnSettings, TurnStatus
from clew.testing.scripted_model import Hold, Script, ScriptedModel, Step, ask, fail, say
from clew.testing.world import RecordingTool, World, command, exchange

pytestmark = pytest.mark.anyio


class Commits(MemoryLedger):
    """Remembers what was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Commit] = []

    async def commit(self, work: Commit) -> Committed:
        self.seen.append(work)
        return await super().commit(work)

    @property
    def reserved(self) -> list[Reserve]:
        return [work.reserve for work in self.seen if work.reserve is not None]


@pytest.fixture
def ledger() -> Commits:
    return Commits()


def a_dollar_a_million(usage: Usage) -> Cost:
    return Cost(usd=(usage.input + usage.output) / 1e6, source="test")


def only_output(usage: Usage) -> Cost:
    """A tenth of a cent for a token of an answer: the bound of an answer is the dearest case."""
    return Cost(usd=usage.output / 1000, source="test")


def capped(
    ledger: Ledger,
    script: Script,
    *,
    price: Callable[[Usage], Cost | None] = only_output,
    session: float | None = None,
    user_day: float | None = None,
    day: float | None = None,
    tools: Sequence[RecordingTool] = (),
) -> World:
    caps = Caps(usd_per_session=session, usd_per_user_day=user_day, usd_per_day=day)
    return World(ledger, script, settings=TurnSettings(caps=caps), price=price, tools=tools)


def session_of(talk: Talk) -> SessionId:
    assert talk.session is not None
    return talk.session


# -- before the call -------------------------------------------------------------------------------------------------
async def test_a_session_stops_before_the_call_that_could_pass_its_cap(ledger: Commits) -> None:
    """It says which cap, as a limit does, and the model is not asked."""
    world = capped(ledger, [say("one")], price=a_dollar_a_million, session=0.01)
    talk = world.talk()
    assert (await exchange(talk, "hi")).status == TurnStatus.DONE
    outcome = await exchange(talk, "a long question, " * 1000)
    assert outcome.status == TurnStatus.REFUSED
    assert outcome.error is not None
    code, sentence = outcome.error
    assert code == "cap"
    assert "limits.usd_per_session" in sentence
    assert "$0.01 allowed for a session" in sentence
    assert len(world.model.sent) == 1
    turn = await ledger.turn(LOCAL, session_of(talk))
    assert turn is not None
    assert (turn.state, turn.end_reason) == (TurnState.FAILED, "cap")
    assert (await exchange(world.talk(talk.session), "x" * 20_000)).status == TurnStatus.REFUSED


async def test_in_the_middle_of_a_turn_a_cap_ends_it(ledger: Commits) -> None:
    """What the tools did stays."""
    tool = RecordingTool("read")
    world = capped(ledger, [ask("read")], price=a_dollar_a_million, session=0.005, tools=[tool])
    talk = world.talk()
    spent = Usage(input=2000, output=2000)
    world.model._script = [msgspec.structs.replace(ask("read"), usage=spent)]
    outcome = await exchange(talk, "hi")
    assert (outcome.status, outcome.error and outcome.error[0]) == (TurnStatus.REFUSED, "cap")
    assert len(tool.ran) == 1
    assert outcome.cost_usd == pytest.approx(0.004)


async def test_a_stop_as_money_is_set_aside_frees_it() -> None:
    """It is on disk, and nothing was asked for it."""

    class Slow(Commits):
        async def commit(self, work: Commit) -> Committed:
            committed = await super().commit(work)
            if work.reserve is not None:
                turn.stop("stopped")
                for _ in range(50):  # until whoever waits for this commit has been cancelled
                    await asyncio.sleep(0)
            return committed

    ledger = Slow()
    world = capped(ledger, [], price=a_dollar_a_million, session=1.0)
    talk = world.talk()
    turn = await talk.say("hi", nobody_watches, NobodyToAsk())
    assert (await turn.finish()).status == TurnStatus.INTERRUPTED
    (row,) = (stored.row for stored in ledger._disk.state.usage.values())
    assert (row.state, row.cost_usd) == (UsageState.FAILED, None)


async def test_without_a_price_nothing_is_asked_under_a_cap(ledger: Commits) -> None:
    """The sentence names the settings that help."""
    world = capped(ledger, [], price=lambda _: None, day=5.0)
    outcome = await exchange(world.talk(), "hi")
    assert (outcome.status, outcome.error and outcome.error[0]) == (TurnStatus.REFUSED, "unpriced")
    assert outcome.error is not None
    for name in ("limits.usd_per_day", "model.input_usd_per_mtok", "model.output_usd_per_mtok"):
        assert name in outcome.error[1]


async def test_a_model_that_costs_nothing_may_be_used_under_a_cap_of_nothing(ledger: Commits) -> None:
    """A price of zero is a price."""
    world = capped(ledger, [say("yes")], price=lambda _: Cost(usd=0.0, source="test"), session=0.0)
    assert (await exchange(world.talk(), "hi")).status == TurnStatus.DONE


async def test_without_a_cap_nothing_is_set_aside(ledger: Commits) -> None:
    """No commit more, and no bound on the answer."""
    world = capped(ledger, [say("yes")])
    await exchange(world.talk(), "hi")
    assert not ledger.reserved
    assert world.model.sent[0].request.max_output is None


async def test_under_a_cap_an_answer_is_bounded(ledger: Commits) -> None:
    """Or what is set aside would not be the most it can cost."""
    world = capped(ledger, [say("yes")], session=100.0)
    await exchange(world.talk(), "hi")
    assert world.model.sent[0].request.max_output == OUTPUT_TOKENS_MAX
    assert ledger.reserved[0].usage.cost_usd == OUTPUT_TOKENS_MAX / 1000


async def test_the_bound_of_the_model_stands(ledger: Commits) -> None:
    """What is known of a model, or set, is what is set aside."""
    world = capped(ledger, [say("yes")], session=100.0)
    world.services.models.client._profile = ModelProfile(name="m", max_output=100)  # type: ignore[attr-defined]
    await exchange(world.talk(), "hi")
    assert world.model.sent[0].request.max_output == 100
    assert ledger.reserved[0].usage.cost_usd == 0.1


async def test_the_dearest_case_is_set_aside(ledger: Commits) -> None:
    """Writing to a provider's cache costs more than reading the same words."""

    def price(usage: Usage) -> Cost:
        dear = usage.cache_write * 1.25 + (usage.input - usage.cache_write - usage.cache_read)
        return Cost(usd=dear + usage.cache_read * 0.1, source="test")

    world = capped(ledger, [say("yes")], price=price, session=1e9)
    await exchange(world.talk(), "hi")
    row = ledger.reserved[0].usage
    assert row.cost_usd == row.input * 1.25


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("12345", 5), ("the words of a person", 10), ("漢字", 2), ("🙂", 1), ("{}[]();", 7), ("A1B2C3", 6)],
)
def test_the_tokens_of_a_request_are_never_estimated_too_low(text: str, tokens: int) -> None:
    """Digits and brackets that stand alone, and other scripts, are counted as what they may be."""
    empty, full = [
        ModelRequest(model="m", system="", tools=(), messages=(UserTurn(parts=(TextPart(said),)),))
        for said in ("", text)
    ]
    assert input_tokens_max(full) - input_tokens_max(empty) >= tokens


def test_an_image_is_as_many_tokens_as_the_largest_is() -> None:
    """Its bytes go beside the request."""
    picture = UserTurn(parts=(ImagePart("0" * 64, "image/png"),))
    request = ModelRequest(model="m", system="", tools=(), messages=(picture,))
    assert input_tokens_max(request) > 5_000


# -- after the call --------------------------------------------------------------------------------------------------
async def test_what_was_set_aside_is_settled_by_the_providers_figures(ledger: Commits) -> None:
    """One row a call, in the commit of the answer."""
    talk = capped(ledger, [say("yes")], session=5.0).talk()
    outcome = await exchange(talk, "hi")
    totals = await ledger.usage(LOCAL, session_of(talk))
    assert (totals.calls, totals.input, totals.output) == (1, 10, 5)
    assert totals.cost_usd == outcome.cost_usd == 0.005
    assert (await ledger.spent(LOCAL, session_of(talk), 0)).in_session == 0.005


async def test_a_call_that_was_refused_frees_what_was_set_aside(ledger: Commits) -> None:
    """A provider charges nothing for it."""
    talk = capped(ledger, [fail(FailureKind.RATE_LIMITED), say("yes")], session=5.0).talk()
    assert (await exchange(talk, "hi")).status == TurnStatus.FAILED
    assert (await ledger.spent(LOCAL, session_of(talk), 0)).in_session == 0.0
    assert (await exchange(talk, "again")).status == TurnStatus.DONE


@pytest.mark.parametrize("kind", [FailureKind.CUT, FailureKind.NETWORK, FailureKind.GARBAGE])
async def test_a_call_that_broke_leaves_the_dearest_case_as_an_estimate(
    ledger: Commits, kind: FailureKind
) -> None:
    """Nobody will bring the figures; it may have cost that much."""
    talk = capped(ledger, [fail(kind)], session=5.0).talk()
    outcome = await exchange(talk, "hi")
    assert outcome.usage.estimated
    assert outcome.cost_usd == OUTPUT_TOKENS_MAX / 1000
    assert (await ledger.usage(LOCAL, session_of(talk))).cost_usd == outcome.cost_usd


async def test_a_call_that_was_stopped_leaves_the_dearest_case_as_an_estimate(ledger: Commits) -> None:
    """Marked so, in one row."""
    hold = Hold()
    talk = capped(ledger, [say("half", hold)], session=5.0).talk()
    turn = await talk.say("hi", nobody_watches, NobodyToAsk())
    running = asyncio.create_task(turn.finish())
    await hold.reached()
    turn.stop("stopped")
    outcome = await running
    assert outcome.usage.estimated
    totals = await ledger.usage(LOCAL, session_of(talk))
    assert (totals.calls, totals.cost_usd) == (1, OUTPUT_TOKENS_MAX / 1000)


class Attempting(ScriptedModel):
    """Streams what it is given."""

    def __init__(self, *events: ModelEvent) -> None:
        super().__init__()
        self.given = events
        self.reached: list[ModelEvent] = []

    async def stream(  # type: ignore[override]
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncIterator[ModelEvent]:
        for event in self.given:
            self.reached.append(event)
            yield event


def attempting(ledger: Ledger, *events: ModelEvent, session: float | None) -> tuple[World, Attempting]:
    world = capped(ledger, [], session=session)
    model = Attempting(*events)
    world.services.models.client = model  # type: ignore[attr-defined]
    return world, model


def retrying(kind: FailureKind, usage: Usage | None = None, *, attempt: int = 1) -> Retrying:
    failure = Failure(kind=kind, message="It failed.", usage=usage)
    return Retrying(attempt=attempt, after_seconds=0.0, reason=failure.message, failure=failure)


ANSWER = Answer(text="done", usage=Usage(input=10, output=5))


async def test_every_attempt_is_set_aside_and_counted(ledger: Commits) -> None:
    """Each may cost: the figures of a failed one are kept, and a refused one is free."""
    events = (
        retrying(FailureKind.SERVER, Usage(input=7, output=3)),
        retrying(FailureKind.RATE_LIMITED, attempt=2),
        ANSWER,
    )
    world, _ = attempting(ledger, *events, session=100.0)
    talk = world.talk()
    outcome = await exchange(talk, "hi")
    assert [reserve.usage.attempt for reserve in ledger.reserved] == [1, 2, 3]
    assert (outcome.usage.input, outcome.usage.output) == (17, 8)
    totals = await ledger.usage(LOCAL, session_of(talk))
    assert (totals.input, totals.output, totals.cost_usd) == (17, 8, 0.008)
    assert outcome.cost_usd == 0.008


async def test_an_attempt_that_could_pass_the_cap_is_not_made(ledger: Commits) -> None:
    """The one before left an estimate as dear as it could have been: there is no room for another."""
    events = (TextDelta("half"), retrying(FailureKind.CUT), ANSWER)
    world, model = attempting(ledger, *events, session=5.0)
    talk = world.talk()
    outcome = await exchange(talk, "hi")
    assert (outcome.status, outcome.error and outcome.error[0]) == (TurnStatus.REFUSED, "cap")
    assert ANSWER not in model.reached
    totals = await ledger.usage(LOCAL, session_of(talk))
    assert (totals.calls, totals.cost_usd) == (1, OUTPUT_TOKENS_MAX / 1000)


async def test_without_a_cap_the_figures_of_a_failed_attempt_are_kept_too(ledger: Commits) -> None:
    """In the commit of the answer; what used nothing leaves no row."""
    events = (
        retrying(FailureKind.SERVER, Usage(input=7, output=3)),
        retrying(FailureKind.RATE_LIMITED, attempt=2),
        ANSWER,
    )
    world, _ = attempting(ledger, *events, session=None)
    talk = world.talk()
    await exchange(talk, "hi")
    totals = await ledger.usage(LOCAL, session_of(talk))
    assert (totals.calls, totals.input, totals.output) == (2, 17, 8)
    (answered,) = [work for work in ledger.seen if work.usage]
    assert [row.attempt for row in answered.usage] == [1, 3]


# -- together --------------------------------------------------------------------------------------------------------
async def test_sixty_four_sessions_at_once_do_not_pass_a_shared_cap(tmp_path: Path) -> None:
    """Each asks for the dearest case of its own call, and only so many fit."""
    ledger = await open_ledger(tmp_path, SystemClock())
    try:
        most = Usage(input=10, output=OUTPUT_TOKENS_MAX)
        cap = 10.5 * OUTPUT_TOKENS_MAX / 1000
        world = capped(ledger, lambda _: Step(text="yes", usage=most), day=cap)
        outcomes = await asyncio.gather(*(exchange(world.talk(), f"question {n}") for n in range(64)))
        done = [outcome for outcome in outcomes if outcome.status == TurnStatus.DONE]
        refused = [outcome for outcome in outcomes if outcome.status == TurnStatus.REFUSED]
        assert (len(done), len(refused)) == (10, 54)
        assert all(o.error is not None and "limits.usd_per_day" in o.error[1] for o in refused)
        assert len(world.model.sent) == 10
        assert (await ledger.usage(LOCAL)).cost_usd == pytest.approx(10 * OUTPUT_TOKENS_MAX / 1000)
    finally:
        await ledger.close()


# -- circles ---------------------------------------------------------------------------------------------------------
async def test_a_turn_that_goes_in_circles_ends_with_a_sentence(ledger: Commits) -> None:
    """The same call with the same result, so often as the setting says."""
    tool = RecordingTool("read")
    settings = TurnSettings(max_repeats=3)
    world = World(ledger, lambda _: ask("read"), tools=[tool], settings=settings)
    outcome = await exchange(world.talk(), "hi")
    assert outcome.status == TurnStatus.REFUSED
    assert outcome.error is not None
    assert outcome.error[0] == "repeat_limit"
    assert "read" in outcome.error[1]
    assert "3 times" in outcome.error[1]
    assert len(tool.ran) == 3


async def test_a_tool_without_a_bound_of_its_own_is_cut_and_that_is_said(ledger: Commits) -> None:
    """Whoever wrote it: the model sees the start of what it brought, and how much is missing."""

    async def much(*_: object) -> ToolResult:
        return ToolResult(text="ä" * 10_000)

    tool = RecordingTool("read", answer=much)
    settings = TurnSettings(tool_output_bytes=1_001)
    world = World(ledger, [ask("read"), say("done")], tools=[tool], settings=settings)
    talk = world.talk()
    await exchange(talk, "hi")
    result = (await ledger.path(LOCAL, session_of(talk)))[-2]
    assert result.text == "ä" * 500 + "\n[… 18,999 bytes left out: limits.tool_output_bytes is 1,001 …]"


async def test_what_is_left_of_each_cap_can_be_asked(ledger: Commits) -> None:
    """Also before there is a session."""
    world = capped(ledger, [say("yes")], session=5.0, day=100.0)
    talk = world.talk()
    before = await command(talk, "/usage")
    assert "usd_per_day: $0.0000 of the $100 allowed a day spent or set aside, $100.0000 left" in before
    await exchange(talk, "hi")
    for said in (await command(talk, "/usage"), await command(talk, "/status")):
        assert "usd_per_session: $0.0050 of the $5 allowed for a session" in said
        assert "$4.9950 left" in said
        assert "usd_per_user_day" not in said


async def test_what_has_no_known_price_is_not_shown_as_free(ledger: Commits) -> None:
    """Neither alone nor beside calls whose price is known."""
    talk = World(ledger, [say("yes")]).talk()
    await exchange(talk, "hi")
    assert ", cost unknown" in await command(talk, "/status")
    later = capped(ledger, [say("no")], day=100.0).talk(talk.session)
    await exchange(later, "ho")
    for said in (await command(later, "/usage"), await command(later, "/status")):
        assert ", $0.0050 and what 1 call cost, which is unknown" in said


async def test_the_time_of_a_turn_ends_any_tool(ledger: Commits) -> None:
    """One that never returns is cancelled, its outcome is unknown, and the limit is said."""
    never = asyncio.Event()

    async def hang(*_: object) -> ToolResult:
        await never.wait()
        raise AssertionError("nobody sets it")

    tool = RecordingTool("server__hang", answer=hang)
    world = World(ledger, [ask("server__hang")], tools=[tool], settings=TurnSettings(max_seconds=0.05))
    outcome = await exchange(world.talk(), "hi")
    assert (outcome.status, outcome.error and outcome.error[0]) == (TurnStatus.REFUSED, "time_limit")
    assert outcome.error is not None
    assert "0.05 seconds" in outcome.error[1]
    assert [call.state for call in outcome.calls] == [CallState.UNKNOWN]
