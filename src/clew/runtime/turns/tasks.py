"""What a turn waits for, each as a task of its own that ends in one event: the model, a person, tools."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from clew.domain.turn.machine import Event

CANCEL_SECONDS_MAX: Final = 10.0
"""A tool may take 5 seconds to end its processes. What has not ended after this is not waited for any longer."""


class Tasks:
    """Every error of a task is handed to `broke`; every event to `post`."""

    def __init__(self, post: Callable[[Event], None], broke: Callable[[Exception], None]) -> None:
        self._post = post
        self._broke = broke
        self._running: set[asyncio.Task[None]] = set()
        self._unheard: set[asyncio.Task[None]] = set()

    def start(self, work: Callable[[], Awaitable[Event]]) -> None:
        task = asyncio.create_task(self._supervised(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def cancel(self) -> None:
        """Cancels all and waits for their end. One that does not end in time is not heard any more."""
        running = set(self._running)
        for task in running:
            task.cancel()
        if running:
            _, stubborn = await asyncio.wait(running, timeout=CANCEL_SECONDS_MAX)
            for task in stubborn:
                self._unheard.add(task)
                task.add_done_callback(self._unheard.discard)

    async def _supervised(self, work: Callable[[], Awaitable[Event]]) -> None:
        try:
            event = await work()
        except Exception as error:  # noqa: BLE001 - the supervisor: it becomes the turn's end
            if asyncio.current_task() not in self._unheard:
                self._broke(error)
        else:
            if asyncio.current_task() not in self._unheard:
                self._post(event)
