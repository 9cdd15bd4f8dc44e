"""Undo, redo, retry, branch, resume: what each does when a turn runs, messages wait, or the history is a fork's."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import LOCAL, PrincipalId, SessionId
from clew.domain.conversation.messages import Head
from clew.domain.ledger.errors import NotFound
from clew.domain.ledger.rows import TurnState
from clew.domain.models.answer import AskedCall
from clew.domain.tools.spec import Effect
from clew.runtime.commands import CommandError
from clew.runtime.commands.registry import COMMANDS
from clew.runtime.ports.models import ModelChoice, ModelUnavailable
from clew.runtime.ports.people import NobodyToAsk, nobody_watches
from clew.runtime.sending import QUEUED_MAX
from clew.runtime.talk import Talk
from clew.runtime.turns import NewFile
from clew.testing.scripted_model import Hold, Step, ask, say
from clew.testing.world import Answers, RecordingTool, World, command, exchange

pytestmark = pytest.mark.anyio
STRANGER = PrincipalId("stranger")


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


def session_of(talk: Talk) -> SessionId:
    assert talk.session is not None
    return talk.session


async def said(talk: Talk) -> list[str]:
    return [m.text for m in await talk.services.ledger.path(LOCAL, session_of(talk))]


async def waiting(talk: Talk) -> list[str]:
    return [row.body for row in await talk.services.ledger.queued(LOCAL, session_of(talk))]


async def running(talk: Talk, text: str, hold: Hold) -> asyncio.Task[object]:
    turn = await talk.say(text, nobody_watches, NobodyToAsk())
    task: asyncio.Task[object] = asyncio.create_task(turn.finish())
    await hold.reached()
    return task


# -- undo and redo -----------------------------------------------------------------------------------------------------
async def test_undo_takes_back_the_last_waiting_message_first(ledger: MemoryLedger) -> None:
    """The turn goes on, the other message still waits, and the words come back to be edited."""
    hold = Hold()
    talk = World(ledger, [say("a", hold, "b")]).talk()
    task = await running(talk, "hi", hold)
    await talk.queue("first")
    await talk.queue("second")
    reply = await talk.command("/undo")
    assert "Taken back before it was sent" in reply.text
    assert "1 message is still waiting" in reply.text
    assert (reply.draft, reply.ends_turn) == ("second", False)
    assert len(await waiting(talk)) == 1
    hold.release()
    await task
    assert await said(talk) == ["hi", "ab"]


async def test_undo_of_more_than_waits_takes_turns_too(ledger: MemoryLedger) -> None:
    """In one commit, which ends the running turn; redo brings back the turns."""
    hold = Hold()
    talk = World(ledger, [say("x"), say("a", hold)]).talk()
    await exchange(talk, "one")
    task = await running(talk, "two", hold)
    await talk.queue("three")
    reply = await talk.command("/undo 2")
    assert (reply.draft, reply.ends_turn) == ("two", True)
    await task
    assert await waiting(talk) == []
    assert await said(talk) == ["one", "x"]
    await command(talk, "/redo")
    assert await said(talk) == ["one", "x", "two"]


async def test_undo_of_too_much_does_nothing(ledger: MemoryLedger) -> None:
    """Neither to the turns nor to what waits."""
    hold = Hold()
    talk = World(ledger, [say("a", hold)]).talk()
    task = await running(talk, "hi", hold)
    await talk.queue("later")
    with pytest.raises(CommandError, match="only 1 turn and 1 waiting message"):
        await talk.command("/undo 3")
    assert len(await waiting(talk)) == 1
    hold.release()
    await task
    assert await said(talk) == ["hi", "a"]


async def test_undo_of_every_turn_leaves_the_start(ledger: MemoryLedger) -> None:
    """Head seq 0; the next message begins anew, and redo is then over."""
    world = World(ledger, [say("a"), say("b"), say("c")])
    talk = world.talk()
    await exchange(talk, "1")
    await exchange(talk, "2")
    await command(talk, "/undo 2")
    assert (await ledger.session(LOCAL, session_of(talk))).handle.head.seq == 0
    await exchange(talk, "3")
    assert await said(talk) == ["3", "c"]
    with pytest.raises(CommandError, match="nothing to redo"):
        await command(talk, "/redo")


async def test_undo_in_a_fork_reaches_below_the_fork_point(ledger: MemoryLedger) -> None:
    """And leaves the session it was branched from as it was."""
    world = World(ledger, [say("a"), say("b"), say("c"), say("d")])
    talk = world.talk()
    await exchange(talk, "1")
    await exchange(talk, "2")
    old = session_of(talk)
    await command(talk, "/branch")
    await exchange(talk, "3")
    await command(talk, "/undo 2")
    assert await said(talk) == ["1", "a"]
    await command(talk, "/redo")
    assert await said(talk) == ["1", "a", "2", "b", "3", "c"]
    await command(talk, "/undo 2")
    await exchange(talk, "4")
    assert await said(talk) == ["1", "a", "4", "d"]
    assert await said(world.talk(old)) == ["1", "a", "2", "b"]


@pytest.mark.parametrize("between", ["/title Other", "/mode all", "/model other"])
async def test_redo_looks_through_what_leaves_the_head_alone(ledger: MemoryLedger, between: str) -> None:
    """A title or a setting does not end it."""
    talk = World(ledger, [say("a")]).talk()
    await exchange(talk, "1")
    await command(talk, "/undo")
    await command(talk, between)
    await command(talk, "/redo")
    assert await said(talk) == ["1", "a"]


async def test_undo_keeps_what_happened_before_the_message(ledger: MemoryLedger) -> None:
    """An event stands before the message it was stored with, and was not said by anybody."""
    talk = World(ledger, [say("a"), say("b")]).talk()
    await exchange(talk, "1")
    await talk._notify_for(session_of(talk))("note", "it happened")
    await exchange(talk, "2")
    await command(talk, "/undo")
    assert await said(talk) == ["1", "a", "it happened"]


async def test_undo_counts_only_what_there_is(ledger: MemoryLedger) -> None:
    """Nothing is said of turns where only a message waits."""
    talk = World(ledger, []).talk()
    await talk.queue("waiting")
    with pytest.raises(CommandError, match="There is only 1 waiting message to undo; nothing was done"):
        await command(talk, "/undo 2")


async def test_undo_names_only_effects_that_happened(ledger: MemoryLedger) -> None:
    """A call that was refused has none."""
    tools = [RecordingTool("change", effect=Effect.EDIT)]
    refused = World(ledger, [ask("change", '{"path": "x.py"}'), say("ok")], tools=tools).talk()
    from_no = Answers(None)
    await exchange(refused, "1", approver=from_no)
    assert "Not taken back" not in await command(refused, "/undo")
    ran = World(ledger, [ask("change", '{"path": "x.py"}'), say("ok")], tools=tools, seed=1).talk()
    await command(ran, "/new")
    await command(ran, "/mode all")
    await exchange(ran, "1")
    assert "change x.py" in await command(ran, "/undo")


# -- retry -------------------------------------------------------------------------------------------------------------
async def test_retry_after_undo_answers_the_message_before(ledger: MemoryLedger) -> None:
    """The last one that stands."""
    talk = World(ledger, [say("a"), say("b"), say("c")]).talk()
    await exchange(talk, "1")
    await exchange(talk, "2")
    await command(talk, "/undo")
    await command(talk, "/retry")
    assert await said(talk) == ["1", "c"]


async def test_retry_of_an_interrupted_turn_leaves_its_half_answer_behind(ledger: MemoryLedger) -> None:
    """The request is the first one again."""
    hold = Hold()
    world = World(ledger, [say("half", hold), say("whole")])
    talk = world.talk()
    task = await running(talk, "hi", hold)
    assert talk.running is not None
    talk.running.stop("stopped")
    await task
    await command(talk, "/retry")
    assert await said(talk) == ["hi", "whole"]
    assert world.model.sent[0].request.messages == world.model.sent[1].request.messages


async def test_retry_in_mid_turn_ends_that_turn_and_answers_again(ledger: MemoryLedger) -> None:
    """Whoever ran it need not be waited for by hand."""
    hold = Hold()
    talk = World(ledger, [say("half", hold), say("whole")]).talk()
    task = await running(talk, "hi", hold)
    async with asyncio.timeout(5):
        await command(talk, "/retry")
        await task
    assert await said(talk) == ["hi", "whole"]


async def test_retry_without_a_model_leaves_the_answer(ledger: MemoryLedger) -> None:
    """The head moves when there is somebody to answer."""
    world = World(ledger, [say("a")])
    talk = world.talk()
    await exchange(talk, "1")

    class NoModel:
        async def choose(self, name: str | None) -> ModelChoice:
            raise ModelUnavailable("No model is configured.")

    later = World(ledger, seed=1)
    later.services = msgspec.structs.replace(later.services, models=NoModel())
    with pytest.raises(CommandError, match="No model"):
        await command(later.talk(talk.session), "/retry")
    assert await said(talk) == ["1", "a"]
    assert "No model is configured." in await command(later.talk(talk.session), "/status")


# -- branch and resume -------------------------------------------------------------------------------------------------
async def test_a_branch_in_mid_turn_starts_at_the_last_closed_turn(ledger: MemoryLedger) -> None:
    """The running turn goes on in the old session."""
    hold = Hold()
    world = World(ledger, [say("a"), say("b", hold), say("c")])
    talk = world.talk()
    await exchange(talk, "1")
    task = await running(talk, "2", hold)
    old = session_of(talk)
    assert not (await talk.command("/branch")).ends_turn
    assert await said(talk) == ["1", "a"]
    await exchange(talk, "3")
    hold.release()
    await task
    assert await said(world.talk(old)) == ["1", "a", "2", "b"]


async def test_resume_in_mid_turn_ends_the_turn_that_is_left(ledger: MemoryLedger) -> None:
    """What waits there goes on waiting, and is named."""
    hold = Hold()
    world = World(ledger, [say("a"), say("b", hold)])
    talk = world.talk()
    await exchange(talk, "1")
    first = session_of(talk)
    await command(talk, "/new")
    second = session_of(talk)
    task = await running(talk, "2", hold)
    await talk.queue("later")
    async with asyncio.timeout(5):
        assert f"In {second}, 1 message is still waiting." in await command(talk, f"/resume {first}")
        await task
    turn = await ledger.turn(LOCAL, second)
    assert turn is not None
    assert turn.state == TurnState.INTERRUPTED
    assert talk.session == first


async def test_resuming_the_session_one_is_in_ends_nothing(ledger: MemoryLedger) -> None:
    """Its turn goes on."""
    hold = Hold()
    talk = World(ledger, [say("a", hold, "b")]).talk()
    task = await running(talk, "1", hold)
    await command(talk, f"/resume {session_of(talk)}")
    hold.release()
    await task
    assert await said(talk) == ["1", "ab"]


async def test_a_tip_can_be_resumed_and_an_at_may_stand_in_a_title(ledger: MemoryLedger) -> None:
    """Nothing that was undone is out of reach."""
    talk = World(ledger, [say("a")]).talk()
    await exchange(talk, "1")
    tip: Head = (await ledger.session(LOCAL, session_of(talk))).handle.head
    await command(talk, "/undo")
    await command(talk, "/title mail me@home")
    await command(talk, f"/resume {talk.session}@{tip.branch}.{tip.seq}")
    assert await said(talk) == ["1", "a"]
    await command(talk, "/resume mail me@home")


@pytest.mark.parametrize("tip", ["²", "x", "1.²", "1.2.3", "9" * 30 + ".1", "-1.2", "", "1.", ".1"])
async def test_an_odd_tip_is_one_sentence(ledger: MemoryLedger, tip: str) -> None:
    """Whatever is typed behind the @."""
    talk = World(ledger, [say("a")]).talk()
    await exchange(talk, "1")
    before = (await ledger.session(LOCAL, session_of(talk))).handle
    with pytest.raises(CommandError) as caught:
        await command(talk, f"/resume {talk.session}@{tip}")
    assert "\n" not in str(caught.value)
    assert (await ledger.session(LOCAL, session_of(talk))).handle == before


# -- what waits --------------------------------------------------------------------------------------------------------
async def test_what_waits_comes_as_it_was_sent(ledger: MemoryLedger) -> None:
    """Also bytes that are no text, and files."""
    talk = World(ledger, [say("a"), say("b")]).talk()
    await exchange(talk, "1")
    await talk.queue(b"caf\xe9", [NewFile(media_type="image/png", bytes=b"png", name="x.png")])
    waits = await talk.next_queued()
    assert waits is not None
    await (await talk.begin(waits, nobody_watches, NobodyToAsk())).finish()
    message = (await ledger.path(LOCAL, session_of(talk)))[2]
    assert message.text == "caf\ufffd"
    assert (await ledger.blob(LOCAL, session_of(talk), message.attachments[0].sha256)).bytes == b"png"
    original = getattr(message.body, "original", None)
    assert original is not None
    assert (await ledger.blob(LOCAL, session_of(talk), original)).bytes == b"caf\xe9"


async def test_the_queue_is_bounded_and_says_so(ledger: MemoryLedger) -> None:
    """Nothing is dropped in silence."""
    talk = World(ledger).talk()
    for n in range(QUEUED_MAX):
        await talk.queue(f"{n}")
    with pytest.raises(Exception, match="wait already"):
        await talk.queue("one more")


# -- whose -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
async def test_no_command_reaches_another_persons_session(ledger: MemoryLedger, name: str) -> None:
    """Given its id, its title or a number: it is not found, and nothing of it is said or changed."""
    await ledger.add_principal(STRANGER, "Stranger", "user")
    script = [Step(text="planted answer", calls=(AskedCall(provider_id="", name="change", arguments="{}"),))]
    tool = RecordingTool("change", effect=Effect.EDIT)
    world = World(ledger, script, tools=[tool])
    talk = world.talk()
    await exchange(talk, "planted question")
    await command(talk, "/title Planted")
    await talk.queue("planted queue")
    victim = session_of(talk)
    approval = (await ledger.approvals(LOCAL, victim))[0].id
    before = (await ledger.session(LOCAL, victim), await waiting(talk), await ledger.approvals(LOCAL, victim))
    for argument in ("", victim, "Planted", "1", "planted", approval, f"{victim}@1.1"):
        stranger = World(ledger, seed=9).talk(victim, STRANGER)
        try:
            answer = await command(stranger, f"/{name} {argument}")
        except (CommandError, NotFound) as error:
            answer = str(error)
        assert "planted q" not in answer
        assert "Planted" not in answer.replace(argument, "") if argument else True
    with pytest.raises(NotFound):
        await exchange(World(ledger, seed=9).talk(victim, STRANGER), "hi")
    with pytest.raises(NotFound):
        await World(ledger, seed=9).talk(victim, STRANGER).queue("hi")
    after = (await ledger.session(LOCAL, victim), await waiting(talk), await ledger.approvals(LOCAL, victim))
    assert after == before


async def test_a_session_deleted_elsewhere_is_said_until_one_chooses_another(ledger: MemoryLedger) -> None:
    """Nothing is guessed: no command and no message goes to another session by itself."""
    world = World(ledger, [say("a"), say("b")])
    talk = world.talk()
    await exchange(talk, "1")
    gone = session_of(talk)
    await ledger.forget(LOCAL, gone, world.clock.now_ms())
    for _ in range(2):
        with pytest.raises(CommandError, match=f"no session {gone} any more; /new"):
            await command(talk, "/undo")
        with pytest.raises(NotFound):
            await exchange(talk, "2")
    await command(talk, "/new")
    await exchange(talk, "3")
    assert await said(talk) == ["3", "b"]
