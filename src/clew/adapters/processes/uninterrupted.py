"""Work that is finished even when whoever asked for it is cancelled: a half-done change would be worse than a wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work` to its end, however often this task is cancelled, then raises CancelledError if it was.

    `work` must be bounded in time by itself.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # looked at, so that nobody warns; the cancellation is what the caller must see
        raise cancelled
    return task.result()


async def in_thread(work: Callable[[], T]) -> T:
    """Runs blocking work off the event loop, to its end: a thread cannot be stopped half-way."""
    return await to_the_end(asyncio.to_thread(work))
