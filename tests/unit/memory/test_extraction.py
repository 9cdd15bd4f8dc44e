"""Looking for facts: when, in what, by whom it is paid, and what of it is kept whatever happens meanwhile."""

from __future__ import annotations

import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.adapters.stores.memory.state import Disk
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.ledger.commits import Caps
from clew.domain.ledger.rows import JobRow, JobState
from clew.domain.memory.facts import EXTRACT, FACTS_MAX, Kind, NewFact
from clew.domain.models.answer import FailureKind
from clew.domain.models.request import ModelProfile
from clew.runtime.memory.extraction import GARBAGE_MAX, IDLE_SECONDS
from clew.runtime.ports.models import Cost
from clew.runtime.turns import TurnSettings
from clew.testing.scripted_model import SCRIPTED, Hold, Step, fail, say
from clew.testing.world import command, exchange
from tests.unit.memory.minds import Mind, found, is_looking, noting

pytestmark = pytest.mark.anyio
TEA = noting("tea", "Drinks tea")


async def texts(mind: Mind) -> list[str]:
    return [fact.text for fact in await mind.world.memory.standing(LOCAL)]


async def jobs_of(mind: Mind) -> tuple[JobRow, ...]:
    """Every job there ever was, whatever became of it."""
    disk: Disk = mind.world.ledger._disk  # type: ignore[attr-defined]
    return tuple(disk.state.jobs.values())


async def waiting(mind: Mind) -> tuple[JobRow, ...]:
    return await mind.world.ledger.due_jobs(EXTRACT, None, mind.world.clock.now_ms() + 10**12)


async def test_leaving_a_session_keeps_what_was_said_in_it() -> None:
    """Without waiting: the job is there with the new session, and done later; the fact names its source, and is recalled."""
    mind = Mind(finds=TEA)
    talk = mind.world.talk()
    await exchange(talk, "I drink tea")
    left = talk.session or pytest.fail("no session")
    await command(talk, "/new")
    assert (mind.looked, await texts(mind)) == ([], [])
    (job,) = await waiting(mind)
    assert job.session == left
    await mind.look()
    (fact,) = await mind.world.memory.standing(LOCAL)
    (asked, *_) = await mind.world.ledger.path(LOCAL, left)
    assert (fact.text, fact.session, fact.message, fact.said_at) == (
        "Drinks tea",
        left,
        asked.id,
        asked.created_at,
    )
    await exchange(talk, "hello")
    assert "Drinks tea" in mind.told[-1]
    assert await waiting(mind) == ()


async def test_a_message_is_looked_at_once() -> None:
    """What a job has read is not read again by the next; for one head there is one job."""
    mind = Mind(finds=TEA)
    talk = mind.world.talk()
    await exchange(talk, "I drink tea")
    mind.world.clock.advance(IDLE_SECONDS + 60)
    await mind.look()
    mind.world.clock.advance(120)
    await mind.look()
    assert len(mind.looked) == 1
    await exchange(talk, "and coffee")
    await command(talk, "/new")
    await mind.look()
    mind.world.clock.advance(IDLE_SECONDS + 60)
    await mind.look()
    assert len(mind.looked) == 2
    assert "I drink tea" not in mind.looked[1]
    assert "and coffee" in mind.looked[1]
    assert "Drinks tea" in mind.looked[1], "it is told what is known"


async def test_what_was_read_is_not_read_again_after_undo() -> None:
    """Neither where the session ends there, nor where it goes on from there in another branch."""
    for goes_on in (False, True):
        mind = Mind(finds=TEA)
        talk = mind.world.talk()
        await exchange(talk, "I drink tea")
        await exchange(talk, "and coffee")
        mind.world.clock.advance(IDLE_SECONDS + 60)
        await mind.look()
        await command(talk, "/undo")
        if goes_on:
            await exchange(talk, "and cocoa")
        await command(talk, "/new")
        await mind.look()
        assert ["I drink tea" in asked for asked in mind.looked] == [True, False][: 1 + goes_on]


async def test_only_what_people_and_the_model_said_is_read() -> None:
    """No side session, no imported or temporary one, and of a fork only what is its own; only a person's words are a source."""
    mind = Mind(finds=lambda _: found({"text": "ok", "message": 2}, {"text": "Drinks tea", "message": 99}))
    talk = mind.world.talk()
    await exchange(talk, "I drink tea")
    first = talk.session or pytest.fail("no session")
    await mind.world.services.desk.side(LOCAL, first, "background", title="beside", cwd="/")
    await command(talk, "/branch")
    await exchange(talk, "in the fork")
    mind.world.clock.advance(IDLE_SECONDS + 60)
    await mind.look()
    assert len(mind.looked) == 2
    assert sorted("I drink tea" in asked for asked in mind.looked) == [False, True]
    assert await texts(mind) == []


