"""Titles and reviews: beside the conversation, at no cost to it, whatever else happens to the session."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import msgspec
import pytest

from clew.adapters.stores.memory import Disk, MemoryLedger
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.conversation.messages import Role
from clew.domain.ledger.commits import Caps, MoveJob, NewJob
from clew.domain.ledger.errors import StoreUnusable
from clew.domain.ledger.jobs import REVIEW, TITLE, TITLE_TURNS
from clew.domain.ledger.rows import JobRow, JobState, OpKind, Origin
from clew.domain.models.answer import FailureKind
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.domain.tools.policy import ApprovalMode
from clew.domain.turn.prompt import canonical
from clew.runtime.afterwards import REVIEW_TASK, TITLE_ATTEMPTS, TITLE_PROMPT
from clew.runtime.jobs import ATTEMPTS_MAX
from clew.runtime.ports.models import Cost
from clew.runtime.ports.people import NobodyToAsk, nobody_watches
from clew.runtime.talk import Talk
from clew.runtime.turns import TurnSettings
from clew.testing.invariants import check
from clew.testing.scripted_model import Hold, Step, fail, say
from clew.testing.virtual_time import Program, simulate
from clew.testing.world import HandClock, StandingClock, World, command, exchange

pytestmark = pytest.mark.anyio
Answer = Callable[[], Step]


def script(
    title: Answer = lambda: say("Fruit, counted"), review: Answer = lambda: say("nothing")
) -> Callable[[ModelRequest], Step]:
    def step(request: ModelRequest) -> Step:
        if request.system == TITLE_PROMPT:
            return title()
        return review() if REVIEW_TASK in str(request.messages[-1]) else say("there are three")

    return step


class Followed:
    """A world whose turns are followed, and one talk in it. `titled` counts what the surface was told."""

    def __init__(
        self,
        step: Callable[[ModelRequest], Step],
        *,
        review: bool = False,
        ledger: MemoryLedger | None = None,
        session: SessionId | None = None,
        **world: object,
    ) -> None:
        follows = frozenset({TITLE, REVIEW} if review else {TITLE})
        self.world = World(ledger or MemoryLedger(), step, follows=follows, **world)  # type: ignore[arg-type]
        self.talk = self.world.talk(session)
        self.titled = 0
        self.talk.titled = self._titled

    def _titled(self) -> None:
        self.titled += 1

    async def say(self, text: str) -> None:
        await exchange(self.talk, text)

    async def follow(self, seconds: float = 0) -> None:
        """What is due by then is done."""
        self.world.clock.advance(seconds)
        await self.world.jobs.look()
        await self.world.jobs.settled()

    async def title(self) -> str | None:
        await self.follow()
        return (await self.talk.services.ledger.session(LOCAL, self.session)).title

    async def job(self, kind: str, key: str | None = None) -> JobRow:
        """What became of one, by its key; the session's own without."""
        new = NewJob(kind=kind, key=key or self.session, owner=LOCAL, session=self.session, next_at=0)
        return await self.world.ledger.add_job(new, most=0)

    @property
    def asked(self) -> tuple[int, int]:
        """How often the model was asked for a title, and for a review."""
        sent = [sent.request for sent in self.world.model.sent]
        titles = sum(request.system == TITLE_PROMPT for request in sent)
        return titles, sum(REVIEW_TASK in str(request.messages[-1]) for request in sent)

    @property
    def session(self) -> SessionId:
        assert self.talk.session is not None
        return self.talk.session


