"""What requests are told of what is remembered: which facts, whose, in which words, and nothing that is stored."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import LOCAL, FactId, PrincipalId
from clew.domain.ledger.rows import OpKind
from clew.domain.memory.facts import Fact, Kind, standing, trace_of
from clew.domain.memory.recall import (
    CORE_MAX,
    RECALLED_CHARACTERS_MAX,
    RECALLED_MAX,
    core,
    core_text,
    line,
    ranked_by,
    recalled,
    recalled_text,
    without,
)
from clew.domain.models.answer import FailureKind, Usage
from clew.domain.models.request import ModelProfile
from clew.domain.tools.spec import ToolResult
from clew.domain.turn.prefix import Instructions, freeze
from clew.domain.turn.prompt import canonical
from clew.runtime.archive.formats import ExportFormat, export
from clew.runtime.ports.people import NobodyToAsk, nobody_watches
from clew.testing.scripted_model import SCRIPTED, Hold, ask, fail, say
from clew.testing.world import RecordingTool, World, command, exchange
from tests.unit.memory.minds import Mind, words_of

pytestmark = pytest.mark.anyio
DAY = 86_400_000


def fact(number: int, text: str, **rest: object) -> Fact:
    plain = Fact(
        id=FactId(number), owner=LOCAL, kind=Kind.USER, text=text, session=None, message=None, confidence=0.9,
        supersedes=None, said_at=number * DAY, created_at=0,
    )  # fmt: skip
    return msgspec.structs.replace(plain, **rest)


def texts(facts: tuple[Fact, ...]) -> list[str]:
    return [each.text for each in facts]


def test_a_fact_is_found_by_the_words_that_tell_it() -> None:
    """What few facts have counts most, then the newer; filler finds nothing; any script works."""
    facts = (
        fact(1, "Drinks green tea"), fact(2, "Works on the tea shop"), fact(3, "Likes the sea"), fact(4, "喜欢喝绿茶"),
        fact(5, "Lives in Köln"),
    )  # fmt: skip
    assert texts(ranked_by(facts, "which green teas?")) == ["Drinks green tea", "Works on the tea shop"]
    assert texts(ranked_by(facts, "TEA")) == ["Works on the tea shop", "Drinks green tea"]
    assert texts(ranked_by(facts, "绿茶怎么样")) == ["喜欢喝绿茶"]
    assert texts(ranked_by(facts, "koln")) == ["Lives in Köln"]
    assert ranked_by(facts, "the user is in it") == ranked_by(facts, "") == ranked_by((), "tea") == ()


def test_what_is_recalled_is_bounded() -> None:
    """In number and in characters, and without what is known from the prompt."""
    many = tuple(fact(n, f"tea {n}") for n in range(1, 100))
    assert len(recalled(many, "tea", ())) == RECALLED_MAX
    assert recalled(many, "tea", many) == ()
    long = tuple(fact(n, f"tea {'x' * 490}") for n in range(1, 9))
    assert sum(len(each.text) for each in recalled(long, "tea", ())) <= RECALLED_CHARACTERS_MAX
    assert recalled(many, "x" * 1_000_000 + " tea", ()) == ()


def test_the_core_is_what_there_was_then() -> None:
    """The same whatever was learned later; only what was forgotten is missing; unsure facts are not in it."""
    rome, oslo = fact(1, "Lives in Rome"), fact(3, "Lives in Oslo", supersedes=1)
    guess, work = fact(2, "Maybe has a cat", confidence=0.4), fact(4, "Writes Rust", kind=Kind.WORK)
    assert texts(core((rome, guess), 2)) == texts(core((rome, guess, oslo, work), 2)) == ["Lives in Rome"]
    assert texts(core((rome, guess, oslo, work), 4)) == ["Lives in Oslo", "Writes Rust"]
    assert core((rome,), 0) == ()
    assert core_text(()) == ""
    many = (*tuple(fact(n, f"w{n}", kind=Kind.WORK) for n in range(1, 60)), fact(60, "Is called Ann"))
    assert len(core(many, 60)) == CORE_MAX
    assert "Is called Ann" in texts(core(many, 60))


def test_a_prompt_without_a_fact_is_as_if_it_had_never_been_known() -> None:
    """Byte for byte, whatever else stands in it, down to no facts at all."""
    facts = (fact(1, "Likes tea"), fact(2, "Is called Ann"))
    model = ModelProfile(name="m", provider="scripted")
    own = Instructions(source="AGENTS.md", text=f"Note:\n{line(facts[0])}\n")
    for instructions in ((), (own,)):
        prompts = [
            freeze(model, (), instructions, core_text(known)).system_prompt
            for known in (facts, facts[1:], facts[:1], ())
        ]
        assert without(prompts[0], facts[0]) == prompts[1]
        assert without(prompts[0], facts[1]) == prompts[2]
        assert without(prompts[1], facts[1]) == without(prompts[2], facts[0]) == prompts[3]
        assert without(prompts[1], facts[0]) == prompts[1]
        assert without(prompts[3], facts[0]) == prompts[3]


def test_no_fact_can_close_the_tag_around_it() -> None:
    text = "Likes </memory> & <b>"
    assert (core_text((fact(1, text),)) + recalled_text((fact(1, text),))).count("</memory>") == 2


def test_a_trace_tells_the_words_and_holds_none() -> None:
    """In whatever order, case and number they come; with another salt it is another."""
    assert trace_of("The user likes dark roses.", "s") == trace_of("likes Dark rose", "s")
    assert trace_of("likes dark roses", "s") != trace_of("likes dark roses", "t")
    assert trace_of("does not like roses", "s") != trace_of("likes roses", "s")
    assert "rose" not in trace_of("likes dark roses", "s")


async def test_a_session_begins_with_what_is_known_and_recalls_the_rest() -> None:
    """The core in its prompt, later facts beside the message they belong to; nothing of it is in any stored text."""
    mind = Mind()
    talk = mind.world.talk()
    await command(talk, "/memory add Is called Ann")
    await exchange(talk, "hello")
    await command(talk, "/memory add Drinks green tea")
    await exchange(talk, "what about tea?")
    await exchange(talk, "and now?")
    first, second, third = (sent.request for sent in mind.world.model.sent)
    assert "Is called Ann" in first.system
    assert first.system == second.system == third.system
    assert ["Drinks green tea" in told for told in mind.told] == [False, True, False]
    assert canonical(third.messages).startswith(canonical(first.messages)[:-2])
    session = talk.session or pytest.fail("no session")
    stored = "".join(message.text for message in await mind.world.ledger.path(LOCAL, session))
    assert "Ann" not in stored
    assert "green" not in stored
    kinds = [op.kind for op in await mind.world.ledger.ops(LOCAL, session)]
    assert kinds.count(OpKind.REFREEZE) == 1


async def test_without_facts_requests_are_as_if_there_were_no_memory() -> None:
    """Byte for byte."""
    plain, mind = World(MemoryLedger(), [say("ok")] * 2), Mind()
    for talk in (plain.talk(), mind.world.talk()):
        for text in ("hello", "again"):
            await exchange(talk, text)
    assert [sent.request for sent in plain.model.sent] == [sent.request for sent in mind.world.model.sent]


async def test_another_process_begins_requests_as_the_first_did() -> None:
    """What was learned meanwhile changes no prompt: request N is a prefix of request N+1, also after a restart."""
    ledger = MemoryLedger()
    one = Mind(ledger)
    talk = one.world.talk()
    await command(talk, "/memory add Is called Ann")
    await exchange(talk, "hello")
    await command(talk, "/memory add Is called Anna")
    two = Mind(ledger)
    await exchange(two.world.talk(talk.session), "again")
    assert one.world.model.sent[0].request.system == two.world.model.sent[0].request.system


async def test_nobody_is_told_what_is_remembered_of_another() -> None:
    """Not where both may write: a turn of each is told their own at most, and in a shared session none of the owner's."""
    ann, bob = PrincipalId("ann"), PrincipalId("bob")
    mind = Mind()
    for who, text in ((ann, "Lives in Rome"), (bob, "Lives in Oslo")):
        await mind.world.ledger.add_principal(who, who, "user")
        await mind.world.memory.add(who, text)
    hers, his = mind.world.talk(principal=ann), mind.world.talk(principal=bob)
    await exchange(hers, "where do I live?")
    session = hers.session or pytest.fail("no session")
    his.session = None
    await mind.world.ledger.share(ann, session, bob, "write")
    guest = mind.world.talk(session, principal=bob)
    await exchange(guest, "where do I live?")
    assert ["Rome" in told for told in mind.told] == [True, False]
    assert ["Oslo" in told for told in mind.told] == [False, False]
    assert "Oslo" not in await command(hers, "/memory")
    his.session = session
    await command(his, "/branch")
    fork = his.session or pytest.fail("no session")
    assert fork != session
    assert await mind.world.ledger.prefix(bob, fork) is None
    await exchange(his, "where do I live?")
    assert ("Rome" in mind.told[-1], "Oslo" in mind.told[-1]) == (False, True)
    assert "Rome" not in await command(guest, "/memory")


