"""Messages that arrive while a turn runs: each waits, joins or cuts, and none is lost or doubled."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import LOCAL
from clew.domain.conversation.messages import Message, Role, Status
from clew.domain.ledger.commits import Commit, Committed, MoveHead, Receive, Received
from clew.domain.ledger.errors import Busy, NotFound, Refused, StoreUnusable
from clew.domain.ledger.rows import InboxState, TurnState
from clew.domain.models.request import ModelRequest, ToolTurn
from clew.domain.routing.splitting import TextLimit
from clew.domain.tools.spec import Effect, JsonObject, ToolResult
from clew.domain.turn.prompt import canonical
from clew.runtime.commands import CommandError
from clew.runtime.ports.models import ModelChoice
from clew.runtime.ports.people import Consent, Joined, NobodyToAsk, TurnNews, nobody_watches
from clew.runtime.ports.tools import ToolContext
from clew.runtime.sending import QUEUED_MAX
from clew.runtime.sessions import Place
from clew.runtime.talk import Talk
from clew.runtime.turns import NewFile, TurnOutcome, TurnStatus
from clew.runtime.turns.openings import Say
from clew.runtime.turns.waiting import BusyMode
from clew.testing.scripted_model import Hold, Step, ask, say
from clew.testing.virtual_time import simulate
from clew.testing.world import Answers, RecordingTool, World, command, exchange

pytestmark = pytest.mark.anyio


class SlowTool:
    """A tool that stands still in its run until it is let go."""

    def __init__(self, name: str = "slow") -> None:
        self.hold = Hold()
        self.tool = RecordingTool(name, answer=self._run)

    async def _run(self, arguments: JsonObject, context: ToolContext) -> ToolResult:
        await self.hold.stand()
        return ToolResult(text="slow done")


async def begun(talk: Talk, text: str, news: list[TurnNews] | None = None) -> asyncio.Task[TurnOutcome]:
    turn = await talk.say(text, nobody_watches if news is None else news.append, NobodyToAsk())
    return asyncio.create_task(turn.finish())


async def path_of(talk: Talk) -> tuple[Message, ...]:
    assert talk.session is not None
    return await talk.services.ledger.path(LOCAL, talk.session)


async def said(talk: Talk) -> list[tuple[str, str]]:
    return [(m.role.value, m.text) for m in await path_of(talk)]


async def fates(talk: Talk) -> list[tuple[InboxState, int | None]]:
    assert talk.session is not None
    return [(row.state, row.turn) for row in await talk.services.ledger.received(LOCAL, talk.session)]


async def send_on(talk: Talk) -> list[TurnOutcome]:
    """What every surface does after a turn: those that wait, in order."""
    outcomes = []
    while (waiting := await talk.next_queued()) is not None:
        outcomes.append(await (await talk.begin(waiting, nobody_watches, NobodyToAsk())).finish())
    return outcomes


async def test_a_steering_message_joins_after_the_tool_batch() -> None:
    """As the person's message, in the same turn, without opening one; the request before is a prefix of the next."""
    slow = SlowTool()
    world = World(MemoryLedger(), [ask("slow"), say("steered")], tools=[slow.tool])
    talk = world.talk()
    news: list[TurnNews] = []
    running = await begun(talk, "go", news)
    await slow.hold.reached()
    files = [NewFile(media_type="text/plain", bytes=b"more", name="more.txt")]
    sent = await talk.send(b"caf\xe9", files, BusyMode.STEER)
    assert sent.opening is None
    slow.hold.release()
    assert (await running).text == "steered"
    path = await path_of(talk)
    assert [(m.role, m.turn, m.step) for m in path] == [
        (Role.USER, 1, 0), (Role.ASSISTANT, 1, 1), (Role.TOOL, 1, 1), (Role.USER, 1, 2), (Role.ASSISTANT, 1, 2)
    ]  # fmt: skip
    assert path[3].text == "caf\ufffd"
    assert path[3].attachments[0].name == "more.txt"
    assert not path[3].opens_turn
    assert await fates(talk) == [(InboxState.CONSUMED, 1)]
    assert [n for n in news if isinstance(n, Joined)] == [Joined(text="caf\ufffd", files=("more.txt",))]
    first, second = (canonical(s.request.messages) for s in world.model.sent)
    assert second.startswith(first[:-1])
    assert "more" in second.decode()


