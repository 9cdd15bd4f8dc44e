"""Titles and reviews: beside the conversation, at no cost to it, whatever else happens to the session."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.conversation.messages import Role
from clew.domain.ledger.commits import Caps
from clew.domain.ledger.rows import OpKind, Origin
from clew.domain.models.answer import FailureKind
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.domain.tools.policy import ApprovalMode
from clew.domain.turn.prompt import canonical
from clew.runtime.afterwards import REVIEW_TASK, TITLE_PROMPT, Afterwards
from clew.runtime.ports.people import NobodyToAsk, nobody_watches
from clew.runtime.talk import Talk
from clew.runtime.turns import TurnSettings
from clew.testing.invariants import check
from clew.testing.scripted_model import Hold, Step, fail, say
from clew.testing.virtual_time import simulate
from clew.testing.world import World, command, exchange

pytestmark = pytest.mark.anyio
Answer = Callable[[], Step]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
        self, step: Callable[[ModelRequest], Step], *, review: bool = False, **world: object
    ) -> None:
        self.after = Afterwards(titles=True, review=review, model=None)
        self.world = World(MemoryLedger(), step, after=self.after, **world)  # type: ignore[arg-type]
        self.talk = self.world.talk()
        self.titled = 0
        self.talk.titled = self._titled

    def _titled(self) -> None:
        self.titled += 1

    async def say(self, text: str) -> None:
        await exchange(self.talk, text)

    async def title(self) -> str | None:
        await self.after.settled()
        return (await self.talk.services.ledger.session(LOCAL, self.session)).title

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
    await followed.after.settled()
    assert (followed.titled, len(followed.world.model.sent)) == (1, 3)


async def test_a_title_that_a_person_gave_stays() -> None:
    """Before the first turn, while the title is being written, and when it is no other than the first words."""
    hold = Hold()
    followed = Followed(script(title=lambda: Step(deltas=(hold, "Too late"))))
    await followed.say("hello")
    await hold.reached()
    assert await command(followed.talk, "/title hello") == "Titled “hello”."
    hold.release()
    assert await followed.title() == "hello"
    assert (await followed.world.ledger.usage(LOCAL, followed.session)).calls == 2
    followed = Followed(script())
    await command(followed.talk, "/new Mine")
    await followed.say("hello")
    assert (await followed.title(), followed.titled, len(followed.world.model.sent)) == ("Mine", 0, 1)


@pytest.mark.parametrize(
    "answer",
    [say(""), say("x" * 200), fail(FailureKind.SERVER), say("  \n\n ")],
    ids=["empty", "long", "failed", "blank"],
)
async def test_what_is_no_title_changes_nothing(answer: Step) -> None:
    """The first words stay, and nobody hears of it; it is tried again after the next two turns, and not for ever."""
    followed = Followed(script(title=lambda: answer))
    for n in range(5):
        await followed.say(f"hello {n}")
        assert await followed.title() == "hello 0"
    asked = [sent for sent in followed.world.model.sent if sent.request.system == TITLE_PROMPT]
    assert (len(asked), followed.titled) == (3, 0)


async def test_some_sessions_are_not_named() -> None:
    """A temporary talk, whose words are kept nowhere; a demo model, which is slow; where no person can see it; over a cap."""
    followed = Followed(
        script(), profile=ModelProfile(name="scripted-model", provider="scripted", is_demo=True)
    )
    await followed.say("hello")
    assert (await followed.title(), len(followed.world.model.sent)) == ("hello", 1)
    followed = Followed(script())
    followed.talk.titled = None
    await followed.say("hello")
    assert (await followed.title(), len(followed.world.model.sent)) == ("hello", 1)
    capped = TurnSettings(approval_mode=ApprovalMode.ALL, caps=Caps(usd_per_session=1.0))
    followed = Followed(script(), settings=capped)  # of no known price: every call is refused
    await followed.say("hello")
    assert (await followed.title(), len(followed.world.model.sent)) == ("hello", 0)


async def test_closing_gives_up_what_runs() -> None:
    """A process that ends waits for no title; what the call took is counted."""
    hold = Hold()
    followed = Followed(script(title=lambda: say("Half a ti", hold)))
    await followed.say("hello")
    await hold.reached()
    await followed.after.close()
    assert await followed.title() == "hello"
    assert (await followed.world.ledger.usage(LOCAL, followed.session)).calls == 2


async def test_a_review_speaks_only_when_it_has_something_to_say() -> None:
    """It reads the turn as it was left, in a session of its own; what it says is an event of the next turn, once."""
    followed = Followed(script(review=lambda: say("There are four.")), review=True)
    await followed.say("how many?")
    before = await followed.world.ledger.session(LOCAL, followed.session)
    await followed.after.settled()
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
    """Not what was said meanwhile, nor the path that an undo has left."""
    followed = Followed(script(), review=True)
    outcomes = [await exchange(followed.world.talk(), "first")]
    session = outcomes[0].handle.session
    outcomes.append(await exchange(followed.world.talk(session), "second"))
    await command(followed.world.talk(session), "/undo 2")
    for outcome in outcomes:
        followed.after.follow(followed.world.talk(session), outcome)
    await followed.after.settled()
    sides = await followed.world.ledger.children(LOCAL, session)
    shown = [[m.text for m in await followed.world.ledger.path(LOCAL, side.id)] for side in sides]
    answer, tail = "there are three", [REVIEW_TASK, "nothing"]
    assert sorted(shown) == [["first", answer, *tail], ["first", answer, "second", answer, *tail]]


async def conversation(seed: int, turns: int, *, beside: bool) -> tuple[list[bytes], list[str]]:
    """Turns one after the other, each begun the moment the one before has ended. Returns the conversation's own requests,
    and what is on its path at the end."""
    chance = random.Random(seed)

    def step(request: ModelRequest) -> Step:
        if request.system == TITLE_PROMPT:
            return say("A title" if chance.random() < 0.1 else "")
        return say("nothing") if REVIEW_TASK in str(request.messages[-1]) else say("yes")

    followed = Followed(step, review=True)
    if not beside:
        followed.talk.titled = None
    talk: Talk = followed.talk
    for n in range(turns):
        turn = await talk.say(f"message {n}", nobody_watches, NobodyToAsk())
        await turn.finish()
    await followed.after.settled()
    ledger, session = followed.world.ledger, talk.session
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
