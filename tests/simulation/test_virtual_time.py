"""The virtual loop itself: it is deterministic, it finds races, it skips waiting."""

from __future__ import annotations

import asyncio

import pytest

from clew.testing.virtual_time import Stuck, simulate

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