async def test_an_untitled_session_is_given_a_title_once() -> None:
    """After its first turn, from what was said in it; the head stays, the call is counted as its own, the surface is told,
    and no later turn asks again."""
    followed = Followed(script())
    await followed.say("count the apples in the basket")
    row = await followed.world.ledger.session(LOCAL, followed.session)
    assert row.title == "count the apples in the basket"
    assert await followed.title() == "Fruit, counted"
    after = await followed.world.ledger.session(LOCAL, row.id)
    assert (after.handle.head, after.handle.version) == (row.handle.head, row.handle.version + 1)
    assert (await followed.world.ledger.usage(LOCAL, row.id)).calls == 2
    shown = followed.world.model.sent[1].request
    assert "count the apples" in str(shown.messages)
    assert "there are three" in str(shown.messages)
    assert (followed.titled, len(followed.world.model.sent)) == (1, 2)
    await followed.say("and the pears")
    await followed.follow(3600)
    assert (followed.titled, len(followed.world.model.sent)) == (1, 3)


async def test_a_title_that_a_person_gave_stays() -> None:
    """Before the first turn, while the title is being written, and when it is no other than the first words."""
    hold = Hold()
    followed = Followed(script(title=lambda: Step(deltas=(hold, "Too late"))))
    await followed.say("hello")
    writing = asyncio.create_task(followed.title())
    await hold.reached()
    assert await command(followed.talk, "/title hello") == "Titled “hello”."
    hold.release()
    assert await writing == "hello"
    assert (await followed.world.ledger.usage(LOCAL, followed.session)).calls == 2
    followed = Followed(script())
    await command(followed.talk, "/new Mine")
    await followed.say("hello")
    assert (await followed.title(), followed.titled, len(followed.world.model.sent)) == ("Mine", 0, 1)


@pytest.mark.parametrize("answer", ["", "x" * 200, "  \n\n "], ids=["empty", "long", "blank"])
async def test_what_is_no_title_changes_nothing(answer: str) -> None:
    """The first words stay, and nobody hears of it; it is tried again a little later, not after each turn, and not for ever."""
    followed = Followed(script(title=lambda: say(answer)))
    for n in range(5):
        await followed.say(f"hello {n}")
        assert await followed.title() == "hello 0"
    assert followed.asked == (1, 0)
    for _ in range(TITLE_ATTEMPTS + 2):
        await followed.follow(3600)
    assert (followed.asked, followed.titled) == ((TITLE_ATTEMPTS, 0), 0)
    assert (await followed.job(TITLE)).state == JobState.DONE


async def test_a_model_that_fails_is_asked_again_until_it_is_given_up() -> None:
    """More and more rarely; what it was given up for is kept. A model that is there again brings what was asked for."""
    answers = [fail(FailureKind.SERVER), fail(FailureKind.SERVER), say("Late")]
    followed = Followed(script(title=lambda: answers.pop(0)))
    await followed.say("hello")
    for seconds in (0, 1, 30, 30, 60):
        await followed.follow(seconds)
    assert (await followed.title(), followed.titled, followed.asked) == ("Late", 1, (3, 0))
    broken = fail(FailureKind.SERVER)
    followed = Followed(script(title=lambda: broken, review=lambda: broken), review=True)
    await followed.say("hello")
    for _ in range(ATTEMPTS_MAX + 5):
        await followed.follow(24 * 3600)
    assert followed.asked == (ATTEMPTS_MAX, ATTEMPTS_MAX)
    for job in (await followed.job(TITLE), await followed.job(REVIEW, f"{followed.session}:1")):
        assert (job.state, bool(job.error)) == (JobState.FAILED, True)
    (side,) = await followed.world.ledger.children(LOCAL, followed.session)
    assert side.end_reason == "failed"


async def test_over_a_cap_a_review_waits_for_the_next_day() -> None:
    """It is no attempt; then it is done."""
    settings = TurnSettings(approval_mode=ApprovalMode.ALL, caps=Caps(usd_per_day=1.5))
    followed = Followed(
        script(review=lambda: say("There are four.")), review=True, settings=settings,
        price=lambda _: Cost(usd=1.0, source="test"),
    )  # fmt: skip
    await followed.say("how many?")
    await followed.follow()
    assert (followed.asked, (await followed.job(REVIEW, f"{followed.session}:1")).attempts) == ((0, 0), 0)
    await followed.follow(24 * 3600)
    assert sum(followed.asked) == 1, "one of the two, and the day is over"
    await followed.follow(24 * 3600)
    assert followed.asked == (1, 1)
    (event,) = await followed.world.ledger.queued(LOCAL, followed.session)
    assert "There are four." in event.body


