"""Reminders through the whole gateway, in virtual time: said once at their time, whatever is killed and however clocks jump."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from clew.adapters.stores.memory import Disk, MemoryLedger
from clew.config.settings import GatewaySettings, Settings
from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.messages import Role
from clew.domain.ledger.rows import JobState
from clew.domain.models.request import ModelRequest, UserTurn
from clew.runtime.ports.ledger import Ledger
from clew.surfaces.gateway.channel import open_channel
from clew.surfaces.gateway.gateway import Gateway
from clew.testing.fake_platform import FakeChats, FakePlatform
from clew.testing.faulty_ledger import Fault, FaultyLedger, ProcessDied
from clew.testing.scripted_model import Step
from clew.testing.virtual_time import Program, simulate
from clew.testing.world import HandClock, World

ANN = PrincipalId("fake:ann")
NEW_YORK = ZoneInfo("America/New_York")


def ms(text: str, fold: int = 0) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK, fold=fold).timestamp() * 1000)


class Clock(HandClock):
    """The wall clock of virtual time. Other clocks of the same machine go with it."""

    def __init__(self, start_ms: int) -> None:
        super().__init__(start_ms)
        self.start_ms = start_ms

    def now_ms(self) -> int:
        return self.start_ms + int(asyncio.get_running_loop().time() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def jump(self, to_ms: int) -> None:
        """Somebody sets the clock."""
        self.start_ms += to_ms - self.now_ms()

    async def until(self, at: str, fold: int = 0) -> None:
        """The wall clock shows this moment."""
        await asyncio.sleep((ms(at, fold) - self.now_ms()) / 1000)


def answer(request: ModelRequest) -> Step:
    last = [turn for turn in request.messages if isinstance(turn, UserTurn)][-1]
    said = "".join(getattr(part, "text", "") for part in last.parts).split("<sent")[0]
    return Step(deltas=("told" if said.startswith("<event") else f"re: {said}",))


class Machine:
    """One disk, one wall clock, one person's chat; processes come and go."""

    def __init__(self, at: str = "2026-06-10T08:00:00") -> None:
        self.disk = Disk()
        self.chats = FakeChats()
        self.clock = Clock(ms(at))
        self.dead: tuple[str, ...] = ()
        self._number = 0

    def process(self, ledger: Callable[[], Ledger] | None = None) -> tuple[World, Gateway]:
        self._number += 1
        store = ledger() if ledger is not None else MemoryLedger(self.disk)
        world = World(store, answer, owner=f"p{self._number}", clock=self.clock, seed=self._number)
        world.owners.dead |= set(self.dead)
        world.zones[ANN] = "America/New_York"
        settings = Settings(gateway=GatewaySettings(drain_seconds=5))
        platform = FakePlatform(self.chats)
        return world, Gateway(
            [open_channel(world.services, settings, platform, Path("/work"), frozenset({"ann"}))]
        )

    @property
    def shown(self) -> list[str]:
        return self.chats.shown("ann")

    async def says(self, text: str, answers: int = 1) -> str:
        """What comes back, when it is there."""
        count = len(self.shown)
        await self.chats.say("ann", text)
        await self.chats.until(lambda: len(self.shown) >= count + answers)
        return self.shown[-1]


class Serving:
    """A gateway that runs, until it is stopped as an operator would."""

    def __init__(self, machine: Machine) -> None:
        self.world, self.gateway = machine.process()

    async def __aenter__(self) -> World:
        self._task = asyncio.create_task(self.gateway.run())
        return self.world

    async def __aexit__(self, *_: object) -> None:
        self.gateway.stop()
        await self._task


async def session(world: World) -> SessionId:
    known = await world.ledger.conversation("fake/bot/c:ann")
    assert known is not None
    assert known.session is not None
    return known.session


async def events(world: World) -> list[str]:
    """The events of the place's session."""
    return [m.text for m in await world.ledger.path(ANN, await session(world)) if m.role == Role.EVENT]