async def test_a_summary_loses_no_fact() -> None:
    """The commit that puts it in force asks for what it stands for to be looked through; the words themselves are read."""
    mind = Mind(finds=TEA, profile=ModelProfile(name=SCRIPTED, provider="scripted", context_window=8_000))
    talk = mind.world.talk()
    for text in ("I drink tea", "more " * 600, "and on " * 600):
        await exchange(talk, text)
    assert "Summarised" in await command(talk, "/compress")
    (job,) = await waiting(mind)
    assert job.session == talk.session
    await mind.look()
    assert await texts(mind) == ["Drinks tea"]


async def test_older_words_never_take_the_place_of_newer() -> None:
    """In whatever order the jobs are done, and whatever the model says replaces what."""
    mind = Mind()
    talk = mind.world.talk()
    await exchange(talk, "I live in Rome")
    await command(talk, "/new")
    await exchange(talk, "I live in Oslo now")
    await command(talk, "/new")
    old, new = await waiting(mind)
    mind.finds = noting("Oslo", "Lives in Oslo")
    await mind.world.jobs._attempted(
        await mind.world.ledger.take_job(new, mind.world.owners.me) or pytest.fail("taken")
    )
    (oslo,) = await mind.world.memory.standing(LOCAL)
    mind.finds = noting("Rome", "Lives in Rome", replaces=oslo.id)
    await mind.world.jobs._attempted(
        await mind.world.ledger.take_job(old, mind.world.owners.me) or pytest.fail("taken")
    )
    assert len(mind.looked) == 2
    assert await mind.world.memory.standing(LOCAL) == (oslo,)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "no",
        "[",
        "[}",
        "]x[",
        '{"text": "tea"}',
        "[1]",
        '[{"a":' * 100_000,
        '["tea"]',
        '[{"text": 1, "message": 1}]',
        '[{"text": "tea"}]',
        "\0",
    ],
)
async def test_garbage_is_no_fact(answer: str) -> None:
    """It is an attempt that came to nothing, is paid for, and the model is asked so often and no more; then it is said."""
    mind = Mind(finds=lambda _: answer)
    talk = mind.world.talk()
    await exchange(talk, "I drink tea")
    left = talk.session or pytest.fail("no session")
    await command(talk, "/new")
    before = (await mind.world.ledger.usage(LOCAL, left)).calls
    for attempt in range(1, GARBAGE_MAX + 2):
        await mind.look()
        mind.world.clock.advance(10_000)
        assert len(mind.looked) == min(attempt, GARBAGE_MAX)
    assert (await mind.world.ledger.usage(LOCAL, left)).calls == before + GARBAGE_MAX
    (job,) = await jobs_of(mind)
    assert (job.state, await texts(mind)) == (JobState.FAILED, [])
    assert job.error == "The model's answer holds no list of facts."


@pytest.mark.parametrize(
    "entry",
    [
        {"text": "x" * 100_000}, {"text": " \n "}, {"text": "tea", "kind": "secret"}, {"text": "tea", "confidence": 7},
        {"text": "The key is sk-proj-0123456789abcdef"}, {"text": "tea", "message": -1}, {"text": "tea", "message": 2}, {"text": "tea", "replaces": 4711},
    ],
)  # fmt: skip
async def test_an_entry_that_is_no_fact_is_left_out(entry: dict[str, object]) -> None:
    """And the others of the same answer are kept."""
    mind = Mind(finds=lambda _: found({"message": 1, **entry}, {"text": "Has a cat", "message": 1}))
    talk = mind.world.talk()
    await exchange(talk, "I drink tea")
    await command(talk, "/new")
    await mind.look()
    assert await texts(mind) == ["Has a cat"]


@pytest.mark.parametrize(
    "answer",
    [
        'Message [1] says it.\n[{"text": "Has a cat", "message": 1}]\nSee [1].',
        '<think>Perhaps [{"text": "Has a dog", "message": 1}]?</think> [{"text": "Has a cat", "message": "1"}]',
        '[{"text": "Has a dog", "message": "one"}, 7, {"text": "Has a cat", "message": 1, "tags": []}]',
        '[{] [{"text": "Has a cat", "message": 1, "replaces": null}], and [] of their work',
    ],
)
async def test_a_model_may_talk_around_its_list(answer: str) -> None:
    """Or get an entry wrong: what can be read of its last list is kept."""
    mind = Mind(finds=lambda _: answer)
    talk = mind.world.talk()
    await exchange(talk, "I have a cat")
    await command(talk, "/new")
    await mind.look()
    assert await texts(mind) == ["Has a cat"]