async def test_some_sessions_are_not_named() -> None:
    """A temporary talk, whose words are kept nowhere; a demo model, which is slow; where no person can see it; over a cap."""
    followed = Followed(
        script(), profile=ModelProfile(name="scripted-model", provider="scripted", is_demo=True)
    )
    await followed.say("hello")
    assert (await followed.title(), len(followed.world.model.sent)) == ("hello", 1)
    followed = Followed(script())
    titled, followed.talk.titled = followed.talk.titled, None
    for _ in range(TITLE_TURNS):
        await followed.say("hello")
    assert (await followed.title(), followed.asked) == ("hello", (0, 0))
    followed.talk.titled = titled
    await followed.say("and there it has had its name for long")
    assert (await followed.title(), followed.asked) == ("hello", (0, 0))
    capped = TurnSettings(approval_mode=ApprovalMode.ALL, caps=Caps(usd_per_session=1.0))
    followed = Followed(script(), settings=capped)  # of no known price: every call is refused
    await followed.say("hello")
    assert (await followed.title(), len(followed.world.model.sent)) == ("hello", 0)


async def test_a_process_that_ends_gives_back_what_it_is_at() -> None:
    """It waits for neither; what its calls took is counted, and the next process does both at once."""
    hold, disk, clock = Hold(), Disk(), HandClock()
    slow = Step(deltas=("Half a ti", hold))
    followed = Followed(
        script(lambda: slow, lambda: slow), review=True, ledger=MemoryLedger(disk), clock=clock
    )
    await followed.say("hello")
    jobs = asyncio.create_task(followed.world.jobs.run())
    while followed.asked != (1, 1):  # noqa: ASYNC110 - a model sets no event
        await asyncio.sleep(0)
    await hold.reached()
    jobs.cancel()
    await asyncio.wait([jobs])
    ledger, session = followed.world.ledger, followed.session
    (side,) = await ledger.children(LOCAL, session)
    assert [(await ledger.usage(LOCAL, each)).calls for each in (session, side.id)] == [2, 1]
    answered = script(review=lambda: say("No."))
    after = Followed(
        answered, review=True, ledger=MemoryLedger(disk), session=session, clock=clock, owner="two"
    )
    assert await after.title() == "Fruit, counted"
    done = (await after.job(TITLE), await after.job(REVIEW, f"{session}:1"))
    assert [(job.state, job.attempts) for job in done] == [(JobState.DONE, 1)] * 2
    assert (after.asked, len(await ledger.queued(LOCAL, session))) == ((1, 1), 1)


class Unwritten(MemoryLedger):
    """The first ends of jobs cannot be written, which looks like a process that died just then."""

    left = 4
    """Of each an end, and that it came to nothing."""

    async def move_job(self, move: MoveJob) -> bool:
        if self.left:
            self.left -= 1
            raise StoreUnusable("The disk is full; nothing was written.")
        return await super().move_job(move)


async def test_what_is_done_again_brings_nothing_twice() -> None:
    """It had been done but for its own end: neither model is asked again, nobody is told again."""
    ledger = Unwritten()
    followed = Followed(script(review=lambda: say("No.")), review=True, ledger=ledger)
    await followed.say("hello")
    await followed.follow()
    assert (ledger.left, (await followed.job(TITLE)).state) == (0, JobState.QUEUED)
    assert await followed.title() == "Fruit, counted"
    assert (await followed.job(TITLE)).state == JobState.DONE
    assert (await followed.job(REVIEW, f"{followed.session}:1")).state == JobState.DONE
    assert (followed.asked, followed.titled, len(await ledger.queued(LOCAL, followed.session))) == (
        (1, 1),
        1,
        1,
    )