@pytest.mark.parametrize("wanted", ExportFormat)
async def test_no_export_holds_a_fact(wanted: ExportFormat) -> None:
    """Of anybody's: neither what the prompt was frozen with nor what a turn recalled, in one's own session, in one that is
    shared, and in a fork of that. What was said is in it."""
    ann, bob = PrincipalId("ann"), PrincipalId("bob")
    mind = Mind()
    for who, text in ((ann, "Lives in Rome"), (bob, "Lives in Oslo")):
        await mind.world.ledger.add_principal(who, who, "user")
        await mind.world.memory.add(who, text)
    hers, his = mind.world.talk(principal=ann), mind.world.talk(principal=bob)
    for talk in (hers, his):
        await exchange(talk, "where do I live?")
        await command(talk, "/memory add Keeps bees")
        await exchange(talk, "how are my bees?")
    assert [("Rome" in told, "Oslo" in told, "Keeps bees" in told) for told in mind.told[1::2]] == [
        (True, False, True), (False, True, True),
    ]  # fmt: skip
    shared = hers.session or pytest.fail("no session")
    await mind.world.ledger.share(ann, shared, bob, "write")
    guest = mind.world.talk(shared, principal=bob)
    await exchange(guest, "where do I live?")
    await command(guest, "/branch")
    await exchange(guest, "where do I live?")
    ledger = mind.world.ledger
    for who, session in ((ann, shared), (bob, shared), (bob, guest.session), (bob, his.session)):
        assert session is not None
        exported = b"".join([chunk async for chunk in export(ledger, who, session, wanted, whole_tree=True)])
        assert b"where do I live?" in exported
        assert [fact for fact in (b"Rome", b"Oslo", b"Keeps bees") if fact in exported] == []


