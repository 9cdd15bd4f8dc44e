"""Conversations as people have them: the real runtime over SQLite, with a scripted model."""

from __future__ import annotations

import asyncio

import pytest

from clew.adapters.stores.sqlite import SqliteLedger
from clew.domain.conversation.ids import LOCAL
from clew.domain.conversation.messages import Role, Status, ToolBody
from clew.domain.ledger.errors import Busy
from clew.domain.ledger.rows import CallState, OpKind, TurnState
from clew.domain.models.answer import FailureKind
from clew.domain.models.request import TextPart, UserTurn
from clew.domain.tools.policy import ApprovalMode
from clew.domain.tools.spec import Effect, JsonObject, ToolResult
from clew.domain.turn.prefix import Instructions
from clew.domain.turn.prompt import canonical
from clew.runtime.commands import CommandError
from clew.runtime.ports.people import CallEnded, Consent, NobodyToAsk, Noticed, TurnNews, nobody_watches
from clew.runtime.ports.tools import ToolContext
from clew.runtime.turns import NewFile, TurnStatus
from clew.testing.scripted_model import Hold, ask, fail, say
from clew.testing.world import Answers, RecordingTool, World, command, exchange

pytestmark = pytest.mark.anyio


def texts(world: World, n: int) -> list[str]:
    """What the n-th request said, message by message."""
    return [
        message.parts[0].text
        if isinstance(message, UserTurn) and isinstance(message.parts[0], TextPart)
        else str(message)
        for message in world.model.sent[n].request.messages
    ]


async def test_a_conversation_goes_on_with_its_whole_history(ledger: SqliteLedger) -> None:
    """And each request is a prefix of the next, also in a new process."""
    world = World(ledger, [say("one"), say("two")])
    talk = world.talk()
    await exchange(talk, "first")
    again = World(ledger, [say("two")], seed=1)
    await exchange(again.talk(talk.session), "second")
    before, after = world.model.sent[0].request, again.model.sent[0].request
    assert canonical(after.messages).startswith(canonical(before.messages)[:-1])
    assert (before.system, before.tools) == (after.system, after.tools)
    assert texts(again, 0)[0] == "first"
    assert texts(again, 0)[2] == "second"


async def test_what_was_undone_is_in_no_later_request(ledger: SqliteLedger) -> None:
    """Also when the next message comes from another process."""
    world = World(ledger, [say("good"), say("bad")])
    talk = world.talk()
    await exchange(talk, "keep")
    await exchange(talk, "regret")
    await command(talk, "/undo")
    later = World(ledger, [say("fine")], seed=1)
    await exchange(later.talk(talk.session), "next")
    assert texts(later, 0)[0] == "keep"
    assert "regret" not in canonical(later.model.sent[0].request.messages).decode()


async def test_redo_brings_an_undone_exchange_back_until_something_is_said(ledger: SqliteLedger) -> None:
    """Undo and redo pair like brackets; a new message closes the list."""
    world = World(ledger, [say("a"), say("b"), say("c")])
    talk = world.talk()
    await exchange(talk, "1")
    await exchange(talk, "2")
    await command(talk, "/undo")
    await command(talk, "/undo")
    await command(talk, "/redo")
    await command(talk, "/redo")
    with pytest.raises(CommandError, match="nothing to redo"):
        await command(talk, "/redo")
    await command(talk, "/undo")
    await exchange(talk, "3")
    with pytest.raises(CommandError, match="nothing to redo"):
        await command(talk, "/redo")
    assert texts(world, 2)[-1] == "3"
    assert len(texts(world, 2)) == 3


async def test_retry_asks_again_with_the_same_message_stored_once(ledger: SqliteLedger) -> None:
    """With its attachments; the row is not copied."""
    world = World(ledger, [say("poor"), say("better")])
    talk = world.talk()
    image = NewFile(media_type="image/png", bytes=b"png", name="x.png")
    await exchange(talk, "look", files=[image])
    await command(talk, "/retry")
    assert canonical(world.model.sent[0].request.messages) == canonical(world.model.sent[1].request.messages)
    assert world.model.sent[1].blobs == world.model.sent[0].blobs
    assert talk.session is not None
    path = await ledger.path(LOCAL, talk.session)
    assert [m.text for m in path] == ["look", "better"]
    found = await ledger.search(LOCAL, "poor")
    assert found.hits == ()


