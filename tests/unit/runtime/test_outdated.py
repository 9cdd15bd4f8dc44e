"""A program that is older than its ledger or its package begins no turn, and ends one that it cannot record."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import LOCAL, PrincipalId, SessionId
from clew.domain.ledger.errors import Outdated
from clew.runtime.ports.people import NobodyToAsk, nobody_watches
from clew.runtime.recovery import Recovery
from clew.runtime.talk import Notify
from clew.runtime.turns import TurnSettings, TurnStatus
from clew.testing.scripted_model import Hold, say
from clew.testing.world import TERMINAL, GivenTools, World, exchange

pytestmark = pytest.mark.anyio


class Package:
    """A package that a test replaces."""

    replaced = False

    def is_replaced(self) -> bool:
        return self.replaced

    def under(self, world: World) -> World:
        world.services = msgspec.structs.replace(world.services, is_replaced=self.is_replaced)
        return world


async def test_no_turn_begins_with_a_replaced_package() -> None:
    """Nothing is asked or written; what is said can still be queued, and waits for the next program."""
    package = Package()
    world = package.under(World(MemoryLedger(), [say("one")]))
    talk = world.talk()
    await exchange(talk, "1")
    package.replaced = True
    with pytest.raises(Outdated, match="start it again"):
        await exchange(talk, "2")
    await talk.queue("2")
    assert talk.session is not None
    assert [m.text for m in await world.ledger.path(LOCAL, talk.session)] == ["1", "one"]
    assert len(await world.ledger.queued(LOCAL, talk.session)) == 1
    assert len(world.model.sent) == 1
    with pytest.raises(Outdated):
        await exchange(world.talk(), "3")
    assert len(await world.ledger.sessions(LOCAL)) == 1


async def test_a_package_replaced_while_a_turn_begins() -> None:
    """What is imported for the turn may be of the newer version: it does not begin."""
    package = Package()

    class SlowTools(GivenTools):
        async def open(
            self, session: SessionId, principal: PrincipalId, cwd: Path, notify: Notify
        ) -> GivenTools:
            package.replaced = True
            return self

    world = package.under(World(MemoryLedger(), [say("never")]))
    world.services = msgspec.structs.replace(world.services, toolmaker=SlowTools(()))
    with pytest.raises(Outdated):
        await exchange(world.talk(), "1")
    assert world.model.sent == []


async def test_what_was_left_open_is_not_gone_on_with_by_an_outdated_program() -> None:
    """Nobody is told again and again that it failed: whoever looks after it hears why, and ends."""
    ledger, package, told = MemoryLedger(), Package(), list[str]()
    killed = World(ledger, [say("never")], owner="killed").talk()
    await killed.say("1", nobody_watches, NobodyToAsk())
    world = package.under(World(ledger, [say("answer")]))
    world.owners.dead.add("killed")
    recovery = Recovery(world.services, TERMINAL, lambda _, sentence: told.append(sentence))
    package.replaced = True
    with pytest.raises(Outdated):
        await recovery.run(lambda: None)
    assert (told, world.model.sent) == ([], [])
    package.replaced = False
    await Recovery(world.services, TERMINAL, lambda _, sentence: told.append(sentence)).once()
    assert len(world.model.sent) == 1


class Migrated(MemoryLedger):
    """A ledger whose beats say that a newer program has migrated it."""

    async def beat(self, session: SessionId, owner: str, epoch: int) -> bool:
        raise Outdated("The ledger is of a newer Clew.")


async def test_a_beat_that_finds_a_newer_ledger_ends_the_turn() -> None:
    """It does not wait for a model that says nothing: nothing of it could be recorded."""
    hold = Hold()
    world = World(Migrated(), [say("half", hold)], settings=TurnSettings(lease_seconds=1000))
    talk = world.talk()
    turn = await talk.say("1", nobody_watches, NobodyToAsk())
    ending = asyncio.create_task(turn.finish())
    await hold.reached()
    turn.look()
    async with asyncio.timeout(10):
        outcome = await ending
    assert (outcome.status, outcome.text) == (TurnStatus.FAILED, "half")
    assert outcome.error == ("outdated", "The ledger is of a newer Clew.")
    assert isinstance(outcome.cause, Outdated)
    assert world.model.open_streams == 0
