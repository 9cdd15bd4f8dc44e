"""What lines do, and what becomes of them when something goes wrong or happens at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import LOCAL
from clew.domain.models.answer import FailureKind
from clew.domain.models.request import ModelRequest, TextPart, UserTurn
from clew.domain.tools.spec import Effect, JsonObject, ToolResult
from clew.domain.turn.prefix import Instructions
from clew.runtime.ports.models import ModelChoice, ModelUnavailable
from clew.runtime.ports.people import NobodyToAsk, nobody_watches
from clew.runtime.ports.tools import ToolContext
from clew.runtime.turns import TurnSettings
from clew.runtime.turns.waiting import BusyMode
from clew.surfaces.cli.chat.composer import Entry
from clew.surfaces.cli.chat.loop import ChatLoop
from clew.surfaces.cli.chat.screen import Screen, ScreenOptions
from clew.surfaces.cli.chat.status import StatusLine
from clew.surfaces.cli.chat.typesetting import Typesetter
from clew.testing.scripted_model import Hold, Step, ask, fail, say
from clew.testing.world import RecordingTool, World

pytestmark = pytest.mark.anyio


class Paper:
    """A display that keeps what it was shown, and tells when something changes."""

    columns = 200

    def __init__(self) -> None:
        self.text = ""
        self._news = asyncio.Event()

    def show(self, text: str) -> None:
        self.text += text
        self._news.set()

    def changed(self) -> None:
        self._news.set()

    async def shows(self, text: str, *, times: int = 1) -> None:
        """Returns once this was printed."""
        await self.until(lambda: self.text.count(text) >= times)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                self._news.clear()
                await self._news.wait()


class HandLine:
    """An input line without keys."""

    def __init__(self) -> None:
        self.text = ""
        self.takes_back = 0
        self.asides = 0

    @property
    def is_empty(self) -> bool:
        return not self.text

    def put(self, text: str, *, takes_back: int = 0) -> None:
        self.text, self.takes_back = text, takes_back

    def set_aside(self) -> None:
        self.asides += 1

    def bring_back(self) -> None:
        self.asides -= 1


class Chat:
    """A chat over a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.paper = Paper()
        self.line = HandLine()
        self.broken: list[BaseException] = []
        self.talk = world.talk()
        self.loop = ChatLoop(
            self.talk,
            Screen(self.paper, Typesetter(styles=False, colours=False), ScreenOptions()),
            StatusLine(),
            changed=self.paper.changed,
            broken=self.broken.append,
        )
        self.loop.line = self.line

    def types(self, text: str, *, takes_back: int = 0) -> None:
        assert self.loop.enter(Entry(text=text, takes_back=takes_back))

    @property
    def said(self) -> list[list[str]]:
        """What people said in each request."""
        return [
            [part.text for m in sent.request.messages if isinstance(m, UserTurn)
             for part in m.parts[:1] if isinstance(part, TextPart)]
            for sent in self.world.model.sent
        ]  # fmt: skip


@asynccontextmanager
async def chatting(world: World) -> AsyncIterator[Chat]:
    """A chat that is left at the end, and has then ended everything it began."""
    chat = Chat(world)
    running = asyncio.create_task(chat.loop.run())
    try:
        yield chat
    finally:
        chat.loop.leave()
        await asyncio.wait_for(running, 10)
    assert world.model.open_streams == 0


def world_of(*steps: Step) -> World:
    return World(MemoryLedger(), steps)


def echo(request: ModelRequest) -> Step:
    last = request.messages[-1]
    assert isinstance(last, UserTurn)
    part = last.parts[0]
    return say(f"echo {part.text}" if isinstance(part, TextPart) else "echo")


@pytest.mark.parametrize("ticks", range(0, 120, 3))
async def test_no_message_is_left_behind_whenever_it_comes(ticks: int) -> None:
    """Sent at any moment of another turn, its very end included, it gets its answer."""
    async with chatting(World(MemoryLedger(), echo)) as chat:
        chat.types("one")
        for _ in range(ticks):
            await asyncio.sleep(0)
        chat.types("two")
        await chat.paper.shows("echo two")
        assert chat.said == [["one"], ["one", "two"]]
        assert chat.loop.turns.waiting == ()