async def test_a_steering_message_that_comes_too_late_starts_the_next_turn() -> None:
    """The answer that was on its way closed the turn; those after it join the one that it starts."""
    hold = Hold()
    world = World(MemoryLedger(), [say("a", hold, "b"), say("both")])
    talk = world.talk()
    running = await begun(talk, "go")
    await hold.reached()
    await talk.send("late", mode=BusyMode.STEER)
    await talk.send("later", mode=BusyMode.STEER)
    hold.release()
    assert (await running).text == "ab"
    assert [o.text for o in await send_on(talk)] == ["both"]
    assert await said(talk) == [
        ("user", "go"), ("assistant", "ab"), ("user", "late"), ("user", "later"), ("assistant", "both")
    ]  # fmt: skip
    assert [m.opens_turn for m in await path_of(talk)] == [True, False, True, False, False]


async def test_a_queued_message_does_not_join() -> None:
    """It has its own turn, after those before it."""
    slow = SlowTool()
    world = World(MemoryLedger(), [ask("slow"), say("one"), say("two"), say("three")], tools=[slow.tool])
    talk = world.talk()
    running = await begun(talk, "1")
    await slow.hold.reached()
    await talk.send("2")
    await talk.send("3")
    slow.hold.release()
    await running
    assert [o.text for o in await send_on(talk)] == ["two", "three"]
    assert [m.text for m in await path_of(talk) if m.opens_turn] == ["1", "2", "3"]


async def test_a_message_taken_back_does_not_join() -> None:
    """Undone in the instant before; the turn goes on, and so does what was sent with it."""
    slow = SlowTool()
    world = World(MemoryLedger(), [ask("slow"), say("done")], tools=[slow.tool])
    talk = world.talk()
    running = await begun(talk, "go")
    await slow.hold.reached()
    await talk.send("stays", mode=BusyMode.STEER)
    await talk.send("taken back", mode=BusyMode.STEER)
    reply = await talk.command("/undo")
    assert not reply.ends_turn
    slow.hold.release()
    assert (await running).status == TurnStatus.DONE
    assert [m.text for m in await path_of(talk) if m.role == Role.USER] == ["go", "stays"]


async def test_an_interrupting_message_cuts_and_is_next() -> None:
    """Before those that were waiting; what had been shown is kept."""
    hold = Hold()
    world = World(MemoryLedger(), [say("so far", hold), say("at once"), say("then")])
    talk = world.talk()
    running = await begun(talk, "go")
    await hold.reached()
    await talk.send("waits")
    await talk.send("now", mode=BusyMode.INTERRUPT)
    assert (await running).status == TurnStatus.INTERRUPTED
    assert [o.text for o in await send_on(talk)] == ["at once", "then"]
    assert await said(talk) == [
        ("user", "go"), ("assistant", "so far"), ("user", "now"), ("assistant", "at once"), ("user", "waits"),
        ("assistant", "then"),
    ]  # fmt: skip
    assert (await path_of(talk))[1].status == Status.INTERRUPTED


def test_another_process_steers_and_interrupts() -> None:
    """The holder sees the one in the ledger at its next step, and the other soon, with what it had shown kept."""

    async def scenario() -> None:
        slow, hold = SlowTool(), Hold()
        ledger = MemoryLedger()
        world = World(ledger, [ask("slow"), say("so far", hold)], tools=[slow.tool])
        other = World(ledger, [say("here")], owner="other", seed=1)
        talk = world.talk()
        running = await begun(talk, "go")
        elsewhere = other.talk(talk.session)
        await slow.hold.reached()
        assert (await elsewhere.send("steer", mode=BusyMode.STEER)).opening is None
        slow.hold.release()
        await hold.reached()
        sent = await elsewhere.send("cut", mode=BusyMode.INTERRUPT)
        assert (await running).status == TurnStatus.INTERRUPTED
        assert sent.opening is not None
        turn = await elsewhere.begin(sent.opening, nobody_watches, NobodyToAsk())
        assert (await turn.finish()).text == "here"
        assert (await said(talk))[3:] == [
            ("user", "steer"), ("assistant", "so far"), ("user", "cut"), ("assistant", "here")
        ]  # fmt: skip
        assert await fates(talk) == [(InboxState.CONSUMED, 1), (InboxState.CONSUMED, 2)]

    for seed in range(20):
        simulate(seed, scenario())