async def test_a_failed_turn_can_be_retried(ledger: SqliteLedger) -> None:
    """The person's message was kept; nothing has to be typed again."""
    world = World(ledger, [fail(FailureKind.SERVER), say("now")])
    talk = world.talk()
    failed = await exchange(talk, "try")
    assert failed.status == TurnStatus.FAILED
    await command(talk, "/retry")
    assert texts(world, 1) == ["try"]


async def test_new_in_the_middle_of_a_turn_takes_nothing_along(ledger: SqliteLedger) -> None:
    """Nothing of the old turn or of what waited for it lands in the new session."""
    hold = Hold()
    world = World(ledger, [say("par", hold, "tial"), say("fresh")])
    talk = world.talk()
    turn = await talk.say("old", nobody_watches, NobodyToAsk())
    running = asyncio.create_task(turn.finish())
    await hold.reached()
    await talk.queue("queued behind it")
    old = talk.session
    assert "1 waiting messages were cancelled" in await command(talk, "/new")
    hold.release()
    outcome = await running
    assert outcome.status == TurnStatus.INTERRUPTED
    assert await talk.next_queued() is None
    await exchange(talk, "new text")
    assert texts(world, 1) == ["new text"]
    assert old is not None
    assert talk.session != old
    ended = await ledger.turn(LOCAL, old)
    assert ended is not None
    assert ended.state == TurnState.INTERRUPTED
    assert [m.text for m in await ledger.path(LOCAL, old)] == ["old"]


async def test_stop_keeps_what_was_shown(ledger: SqliteLedger) -> None:
    """As an interrupted reply, which the next request says it is."""
    hold = Hold()
    world = World(ledger, [say("half an ", hold, "answer"), say("ok")])
    talk = world.talk()
    turn = await talk.say("go", nobody_watches, NobodyToAsk())
    running = asyncio.create_task(turn.finish())
    await hold.reached()
    turn.stop("stopped")
    turn.stop("stopped")
    outcome = await running
    assert (outcome.status, outcome.text) == (TurnStatus.INTERRUPTED, "half an ")
    assert world.model.open_streams == 0
    await exchange(talk, "next")
    assert (
        "half an \\n[interrupted before the end]" in canonical(world.model.sent[1].request.messages).decode()
    )


async def test_tools_run_and_their_results_go_back(ledger: SqliteLedger) -> None:
    """Calls that only read need nobody's yes; the call's id is the idempotency key."""
    tool = RecordingTool("peek")
    world = World(ledger, [ask("peek", '{"a": 1}', provider_id="p"), say("seen")], tools=[tool])
    talk = world.talk()
    outcome = await exchange(talk, "look")
    assert outcome.text == "seen"
    assert [call.state for call in outcome.calls] == [CallState.FINISHED]
    assert tool.ran == [(f"{talk.session}-1-1-0", {"a": 1})]
    assert "peek done" in canonical(world.model.sent[1].request.messages).decode()


async def test_without_a_yes_nothing_is_changed_and_the_turn_waits(ledger: SqliteLedger) -> None:
    """A later process approves it, and the turn goes on from where it stood, the call run once."""
    tool = RecordingTool("change", effect=Effect.EDIT)
    world = World(ledger, [ask("change"), say("changed")], tools=[tool])
    talk = world.talk()
    outcome = await exchange(talk, "do it")
    assert outcome.status == TurnStatus.REFUSED
    assert tool.ran == []
    assert len(outcome.waiting_for) == 1
    later = World(ledger, [say("changed")], tools=[tool], owner="other", seed=1)
    answer = await command(later.talk(talk.session), f"/approve {outcome.waiting_for[0]}")
    assert answer.startswith("Approved")
    assert len(tool.ran) == 1
    assert talk.session is not None
    assert (await ledger.path(LOCAL, talk.session))[-1].text == "changed"
    number = outcome.waiting_for[0]
    with pytest.raises(CommandError, match=f"Approval {number} was already approved by local at 2026-"):
        await command(later.talk(talk.session), f"/approve {number}")
    with pytest.raises(CommandError, match=f"No approval is waiting. The last one, {number}, was approved"):
        await command(later.talk(talk.session), "/deny")