async def test_switched_off_it_costs_nothing() -> None:
    """No job is kept with a turn, whatever came of it; a surface that goes away at once asks for none either."""
    disk = Disk()
    for seed, (follows, titled) in enumerate([(frozenset[str](), True), (frozenset({TITLE, REVIEW}), False)]):
        world = World(MemoryLedger(disk), script(), follows=follows, seed=seed)
        talk = world.talk()
        talk.titled = (lambda: None) if titled else None
        await exchange(talk, "hello")
    assert disk.state.jobs == {}


def test_nobody_waits_until_it_is_looked_for() -> None:
    """A process that does jobs begins what a turn of its own has asked for when that turn ends."""

    async def run() -> None:
        followed, loop, told = Followed(script()), asyncio.get_running_loop(), asyncio.Event()
        followed.talk.services = msgspec.structs.replace(followed.talk.services, jobs=followed.world.jobs)
        followed.talk.titled = told.set
        jobs = asyncio.create_task(followed.world.jobs.run())
        began = loop.time()
        await followed.say("hello")
        await told.wait()
        assert loop.time() == began
        jobs.cancel()
        await asyncio.wait([jobs])

    simulate(0, run())


@pytest.mark.parametrize("seed", range(24))
def test_killed_at_any_instant_each_is_there_once(seed: int) -> None:
    """Twice over, in the middle of the turn or of what follows it: one title, one review, one event of what it says."""
    simulate(seed, _killed_twice(random.Random(seed)))


async def _killed_twice(chance: random.Random) -> None:
    disk, session, clock = Disk(), None, HandClock()
    answered = script(review=lambda: say("There are four."))
    for life in range(3):
        followed = Followed(
            answered,
            review=True,
            ledger=MemoryLedger(disk),
            session=session,
            owner=str(life),
            seed=life,
            clock=clock,
        )
        followed.world.owners.dead |= {str(before) for before in range(life)}
        process = Program()
        running = process.start(_lived(followed))
        for _ in range(chance.randrange(160) if life < 2 else 1_000_000):
            if running.done():
                break
            await asyncio.sleep(0)
        process.kill()
        session = followed.talk.session or session
    assert session is not None
    ledger = MemoryLedger(disk)
    await check(ledger, LOCAL, session)
    assert (await ledger.session(LOCAL, session)).title == "Fruit, counted"
    assert [op.kind for op in await ledger.ops(LOCAL, session, limit=100)].count(OpKind.TITLE) == 1
    turns = len({m.turn for m in await ledger.path(LOCAL, session) if m.role == Role.ASSISTANT})
    (sides, waiting) = await ledger.children(LOCAL, session), await ledger.queued(LOCAL, session)
    events = [m for m in await ledger.path(LOCAL, session) if m.role == Role.EVENT]
    assert len({side.title for side in sides}) == len(sides) == turns == len(events) + len(waiting)
    assert {side.end_reason for side in sides} == {"done"}
    assert {job.state for job in disk.state.jobs.values()} == {JobState.DONE}


async def _lived(followed: Followed) -> None:
    """A process: goes on with what was left, says something if nothing was, and does what follows."""
    if followed.talk.session is None or not await followed.world.ledger.path(LOCAL, followed.session):
        await exchange(followed.talk, "how many?")
    else:
        await followed.talk.recover(nobody_watches, NobodyToAsk())
    for _ in range(3):
        await followed.follow(3600)


