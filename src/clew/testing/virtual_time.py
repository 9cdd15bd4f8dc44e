"""An asyncio loop that owns time and order: timers fire when nothing else is left to do, and a seed picks who runs next.

Any interleaving that the real loop could have is possible, hours pass in milliseconds, and the same seed gives the same
run. What is reordered are steps of tasks; `call_soon` callbacks keep their order, which asyncio promises.

Relies on one private hook of the standard library (`BaseEventLoop._run_once`), pinned by tests/simulation/test_virtual_time.py.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(AssertionError):
    """Nothing is ready and no timer is set: the program waits for something that cannot come."""


class _NeverWaits(selectors.SelectSelector):
    """The loop's selector without the waiting."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time starts at 0.0 seconds and jumps from timer to timer."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, seed: int) -> None:
        super().__init__(_NeverWaits())
        self.random = random.Random(seed)
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready:
            pending = [timer for timer in self._scheduled if not timer.cancelled()]
            if not pending:
                raise Stuck("nothing is ready, and no timer is set")
            self._now = max(self._now, min(timer.when() for timer in pending))
        self._shuffle_steps()
        super()._run_once()  # type: ignore[misc]

    def _shuffle_steps(self) -> None:
        """Other order for the steps of tasks, in the places where steps were."""
        ready = list(self._ready)
        places = [i for i, handle in enumerate(ready) if _is_step(handle)]
        steps = [ready[i] for i in places]
        self.random.shuffle(steps)
        for place, step in zip(places, steps, strict=True):
            ready[place] = step
        self._ready.clear()
        self._ready.extend(ready)


def _is_step(handle: asyncio.Handle) -> bool:
    callback: Any = getattr(handle, "_callback", None)
    return isinstance(getattr(callback, "__self__", None), asyncio.Task)


def simulate(
    seed: int, scenario: Coroutine[Any, Any, T], *, ending: tuple[type[BaseException], ...] = ()
) -> T:
    """Runs a scenario to its end in virtual time. Raises what it raised; Stuck when it can never end.

    An error in a task that nobody waits for fails the run, but for those of a type in `ending`: how killed
    processes end.
    """
    loop = VirtualLoop(seed)
    problems: list[Mapping[str, Any]] = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    try:
        asyncio.set_event_loop(loop)
        result = loop.run_until_complete(scenario)
    finally:
        _finish(loop)
        asyncio.set_event_loop(None)
        loop.close()
    unheard = [p for p in problems if not isinstance(p.get("exception"), ending)]
    if unheard:
        raise AssertionError(f"an error that nobody heard: {unheard[0]}")
    return result


def _finish(loop: VirtualLoop) -> None:
    """Cancels what a killed process left, as the operating system would."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