@pytest.mark.parametrize("seed", range(3))
def test_a_reminder_is_said_at_its_time(seed: int) -> None:
    """The reply names the absolute time; at it the person sees the text, the model is told by an event and answers; then it is
    over. Two gateways on one ledger say it once."""

    async def run() -> None:
        machine = Machine()
        async with Serving(machine) as world:
            said = await machine.says("/remind in 20m tea")
            assert "“tea”, Wed 2026-06-10 08:20 (America/New_York, UTC-0400)" in said
            count = len(machine.shown)
            _, other = machine.process()
            beside = asyncio.create_task(other.run())
            await machine.clock.until("2026-06-10T08:19:59")
            assert len(machine.shown) == count
            await machine.clock.until("2026-06-10T08:20:03")
            assert machine.shown[count:] == ["Reminder: tea", "told"]
            (event,) = await events(world)
            assert event.endswith("\ntea")
            assert "2026-06-10 08:20 (America/New_York" in event
            await machine.clock.until("2026-06-10T09:00:00")
            assert machine.shown[count:] == ["Reminder: tea", "told"]
            assert "There are no reminders" in await machine.says("/remind list")
            other.stop()
            await beside

    simulate(seed, run())


def test_what_is_asked_badly_is_one_sentence() -> None:
    """Nonsense, the past, a number that is nobody's, too many: said, and nothing is kept."""

    async def run() -> None:
        machine = Machine()
        async with Serving(machine) as world:
            assert "I do not understand when “blah”" in await machine.says("/remind blah")
            assert "is past; nothing was kept" in await machine.says("/remind today 7:00 x")
            assert "There is no reminder 99" in await machine.says("/remind cancel 99")
            assert "takes the number" in await machine.says("/remind cancel it")
            assert await machine.says("/remind list") == "There are no reminders."
            for n in range(100):
                reminder = world.reminders.understood(ANN, f"tomorrow x{n}")
                known = await world.ledger.conversation("fake/bot/c:ann")
                assert known is not None
                await world.reminders.keep(ANN, await session(world), known.id, reminder)
            assert "100 of this kind wait already" in await machine.says("/remind in 20m tea")

    simulate(0, run())


def test_cancelled_it_is_not_said() -> None:
    """/remind list shows the number, /remind cancel takes it back."""

    async def run() -> None:
        machine = Machine()
        async with Serving(machine) as world:
            await machine.says("/remind every weekday at 9:00 stand-up")
            listed = await machine.says("/remind list")
            (row,) = await world.ledger.jobs(ANN, "reminder")
            assert listed == (
                f"{row.id}: “stand-up”, every weekday at 09:00, next Wed 2026-06-10 09:00 (America/New_York, UTC-0400)"
            )
            assert "Cancelled" in await machine.says(f"/remind cancel {row.id}")
            count = len(machine.shown)
            await machine.clock.until("2026-06-10T09:02:00")
            assert len(machine.shown) == count

    simulate(0, run())


def test_what_was_missed_is_said_once_with_its_time() -> None:
    """Nobody was there for four of its times: the next start says it once, when it was due and how often; then it goes on."""

    async def run() -> None:
        machine = Machine()
        async with Serving(machine):
            await machine.says("/remind every day at 9:00 pills")
            await machine.says("/remind in 2h eggs")
        count = len(machine.shown)
        await machine.clock.until("2026-06-13T20:00:00")
        async with Serving(machine) as world:
            await machine.clock.until("2026-06-13T20:00:40")
            new = machine.shown[count:]
            assert sorted(text for text in new if text.startswith("Reminder")) == [
                "Reminder: eggs (was due Wed 2026-06-10 10:00 (America/New_York, UTC-0400))",
                "Reminder: pills (was due Sat 2026-06-13 09:00 (America/New_York, UTC-0400), and 3 times before that)",
            ]
            assert "told" in new
            assert sum("3 more times" in event for event in await events(world)) == 1
            machine.clock.jump(ms("2026-06-14T08:59:20"))
            await machine.clock.until("2026-06-14T09:00:05")
            assert "Reminder: pills" in machine.shown

    simulate(0, run())