@pytest.mark.parametrize("ticks", range(0, 120, 3))
async def test_a_message_that_interrupts_is_answered_and_the_first_is_kept(ticks: int) -> None:
    """Whenever it comes: the turn it cuts is recorded, even one whose model was not asked yet, and its own is not cut."""
    world = World(MemoryLedger(), echo, settings=TurnSettings(busy=BusyMode.INTERRUPT))
    async with chatting(world) as chat:
        chat.types("one")
        for _ in range(ticks):
            await asyncio.sleep(0)
        chat.types("two")
        await chat.paper.shows("echo two")
        await chat.paper.until(lambda: not chat.loop.turns.is_busy)
        assert chat.said[-1] == ["one", "two"]
        assert chat.loop.turns.waiting == ()


@pytest.mark.parametrize("mode", [BusyMode.QUEUE, BusyMode.STEER])
async def test_an_answer_belongs_to_whoever_asked_whoever_gives_it(mode: BusyMode) -> None:
    """A message that another process's chat took is answered on the screen that it was typed on, too."""
    hold, looking, ledger = Hold(), Hold(), MemoryLedger()

    async def stand(arguments: JsonObject, context: ToolContext) -> ToolResult:
        await hold.stand()
        return ToolResult(text="stood")

    settings = TurnSettings(busy=mode)
    steps, tools = [ask("stand"), say("one")], [RecordingTool("stand", answer=stand)]
    steps = [ask("stand"), say("two")] if mode == BusyMode.STEER else [*steps, say("two")]
    async with chatting(World(ledger, steps, settings=settings, tools=tools)) as first:
        first.types("1")
        await hold.reached()
        world = World(ledger, [], owner="there", settings=settings)

        class Slow:
            async def choose(self, name: str | None) -> ModelChoice:
                await looking.stand()
                return ModelChoice(client=world.model, profile=await world.model.profile("scripted-model"))

        world.services = msgspec.structs.replace(world.services, models=Slow())
        async with chatting(world) as second:
            second.talk.session = first.talk.session
            second.types("2")
            await second.paper.until(lambda: "2" in second.loop.turns.waiting)
            hold.release()
            await first.paper.shows("two")
            looking.release()
            await second.paper.shows("two")
            assert "Another process took this into turn" in second.paper.text
            await second.paper.until(lambda: not second.loop.turns.is_busy)
            assert second.loop.turns.waiting == ()


async def test_stop_ends_the_turn_that_a_message_waits_for() -> None:
    """Also where another process runs it: what was sent from here meanwhile is then answered."""
    ledger, hold = MemoryLedger(), Hold()

    def answer(request: ModelRequest) -> Step:
        return say("half an", hold) if len(request.messages) == 1 else echo(request)

    async with chatting(World(ledger, answer)) as first:
        first.types("1")
        await hold.reached()
        async with chatting(World(ledger, answer, owner="there")) as second:
            second.talk.session = first.talk.session
            second.types("2")
            await second.paper.shows("this waits for its end")
            second.types("/stop")
            await second.paper.shows("echo 2")
            assert "Stopped." in second.paper.text
            assert "Stopped before it was sent." not in second.paper.text


async def test_stop_ends_what_a_dead_process_left_and_no_more() -> None:
    """What was sent while it was being gone on with is not cut along with it: it is answered next."""
    ledger, hold, again = MemoryLedger(), Hold(), Hold()
    left = World(ledger, [say("half", hold)]).talk()
    turn = await left.say("1", nobody_watches, NobodyToAsk())
    running = asyncio.create_task(turn.finish())
    await hold.reached()

    def answer(request: ModelRequest) -> Step:
        return say("half an", again) if len(request.messages) == 1 else echo(request)

    async with chatting(World(ledger, answer, owner="there")) as chat:
        chat.talk.session = left.session
        chat.types("2")
        await chat.paper.shows("this waits for its end")
        chat.world.owners.dead.add("me")
        await again.reached()
        chat.types("/stop")
        await chat.paper.shows("echo 2")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_after_a_failure_messages_go_on_waiting() -> None:
    """The next turn would fail as well; Enter sends them, in order, and what is new comes after them."""
    hold = Hold()
    world = world_of(fail(FailureKind.SERVER, "Down.", hold), say("two"), say("three"), say("four"))
    async with chatting(world) as chat:
        chat.types("1")
        await hold.reached()
        chat.types("2")
        chat.types("3")
        await chat.paper.until(lambda: chat.loop.turns.waiting == ("2", "3"))
        hold.release()
        await chat.paper.shows("2 messages wait")
        assert "Down." in chat.paper.text
        chat.types("4")
        await chat.paper.shows("four")
        assert chat.said[-1] == ["1", "2", "3", "4"]


