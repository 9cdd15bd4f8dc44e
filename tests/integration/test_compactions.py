"""Compactions of one session by real threads and processes, released together, paused, killed, with clocks that differ."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from clew.adapters.processes.owners import OwnerLocks
from clew.adapters.stores.sqlite import open_ledger
from clew.domain.compaction.cut import standing
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.ledger.commits import Append
from clew.domain.ledger.rows import Handle
from clew.runtime.compaction import Trigger
from clew.runtime.ports.ledger import Ledger
from clew.testing.invariants import check
from clew.testing.ledgers import as_holder, begin, do, exchange, turn_after, user
from clew.testing.world import HandClock
from tests.integration.compacting_program import compacted, maker

pytestmark = pytest.mark.anyio
PROGRAM = Path(__file__).with_name("compacting_program.py")
AT_ONCE = 8
TOLD = "word " * 60


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    (tmp_path / "run").mkdir()
    opened = await open_ledger(tmp_path, HandClock())
    yield opened
    await opened.close()


class Program:
    """A process that compacts on demand."""

    def __init__(self, process: asyncio.subprocess.Process, owner: str) -> None:
        self._process = process
        self.owner = owner
        self.pid = process.pid

    async def ask(self, session: SessionId, what: str) -> str:
        self.tell(f"{session} {what}")
        return await self.heard()

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def heard(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            return (await self._process.stdout.readline()).decode().strip()


@asynccontextmanager
async def programs(home: Path, *offsets: float) -> AsyncIterator[list[Program]]:
    """One for each clock offset; gone at the end, however it comes."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_program(home, offset)) for offset in offsets]


@asynccontextmanager
async def _program(home: Path, offset: float) -> AsyncIterator[Program]:
    pipe = asyncio.subprocess.PIPE
    environ = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAM, home, str(offset), stdin=pipe, stdout=pipe, env=environ
    )
    try:
        assert process.stdout is not None
        yield Program(process, (await process.stdout.readline()).decode().strip())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def full(ledger: Ledger, number: int) -> Handle:
    return await exchange(
        ledger, await begin(ledger, number, owner=LOCAL), *(f"{n} {TOLD}" for n in range(25)), actor=LOCAL
    )


async def assert_one_summary(ledger: Ledger, handle: Handle, said: list[str]) -> None:
    """One in force and no other, one head, everything that was said is there once, and nothing hangs off the session."""
    session = handle.session
    row = await ledger.session(LOCAL, session)
    (summary,) = await ledger.summaries(LOCAL, session)
    assert row.handle.summary == summary.id
    path = await ledger.path(LOCAL, session)
    assert [m.text for m in path] == said
    assert [m.text for m in standing(path, summary)] == said[summary.upto.seq :]
    assert await ledger.children(LOCAL, session) == ()
    assert len(await ledger.branches(LOCAL, session)) == 1
    assert await ledger.compaction(LOCAL, session) is None
    await check(ledger, LOCAL, session)


Asking = Callable[[int, SessionId, Trigger], Coroutine[None, None, str]]
"""The n-th of eight is asked to compact a session, and says what came of it."""
PAIRS = tuple(combinations_with_replacement(Trigger, 2))


async def assert_one_comes_of_eight(ledger: Ledger, number: int, ask: Asking) -> None:
    """Released together, by a pair of triggers, while somebody goes on talking."""
    pair = PAIRS[number - 1]
    handle = await full(ledger, number)
    asked = [asyncio.create_task(ask(n, handle.session, pair[n % 2])) for n in range(AT_ONCE)]
    said = [m.text for m in await ledger.path(LOCAL, handle.session)]
    while not all(task.done() for task in asked):
        words = f"meanwhile {len(said)}"
        talk = Append(messages=(user(words, actor=LOCAL),), turn=turn_after(handle))
        handle = await do(ledger, handle, actor=LOCAL, fence=as_holder(handle), op=talk)
        said.append(words)
        await asyncio.wait(asked, timeout=0.01)
    outcomes = [task.result() for task in asked]
    assert outcomes.count("made") == 1, outcomes
    assert set(outcomes) <= {"made", "adopted", "elsewhere"}, outcomes
    await assert_one_summary(ledger, handle, said)


async def test_eight_processes_released_together(tmp_path: Path, ledger: Ledger) -> None:
    """Once for each pair of triggers; two of the clocks are an hour off."""
    async with programs(tmp_path, *[0.0] * (AT_ONCE - 2), 3600, -3600) as children:
        for number in range(1, len(PAIRS) + 1):
            await assert_one_comes_of_eight(ledger, number, lambda n, *asked: children[n].ask(*asked))


async def test_eight_threads_released_together(tmp_path: Path, ledger: Ledger) -> None:
    """Once for each pair of triggers; each thread has its own loop and its own connection to the file."""

    async def compacting(n: int, session: SessionId, trigger: Trigger) -> str:
        owners = OwnerLocks(tmp_path / "run", f"thread{n:02}")
        own = await open_ledger(tmp_path, HandClock())
        try:
            return await compacted(maker(own, owners, HandClock()), session, trigger)
        finally:
            await own.close()
            owners.close()

    async def in_thread(n: int, session: SessionId, trigger: Trigger) -> str:
        return await asyncio.to_thread(lambda: asyncio.run(compacting(n, session, trigger)))

    for number in range(1, len(PAIRS) + 1):
        await assert_one_comes_of_eight(ledger, number, in_thread)


@pytest.mark.parametrize("hours", [-1, 0, 1])
async def test_a_paused_holder_wakes_after_its_lease(tmp_path: Path, ledger: Ledger, hours: int) -> None:
    """Another takes the lease over and makes the summary, whatever its clock says; the sleeper, whose clock has jumped
    the other way by then, adopts it."""
    handle = await full(ledger, 1)
    said = [m.text for m in await ledger.path(LOCAL, handle.session)]
    async with programs(tmp_path, 0, 3600 * hours) as (sleeper, other):
        assert await sleeper.ask(handle.session, "pausing") == "writing"
        held = await ledger.compaction(LOCAL, handle.session)
        assert held is not None
        assert held.holder == sleeper.owner
        os.kill(sleeper.pid, signal.SIGSTOP)
        assert await other.ask(handle.session, Trigger.PREFLIGHT) == "made"
        os.kill(sleeper.pid, signal.SIGCONT)
        sleeper.tell(f"{-3600 * hours}")
        assert await sleeper.heard() == "adopted"
    await assert_one_summary(ledger, handle, said)


async def test_the_lease_of_a_killed_holder_is_free_at_once(tmp_path: Path, ledger: Ledger) -> None:
    """The operating system says that it is dead: nobody waits for its lease to run out."""
    handle = await full(ledger, 1)
    said = [m.text for m in await ledger.path(LOCAL, handle.session)]
    async with programs(tmp_path, 0, 0) as (victim, heir):
        assert await victim.ask(handle.session, "pausing") == "writing"
        os.kill(victim.pid, signal.SIGKILL)
        assert await victim.heard() == ""
        assert await heir.ask(handle.session, Trigger.IDLE) == "made"
    await assert_one_summary(ledger, handle, said)
