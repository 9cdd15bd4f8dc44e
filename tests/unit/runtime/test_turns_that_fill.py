"""Turns whose conversation fills the model's window: summarised before, inside, after; and what cannot fit, said once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Final

import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import LOCAL
from clew.domain.models.answer import FailureKind, Usage
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.domain.tools.spec import ToolResult
from clew.domain.turn.prompt import canonical
from clew.runtime.commands import CommandError
from clew.runtime.compaction import CompactionSettings
from clew.runtime.ports.people import NobodyToAsk, Noticed, TurnNews, nobody_watches
from clew.runtime.turns import TurnStatus
from clew.testing.invariants import check
from clew.testing.scripted_model import Hold, Step, ask, fail
from clew.testing.virtual_time import simulate
from clew.testing.world import RecordingTool, World, command, exchange

on_a_loop = pytest.mark.anyio
WINDOW: Final = 4_000
TOLD: Final = "word " * 100


def is_summary(request: ModelRequest) -> bool:
    return request.system.startswith("You write the notes")


def reply(text: str) -> Step:
    """An answer whose provider counts nothing, so that estimates stand."""
    return Step(text=text, usage=Usage())


def answering(
    talk: Callable[[ModelRequest], Step] = lambda _: reply("fine"),
    notes: Callable[[ModelRequest], Step] = lambda _: reply("## Goal\nThe notes."),
) -> Callable[[ModelRequest], Step]:
    return lambda request: notes(request) if is_summary(request) else talk(request)


def world(script: Callable[[ModelRequest], Step], window: int = WINDOW, **more: object) -> World:
    profile = ModelProfile(
        name="scripted-model", provider="scripted", context_window=window, is_window_known=True
    )
    return World(MemoryLedger(), script, profile=profile, **more)  # type: ignore[arg-type]


def requests(of: World, *, summaries: bool = False) -> list[str]:
    return [
        canonical(sent.request.messages).decode()
        for sent in of.model.sent
        if is_summary(sent.request) == summaries
    ]


def notices(news: list[TurnNews]) -> list[str]:
    return [item.text for item in news if isinstance(item, Noticed)]


@on_a_loop
async def test_a_turn_is_preceded_by_a_summary_when_the_window_fills() -> None:
    """The person is told once; the next requests begin with the summary and grow from there; the id stays."""
    here = world(answering())
    talk = here.talk()
    news: list[TurnNews] = []
    for n in range(40):
        assert (await exchange(talk, f"{n} {TOLD}", news=news)).status == TurnStatus.DONE
    told = notices(news)
    assert told
    assert all("/expand takes it back" in text for text in told)
    session = talk.session
    assert session is not None
    row = await here.ledger.session(LOCAL, session)
    summaries = await here.ledger.summaries(LOCAL, session)
    assert len(summaries) == len(told)
    assert row.handle.summary == summaries[-1].id
    sent = requests(here)
    assert all(len(text) < WINDOW * 8 for text in sent)
    assert "The notes." in sent[-1]
    breaks = sum(not later.startswith(sooner[:-1]) for sooner, later in pairwise(sent))
    assert breaks == len(summaries)
    assert len(await here.ledger.path(LOCAL, session)) == 80
    await check(here.ledger, LOCAL, session)


@on_a_loop
async def test_a_long_turn_is_summarised_inside() -> None:
    """After a batch of tools; its question stays byte for byte, and no call is run twice."""

    async def much(*_: object) -> ToolResult:
        return ToolResult(text="line of a file " * 60)

    def talk(request: ModelRequest) -> Step:
        steps.append(1)
        return (
            reply("done")
            if len(steps) > 20
            else Step(calls=ask("read", f'{{"n": {len(steps)}}}').calls, usage=Usage())
        )

    steps: list[int] = []
    tool = RecordingTool("read", answer=much)
    here = world(answering(talk), tools=[tool])
    conversation = here.talk()
    news: list[TurnNews] = []
    outcome = await exchange(conversation, "What is in all of them?", news=news)
    assert (outcome.status, outcome.text) == (TurnStatus.DONE, "done")
    assert len(tool.ran) == len({call for call, _ in tool.ran}) == 20
    assert notices(news)
    assert all("What is in all of them?" in text for text in requests(here))
    assert len(requests(here, summaries=True)) <= 4
    assert conversation.session is not None
    await check(here.ledger, LOCAL, conversation.session)


@on_a_loop
async def test_an_overflow_is_answered_by_a_summary_and_another_try() -> None:
    """The provider counts otherwise than the estimate: the person sees the answer, not the error."""

    def talk(request: ModelRequest) -> Step:
        return fail(FailureKind.OVERFLOW) if len(canonical(request.messages)) > 5_000 else reply("fine")

    here = world(answering(talk), window=32_000)
    conversation = here.talk()
    for n in range(12):
        assert (await exchange(conversation, f"{n} {TOLD}")).status == TurnStatus.DONE
    assert requests(here, summaries=True)


@on_a_loop
async def test_one_huge_message_costs_few_calls_and_one_clear_error() -> None:
    """200 kB into 8k: said in one sentence, kept in history; the next short message is answered."""
    here = world(answering(), window=8_000)
    talk = here.talk()
    news: list[TurnNews] = []
    huge = "lorem ipsum " * 17_000
    outcome = await exchange(talk, huge, news=news)
    assert outcome.status == TurnStatus.FAILED
    assert outcome.error is not None
    assert outcome.error[0] == "overflow"
    assert "8,000 tokens" in outcome.error[1]
    assert len(here.model.sent) + len(notices(news)) == 0
    assert (await exchange(talk, "and now?", news=news)).status == TurnStatus.DONE
    assert len(here.model.sent) <= 5
    assert len(notices(news)) == 1
    assert talk.session is not None
    assert (await here.ledger.path(LOCAL, talk.session))[0].text == huge
    assert (await here.ledger.search(LOCAL, "lorem")).hits


@on_a_loop
async def test_where_the_window_is_a_guess_the_provider_is_asked() -> None:
    """What we believe too long may well fit: then the person has an answer."""
    guess = ModelProfile(name="scripted-model", provider="scripted", context_window=8_000)
    here = World(MemoryLedger(), answering(), profile=guess)
    assert (await exchange(here.talk(), "lorem ipsum " * 17_000)).status == TurnStatus.DONE


@pytest.mark.parametrize(
    "broken",
    [
        fail(FailureKind.RATE_LIMITED),
        fail(FailureKind.CUT, "The stream was cut.", "half"),
        Step(usage=Usage()),
        Step(calls=ask("bash").calls, usage=Usage()),
        reply("word " * 200_000),
    ],
)
@on_a_loop
async def test_a_summary_that_fails_stops_no_turn_that_fits(broken: Step) -> None:
    """The person hears of it once in all; the turns go on with the history whole."""
    here = world(answering(notes=lambda _: broken))
    talk = here.talk()
    news: list[TurnNews] = []
    for n in range(28):
        assert (await exchange(talk, f"{n} {TOLD}", news=news)).status == TurnStatus.DONE
    assert len(notices(news)) == 1
    assert "is as it was" in notices(news)[0]
    assert len(requests(here, summaries=True)) == 1
    assert all(f"{n} word" in requests(here)[-1] for n in range(28))


@on_a_loop
async def test_a_stop_comes_before_a_compaction() -> None:
    """A turn stopped before it began makes no summary; one stopped while a summary is made ends at once."""
    hold = Hold()
    here = world(answering(notes=lambda _: Step(deltas=("half", hold), usage=Usage())))
    talk = here.talk()
    while not _is_nearly_full(here):
        await exchange(talk, TOLD)
    turn = await talk.say(TOLD * 4, nobody_watches, NobodyToAsk())
    turn.stop("stopped")
    assert (await turn.finish()).status == TurnStatus.INTERRUPTED
    assert requests(here, summaries=True) == []
    turn = await talk.say(TOLD * 4, nobody_watches, NobodyToAsk())
    running = asyncio.create_task(turn.finish())
    await hold.reached()
    turn.stop("stopped")
    assert (await running).status == TurnStatus.INTERRUPTED
    assert here.model.open_streams == 0
    assert talk.session is not None
    assert await here.ledger.compaction(LOCAL, talk.session) is None
    assert await here.ledger.summaries(LOCAL, talk.session) == ()


def _is_nearly_full(here: World) -> bool:
    return bool(here.model.sent) and len(requests(here)[-1]) > WINDOW * 0.6 * 3


def test_a_summary_is_made_in_the_quiet_after_a_turn() -> None:
    """Not at once, and not while another turn runs; the next turn need not wait for one."""

    async def scenario() -> None:
        here = world(answering())
        talk = here.talk()
        while not _is_nearly_full(here):
            await exchange(talk, TOLD)
        assert talk.session is not None
        while not await here.ledger.summaries(LOCAL, talk.session):
            news: list[TurnNews] = []
            await exchange(talk, TOLD, news=news)
            assert notices(news) == []
            assert requests(here, summaries=True) == []
            await _until_quiet()
        sent = len(requests(here, summaries=True))
        assert 1 <= sent <= 3  # one pass, in as many parts as the window asks for
        await exchange(talk, "short")
        assert len(requests(here, summaries=True)) == sent
        await here.compactor.close()

    simulate(1, scenario())


def test_what_failed_in_the_quiet_is_told_by_the_next_turn_that_needs_it() -> None:
    """Nobody hears of it at the time; then it is said, once, however often it fails in the quiet after each turn."""

    async def scenario() -> None:
        here = world(answering(notes=lambda _: fail(FailureKind.SERVER)))
        talk = here.talk()
        news: list[TurnNews] = []
        while not requests(here, summaries=True):
            await exchange(talk, TOLD, news=news)
            await _until_quiet()
        assert notices(news) == []
        for _ in range(10):
            assert (await exchange(talk, TOLD, news=news)).status == TurnStatus.DONE
            await _until_quiet()
        assert len(requests(here, summaries=True)) > 1
        (told,) = notices(news)
        assert "is as it was" in told
        await here.compactor.close()

    simulate(1, scenario())


async def _until_quiet() -> None:
    """A minute of the loop's own time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(60):
            await asyncio.Event().wait()


