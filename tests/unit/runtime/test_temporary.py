"""Temporary talk: nothing that is said is kept, what it used is counted."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.adapters.stores.sqlite import open_ledger
from clew.domain.conversation.ids import LOCAL
from clew.domain.ledger.commits import Caps
from clew.domain.models.answer import Usage
from clew.domain.models.request import ModelProfile
from clew.runtime.compaction import Compactor
from clew.runtime.ports.models import Cost, ModelSource
from clew.runtime.sessions import SessionDesk
from clew.runtime.talk import Services
from clew.runtime.turns import TurnRunner, TurnSettings, TurnStatus
from clew.testing.scripted_model import Step, say
from clew.testing.world import HandClock, World, command, exchange

pytestmark = pytest.mark.anyio


def with_memory(world: World) -> None:
    """Gives a world the services that a temporary talk goes over to."""
    kept = world.services

    def in_memory(models: ModelSource) -> Services:
        store = MemoryLedger()
        runner = TurnRunner(
            ledger=store,
            owners=world.owners,
            clock=kept.clock,
            chance=kept.chance,
            settings=msgspec.structs.replace(kept.runner.settings, caps=Caps()),
            compactor=Compactor(ledger=store, owners=world.owners, models=models, clock=kept.clock),
        )
        desk = SessionDesk(store, kept.clock, kept.chance)
        return msgspec.structs.replace(
            kept, ledger=store, runner=runner, desk=desk, models=models, export=None
        )

    world.services = msgspec.structs.replace(kept, in_memory=in_memory)


def files_with(home: Path, word: bytes) -> list[Path]:
    """The files under a home that hold a word."""
    return [path for path in home.rglob("*") if path.is_file() and word in path.read_bytes()]


async def test_no_word_of_a_temporary_talk_is_in_any_file(tmp_path: Path) -> None:
    """The session before it goes on as it was, and knows nothing of it; its usage is counted."""
    ledger = await open_ledger(tmp_path, HandClock())
    world = World(ledger, [say("kept answer"), say("planted-reply"), say("planted-more"), say("back")])
    with_memory(world)
    talk = world.talk()
    await exchange(talk, "kept words")
    before = talk.session
    assert "nothing that is said is kept" in await command(talk, "/temporary")
    assert talk.is_temporary
    await exchange(talk, "planted-secret one")
    await exchange(talk, "planted-secret two")
    assert "planted-secret one" in str(world.model.sent[2].request.messages)
    assert "kept words" not in str(world.model.sent[1].request.messages)
    assert (await ledger.search(LOCAL, "planted")).hits == ()
    assert "words are gone" in await command(talk, "/temporary")
    assert talk.session == before
    await exchange(talk, "on we go")
    assert "planted" not in str(world.model.sent[3].request.messages)
    assert [row.id for row in await ledger.sessions(LOCAL)] == [before]
    assert (await ledger.usage(LOCAL)).output == 4 * 5
    await ledger.close()
    assert files_with(tmp_path, b"planted") == []


async def test_leaving_the_chat_ends_a_temporary_talk(tmp_path: Path) -> None:
    """And counts what it used."""
    ledger = await open_ledger(tmp_path, HandClock())
    world = World(ledger, [say("x")])
    with_memory(world)
    talk = world.talk()
    await command(talk, "/temporary")
    await exchange(talk, "gone soon")
    await talk.close()
    assert not talk.is_temporary
    assert (await ledger.usage(LOCAL)).output == 5
    assert await ledger.sessions(LOCAL) == ()
    await ledger.close()


async def test_a_temporary_talk_spends_what_the_day_has_left(tmp_path: Path) -> None:
    """It is no way around a cap: what others spend counts in it, before and while it lasts, and what it spends counts for them."""
    ledger = await open_ledger(tmp_path, HandClock())
    cost = Usage(input=0, output=1_000)
    world = World(
        ledger,
        lambda _: Step(text="yes", usage=cost),
        settings=TurnSettings(caps=Caps(usd_per_day=3.0)),
        profile=ModelProfile(name="m", max_output=1_000),
        price=lambda usage: Cost(usd=usage.output / 1_000, source="test"),
    )
    with_memory(world)
    talk = world.talk()
    assert (await exchange(talk, "one")).status == TurnStatus.DONE
    await talk.command("/temporary")
    assert (await exchange(talk, "more")).status == TurnStatus.DONE
    assert (await ledger.usage(LOCAL)).cost_usd == 2.0, "counted as it is used"
    beside = world.talk()
    assert (await exchange(beside, "me too")).status == TurnStatus.DONE
    assert (await exchange(talk, "and more")).status == TurnStatus.REFUSED
    await talk.command("/temporary")
    assert (await exchange(talk, "and now?")).status == TurnStatus.REFUSED
    assert (await ledger.usage(LOCAL)).cost_usd == 3.0
    await ledger.close()