async def test_a_message_that_cannot_be_sent_comes_back() -> None:
    """Into the line, or said where the line is in use."""

    class NoModel:
        async def choose(self, name: str | None) -> ModelChoice:
            raise ModelUnavailable("There is no model here.")

    world = world_of()
    world.services = msgspec.structs.replace(world.services, models=NoModel())
    async with chatting(world) as chat:
        chat.types("precious")
        await chat.paper.until(lambda: chat.line.text == "precious")
        chat.types("second")
        await chat.paper.shows("Not sent: second")
        assert "There is no model here." in chat.paper.text
    assert chat.broken == []


async def test_an_error_of_ours_is_said_and_the_chat_goes_on() -> None:
    """Nothing that runs beside the line fails unheard."""

    async def breaks(arguments: JsonObject, context: ToolContext) -> ToolResult:
        raise RuntimeError("a bug")

    tool = RecordingTool("buggy", answer=breaks)
    async with chatting(World(MemoryLedger(), [ask("buggy"), say("still here")], tools=[tool])) as chat:
        chat.types("go")
        await chat.paper.until(lambda: bool(chat.broken) or "bug" in chat.paper.text)
        await chat.paper.until(lambda: not chat.loop.turns.is_busy)
        chat.types("and now?")
        await chat.paper.shows("still here")


async def test_an_edit_takes_back_what_it_replaces_and_no_more() -> None:
    """A message that waits first; its turn is not stopped."""
    hold = Hold()
    async with chatting(world_of(say("a", hold, "b"), say("c"))) as chat:
        chat.types("1")
        await hold.reached()
        chat.types("2")
        await chat.paper.until(lambda: chat.loop.turns.waiting == ("2",))
        chat.loop.recall(1)
        await chat.paper.until(lambda: chat.line.text == "2")
        chat.types("two", takes_back=chat.line.takes_back)
        await chat.paper.until(lambda: chat.loop.turns.waiting == ("two",))
        hold.release()
        await chat.paper.shows("c\n")
        assert chat.said == [["1"], ["1", "two"]]


async def test_a_branch_leaves_the_running_turn_to_itself() -> None:
    """It ends in its own session, unheard; what is said next goes to the branch."""
    hold = Hold()
    async with chatting(world_of(say("first"), say("left ", hold, "behind"), say("here"))) as chat:
        chat.types("1")
        await chat.paper.shows("first")
        await chat.paper.until(lambda: not chat.loop.turns.is_busy)
        old = chat.talk.session
        chat.types("2")
        await hold.reached()
        chat.types("/branch")
        await chat.paper.shows("goes on there")
        chat.types("3")
        await chat.paper.shows("here\n")
        hold.release()
        assert chat.said[-1] == ["1", "3"]
    assert old is not None
    path = await chat.world.ledger.path(LOCAL, old)
    assert [m.text for m in path][:3] == ["1", "first", "2"]
    assert path[-1].text.startswith("left ")
    assert "behind" not in chat.paper.text


async def test_what_is_said_after_an_update_is_left_to_the_next_program() -> None:
    """The package was replaced: the message waits in the ledger, the chat says why, once, and ends by itself."""
    replaced = asyncio.Event()
    world = world_of(say("first"))
    world.services = msgspec.structs.replace(world.services, is_replaced=replaced.is_set)
    chat = Chat(world)
    running = asyncio.create_task(chat.loop.run())
    chat.types("1")
    await chat.paper.shows("first")
    await chat.paper.until(lambda: not chat.loop.turns.is_busy)
    replaced.set()
    chat.types("two")
    chat.types("three")
    await asyncio.wait_for(running, 10)
    assert chat.loop.outdated is not None
    assert chat.loop.turns.waiting == ("two", "three")
    assert chat.said == [["1"]]
    assert chat.paper.text.count("start it again") == 1
    assert "two" not in chat.paper.text  # it was not sent
    assert chat.line.text == ""