async def test_a_message_that_ends_a_waiting_turn_says_so(ledger: SqliteLedger) -> None:
    """And that what was asked about is not run; the approval says why it decides nothing any more."""
    tool = RecordingTool("change", effect=Effect.EDIT)
    talk = World(ledger, [ask("change"), say("something else")], tools=[tool]).talk()
    waiting = (await exchange(talk, "do it")).waiting_for[0]
    news: list[TurnNews] = []
    await exchange(talk, "never mind", news=news)
    ended = "This ends turn 1, which waited for an approval: its call is not run."
    assert [each.text for each in news if isinstance(each, Noticed)] == [ended]
    assert tool.ran == []
    with pytest.raises(CommandError, match=f"Approval {waiting} is not waited for any more"):
        await command(talk, f"/approve {waiting}")
    news.clear()
    await exchange(talk, "go on", news=news)
    assert not any(isinstance(each, Noticed) for each in news)


async def test_a_denied_call_is_a_result_and_the_turn_goes_on(ledger: SqliteLedger) -> None:
    """The model sees the refusal."""
    tool = RecordingTool("change", effect=Effect.EDIT)
    world = World(ledger, [ask("change"), say("fine")], tools=[tool])
    news: list[TurnNews] = []
    outcome = await exchange(world.talk(), "do it", approver=Answers(Consent.NO), news=news)
    assert outcome.status == TurnStatus.DONE
    assert tool.ran == []
    assert [n.status for n in news if isinstance(n, CallEnded)] == [Status.REFUSED]
    assert [c.state for c in outcome.calls] == [CallState.NOT_RUN]


async def test_a_yes_for_the_session_is_not_asked_again(ledger: SqliteLedger) -> None:
    """Neither in this turn nor in another process."""
    tool = RecordingTool("change", effect=Effect.EDIT)
    world = World(ledger, [ask("change"), ask("change"), say("x"), ask("change"), say("y")], tools=[tool])
    talk = world.talk()
    answers = Answers(Consent.SESSION)
    await exchange(talk, "do it twice", approver=answers)
    await exchange(talk, "and again", approver=answers)
    assert len(answers.asked) == 1
    assert len(tool.ran) == 3


async def test_calls_that_cannot_run_are_results(ledger: SqliteLedger) -> None:
    """An unknown tool and broken JSON: said to the model, the session stays usable."""
    world = World(
        ledger,
        [ask("nothing"), ask("peek", "{broken"), say("ok")],
        tools=[RecordingTool("peek")],
        mode=ApprovalMode.ALL,
    )
    outcome = await exchange(world.talk(), "go")
    assert outcome.text == "ok"
    said = canonical(world.model.sent[2].request.messages).decode()
    assert "There is no tool nothing" in said
    assert "not a JSON object" in said


async def test_the_same_call_id_in_every_response_stays_apart(ledger: SqliteLedger) -> None:
    """Each result goes to its own call."""
    tools = [RecordingTool("peek")]
    world = World(
        ledger, [ask("peek", provider_id="x"), ask("peek", provider_id="x"), say("ok")], tools=tools
    )
    talk = world.talk()
    await exchange(talk, "go")
    assert talk.session is not None
    path = await ledger.path(LOCAL, talk.session)
    assert len({m.body.call for m in path if isinstance(m.body, ToolBody)}) == 2


async def test_a_session_whose_turn_is_running_elsewhere_is_busy(ledger: SqliteLedger) -> None:
    """Until its process is dead; then the turn is finished first, and the session goes on."""
    hold = Hold()
    first = World(ledger, [say("a", hold)], owner="one")
    talk = first.talk()
    turn = await talk.say("x", nobody_watches, NobodyToAsk())
    running = asyncio.create_task(turn.finish())
    await hold.reached()
    second = World(ledger, [say("a again"), say("b")], owner="two", seed=1)
    with pytest.raises(Busy):
        await exchange(second.talk(talk.session), "y")
    second.owners.dead.add("one")
    outcome = await exchange(second.talk(talk.session), "y")
    assert outcome.text == "b"
    hold.release()
    lost = await running
    assert lost.status == TurnStatus.INTERRUPTED
    assert lost.error is not None
    assert lost.error[0] == "fenced"
    assert talk.session is not None
    assert [m.text for m in await ledger.path(LOCAL, talk.session)] == [
        "x",
        "a again",
        "y",
        "b",
    ]