async def test_what_is_forgotten_is_in_no_later_request() -> None:
    """Neither in the next turn nor in one that runs: its next step begins with another prompt, without a word about it."""

    async def forgets(*_: object) -> ToolResult:
        if len(world.model.sent) == 3:
            await world.memory.forget(LOCAL, "Ann")
            await world.memory.forget(LOCAL, "tea")
        return ToolResult(text="done")

    call = ask("look")
    tools = [RecordingTool("look", answer=forgets)]
    world = World(MemoryLedger(), [say("ok"), call, call, say("ok"), say("ok")], tools=tools, remembers=True)
    talk = world.talk()
    await command(talk, "/memory add Is called Ann")
    await exchange(talk, "hello")
    await command(talk, "/memory add Drinks green tea")
    await exchange(talk, "tea, Ann?")
    await exchange(talk, "and now?")
    told = [words_of(sent.request).replace("tea, Ann?", "") for sent in world.model.sent]
    assert ["Ann" in each for each in told] == [True, True, True, False, False]
    assert ["tea" in each for each in told] == [False, True, True, False, False]
    row = await world.ledger.session(LOCAL, talk.session or pytest.fail("no session"))
    prefix = await world.ledger.prefix(LOCAL, row.id)
    assert prefix is not None
    assert prefix.system_prompt == world.model.sent[-1].request.system


@pytest.mark.parametrize("fails", [False, True])
async def test_what_is_forgotten_as_a_turn_begins_is_in_none_of_its_requests(fails: bool) -> None:
    """Nor does the turn put it back into the prompt that is kept; the same while its first request waits for a summary, even one that fails."""
    hold, kind = Hold(), FailureKind.SERVER
    profile = ModelProfile(name=SCRIPTED, provider="scripted", context_window=8_000)
    answer = msgspec.structs.replace(say("ok"), usage=Usage())  # its estimates stand
    for_summary = [fail(kind, "down", hold)] if fails else [say(hold, "This was said."), answer]
    script = [answer] * 3 + for_summary + [answer]
    world = World(MemoryLedger(), script, profile=profile, remembers=True)
    talk = world.talk()
    await command(talk, "/memory add Is called Ann")
    await command(talk, "/memory add Drinks green tea")
    turn = await talk.say("hello, Ann", nobody_watches, NobodyToAsk())
    await command(talk, "/memory forget Ann")
    await turn.finish()
    await exchange(talk, "more " * 2_000)
    await exchange(talk, "and on " * 1_000)
    running = asyncio.create_task(exchange(talk, "so on " * 1_800))
    await hold.reached()
    await command(talk, "/memory forget tea")
    hold.release()
    await running
    told = [words_of(sent.request).replace("hello, Ann", "") for sent in world.model.sent]
    assert not any("Ann" in each for each in told)
    assert ["tea" in each for each in told] == [True] * 3 + [False] * (len(for_summary) + 1)
    assert "so on so on" in told[-1]
    prefix = await world.ledger.prefix(LOCAL, talk.session or pytest.fail("no session"))
    assert prefix is not None
    assert prefix.system_prompt == world.model.sent[-1].request.system


async def test_a_temporary_talk_is_told_nothing_and_leaves_nothing() -> None:
    """Its commands say so."""
    mind = Mind()
    await mind.world.memory.add(LOCAL, "Is called Ann")
    assert texts(standing(await mind.world.ledger.facts(LOCAL))) == ["Is called Ann"]
    temporary = msgspec.structs.replace(Mind().world.services, memory=None)
    mind.world.services = msgspec.structs.replace(mind.world.services, in_memory=lambda _: temporary)
    talk = mind.world.talk()
    await command(talk, "/temporary")
    with pytest.raises(Exception, match="Nothing is kept of a temporary talk"):
        await talk.command("/memory add x")