@on_a_loop
async def test_compress_and_expand() -> None:
    """On request, with a focus or as a preview; /expand takes it back; each odd use has one answer."""
    here = world(answering(), window=32_000)
    talk = here.talk()
    with pytest.raises(CommandError, match="no session yet"):
        await talk.command("/compress")
    await exchange(talk, "hello")
    with pytest.raises(CommandError, match=r"not make this conversation shorter|nothing yet"):
        await talk.command("/compress")
    with pytest.raises(CommandError, match="no summary to take back"):
        await talk.command("/expand")
    with pytest.raises(CommandError, match="--hard"):
        await talk.command("/compress --hard")
    for n in range(20):
        await exchange(talk, f"{n} {TOLD}")
    assert "Nothing was done." in await command(talk, "/compress --preview")
    assert requests(here, summaries=True) == []
    said = await command(talk, "/compact the tests")
    assert said.startswith("Summarised ")
    assert "brief about the rest: the tests" in requests(here, summaries=True)[-1]
    await exchange(talk, "after")
    assert "The notes." in requests(here)[-1]
    assert "all messages stand by themselves again" in await command(talk, "/expand")
    await exchange(talk, "whole again")
    assert f"0 {TOLD}".strip() in requests(here)[-1]


@on_a_loop
async def test_compress_during_a_turn() -> None:
    """The turn goes on, ends on the same session, and its next request is the shorter one."""
    hold = Hold()
    first = [Step(deltas=("thinking ", hold), calls=ask("read").calls, usage=Usage())]
    here = world(
        answering(
            lambda request: first.pop() if first and "go" in str(request.messages[-1]) else reply("fine")
        ),
        window=32_000,
        tools=[RecordingTool("read")],
    )
    talk = here.talk()
    for n in range(20):
        await exchange(talk, f"{n} {TOLD}")
    turn = await talk.say("go", nobody_watches, NobodyToAsk())
    running = asyncio.create_task(turn.finish())
    await hold.reached()
    assert (await command(talk, "/compress")).startswith("Summarised ")
    hold.release()
    assert (await running).status == TurnStatus.DONE
    assert "The notes." in requests(here)[-1]
    assert len(requests(here)[-1]) < len(requests(here)[-2])
    assert talk.session is not None
    await check(here.ledger, LOCAL, talk.session)


