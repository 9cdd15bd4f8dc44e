"""An asyncio loop that owns time and order: timers fire when nothing else is left to do, and a seed picks who runs next.

Any interleaving that the real loop could have is possible, hours pass in milliseconds, and the same seed gives the same
run. What is reordered are steps of tasks; `call_soon` callbacks keep their order, which asyncio promises. A `Program` is
what is started in it: it can stand still or end between any two steps, without a word to itself, as under SIGSTOP and SIGKILL.

Relies on private parts of the standard library's loop (`_run_once`, `_ready`, `_scheduled`), pinned by
tests/simulation/test_virtual_time.py. There is no IO in virtual time: nobody but tasks and timers can wake anything.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Coroutine, Mapping
from contextvars import ContextVar
from enum import Enum, auto
from typing import Any, Final, TypeVar

T = TypeVar("T")


class Stuck(AssertionError):
    """Nothing is ready and no timer is set: the program waits for something that cannot come."""


class _Condition(Enum):
    RUNS = auto()
    STANDS = auto()
    IS_DEAD = auto()


class Program:
    """What stops as a whole, like a process of the operating system: every task and timer that began in it."""

    def __init__(self) -> None:
        self._condition = _Condition.RUNS
        self.went_on_at = -1.0
        """When it last stood still no more."""

    @property
    def runs(self) -> bool:
        return self._condition == _Condition.RUNS

    @property
    def is_dead(self) -> bool:
        return self._condition == _Condition.IS_DEAD

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs it as a task of this program."""
        context = contextvars.copy_context()
        context.run(_PROGRAM.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def pause(self) -> None:
        """From its next step on it stands still. Its timers go on counting, and fire when it goes on."""
        if self.runs:
            self._condition = _Condition.STANDS

    def resume(self) -> None:
        """It goes on as if nothing had happened."""
        if self._condition == _Condition.STANDS:
            self._condition = _Condition.RUNS
            self.went_on_at = asyncio.get_running_loop().time()

    def kill(self) -> None:
        """It takes no further step. Idempotent."""
        self._condition = _Condition.IS_DEAD


_PROGRAM: Final[ContextVar[Program | None]] = ContextVar("program", default=None)


class _Numbered(asyncio.Task[Any]):
    """A task that knows when it was made: an order that does not hang on addresses in memory."""

    number: int


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time starts at 0.0 seconds and jumps from timer to timer."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self._now = 0.0
        self.tasks_made = 0
        """How many tasks there were until now."""
        self._held: dict[Program | None, list[asyncio.Handle]] = {}
        self._lets_all_run = False
        self.set_task_factory(self._numbered)

    def time(self) -> float:
        return self._now

    def let_all_run(self) -> None:
        """Programs that stand or are dead take their steps again: they are being cleared away."""
        self._lets_all_run = True

    def _numbered(
        self, loop: asyncio.AbstractEventLoop, work: Any, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        task = _Numbered(work, loop=loop, context=context)
        self.tasks_made += 1
        task.number = self.tasks_made
        return task

    def _run_once(self) -> None:
        """One round: what is ready now runs once, in the seed's order. What that makes ready is for the next."""
        self._let_go()
        while not self._ready:
            self._move_on()
            self._hold_back()
        self._hold_back()
        self._shuffle_steps()
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if handle.cancelled():
                continue
            program = _program_of(handle)
            if self._may_run(program):
                handle._run()
            else:
                self._held.setdefault(program, []).append(handle)  # stopped in this very round

    def _move_on(self) -> None:
        """To the next timer, and every one that is due by then."""
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)
        if not self._scheduled:
            raise Stuck("nothing is ready, and no timer is set")
        self._now = max(self._now, self._scheduled[0].when())
        while self._scheduled and self._scheduled[0].when() <= self._now:
            self._ready.append(heapq.heappop(self._scheduled))

    def _may_run(self, program: Program | None) -> bool:
        return program is None or program.runs or self._lets_all_run

    def _hold_back(self) -> None:
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            program = _program_of(handle)
            if self._may_run(program):
                self._ready.append(handle)
            else:
                self._held.setdefault(program, []).append(handle)

    def _let_go(self) -> None:
        for program in [program for program in self._held if self._may_run(program)]:
            self._ready.extend(self._held.pop(program))

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are left out when their time comes."""

    def _shuffle_steps(self) -> None:
        """Other order for the steps of tasks, in the places where steps were."""
        ready = list(self._ready)
        stepping = [_task_of(handle) for handle in ready]
        places = [i for i, task in enumerate(stepping) if task is not None]
        if len(places) < 2:
            return
        places_by_age = sorted(places, key=lambda i: _number(stepping[i]))
        self.random.shuffle(places_by_age)
        for place, other in zip(places, places_by_age, strict=True):
            self._ready[place] = ready[other]


def _program_of(handle: asyncio.Handle) -> Program | None:
    context: contextvars.Context = handle._context  # type: ignore[attr-defined]
    return context.get(_PROGRAM)


def _task_of(handle: asyncio.Handle) -> asyncio.Task[Any] | None:
    """The task whose step this is."""
    owner: object = getattr(getattr(handle, "_callback", None), "__self__", None)
    return owner if isinstance(owner, asyncio.Task) else None


def _number(task: asyncio.Task[Any] | None) -> int:
    return task.number if isinstance(task, _Numbered) else 0


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
    loop.let_all_run()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