async def test_an_interrupt_cuts_no_turn_but_the_one_it_met() -> None:
    """Its own turn may have begun by the time it cuts."""
    hold = Hold()
    world = World(MemoryLedger(), [say("one"), say("a", hold, "b")])
    talk = world.talk()
    await (await begun(talk, "1"))
    running = await begun(talk, "2")
    await hold.reached()
    assert talk.session is not None
    await talk._sender.cut(talk.session, 1)
    hold.release()
    assert (await running).status == TurnStatus.DONE


@pytest.mark.parametrize("its_own", [False, True])
async def test_an_interrupt_meets_a_turn_that_began_while_it_was_stored(its_own: bool) -> None:
    """It cuts that one, and is next; but for the turn that has taken it already."""
    stored = Hold()

    class Slow(MemoryLedger):
        async def receive(self, item: Receive) -> Received:
            received = await super().receive(item) if its_own else None
            await stored.stand()
            return received or await super().receive(item)

    hold = Hold()
    world = World(Slow(), [say("so far", hold), say("at once")])
    talk, elsewhere = world.talk(), world.talk()
    elsewhere.session = await talk.ensure_session()
    sending = asyncio.create_task(elsewhere.send("now", mode=BusyMode.INTERRUPT))
    await stored.reached()
    opening = await talk.next_queued() if its_own else talk.saying("go")
    assert opening is not None
    turn = await talk.begin(opening, nobody_watches, NobodyToAsk())
    running = asyncio.create_task(turn.finish())
    await hold.reached()
    stored.release()
    assert (await sending).opening is None
    hold.release()
    assert (await running).status == (TurnStatus.DONE if its_own else TurnStatus.INTERRUPTED)
    assert [outcome.text for outcome in await send_on(talk)] == ([] if its_own else ["at once"])


async def test_a_stop_that_came_first_prevents_the_work() -> None:
    """While the model is looked for nothing is opened; after that nothing is frozen anew, and no model is asked."""
    hold = Hold()
    world = World(MemoryLedger(), [say("never")])
    ready = world.services.models

    class Slow:
        async def choose(self, name: str | None) -> ModelChoice:
            await hold.stand()
            return await ready.choose(name)

    world.services = msgspec.structs.replace(world.services, models=Slow())
    talk = world.talk()
    await talk.ensure_session()
    beginning = asyncio.create_task(talk.say("go", nobody_watches, NobodyToAsk()))
    await hold.reached()
    assert await command(talk, "/stop") == "Stopped."
    hold.release()
    with pytest.raises(Refused, match="Stopped before"):
        await beginning
    assert await path_of(talk) == ()
    turn = await talk.say("go", nobody_watches, NobodyToAsk())
    turn.stop("stopped")
    assert (await turn.finish()).status == TurnStatus.INTERRUPTED
    assert world.model.sent == []
    assert await world.ledger.prefix(LOCAL, turn.session) is None
    assert await command(talk, "/stop") == "Nothing is running."


async def test_a_retry_sends_steering_messages_again_in_their_places() -> None:
    """With their bytes and files; one whose place the new turn does not come to starts the next turn."""
    first, second = SlowTool("first"), SlowTool("second")
    script = [ask("first"), ask("second"), say("old"), ask("quick"), say("new"), say("last")]
    tools = [first.tool, second.tool, RecordingTool("quick")]
    talk = World(MemoryLedger(), script, tools=tools).talk()
    running = await begun(talk, "go")
    await first.hold.reached()
    files = [NewFile(media_type="text/plain", bytes=b"more", name="more.txt")]
    await talk.send(b"caf\xe9", files, BusyMode.STEER)
    first.hold.release()
    await second.hold.reached()
    await talk.send("far", mode=BusyMode.STEER)
    second.hold.release()
    await running
    joined = next(m for m in await path_of(talk) if m.text == "caf\ufffd")
    await command(talk, "/retry")
    again = next(m for m in await path_of(talk) if m.text == "caf\ufffd")
    assert (again.turn, again.step, again.body) == (2, joined.step, joined.body)
    assert again.id != joined.id
    await send_on(talk)
    assert [(m.text, m.turn, m.step) for m in await path_of(talk) if m.role == Role.USER] == [
        ("go", 1, 0), ("caf\ufffd", 2, 2), ("far", 3, 0)
    ]  # fmt: skip