@pytest.mark.parametrize(
    ("start", "looks", "next_day", "said"),
    [
        # 02:30 is skipped on 2026-03-08: it comes at 03:30
        ("2026-03-08T01:00", ["2026-03-08T03:29:59", "2026-03-08T03:30:05", "2026-03-08T06:00"], "2026-03-09T02:29:20", [0, 1, 1, 2]),
        # 01:30 is shown twice on 2026-11-01
        ("2026-11-01T00:30", ["2026-11-01T01:29:59", "2026-11-01T01:30:05", "2026-11-01T06:00"], "2026-11-02T01:29:20", [0, 1, 1, 2]),
    ],
)  # fmt: skip
def test_clock_changes_make_nothing_due_twice(
    start: str, looks: list[str], next_day: str, said: list[int]
) -> None:
    """A daily reminder in the hour that is skipped, or shown twice, is said once on that day."""

    async def run() -> None:
        machine = Machine(start)
        async with Serving(machine):
            at = "2:30" if start < "2026-06" else "1:30"
            await machine.says(f"/remind every day at {at} x")
            counts = []
            for look in looks:
                await machine.clock.until(look)
                counts.append(machine.shown.count("Reminder: x"))
            machine.clock.jump(ms(next_day))
            await machine.clock.until(next_day.replace(":29:20", ":30:05"))
            assert [*counts, machine.shown.count("Reminder: x")] == said

    simulate(0, run())


def test_a_clock_that_is_set_makes_nothing_due_twice() -> None:
    """Said, then the clock goes back an hour and shows the time again: not said again. Set forward over the next two times:
    the last is said with its time; and back again: not said again."""

    async def run() -> None:
        machine = Machine("2026-06-10T08:59:00")
        async with Serving(machine):
            await machine.says("/remind every day at 9:00 x")
            await machine.clock.until("2026-06-10T09:00:05")
            assert machine.shown.count("Reminder: x") == 1
            machine.clock.jump(ms("2026-06-10T08:00:00"))
            await machine.clock.until("2026-06-10T09:10:00")
            machine.clock.jump(ms("2026-06-12T12:00:00"))
            await machine.clock.until("2026-06-12T12:00:40")
            late = "Reminder: x (was due Fri 2026-06-12 09:00 (America/New_York, UTC-0400), and once before that)"
            assert [t for t in machine.shown if t.startswith("Reminder:")] == ["Reminder: x", late]
            machine.clock.jump(ms("2026-06-10T12:00:00"))
            for day in ("2026-06-11", "2026-06-12"):
                machine.clock.jump(ms(f"{day}T08:59:20"))
                await machine.clock.until(f"{day}T09:01:00")
            assert [t for t in machine.shown if t.startswith("Reminder:")] == ["Reminder: x", late]
            machine.clock.jump(ms("2026-06-13T08:59:20"))
            await machine.clock.until("2026-06-13T09:00:05")
            assert machine.shown.count("Reminder: x") == 2

    simulate(0, run())


def test_it_follows_its_place_and_goes_with_its_session() -> None:
    """After /new it is said in the new session; after /undo it stays; /delete of the session it was asked for in takes it along.
    Each reply says so."""

    async def run() -> None:
        machine = Machine()
        async with Serving(machine) as world:
            await machine.says("hello")
            await machine.says("/remind in 1h tea")
            await machine.says("/undo")
            assert "to remind you of (1) is said here all the same" in await machine.says("/new")
            new = await session(world)
            count = len(machine.shown)
            await machine.clock.until("2026-06-10T09:00:10")
            assert machine.shown[count:] == ["Reminder: tea", "told"]
            assert [m.role for m in await world.ledger.path(ANN, new)] == [Role.EVENT, Role.ASSISTANT]
            await machine.says("/remind in 1h eggs")
            assert "With it 1 reminder that had been asked for in it." in await machine.says(f"/delete {new}")
            count = len(machine.shown)
            await machine.clock.until("2026-06-10T10:02:00")
            assert machine.shown[count:] == []

    simulate(0, run())


def test_a_turn_that_runs_is_told() -> None:
    """A reminder that comes while the model is asked joins the turn or has its own; it is said once, and the talk goes on."""

    async def run() -> None:
        machine = Machine()
        async with Serving(machine) as world:
            await machine.says("/remind in 10m tea")
            await machine.clock.until("2026-06-10T08:09:59")
            machine.chats.answer_seconds = 3
            await machine.chats.say("ann", "hello")
            await machine.clock.until("2026-06-10T08:11:00")
            assert machine.shown.count("Reminder: tea") == 1
            assert "re: hello" in "".join(machine.shown)
            assert len(await events(world)) == 1

    simulate(0, run())


