"""Reminders in the terminal: said in the chat that is open, or in the next one."""

from __future__ import annotations

import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import LOCAL
from clew.domain.conversation.messages import Role
from clew.runtime.commands import CommandError
from clew.testing.scripted_model import say
from clew.testing.world import World
from tests.unit.chat.test_loop import chatting

pytestmark = pytest.mark.anyio


async def test_what_was_due_meanwhile_is_said_by_the_next_chat() -> None:
    """Asked for as the first thing in one chat, it is said when the next is opened, with the time it was due; the model is told by an
    event, and answers; once."""
    world = World(MemoryLedger(), [say("Your tea is ready.")])
    async with chatting(world) as chat:
        chat.types("/remind in 20m tea")
        await chat.paper.shows("“tea”")
        assert "It is said in the terminal" in chat.paper.text
        session = chat.talk.session
    world.clock.advance(3600)
    async with chatting(world) as chat:
        await chat.paper.shows("Your tea is ready.")
        assert "Reminder: tea (was due " in chat.paper.text
        path = await world.ledger.path(LOCAL, chat.talk.session or pytest.fail("no session"))
        assert [m.role for m in path] == [Role.EVENT, Role.ASSISTANT]
        assert chat.talk.session != session
        chat.types("/remind list")
        await chat.paper.shows("There are no reminders.")
    async with chatting(world) as chat:
        chat.types("/remind list")
        await chat.paper.shows("There are no reminders.")
        assert "Reminder: tea" not in chat.paper.text


async def test_a_temporary_talk_keeps_none() -> None:
    """No word of it is kept, so none is said later."""
    world = World(MemoryLedger(), [])
    talk = world.talk()
    talk.services = msgspec.structs.replace(talk.services, reminders=None)
    with pytest.raises(CommandError, match="Nothing is kept of a temporary talk"):
        await talk.command("/remind in 20m tea")