async def test_it_is_tried_again_when_the_model_cannot_be_reached() -> None:
    """And the words are still there then."""
    failures = [fail(FailureKind.NETWORK), fail(FailureKind.CUT)]

    def answer(request: object) -> Step:
        if not is_looking(request):  # type: ignore[arg-type]
            return say("ok")
        return failures.pop() if failures else say(found({"text": "Drinks tea", "message": 1}))

    mind = Mind()
    mind.world.model._script = answer
    talk = mind.world.talk()
    await exchange(talk, "I drink tea")
    await command(talk, "/new")
    for _ in range(3):
        await mind.look()
        mind.world.clock.advance(1_000)
    assert await texts(mind) == ["Drinks tea"]


async def test_what_it_costs_is_capped() -> None:
    """At the cap it waits for the next day, and no attempt counts; where no price is known it is given up, and said why."""
    prices: list[Cost | None] = [Cost(usd=0.0, source="t")]
    caps = Caps(usd_per_day=1.0)
    mind = Mind(finds=TEA, settings=TurnSettings(caps=caps), price=lambda _: prices[0])
    talk = mind.world.talk()
    await exchange(talk, "I drink tea")
    await command(talk, "/new")
    prices[0] = Cost(usd=2.0, source="t")
    await mind.look()
    (job,) = await jobs_of(mind)
    assert (job.attempts, job.state, mind.looked) == (0, JobState.QUEUED, [])
    assert 0 < job.next_at - mind.world.clock.now_ms() <= 86_400_000
    mind.world.clock.advance(86_400)
    prices[0] = None
    await mind.look()
    (job,) = await jobs_of(mind)
    assert (job.state, mind.looked) == (JobState.FAILED, [])
    assert "No price is known" in (job.error or "")


async def test_a_full_memory_asks_no_model() -> None:
    """Doctor says it."""
    mind = Mind(finds=TEA)
    talk = mind.world.talk()
    await exchange(talk, "I drink tea")
    many = tuple(NewFact(kind=Kind.USER, text=f"fact {n}", said_at=1) for n in range(FACTS_MAX))
    await mind.world.ledger.keep_facts(LOCAL, many, 1)
    await command(talk, "/new")
    await mind.look()
    (job,) = await jobs_of(mind)
    assert (job.state, mind.looked) == (JobState.FAILED, [])
    assert "no room" in (job.error or "")


class Held:
    """A mind whose model stands still over the first conversation it looks through."""

    def __init__(self, ledger: MemoryLedger, owner: str = "me") -> None:
        self.hold = Hold()
        self.mind = Mind(ledger, owner=owner, seed=7)
        self.mind.world.model._script = self._answer

    def _answer(self, request: object) -> Step:
        if not is_looking(request):  # type: ignore[arg-type]
            return say("ok")
        return say(self.hold, found({"text": "Drinks tea", "message": 1}))

    async def left(self) -> SessionId:
        """Somebody has left a session in which they spoke of tea, and its job is under way."""
        talk = self.mind.world.talk()
        await exchange(talk, "I drink tea")
        session = talk.session or pytest.fail("no session")
        await command(talk, "/new")
        await self.mind.world.jobs.look()
        await self.hold.reached()
        return session


async def test_a_turn_waits_for_nothing_of_it() -> None:
    """While the model looks for facts, people go on; what it found is there afterwards."""
    held = Held(MemoryLedger())
    await held.left()
    assert (await exchange(held.mind.world.talk(), "meanwhile")).text == "ok"
    held.hold.release()
    await held.mind.world.jobs.settled()
    assert await texts(held.mind) == ["Drinks tea"]


async def test_a_process_that_dies_over_it_loses_nothing() -> None:
    """The next one asks again, and the facts are there once, whenever the first had ended."""
    ledger = MemoryLedger()
    dying = Held(ledger, "dying")
    await dying.left()
    other = Mind(ledger, finds=TEA, owner="other")
    await other.look()
    assert await texts(other) == []
    other.world.clock.advance(1)
    await other.look()
    assert await texts(other) == []
    other.world.owners.dead.add("dying")
    await other.look()
    assert await texts(other) == ["Drinks tea"]
    dying.hold.release()
    await dying.mind.world.jobs.settled()
    assert await texts(other) == ["Drinks tea"]


async def test_what_is_forgotten_or_deleted_meanwhile_does_not_come_back() -> None:
    """Whatever the model finds after that in what was said before."""
    for deletes in (False, True):
        held = Held(MemoryLedger())
        world = held.mind.world
        await world.memory.add(LOCAL, "Something else")
        session = await held.left()
        if deletes:
            await world.ledger.forget(LOCAL, session, world.clock.now_ms())
        else:
            await world.memory.forget(LOCAL, "else")
        held.hold.release()
        await world.jobs.settled()
        assert await texts(held.mind) == (["Something else"] if deletes else [])