def test_whoever_may_not_talk_any_more_hears_nothing() -> None:
    """It is tried again later, in case they may, and given up in the end, with the reason."""

    async def run() -> None:
        machine = Machine()
        async with Serving(machine):
            await machine.says("/remind in 1h tea")
        count = len(machine.shown)
        world, _ = machine.process()
        channel = open_channel(
            world.services, Settings(), FakePlatform(machine.chats), Path("/work"), frozenset()
        )
        gateway = Gateway([channel])
        serving = asyncio.create_task(gateway.run())
        await machine.clock.until("2026-06-10T12:00:00")
        (row,) = machine.disk.state.jobs.values()
        assert (row.state, row.attempts) == (JobState.FAILED, 5)
        assert "may not talk here any more" in (row.error or "")
        assert len(machine.shown) == count
        gateway.stop()
        await serving

    simulate(0, run())


class Dies:
    """Ends its program at the n-th write."""

    def __init__(self, program: Program, at: int, how: Fault) -> None:
        self._program = program
        self._left = at
        self._how = how

    def fault(self, shape: str) -> Fault | None:
        self._left -= 1
        return self._how if self._left == 0 else None

    def read_fails(self) -> bool:
        return False

    def wrote(self, *_: object) -> None:
        """Nobody looks."""

    def refused(self, *_: object) -> None:
        """Nobody looks."""

    def killed(self, *_: object) -> None:
        self._program.kill()


@pytest.mark.parametrize("how", [Fault.KILLED_BEFORE, Fault.KILLED_AFTER])
@pytest.mark.parametrize("write", range(1, 13))
def test_killed_at_any_write_it_is_said_once(how: Fault, write: int) -> None:
    """From the firing on, a process is killed before or after each of its writes, while another runs or none does: the person is
    told once (or once more with a mark), the model once, and the next time is said as well."""

    async def run() -> None:
        machine = Machine()
        async with Serving(machine):
            await machine.says("/remind every hour pills")
        count = len(machine.shown)
        await machine.clock.until("2026-06-10T08:59:58")
        program = Program()
        dies = Dies(program, write, how)
        _, doomed = machine.process(lambda: FaultyLedger(machine.disk, program, dies))
        program.start(doomed.run())
        await machine.clock.until("2026-06-10T09:00:30")
        program.kill()
        machine.dead += ("p2",)
        async with Serving(machine) as world:
            await machine.clock.until("2026-06-10T09:20:00")
            new = machine.shown[count:]
            assert sum(
                text.endswith("Reminder: pills") or "Reminder: pills (was" in text for text in new
            ) in (1, 2), new
            assert new.count("Reminder: pills") <= 1
            assert len(await events(world)) == 1
            assert any(text.endswith("told") for text in new), new
            await machine.clock.until("2026-06-10T10:00:30")
            assert len(await events(world)) == 2

    simulate(write, run(), ending=(ProcessDied,))


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_any_instant_each_time_is_said_once(seed: int) -> None:
    """Two gateways at a time, killed at random over three days: each day the person's session holds one event more."""

    async def run() -> None:
        chance = random.Random(seed)
        machine = Machine()
        async with Serving(machine):
            await machine.says("/remind every day at 9:00 pills")
        for day in range(10, 13):
            await machine.clock.until(f"2026-06-{day}T08:59:55")
            programs = []
            for _ in range(2):
                _, gateway = machine.process()
                programs.append(Program())
                programs[-1].start(gateway.run())
            for number, program in enumerate(programs):
                await asyncio.sleep(chance.choice((0.0, 5.0, chance.uniform(0, 9))))
                for _ in range(chance.randrange(200)):
                    await asyncio.sleep(0)
                program.kill()
                machine.dead += (f"p{2 * (day - 10) + 2 + number}",)
        async with Serving(machine) as world:
            await machine.clock.until("2026-06-12T10:00:00")
            said = [int(text.partition("2026-06-")[2][:2]) for text in await events(world)]
            assert said == sorted(set(said))
            assert said[-1] == 12
            (row,) = await world.ledger.jobs(ANN, "reminder")
            assert row.next_at == ms("2026-06-13T09:00")

    simulate(seed, run(), ending=(ProcessDied,))