async def test_a_review_speaks_only_when_it_has_something_to_say() -> None:
    """It reads the turn as it was left, in a session of its own; what it says is an event of the next turn, once."""
    followed = Followed(script(review=lambda: say("There are four.")), review=True)
    await followed.say("how many?")
    before = await followed.world.ledger.session(LOCAL, followed.session)
    await followed.follow()
    (side,) = await followed.world.ledger.children(LOCAL, before.id)
    assert (side.origin, side.surface, side.title) == (Origin.SIDE, "review", "review of turn 1")
    assert (await followed.world.ledger.session(LOCAL, before.id)).handle.head == before.handle.head
    seen = [m.text for m in await followed.world.ledger.path(LOCAL, side.id)]
    assert seen == ["how many?", "there are three", REVIEW_TASK, "There are four."]
    await followed.say("sure?")
    path = await followed.world.ledger.path(LOCAL, before.id)
    assert [m.role for m in path] == [Role.USER, Role.ASSISTANT, Role.EVENT, Role.USER, Role.ASSISTANT]
    assert path[2].text == "A review of the answer in turn 1 says: There are four."


async def test_a_review_that_comes_late_reads_its_own_turn() -> None:
    """Not what was said meanwhile, nor the path that an undo has left; one that is tried again begins where it stands."""
    followed = Followed(script(), review=True)
    await followed.say("first")
    await followed.say("second")
    await command(followed.talk, "/retry")
    await command(followed.talk, "/undo 2")
    await followed.follow()
    sides = await followed.world.ledger.children(LOCAL, followed.session)
    shown = [[m.text for m in await followed.world.ledger.path(LOCAL, side.id)] for side in sides]
    answer, tail = "there are three", [REVIEW_TASK, "nothing"]
    second = ["first", answer, "second", answer, *tail]
    assert sorted(shown) == [["first", answer, *tail], second, second]


async def conversation(seed: int, turns: int, *, beside: bool) -> tuple[list[bytes], list[str]]:
    """Turns one after the other, each begun the moment the one before has ended. Returns the conversation's own requests,
    and what is on its path at the end."""
    chance = random.Random(seed)

    def step(request: ModelRequest) -> Step:
        if request.system == TITLE_PROMPT:
            return say("A title" if chance.random() < 0.1 else "")
        return say("nothing") if REVIEW_TASK in str(request.messages[-1]) else say("yes")

    followed = Followed(step, review=True, clock=StandingClock())
    if not beside:
        followed.talk.titled = None
    talk: Talk = followed.talk
    jobs = asyncio.create_task(followed.world.jobs.run())
    for n in range(turns):
        turn = await talk.say(f"message {n}", nobody_watches, NobodyToAsk())
        await turn.finish()
        followed.world.jobs.nudge()
    ledger, session = followed.world.ledger, talk.session
    while await ledger.jobs(LOCAL, REVIEW):  # noqa: ASYNC110 - the ledger sets no event
        await asyncio.sleep(0)
    jobs.cancel()
    await asyncio.wait([jobs])
    assert session is not None
    await check(ledger, LOCAL, session)
    ops = await ledger.ops(LOCAL, session, limit=10_000)
    assert all(op.from_head == op.to_head for op in ops if op.kind == OpKind.TITLE)
    row = await ledger.session(LOCAL, session)
    assert len(await ledger.branches(LOCAL, session)) == 1
    assert row.handle.head.seq == 2 * turns
    sides = await ledger.children(LOCAL, session)
    assert len(sides) == (turns if beside else 0)
    for side in sides:  # each has seen the conversation up to its own turn
        number = int((side.title or "").removeprefix("review of turn "))
        assert (side.handle.head.seq, side.end_reason) == (2 * number + 2, "done")
    own = [
        canonical(sent.request.messages)
        for sent in followed.world.model.sent
        if sent.request.system != TITLE_PROMPT and REVIEW_TASK not in str(sent.request.messages)
    ]
    return own, [message.text for message in await ledger.path(LOCAL, session)]


@pytest.mark.parametrize("seed", range(2))
def test_what_goes_on_beside_a_conversation_changes_no_byte_of_it(seed: int) -> None:
    """A hundred turns with reviews and titles, released together with the next message: one head, the same requests as
    with neither, and no word of theirs in its history."""
    quiet = simulate(seed, conversation(seed, 100, beside=False))
    busy = simulate(seed, conversation(seed, 100, beside=True))
    assert busy == quiet
