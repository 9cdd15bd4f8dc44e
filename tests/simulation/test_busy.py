"""Many messages while turns stream, in every mode and from two terminals, in virtual time and seeded order."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.conversation.messages import Role
from clew.domain.ledger.rows import InboxState, TurnState
from clew.domain.models.request import ModelRequest, ToolTurn
from clew.domain.tools.spec import JsonObject, ToolResult
from clew.runtime.ports.tools import ToolContext
from clew.runtime.turns import TurnSettings
from clew.runtime.turns.waiting import BusyMode
from clew.surfaces.cli.chat.approving import Asker
from clew.surfaces.cli.chat.screen import Screen, ScreenOptions
from clew.surfaces.cli.chat.status import StatusLine
from clew.surfaces.cli.chat.turns import TurnDriver
from clew.surfaces.cli.chat.typesetting import Typesetter
from clew.testing.invariants import check
from clew.testing.scripted_model import Hold, Step, ask, say
from clew.testing.virtual_time import simulate
from clew.testing.world import RecordingTool, World, command

MESSAGES = 20
SECONDS = 2.0
SEEDS = range(25)


class Pause(Hold):
    """A point at which a stream stands still for a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def stand(self) -> None:
        await asyncio.sleep(self._seconds)


class Nowhere:
    """A display that nobody looks at."""

    columns = 80

    def show(self, text: str) -> None:
        pass

    def changed(self) -> None:
        pass


class Terminal:
    """One chat of one process: its world, and the driver that runs its turns."""

    def __init__(self, ledger: MemoryLedger, name: str, mode: BusyMode, chance: random.Random) -> None:
        self._chance = chance
        tool = RecordingTool("slow", answer=self._work)
        settings = TurnSettings(busy=mode)
        self.world = World(
            ledger, self._answer, tools=[tool], owner=name, settings=settings, seed=ord(name[0])
        )
        self.talk = self.world.talk()
        self.broken: list[BaseException] = []
        self.unsent: list[str] = []
        self.driver = TurnDriver(
            self.talk,
            Screen(Nowhere(), Typesetter(styles=False, colours=False), ScreenOptions()),
            StatusLine(),
            Asker(lambda _: None, lambda _: None),
            give_back=self.unsent.append,
            settled=lambda: None,
            outdated=self.broken.append,
            broken=self.broken.append,
        )

    async def _work(self, arguments: JsonObject, context: ToolContext) -> ToolResult:
        await asyncio.sleep(self._chance.random() * 0.4)
        return ToolResult(text="done")

    def _answer(self, request: ModelRequest) -> Step:
        if not isinstance(request.messages[-1], ToolTurn) and self._chance.random() < 0.5:
            return ask("slow", text="first")
        return say("so ", Pause(self._chance.random() * 0.6), "far")

    async def types(self, text: str) -> None:
        opening = await self.driver.send(text)
        if opening is not None:
            self.driver.start(opening)

    async def until_done(self) -> None:
        while self.driver.is_busy or self.driver.waiting:
            await asyncio.sleep(self._chance.random())
            await self.driver.refresh_waiting()
            if not self.driver.is_busy:
                await self.driver.send_waiting()


async def typed(terminals: list[Terminal], chance: random.Random) -> list[str]:
    """Twenty messages in two seconds, while the first is being answered."""
    texts = [f"message {n}" for n in range(MESSAGES + 1)]
    await terminals[0].types(texts[0])
    moments = sorted(chance.random() * SECONDS for _ in texts[1:])
    began = asyncio.get_running_loop().time()
    for moment, text in zip(moments, texts[1:], strict=True):
        await asyncio.sleep(max(began + moment - asyncio.get_running_loop().time(), 0.0))
        await chance.choice(terminals).types(text)
    for terminal in terminals:
        await terminal.until_done()
        assert (terminal.broken, terminal.unsent) == ([], [])
    return texts


async def accounted(terminal: Terminal, session: SessionId, texts: list[str]) -> list[str]:
    """Each is stored once, and /why says of each that waited which turn took it. Returns them as they are stored."""
    ledger = terminal.world.ledger
    await check(ledger, LOCAL, session)
    path = await ledger.path(LOCAL, session)
    stored = [m.text for m in path if m.role == Role.USER]
    assert Counter(stored) == Counter(texts)
    rows = await ledger.received(LOCAL, session, 100)
    assert {row.state for row in rows} <= {InboxState.CONSUMED}
    told = (await command(terminal.talk, "/why 100")).split("\n")
    assert sum(": opened turn " in line or ": joined turn " in line for line in told) == len(rows)
    opened = {m.text for m in path if m.opens_turn}
    for m in path:
        if m.text in opened and m.role == Role.USER:
            turn = await ledger.turn(LOCAL, session, m.turn)
            assert turn is not None
            assert turn.state in (TurnState.DONE, TurnState.INTERRUPTED)
    assert path[-1].role == Role.ASSISTANT
    return stored


@pytest.mark.parametrize("mode", BusyMode)
def test_twenty_messages_in_two_seconds(mode: BusyMode) -> None:
    """All stored, in order, none doubled; each was answered or cut by the next, and /why accounts for every one."""

    async def scenario(seed: int) -> Counter[str]:
        chance = random.Random(seed)
        terminal = Terminal(MemoryLedger(), "one", mode, chance)
        session = await terminal.talk.ensure_session()
        texts = await typed([terminal], chance)
        assert await accounted(terminal, session, texts) == texts
        path = await terminal.world.ledger.path(LOCAL, session)
        turns = [await terminal.world.ledger.turn(LOCAL, session, n) for n in {m.turn for m in path}]
        hits = Counter(str(turn.state) for turn in turns if turn is not None)
        return hits + Counter(joined=sum(m.role == Role.USER and not m.opens_turn for m in path))

    hits: Counter[str] = Counter()
    for seed in SEEDS:
        hits += simulate(seed, scenario(seed))
    assert (hits["interrupted"] > 0) == (mode == BusyMode.INTERRUPT)
    assert (hits["joined"] > 0) == (mode == BusyMode.STEER)


@pytest.mark.parametrize("mode", BusyMode)
def test_twenty_messages_from_two_terminals(mode: BusyMode) -> None:
    """Of two processes, in one session: none lost, none doubled, answered as they came, whoever runs the turn."""

    async def scenario(seed: int) -> None:
        chance = random.Random(seed)
        ledger = MemoryLedger()
        terminals = [Terminal(ledger, name, mode, chance) for name in ("one", "two")]
        session = terminals[1].talk.session = await terminals[0].talk.ensure_session()
        texts = await typed(terminals, chance)
        assert await accounted(terminals[0], session, texts) == texts

    for seed in SEEDS:
        simulate(seed, scenario(seed))