async def test_an_update_lets_a_turn_that_was_left_end() -> None:
    """No other begins; the chat ends after it."""
    hold, replaced = Hold(), asyncio.Event()
    world = world_of(say("first"), say("left ", hold, "behind"))
    world.services = msgspec.structs.replace(world.services, is_replaced=replaced.is_set)
    chat = Chat(world)
    running = asyncio.create_task(chat.loop.run())
    chat.types("1")
    await chat.paper.shows("first")
    await chat.paper.until(lambda: not chat.loop.turns.is_busy)
    old = chat.talk.session
    chat.types("2")
    await hold.reached()
    chat.types("/branch")
    await chat.paper.shows("goes on there")
    replaced.set()
    chat.types("3")
    await chat.paper.shows("start it again")
    for _ in range(100):
        await asyncio.sleep(0)
    assert not running.done()
    hold.release()
    await asyncio.wait_for(running, 10)
    assert old is not None
    path = await world.ledger.path(LOCAL, old)
    assert [m.text for m in path] == ["1", "first", "2", "left behind"]
    assert chat.loop.turns.waiting == ("3",)


async def test_leaving_records_the_end_of_the_turn() -> None:
    """With what was shown of the answer."""
    hold = Hold()
    world = world_of(say("so far", hold))
    async with chatting(world) as chat:
        chat.types("go")
        await hold.reached()
    assert chat.talk.session is not None
    path = await world.ledger.path(LOCAL, chat.talk.session)
    assert [(m.text, str(m.status)) for m in path] == [("go", "ok"), ("so far", "interrupted")]


async def test_a_question_waits_for_its_answer() -> None:
    """What is typed meanwhile is queued; a command that ends the turn ends the question."""
    tool = RecordingTool("change", effect=Effect.EDIT)
    script = [ask("change", '{"x": 1}'), say("done"), say("then"), ask("change", '{"x": 2}'), say("new")]
    async with chatting(World(MemoryLedger(), script, tools=[tool])) as chat:
        chat.types("go")
        await chat.paper.until(lambda: chat.loop.asker.question is not None)
        chat.types("also this")
        await chat.paper.until(lambda: chat.loop.turns.waiting == ("also this",))
        assert chat.line.asides == 1
        chat.types("y")
        await chat.paper.shows("then")
        assert [arguments for _, arguments in tool.ran] == [{"x": 1}]
        chat.types("again")
        await chat.paper.until(lambda: chat.loop.asker.question is not None)
        chat.types("/new")
        await chat.paper.shows("New session")
        chat.types("hello")
        await chat.paper.shows("new\n")
        assert (len(tool.ran), chat.line.asides) == (1, 0)


async def test_so_many_lines_and_no_more() -> None:
    """A line that is not taken stays where it is."""
    chat = Chat(world_of())
    taken = [chat.loop.enter(Entry(text="x")) for _ in range(101)]
    assert taken == [True] * 100 + [False]


async def test_the_instructions_of_the_project_are_named() -> None:
    """Its instructions, once; again when they change."""
    async with chatting(World(MemoryLedger(), echo)) as chat:
        chat.world.instructions.append(Instructions(source="/work/AGENTS.md", text="a"))
        chat.loop.name_instructions(first=True)
        chat.loop.name_instructions()
        chat.world.instructions[0] = Instructions(source="/work/AGENTS.md", text="b")
        chat.types("hi")
        await chat.paper.shows("echo hi")
        assert chat.paper.text.count("Project instructions: AGENTS.md") == 1
        assert chat.paper.text.count("New project instructions: AGENTS.md") == 1


async def test_what_another_process_took_is_listed_no_more() -> None:
    """Also where nothing runs and nobody types: what is shown as waiting waits."""
    async with chatting(world_of(say("first"))) as chat:
        chat.types("1")
        await chat.paper.shows("first")
        await chat.paper.until(lambda: not chat.loop.turns.is_busy)
        elsewhere = chat.world.talk(chat.talk.session)
        await elsewhere.queue("later")
        chat.types("/status")
        await chat.paper.until(lambda: chat.loop.turns.waiting == ("later",))
        taken = await elsewhere.next_queued()
        assert taken is not None
        assert await elsewhere.taken_back(taken)
        await chat.paper.until(lambda: chat.loop.turns.waiting == ())