async def test_what_is_forgotten_between_two_parts_is_known_no_more() -> None:
    """A long conversation is looked through in parts, which takes time."""
    profile = ModelProfile(name=SCRIPTED, provider="scripted", context_window=8_000)
    mind, hold = Mind(profile=profile), Hold()
    talk = mind.world.talk()
    await exchange(talk, "more " * 5_000)
    await command(talk, "/memory add Drinks tea")
    await command(talk, "/new")
    mind.world.model._script = lambda _: say(hold, "[]")
    await mind.world.jobs.look()
    await hold.reached()
    await command(talk, "/memory forget tea")
    hold.release()
    await mind.world.jobs.settled()
    assert len(mind.looked) > 1
    assert ["Drinks tea" in asked for asked in mind.looked] == [True] + [False] * (len(mind.looked) - 1)


async def test_of_a_deleted_session_nothing_more_is_asked() -> None:
    """Under a cap, where the next call could be set aside nowhere."""
    profile = ModelProfile(name=SCRIPTED, provider="scripted", context_window=8_000)
    settings = TurnSettings(caps=Caps(usd_per_day=100.0))
    mind, hold = (
        Mind(profile=profile, settings=settings, price=lambda _: Cost(usd=0.01, source="test")),
        Hold(),
    )
    talk = mind.world.talk()
    await exchange(talk, "more " * 5_000)
    left = talk.session
    await command(talk, "/new")
    mind.world.model._script = lambda _: say(hold, "[]")
    await mind.world.jobs.look()
    await hold.reached()
    await command(mind.world.talk(left), f"/delete {left}")
    hold.release()
    await mind.world.jobs.settled()
    assert len(mind.looked) == 1
    assert await waiting(mind) == ()


async def test_a_forgotten_fact_is_in_no_later_request() -> None:
    """Also after older sessions were looked through, after a summary, after a restart, and in other words."""
    ledger = MemoryLedger()
    profile = ModelProfile(name=SCRIPTED, provider="scripted", context_window=8_000)
    mind = Mind(ledger, finds=TEA, profile=profile)
    older, talk = mind.world.talk(), mind.world.talk()
    await exchange(older, "as I said, tea is what I drink")
    talk.session = (await mind.world.services.desk.open(LOCAL, talk.place)).row.id
    await exchange(talk, "I drink tea")
    await command(talk, "/new")
    await mind.look()
    await exchange(talk, "hello")
    assert "Drinks tea" in mind.told[-1]
    await command(talk, "/memory forget tea")
    mind.finds = noting("tea", "Is fond of the leaves of Camellia")
    restarted = Mind(ledger, finds=mind.finds, profile=profile, owner="restarted", seed=1)
    for each in (mind, restarted):
        each.world.clock.advance(IDLE_SECONDS + 1_000)
        await each.look()
    going_on = restarted.world.talk(talk.session)
    for text in ("more " * 600, "and on " * 600, "what do you know of me?"):
        await exchange(going_on, text)
    await command(going_on, "/compress")
    await command(going_on, "/new")
    await restarted.look()
    await exchange(going_on, "what do I drink? tea? leaves?")
    assert restarted.looked, "it was looked for again"
    for told in restarted.told:
        assert "Drinks tea" not in told
        assert "Camellia" not in told
    assert await texts(restarted) == []


async def test_no_word_from_before_a_fact_was_forgotten_is_looked_through() -> None:
    """So that no model can take it for something said since; what is said afterwards is looked through."""
    mind = Mind(finds=noting("tea|now", "Is fond of Camellia"))
    talk = mind.world.talk()
    await command(talk, "/memory add Drinks tea")
    await exchange(talk, "I drink tea")
    await command(talk, "/memory forget tea")
    await command(talk, "/new")
    await mind.look()
    assert mind.looked == [], "nobody is paid for reading what may bring nothing"
    talk.session = (await mind.world.ledger.sessions(LOCAL))[0].id
    await exchange(talk, "and now?")
    await command(talk, "/new")
    await mind.look()
    (asked,) = mind.looked
    assert "and now?" in asked
    assert "I drink tea" not in asked


async def test_its_cost_is_the_sessions_that_it_reads() -> None:
    """As rows of what was used, for /usage and for the caps."""
    mind = Mind(finds=TEA)
    talk = mind.world.talk()
    await exchange(talk, "I drink tea")
    left = talk.session or pytest.fail("no session")
    before = await mind.world.ledger.usage(LOCAL, left)
    await command(talk, "/new")
    await mind.look()
    after = await mind.world.ledger.usage(LOCAL, left)
    assert (after.calls - before.calls, after.input - before.input, after.output - before.output) == (
        1,
        10,
        5,
    )