async def test_a_retry_loses_no_steering_message_to_a_crash() -> None:
    """The commit that moves the head receives them again: whatever ends the process after it, they are in the inbox."""

    class Ending(MemoryLedger):
        is_ending = False

        async def commit(self, work: Commit) -> Committed:
            committed = await super().commit(work)
            self.is_ending |= isinstance(work.op, MoveHead)
            return committed

        async def receive(self, item: Receive) -> Received:
            if self.is_ending:
                raise StoreUnusable("The process ended.")
            return await super().receive(item)

    slow = SlowTool()
    talk = World(Ending(), [ask("slow"), say("old")], tools=[slow.tool]).talk()
    running = await begun(talk, "go")
    await slow.hold.reached()
    await talk.send("left", mode=BusyMode.STEER)
    slow.hold.release()
    await running
    await talk.command("/retry")
    assert await said(talk) == [("user", "go")]
    waiting = await talk.next_queued()
    assert waiting is not None
    assert waiting.text == "left"


async def test_over_the_limit_the_sender_is_told() -> None:
    """In every mode; what was not taken is not stored."""
    hold = Hold()
    talk = World(MemoryLedger(), [say("a", hold)]).talk()
    running = await begun(talk, "go")
    await hold.reached()
    for n in range(QUEUED_MAX):
        await talk.send(f"{n}", mode=BusyMode.QUEUE)
    for mode in BusyMode:
        with pytest.raises(Refused, match="wait already"):
            await talk.send("one more", mode=mode)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert talk.session is not None
    assert len(await talk.services.ledger.queued(LOCAL, talk.session)) == QUEUED_MAX


async def test_queue_and_steer_answer_in_one_sentence() -> None:
    """With nothing to send, with nothing running, and when they did it."""
    slow = SlowTool()
    talk = World(MemoryLedger(), [say("hi"), ask("slow"), say("b"), say("c")], tools=[slow.tool]).talk()
    await (await begun(talk, "hello"))
    for line in ("/queue", "/steer", "/steer  "):
        with pytest.raises(CommandError, match="takes the message to send; nothing was sent"):
            await talk.command(line)
    with pytest.raises(CommandError, match="No turn is running: send it as a message"):
        await talk.command("/steer left")
    started = await talk.command("/queue go")
    assert started.opening is not None
    turn = await talk.begin(started.opening, nobody_watches, NobodyToAsk())
    running = asyncio.create_task(turn.finish())
    await slow.hold.reached()
    assert (await talk.command("/steer left")).waits
    assert (await talk.command("/queue then")).waits
    slow.hold.release()
    await running
    await send_on(talk)
    assert [m.text for m in await path_of(talk) if m.role == Role.USER] == ["hello", "go", "left", "then"]


async def _turn(talk: Talk, opening: Say) -> None:
    """One turn; a message that cannot begin one waits, unless it waits already."""
    try:
        turn = await talk.begin(opening, nobody_watches, NobodyToAsk())
    except (Busy, Refused):
        return
    await turn.finish()


async def _converse(talk: Talk, first: str | None = None) -> None:
    """What a surface does: sends, and looks into the inbox after each turn, its own or another's."""
    if first is not None:
        sent = await talk.send(first)
        assert sent.opening is not None
        await _turn(talk, sent.opening)
    await talk.until_idle()
    while (waiting := await talk.next_queued()) is not None:
        await _turn(talk, waiting)
        await talk.until_idle()


