"""The virtual loop itself: it is deterministic, it finds races, it skips waiting."""

from __future__ import annotations

import asyncio

import pytest

from clew.testing.virtual_time import Program, Stuck, simulate

SEEDS = range(100)


async def interleaving() -> tuple[str, ...]:
    """Four tasks that take five steps each."""
    seen: list[str] = []

    async def walk(name: str) -> None:
        for step in range(5):
            seen.append(f"{name}{step}")
            await asyncio.sleep(0)

    await asyncio.gather(*(walk(name) for name in "abcd"))
    return tuple(seen)


async def lost_update() -> int:
    """Two tasks that read, wait and write back."""
    total = 0

    async def add() -> None:
        nonlocal total
        seen = total
        await asyncio.sleep(asyncio.get_running_loop().time() and 1)
        total = seen + 1

    await asyncio.gather(add(), add())
    return total


def test_the_same_seed_gives_the_same_run() -> None:
    """Whatever the scenario."""
    assert all(simulate(seed, interleaving()) == simulate(seed, interleaving()) for seed in SEEDS)


def test_seeds_differ() -> None:
    """Most seeds are runs of their own."""
    assert len({simulate(seed, interleaving()) for seed in SEEDS}) > 80


def test_each_task_keeps_its_own_order() -> None:
    """Only steps of different tasks change places."""
    for seed in SEEDS:
        run = simulate(seed, interleaving())
        for name in "abcd":
            assert [step for step in run if step[0] == name] == [f"{name}{n}" for n in range(5)]


def test_a_race_is_found() -> None:
    """A lost update shows in some seed."""
    assert {simulate(seed, lost_update()) for seed in SEEDS} == {1}


def test_hours_pass_at_once() -> None:
    """Timers fire in order, and nothing waits for them."""

    async def sleepy() -> float:
        await asyncio.gather(*(asyncio.sleep(hours * 3600) for hours in (1, 2)))
        return asyncio.get_running_loop().time()

    assert simulate(0, sleepy()) == 7200


def test_what_can_never_end_is_said() -> None:
    """Instead of hanging."""

    async def waits() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stuck):
        simulate(0, waits())


async def virtually(seconds: float) -> None:
    """Nobody waits for it but in virtual time."""
    await asyncio.sleep(seconds)


async def ticks(seen: list[float]) -> None:
    """Counts seconds, in a task of its own."""

    async def count() -> None:
        while True:
            await virtually(1)
            seen.append(asyncio.get_running_loop().time())

    await asyncio.gather(asyncio.create_task(count()))


def test_a_program_stands_still_and_goes_on() -> None:
    """With all its tasks, between two steps; a timer that passed meanwhile fires as it goes on."""

    async def scenario() -> tuple[list[float], list[float]]:
        program, stopped, other = Program(), list[float](), list[float]()
        program.start(ticks(stopped))
        Program().start(ticks(other))
        await virtually(2.5)
        program.pause()
        await virtually(3)
        assert stopped == [1, 2]
        program.resume()
        await virtually(1.9)
        return stopped, other

    assert simulate(0, scenario()) == ([1, 2, 5.5, 6.5], [1, 2, 3, 4, 5, 6, 7])


def test_a_program_that_is_killed_takes_no_further_step() -> None:
    """Not even to clean up; what waits for it waits for ever."""

    async def scenario() -> list[str]:
        program, seen = Program(), list[str]()

        async def work() -> None:
            try:
                await virtually(1)
            finally:
                seen.append("cleaned up")

        task = program.start(work())
        await virtually(0.5)
        program.kill()
        program.resume()
        task.cancel()
        await virtually(10)
        assert program.is_dead
        assert not task.done()
        return list(seen)

    assert simulate(0, scenario()) == []
