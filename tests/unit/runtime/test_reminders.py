"""The `schedule` tool, and what reminders do to the session they are said in."""

from __future__ import annotations

import json

import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.adapters.tools.schedule import schedule_tool
from clew.domain.conversation.ids import LOCAL
from clew.domain.conversation.messages import Role, Status
from clew.domain.tools.policy import ApprovalMode
from clew.runtime.ports.people import Consent, NobodyToAsk, nobody_watches
from clew.runtime.ports.reminders import KIND
from clew.runtime.turns.openings import Hear
from clew.testing.scripted_model import Hold, Step, ask, say
from clew.testing.world import TERMINAL, Answers, GivenTools, World, command, exchange

pytestmark = pytest.mark.anyio


def scheduling(**arguments: object) -> Step:
    return ask("schedule", json.dumps(arguments))


def world_of(*steps: Step, mode: ApprovalMode = ApprovalMode.ALL) -> World:
    world = World(MemoryLedger(), steps, mode=mode)
    tools = GivenTools([schedule_tool(world.reminders)])
    world.services = msgspec.structs.replace(world.services, toolmaker=tools)
    return world


async def results(world: World) -> list[tuple[Status, str]]:
    (row,) = await world.ledger.sessions(LOCAL)
    return [(m.status, m.text) for m in await world.ledger.path(LOCAL, row.id) if m.role == Role.TOOL]


async def test_the_model_keeps_lists_and_cancels() -> None:
    """Under the id of its call, so that the same call again keeps nothing new; what it gets wrong is one sentence."""
    world = world_of(
        scheduling(action="create", when="in 20m", text="tea"),
        scheduling(action="list"),
        scheduling(action="create", when="yesterday", text="tea"),
        scheduling(action="cancel", number=99),
        say("done"),
    )
    talk = world.talk()
    await exchange(talk, "remind me of tea in 20 minutes")
    (row,) = await world.ledger.jobs(LOCAL, KIND)
    session = talk.session or pytest.fail("no session")
    assert row.key == f"{session}-1-1-0"
    assert (await world.reminders.ask(LOCAL, session, "in 5 hours other", row.key)).count("“tea”") == 1
    assert await world.ledger.jobs(LOCAL, KIND) == (row,)
    (_, kept), (_, listed), (wrong, nonsense), (missing, nobodys) = await results(world)
    assert kept.startswith(f"Reminder {row.id}: “tea”, ")
    assert listed == kept.removeprefix("Reminder ").partition(". It is said")[0]
    assert (wrong, missing) == (Status.ERROR, Status.ERROR)
    assert "I do not understand when “yesterday tea” is" in nonsense
    assert nobodys == "There is no reminder 99; /remind list shows them."
    assert "schedule" in await command(talk, "/undo")
    assert await world.ledger.jobs(LOCAL, KIND) == (row,)


async def test_keeping_one_is_asked_about_like_an_edit() -> None:
    """In the mode `ask` the person decides; refused, nothing is kept."""
    world = world_of(scheduling(action="create", when="in 20m", text="tea"), say("ok"), mode=ApprovalMode.ASK)
    asker = Answers(Consent.NO)
    await exchange(world.talk(), "go", approver=asker)
    assert [question.line for question in asker.asked] == ["remind in 20m: tea"]
    assert await world.ledger.jobs(LOCAL, KIND) == ()


async def test_a_branch_from_a_reminders_turn_holds_what_was_said_before() -> None:
    """While the turn that an event began still runs, /branch starts behind the last turn that ended; /why and /undo know it."""
    held = Hold()
    world = World(MemoryLedger(), [say("hello"), Step(deltas=(held, "told"))])
    talk = world.talk()
    await exchange(talk, "hi")
    await command(talk, "/remind in 20m tea")
    world.clock.advance(1200)
    due, _ = await world.reminders.due("terminal")
    session = talk.session or pytest.fail("no session")
    assert await world.reminders.fire(due[0], TERMINAL, session) == "Reminder: tea"
    assert await world.reminders.fire(due[0], TERMINAL, session) is None
    opening = await talk.next_opening()
    assert isinstance(opening, Hear)
    turn = await talk.begin(opening, nobody_watches, NobodyToAsk())
    branched = await world.services.desk.branch(LOCAL, session, TERMINAL)
    assert [m.text for m in await world.ledger.path(LOCAL, branched.id)] == ["hi", "hello"]
    held.release()
    await turn.finish()
    assert await talk.next_opening() is None
    talk.session = session
    assert "told at its start of the event “Reminder" in await command(talk, "/why")
    assert "back to before “hi”" in await command(talk, "/undo")