def _tool_then_words(request: ModelRequest) -> Step:
    return say("done") if isinstance(request.messages[-1], ToolTurn) else ask("slow")


@pytest.mark.parametrize("stays", [True, False])
@pytest.mark.parametrize("mode", BusyMode)
def test_the_last_instant(mode: BusyMode, stays: bool) -> None:
    """From another process, at any moment of a turn and around its end: taken once, by some turn, in order.

    Also when the sender does no more than it is told to, as a command that ends.
    """

    async def scenario(seed: int) -> None:
        ledger = MemoryLedger()
        slow = RecordingTool("slow")
        worlds = [
            World(ledger, _tool_then_words, owner=name, seed=n, tools=[slow])
            for n, name in enumerate(("here", "there"))
        ]
        talk = worlds[0].talk()
        await talk.ensure_session()
        elsewhere = worlds[1].talk(talk.session)
        ours = asyncio.create_task(_converse(talk, "1"))
        for _ in range(seed):
            await asyncio.sleep(0)
        for text in ("a", "b"):
            sent = await elsewhere.send(text, mode=mode)
            if sent.opening is not None:
                await _turn(elsewhere, sent.opening)
        await ours
        if stays:
            await _converse(elsewhere)
        assert talk.session is not None
        assert await ledger.queued(LOCAL, talk.session) == ()
        words = [m.text for m in await path_of(talk) if m.role == Role.USER]
        assert Counter(words) == Counter(["1", "a", "b"])
        assert words.index("a") < words.index("b")
        turn = await ledger.turn(LOCAL, talk.session)
        assert turn is not None
        assert turn.state in (TurnState.DONE, TurnState.INTERRUPTED)

    for seed in range(120):
        simulate(seed, scenario(seed))


async def test_why_accounts_for_every_message_and_call() -> None:
    """What opened a turn, joined it, waits, was taken back or left behind; each call with its reason."""
    slow = SlowTool()
    hold = Hold()
    change = RecordingTool("change", effect=Effect.EDIT)
    script = [ask("slow"), ask("change"), say("a", hold), say("b")]
    talk = World(MemoryLedger(), script, tools=[slow.tool, change]).talk()
    turn = await talk.say("go", nobody_watches, Answers(Consent.NO))
    running = asyncio.create_task(turn.finish())
    await slow.hold.reached()
    await talk.send("left", mode=BusyMode.STEER)
    await talk.send("then")
    await talk.send("not this")
    await command(talk, "/undo")
    slow.hold.release()
    await hold.reached()
    told = _without_times(await command(talk, "/why"))
    assert told[0].startswith("turn 1: running, started T UTC, model scripted-model")
    assert told[1:3] == ["  opened by “go”", "  joined before step 2, T, by “left”"]
    assert told[3].endswith(" slow: finished; planned T, started T, took N ms")
    assert " change: not_run, refused: The person refused this call.; planned T, denied approval " in told[4]
    assert told[4].endswith(" by local")
    assert told[5:] == [
        "steering message 1 “left”, received T: joined turn 1 before step 2 at T (running)",
        "message 2 “then”, received T: waits",
        "message 3 “not this”, received T: cancelled by /undo at T",
    ]
    hold.release()
    await running
    await send_on(talk)
    await talk.queue("left behind")
    old = talk.session
    await command(talk, "/new")
    talk.session = old
    told = _without_times(await command(talk, "/why 3"))
    assert told[0].startswith("turn 2: done after")
    assert told[2:] == [
        "message 2 “then”, received T: opened turn 2 at T (done)",
        "message 3 “not this”, received T: cancelled by /undo at T",
        "message 4 “left behind”, received T: cancelled by /new at T",
    ]


def _without_times(text: str) -> list[str]:
    timed = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "T", text)
    return re.sub(r"\d+ ms", "N ms", timed).split("\n")


ENDING = {
    "/undo": "undo", "/retry": "retry", "/new": "new", "/resume other": "resume", "/temporary": "stopped",
    "/delete": "deleted",
}  # fmt: skip
"""Commands that end a running turn, and the reason that its row names."""


