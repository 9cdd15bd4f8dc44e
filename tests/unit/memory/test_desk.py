"""`/memory` and the `memory` tool: what people and models do with facts, and what they get wrong."""

from __future__ import annotations

import json

import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.adapters.tools.memory import memory_tool
from clew.domain.conversation.ids import LOCAL
from clew.domain.conversation.messages import Role, Status
from clew.domain.memory.facts import FACTS_MAX, Kind, NewFact
from clew.domain.tools.policy import ApprovalMode
from clew.runtime.commands import CommandError
from clew.runtime.memory.desk import MemoryDesk
from clew.testing.scripted_model import Step, ask, say
from clew.testing.world import GivenTools, HandClock, SeededChance, World, command, exchange

pytestmark = pytest.mark.anyio


async def test_facts_are_kept_listed_and_forgotten() -> None:
    """By their numbers or by words that one has; the reply to forgetting says what stays, and where."""
    talk = World(MemoryLedger(), remembers=True).talk()
    assert "/memory add" in await command(talk, "/memory")
    assert await command(talk, "/memory add Drinks  green\n tea") == "Kept: 1: “Drinks green tea”"
    assert (
        await command(talk, "/memory add drinks green TEA") == "That is known already: 1: “Drinks green tea”"
    )
    await command(talk, "/memory add Drinks black coffee")
    assert await command(talk, "/memory list") == "1: “Drinks green tea”\n2: “Drinks black coffee”"
    told = await command(talk, "/memory forget coffee")
    assert told.startswith("Forgotten: 2: “Drinks black coffee”")
    assert "stays in the history of its session until /delete" in told
    await command(talk, "/memory forget 1")
    assert "Nothing is remembered" in await command(talk, "/memory list")
    assert (await command(talk, "/memory add Drinks green tea")).startswith("Kept: ")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("/memory forget", "takes the number of a fact"),
        ("/memory forget   ", "takes the number of a fact"),
        ("/memory forget 1 2", "takes one number; nothing was forgotten"),
        ("/memory forget 99", "There is no fact 99"),
        ("/memory forget " + "9" * 5000, "There is no fact 9999"),
        ("/memory forget nonsense", "There is no fact nonsense"),
        ("/memory forget the", "There is no fact the"),
        ("/memory forget drinks", "Facts 1, 2 all say that"),
        ("/memory add", "needs words"),
        ("/memory add …!?", "needs words"),
        ("/memory add " + "tea " * 25_000, "at most 500 characters, and this has 99,999"),
        ("/memory add my key is sk-proj-0123456789abcdef", "looks like a key"),
        ("/memory frobnicate 1", "takes list, add TEXT or forget N"),
        ("/memory list everything", "takes list, add TEXT or forget N"),
    ],
)
async def test_what_makes_no_sense_changes_nothing(typed: str, said: str) -> None:
    """One short sentence, whatever was typed."""
    talk = World(MemoryLedger(), remembers=True).talk()
    for text in ("Drinks green tea", "Drinks black coffee"):
        await command(talk, f"/memory add {text}")
    with pytest.raises(CommandError) as caught:
        await talk.command(typed)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 200
    assert (await command(talk, "/memory")).count("\n") == 1


async def test_a_full_memory_says_so() -> None:
    """And takes more once something was forgotten."""
    ledger = MemoryLedger()
    talk = World(ledger, remembers=True).talk()
    many = tuple(NewFact(kind=Kind.USER, text=f"fact x{n}x", said_at=1) for n in range(FACTS_MAX))
    await ledger.keep_facts(LOCAL, many, 1)
    assert (await command(talk, "/memory list")).endswith("clew memory list shows all of them.")
    with pytest.raises(CommandError, match=f"{FACTS_MAX} facts are remembered"):
        await talk.command("/memory add one more")
    await command(talk, "/memory forget x7x")
    await command(talk, "/memory add one more")


async def test_switched_off_it_keeps_nothing_and_still_forgets() -> None:
    """What was remembered before can be seen and taken back."""
    ledger = MemoryLedger()
    desk = MemoryDesk(ledger, HandClock(), SeededChance())
    await desk.add(LOCAL, "Drinks tea")
    talk = World(ledger).talk()
    with pytest.raises(CommandError, match="switched off"):
        await talk.command("/memory add Drinks coffee")
    assert await command(talk, "/memory list") == "1: “Drinks tea”"
    await command(talk, "/memory forget tea")
    assert await ledger.facts(LOCAL) == ()


def remembering(**arguments: object) -> Step:
    return ask("memory", json.dumps(arguments))


def world_of(*steps: Step) -> World:
    world = World(MemoryLedger(), steps, mode=ApprovalMode.ALL, remembers=True)
    world.services = msgspec.structs.replace(
        world.services, toolmaker=GivenTools([memory_tool(world.memory)])
    )
    return world


async def test_the_model_keeps_finds_replaces_and_forgets() -> None:
    """For whoever the turn is for; what it gets wrong is one sentence, and the turn goes on."""
    world = world_of(
        remembering(action="add", text="Lives in Oslo", number=1),
        remembering(action="search", text="where do they live? Oslo?"),
        remembering(action="search", text="zebra"),
        remembering(action="add", text="x" * 501),
        remembering(action="add", text="Lives in Bern", number=1),
        remembering(action="forget", number=0),
        remembering(action="forget", number=2),
        remembering(action="add", text="The user has a CAT"),
        say("done"),
    )
    for text in ("Lives in Rome", "Has a cat"):
        await world.memory.add(LOCAL, text)
    talk = world.talk()
    assert (await exchange(talk, "I moved")).text == "done"
    path = await world.ledger.path(LOCAL, talk.session or pytest.fail("no session"))
    results = [(m.status, m.text.split("\n")[0]) for m in path if m.role == Role.TOOL]
    (oslo,) = await world.memory.standing(LOCAL)
    assert [text for _, text in results[:3]] == [
        f"Kept: {oslo.id}: “Lives in Oslo”", f"{oslo.id}: “Lives in Oslo”", "Nothing is remembered of that.",
    ]  # fmt: skip
    assert [status for status, _ in results[3:]] == [
        Status.ERROR, Status.ERROR, Status.ERROR, Status.OK, Status.ERROR,
    ]  # fmt: skip
    assert "the person had it forgotten" in results[-1][1]
    assert oslo.supersedes == 1


async def test_what_the_model_keeps_names_its_source() -> None:
    """The session and the message, so that it goes when that is deleted."""
    world = world_of(remembering(action="add", text="Lives in Rome"), say("done"))
    talk = world.talk()
    await exchange(talk, "I live in Rome")
    session = talk.session or pytest.fail("no session")
    (fact,), (asked, *_) = await world.ledger.facts(LOCAL), await world.ledger.path(LOCAL, session)
    assert (fact.session, fact.message, fact.confidence) == (session, asked.id, 0.9)
    assert "What was remembered of it (1) is forgotten." in await command(talk, f"/delete {session}")
    assert await world.ledger.facts(LOCAL) == ()
