"""The pool of agent processes, over agents that are only pretended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from clew.adapters.agents.errors import AgentUnavailable, PoolClosed
from clew.adapters.agents.pool import AgentPool, PoolLimits
from clew.adapters.agents.programs import AgentKey

pytestmark = pytest.mark.anyio
KEY = AgentKey("gemini", "flash", Path("/work"))


class Pretended:
    """An agent without a process."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.opened = 0
        self.resident_mb = 0
        self.stuck = False
        self.closes = 0

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.ended.set()
        self.closes += 1


class Starts:
    """Starts agents as they are let: `may` holds the starts back, `failing` makes the next ones fail."""

    def __init__(self) -> None:
        self.asked: list[AgentKey] = []
        self.agents: list[Pretended] = []
        self.failing = 0
        self.may = asyncio.Event()
        self.may.set()

    async def __call__(self, key: AgentKey) -> Pretended:
        self.asked.append(key)
        await self.may.wait()
        if self.failing:
            self.failing -= 1
            raise AgentUnavailable("It did not start.")
        self.agents.append(Pretended())
        return self.agents[-1]


@pytest.fixture
def starts() -> Starts:
    return Starts()


async def test_those_who_ask_at_once_are_lent_the_same_process(starts: Starts) -> None:
    """Eight concurrent first uses start one process, and all get it only when it is ready."""
    starts.may.clear()
    pool = AgentPool(starts)
    asking = [asyncio.ensure_future(pool.get(KEY)) for _ in range(8)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in asking)
    starts.may.set()
    leases = await asyncio.gather(*asking)
    assert len(starts.asked) == 1
    assert {id(lease.agent) for lease in leases} == {id(starts.agents[0])}
    await pool.close()


async def test_another_model_or_directory_is_another_process(starts: Starts) -> None:
    """The key is agent, model and directory together."""
    pool = AgentPool(starts)
    keys = [KEY, KEY._replace(model="pro"), KEY._replace(cwd=Path("/else")), KEY._replace(agent="claude")]
    assert len({id((await pool.get(key)).agent) for key in keys}) == 4
    await pool.close()


async def test_a_failed_start_fails_all_who_waited_and_frees_the_place(starts: Starts) -> None:
    """After a start that failed the next who asks begins another."""
    starts.failing = 1
    pool = AgentPool(starts)
    results = await asyncio.gather(pool.get(KEY), pool.get(KEY), return_exceptions=True)
    assert [type(result) for result in results] == [AgentUnavailable, AgentUnavailable]
    assert (await pool.get(KEY)).agent is starts.agents[0]
    assert len(starts.asked) == 2
    await pool.close()


async def test_who_gives_up_waiting_does_not_end_the_start(starts: Starts) -> None:
    """A start goes on for the others, and for whoever comes next."""
    starts.may.clear()
    pool = AgentPool(starts)
    first, second = asyncio.ensure_future(pool.get(KEY)), asyncio.ensure_future(pool.get(KEY))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    starts.may.set()
    assert (await second).agent.closes == 0
    assert len(starts.asked) == 1
    await pool.close()


async def test_giving_an_agent_back_does_not_end_it(starts: Starts) -> None:
    """A process is kept for the next, however often it was given back."""
    pool = AgentPool(starts)
    lease = await pool.get(KEY)
    await lease.give_back()
    await lease.give_back()
    assert (await pool.get(KEY)).agent is lease.agent
    assert lease.agent.closes == 0
    await pool.close()


async def test_a_dead_process_is_not_lent_again(starts: Starts) -> None:
    """After a crash the next who asks gets another process."""
    pool = AgentPool(starts)
    lease = await pool.get(KEY)
    lease.agent.ended.set()
    again = await pool.get(KEY)
    assert again.agent is not lease.agent
    await pool.close()
    assert [agent.closes for agent in starts.agents] == [1, 1]


@pytest.mark.parametrize("worn", ["opened", "resident_mb"])
async def test_a_worn_process_is_replaced_and_ends_with_its_last_user(starts: Starts, worn: str) -> None:
    """After N sessions or M megabytes a new one is lent; the old one goes on for those who have it."""
    pool = AgentPool(starts, PoolLimits(recycle_sessions=3, recycle_mb=3))
    old = await pool.get(KEY)
    setattr(old.agent, worn, 3)
    new = await pool.get(KEY)
    assert new.agent is not old.agent
    assert old.agent.closes == 0
    await old.give_back()
    await old.agent.ended.wait()
    assert new.agent.closes == 0
    await pool.close()
    assert [agent.closes for agent in starts.agents] == [1, 1]


async def test_a_stuck_process_is_not_lent_again(starts: Starts) -> None:
    """One that answers no more ends with its last user, and another is lent meanwhile."""
    pool = AgentPool(starts)
    lease = await pool.get(KEY)
    lease.agent.stuck = True
    assert (await pool.get(KEY)).agent is not lease.agent
    await lease.give_back()
    await lease.agent.ended.wait()
    await pool.close()


async def test_closing_ends_every_process_once(starts: Starts) -> None:
    """Lent, retired, idle: after `close` all are ended, and a second `close` has nothing to do."""
    pool = AgentPool(starts, PoolLimits(recycle_sessions=1))
    retired = await pool.get(KEY)
    retired.agent.opened = 1
    await pool.get(KEY)
    await (await pool.get(KEY._replace(model="idle"))).give_back()
    await pool.close()
    await pool.close()
    assert [agent.closes for agent in starts.agents] == [1, 1, 1]
    with pytest.raises(PoolClosed):
        await pool.get(KEY)


async def test_closing_ends_a_start_under_way(starts: Starts) -> None:
    """Whoever waits for a start while the pool closes is told that, and nothing is left of it."""
    starts.may.clear()
    pool = AgentPool(starts)
    asking = asyncio.ensure_future(pool.get(KEY))
    await asyncio.sleep(0)
    await pool.close()
    with pytest.raises(PoolClosed):
        await asking
    assert starts.agents == []


async def test_an_idle_process_makes_room(starts: Starts) -> None:
    """There are never more processes than the limit: an idle one goes, one in use stays, and that is said."""
    pool = AgentPool(starts, PoolLimits(processes_max=2))
    used = await pool.get(KEY)
    idle = await pool.get(KEY._replace(model="idle"))
    await idle.give_back()
    await pool.get(KEY._replace(model="third"))
    await idle.agent.ended.wait()
    assert used.agent.closes == 0
    with pytest.raises(AgentUnavailable, match="all are in use"):
        await pool.get(KEY._replace(model="fourth"))
    await pool.close()


def test_another_loop_is_refused(starts: Starts) -> None:
    """A pool serves the loop that it was first used in, and no other gets hold of its processes."""
    pool = AgentPool(starts)
    asyncio.run(pool.get(KEY))
    with pytest.raises(RuntimeError, match="one event loop"):
        asyncio.run(pool.get(KEY))
    assert len(starts.asked) == 1
