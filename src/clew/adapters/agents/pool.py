"""Agent processes that are kept running and lent out, one for each (agent, model, directory).

Nobody who is lent an agent ends it: the pool alone does, when it closes, when a process has died, or when one has served
its time, or answers no more, and the last who had it gave it back. Whoever asks while one is being started waits for that same start; a start
that failed leaves nothing behind, and the next who asks begins another.

A pool belongs to the event loop it was first used in, and refuses any other: Clew has one (docs/decisions/0014), so there is
no lock here, and between two awaits nobody else is at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from clew.adapters.agents.errors import AgentUnavailable, PoolClosed
from clew.adapters.agents.programs import AgentKey


class Pooled(Protocol):
    """An agent, as far as the pool cares."""

    opened: int
    stuck: bool

    @property
    def ended(self) -> asyncio.Event: ...

    @property
    def resident_mb(self) -> int: ...

    async def close(self) -> None: ...


A = TypeVar("A", bound=Pooled)
CLOSED: Final = "Clew is about to end: no agent is started any more."


class PoolLimits(msgspec.Struct, frozen=True, kw_only=True):
    recycle_sessions: int = 200
    """A process is replaced after it opened so many sessions: it may never let go of one."""
    recycle_mb: int = 2_000
    processes_max: int = 8


class _Slot(Generic[A]):
    """A process, from the moment that it is asked for. `retired`: nobody is lent it any more."""

    def __init__(self, key: AgentKey, spawning: asyncio.Task[A]) -> None:
        self.key = key
        self.spawning = spawning
        self.lent = 0
        self.retired = False

    @property
    def agent(self) -> A | None:
        """None as long as it is not ready, and where nothing came of it."""
        spawning = self.spawning
        if not spawning.done() or spawning.cancelled() or spawning.exception() is not None:
            return None
        return spawning.result()


class Lease(Generic[A]):
    """An agent that is lent. It stays the pool's."""

    def __init__(self, agent: A, give_back: Callable[[], None]) -> None:
        self.agent = agent
        self._give_back: Callable[[], None] | None = give_back

    async def give_back(self) -> None:
        """Idempotent. Waits for nothing."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


class AgentPool(Generic[A]):
    """`spawn` returns an agent that is ready, or raises AgentError and leaves nothing running."""

    def __init__(
        self,
        spawn: Callable[[AgentKey], Awaitable[A]],
        limits: PoolLimits = PoolLimits(),  # noqa: B008 - frozen
    ) -> None:
        self._spawn = spawn
        self._limits = limits
        self._slots: dict[AgentKey, _Slot[A]] = {}
        self._living: set[_Slot[A]] = set()
        """Those in `_slots`, and the retired that somebody still has."""
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def get(self, key: AgentKey) -> Lease[A]:
        """Lends a ready agent. Raises AgentError: what kept this start from succeeding, PoolClosed after `close`."""
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise RuntimeError("An agent pool belongs to one event loop.")
        if self._is_closed:
            raise PoolClosed(CLOSED)
        slot = self._usable(key)
        if slot is None:
            slot = self._slots[key] = self._begun(key)
        slot.lent += 1
        try:
            agent = await asyncio.shield(slot.spawning)
        except BaseException as error:
            self._gave_back(slot)
            if slot.spawning.cancelled():  # by `close`, and not whoever asks here
                raise PoolClosed(CLOSED) from error
            raise
        return Lease(agent, lambda: self._gave_back(slot))

    def _usable(self, key: AgentKey) -> _Slot[A] | None:
        """The slot of that key, unless its process is no more, is stuck or has served its time."""
        slot = self._slots.get(key)
        if slot is None:
            return None
        agent = slot.agent
        if agent is None:
            return None if slot.spawning.done() else slot
        limits = self._limits
        worn = agent.opened >= limits.recycle_sessions or agent.resident_mb >= limits.recycle_mb
        if not worn and not agent.stuck and not agent.ended.is_set():
            return slot
        self._retire(slot)
        return None

    def _begun(self, key: AgentKey) -> _Slot[A]:
        """A new process, in the place of one that nobody uses where there are too many. Raises AgentUnavailable."""
        if len(self._slots) >= self._limits.processes_max:
            idle = next(
                (slot for slot in self._slots.values() if not slot.lent and slot.spawning.done()), None
            )
            if idle is None:
                most = self._limits.processes_max
                raise AgentUnavailable(f"no more than {most} may run at once, and all are in use.")
            self._retire(idle)
        spawning = asyncio.ensure_future(self._spawn(key))
        slot = _Slot(key, spawning)
        self._living.add(slot)
        spawning.add_done_callback(lambda _: self._started(slot))
        return slot

    def _started(self, slot: _Slot[A]) -> None:
        if slot.agent is None:
            self._living.discard(slot)
            self._retire(slot)
        elif slot.retired:
            self._end_unused(slot)

    def _gave_back(self, slot: _Slot[A]) -> None:
        slot.lent -= 1
        self._end_unused(slot)

    def _retire(self, slot: _Slot[A]) -> None:
        """The key is free for another. Its process goes when nobody has it any more."""
        if self._slots.get(slot.key) is slot:
            del self._slots[slot.key]
        slot.retired = True
        self._end_unused(slot)

    def _end_unused(self, slot: _Slot[A]) -> None:
        if slot.retired and slot.lent == 0:
            self._end(slot)

    def _end(self, slot: _Slot[A]) -> None:
        if slot.agent is None or slot not in self._living:
            return
        self._living.discard(slot)
        task = asyncio.ensure_future(slot.agent.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Ends every process, also those that are lent: whoever uses one was told to stop before. Idempotent."""
        self._is_closed = True
        self._slots.clear()
        living = list(self._living)
        for slot in living:
            if not slot.spawning.done():
                slot.spawning.cancel()
        await asyncio.gather(*(slot.spawning for slot in living), return_exceptions=True)
        for slot in living:
            self._end(slot)
        while self._closing:
            await asyncio.gather(*self._closing)