async def test_changed_instructions_are_an_op_and_said(ledger: SqliteLedger) -> None:
    """The frozen prompt changes at no other time."""
    world = World(ledger, [say("a"), say("b"), say("c")])
    talk = world.talk()
    await exchange(talk, "1")
    await exchange(talk, "2")
    world.instructions.append(Instructions(source="AGENTS.md", text="be brief"))
    news: list[TurnNews] = []
    await exchange(talk, "3", news=news)
    assert [n for n in news if isinstance(n, Noticed)]
    assert talk.session is not None
    ops = await ledger.ops(LOCAL, talk.session, limit=100)
    assert [op.kind for op in ops].count(OpKind.REFREEZE) == 2
    assert "be brief" in world.model.sent[2].request.system


async def test_branching_leaves_the_old_session_as_it_was(ledger: SqliteLedger) -> None:
    """Both go on from the same history, apart."""
    world = World(ledger, [say("a"), say("b"), say("c")])
    talk = world.talk()
    await exchange(talk, "root")
    old = talk.session
    await command(talk, "/branch other way")
    assert talk.session != old
    await exchange(talk, "left")
    await exchange(world.talk(old), "right")
    assert texts(world, 1)[0] == "root"
    assert "left" not in canonical(world.model.sent[2].request.messages).decode()


async def test_invalid_bytes_are_kept_as_they_came(ledger: SqliteLedger) -> None:
    """The text is storable, the original is a blob beside it."""
    world = World(ledger, [say("a")])
    talk = world.talk()
    await exchange(talk, b"caf\xe9 \x00 ok")
    assert talk.session is not None
    message = (await ledger.path(LOCAL, talk.session))[0]
    assert message.text == "caf\ufffd \x00 ok"
    assert message.body is not None
    original = getattr(message.body, "original", None)
    assert original is not None
    assert (await ledger.blob(LOCAL, talk.session, original)).bytes == b"caf\xe9 \x00 ok"


async def test_an_event_is_stored_as_one_and_not_counted_by_undo(ledger: SqliteLedger) -> None:
    """It waits for the next turn, and `/undo` takes back the person's turn, not the event."""

    async def starts_something(arguments: JsonObject, context: ToolContext) -> ToolResult:
        await context.notify("process_ended", "exit 0")
        return ToolResult(text="started")

    tool = RecordingTool("spawn", answer=starts_something)
    world = World(ledger, [ask("spawn"), say("a"), say("b")], tools=[tool])
    talk = world.talk()
    await exchange(talk, "1")
    assert talk.session is not None
    roles = [m.role for m in await ledger.path(LOCAL, talk.session)]
    assert roles == [Role.USER, Role.ASSISTANT, Role.EVENT, Role.TOOL, Role.ASSISTANT]
    await command(talk, "/undo")
    assert await ledger.path(LOCAL, talk.session) == ()


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("/undo 99", "only 1 turn "),
        ("/undo x", "takes a number"),
        ("/undo 0", "takes a number"),
        ("/undo -1", "takes a number"),
        ("/redo now", "takes no argument"),
        ("/resume nowhere", "no session"),
        ("/resume", "takes a session"),
        ("/resume 77", "no session number"),
        ("/undoo", "Did you mean /undo"),
        ("/title  \n ", ""),
        ("/kill 1", "Nothing called “1” runs"),
        ("/kill x", "Nothing called “x” runs"),
        ("/kill", "takes the number"),
        ("/approve", "No approval"),
        ("/export pdf", "takes md"),
        ("/delete", "cannot be undone"),
        ("/mode yolo", "takes ask"),
        ("/search", "takes words"),
    ],
)
async def test_an_odd_argument_gets_one_clear_answer(ledger: SqliteLedger, typed: str, answer: str) -> None:
    """And nothing is changed."""
    world = World(ledger, [say("a")])
    talk = world.talk()
    await exchange(talk, "1")
    assert talk.session is not None
    before = (await ledger.session(LOCAL, talk.session)).handle
    try:
        said = await command(talk, typed)
    except CommandError as error:
        said = str(error)
    assert answer in said
    assert "\n" not in said or typed == "/help"
    assert (await ledger.session(LOCAL, talk.session)).handle == before


async def test_a_taken_title_is_refused(ledger: SqliteLedger) -> None:
    """With the name of the session that has it."""
    world = World(ledger, [say("a"), say("b")])
    talk = world.talk()
    await exchange(talk, "1")
    await command(talk, "/title Plans")
    await command(talk, "/new")
    with pytest.raises(CommandError, match="already used"):
        await command(talk, "/title plans")