@pytest.mark.parametrize("line", ENDING)
def test_a_command_of_another_process_ends_the_turn(line: str) -> None:
    """In its own transaction; the one that ran it notices soon, and publishes nothing more."""

    async def scenario() -> None:
        hold, ledger = Hold(), MemoryLedger()
        world = World(ledger, [say("other"), say("so far", hold, "never")])
        elsewhere = World(ledger, [say("again")], owner="other", seed=1)
        elsewhere.services = msgspec.structs.replace(
            elsewhere.services, in_memory=lambda _: World(MemoryLedger(), seed=5).services
        )
        first, talk = world.talk(), world.talk()
        await (await begun(first, "first session"))
        await command(first, "/title other")
        running = await begun(talk, "go")
        await hold.reached()
        assert talk.session is not None
        there = elsewhere.talk(talk.session)
        reply = await there.command(f"/delete {talk.session}" if line == "/delete" else line)
        assert reply.ends_turn
        async with asyncio.timeout(1):
            outcome = await running
        assert outcome.status == TurnStatus.INTERRUPTED
        hold.release()
        assert world.model.open_streams == 0
        if line == "/delete":
            with pytest.raises(NotFound):
                await ledger.session(LOCAL, talk.session)
            return
        turn = await ledger.turn(LOCAL, talk.session)
        assert turn is not None
        assert (turn.state, turn.end_reason) == (TurnState.INTERRUPTED, ENDING[line])
        if line == "/temporary":
            assert await said(talk) == [("user", "go"), ("assistant", "so far")]

    simulate(1, scenario())


@pytest.mark.parametrize(
    "line",
    [
        "/redo",
        "/history",
        "/why",
        "/status",
        "/usage",
        "/title x",
        "/branch",
        "/search go",
        "/help",
        "/ps",
        "/undo",
    ],
)
async def test_what_does_not_end_the_turn(line: str) -> None:
    """It goes on: what only reads, what holds from the next turn on, what could not be done, what takes back one that waits."""
    hold = Hold()
    talk = World(MemoryLedger(), [say("so ", hold, "far")]).talk()
    running = await begun(talk, "go")
    await hold.reached()
    session = talk.session
    if line == "/undo":
        await talk.send("waits")
    if line == "/redo":
        with pytest.raises(CommandError, match="nothing to redo"):
            await talk.command(line)
    else:
        assert not (await talk.command(line)).ends_turn
    talk.session = session
    hold.release()
    assert (await running).text == "so far"
    assert await said(talk) == [("user", "go"), ("assistant", "so far")]


async def test_a_turn_that_ended_while_the_message_was_stored_is_noticed() -> None:
    """Whoever ran it has looked into the inbox already: the sender begins the next turn."""
    stored = Hold()

    class Slow(MemoryLedger):
        async def receive(self, item: Receive) -> Received:
            await stored.stand()
            return await super().receive(item)

    hold = Hold()
    world = World(Slow(), [say("a", hold), say("b")])
    talk = world.talk()
    running = await begun(talk, "go")
    await hold.reached()
    sending = asyncio.create_task(talk.send("late", mode=BusyMode.STEER))
    await stored.reached()
    hold.release()
    await running
    assert await send_on(talk) == []
    stored.release()
    opening = (await sending).opening
    assert opening is not None
    await (await talk.begin(opening, nobody_watches, NobodyToAsk())).finish()
    assert [m.text for m in await path_of(talk)] == ["go", "a", "late", "b"]


async def test_what_waits_for_one_place_is_not_answered_in_another() -> None:
    """A reply goes to the place its message came from: a terminal leaves a chat platform's message to its gateway."""
    world = World(MemoryLedger(), [say("a"), say("b")])
    terminal = world.talk()
    await exchange(terminal, "hello")
    far = Place(route_key="telegram:1:2", surface="telegram", holds=TextLimit(most=4096))
    phone = Talk(world.services, LOCAL, far, Path("/work"), terminal.session)
    await phone.queue("from afar")
    assert await terminal.next_queued() is None
    sent = await terminal.send("from here")
    assert sent.opening is not None
    waiting = await phone.next_queued()
    assert waiting is not None
    assert waiting.text == "from afar"