@on_a_loop
async def test_switched_off_nothing_is_summarised_unasked() -> None:
    """The turns go on as long as the provider takes them."""
    here = world(answering(), compaction=CompactionSettings(enabled=False))
    talk = here.talk()
    for n in range(30):
        assert (await exchange(talk, f"{n} {TOLD}")).status == TurnStatus.DONE
    assert requests(here, summaries=True) == []


@on_a_loop
async def test_undo_redo_retry_branch_and_restart_around_a_summary() -> None:
    """Each request is what the rules say: summary, what stands, in order; a fork's summary is its own."""
    here = world(answering(), window=32_000)
    talk = here.talk()
    for n in range(20):
        await exchange(talk, f"{n} {TOLD}")
    await command(talk, "/compress")
    assert talk.session is not None
    (summary,) = await here.ledger.summaries(LOCAL, talk.session)
    stands = [f"{n} word" for n in range(20) if 2 * n + 1 > summary.upto.seq]
    assert 0 < len(stands) < 20

    async def last_request(of: World = here) -> list[str]:
        """Which of the numbered messages it shows, after the summary."""
        sent = requests(of)[-1]
        return [f"{n} word" for n in range(20) if f'"{n} word' in sent and "The notes." in sent]

    await exchange(talk, "next")
    assert await last_request() == stands
    await command(talk, "/undo 2")
    await exchange(talk, "instead")
    assert await last_request() == stands[:-1]
    await command(talk, "/retry")
    assert await last_request() == stands[:-1]
    await command(talk, "/undo")
    parent = talk.session
    await command(talk, "/branch")
    assert talk.session != parent
    await exchange(talk, f"only here {TOLD * 3}")
    assert await last_request() == stands[:-1]
    await command(talk, "/compress")
    assert len(await here.ledger.summaries(LOCAL, parent)) == 1
    profile = ModelProfile(name="scripted-model", provider="scripted", context_window=32_000)
    restarted = World(here.ledger, answering(), profile=profile, owner="later")
    await exchange(restarted.talk(parent), "after the restart")
    assert await last_request(restarted) == stands[:-1]
    assert "only here" not in requests(restarted)[-1]
    back = restarted.talk(parent)
    await command(back, f"/undo {len(stands) + 1}")
    await exchange(back, "before the summary")
    whole = requests(restarted)[-1]
    assert "The notes." not in whole
    assert '"0 word' in whole
    assert await command(back, "/undo")
    assert await command(back, "/redo")
    await check(here.ledger, LOCAL, parent)
    assert (await here.ledger.search(LOCAL, "word", session=parent)).hits
