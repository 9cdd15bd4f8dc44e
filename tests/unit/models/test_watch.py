"""One timer for all reads of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from clew.adapters.models.openai_chat.watch import Watch

pytestmark = pytest.mark.anyio

SOON = 0.02


async def parts(*given: bytes, silent: bool = False) -> AsyncIterator[bytes]:
    for part in given:
        yield part
    if silent:
        await asyncio.Event().wait()


async def test_what_comes_in_time_is_passed_on_to_the_end() -> None:
    watch, stream = Watch(), parts(b"a", b"b")
    assert [await watch.read(stream, 60) for _ in range(3)] == [b"a", b"b", None]
    watch.end()


async def test_silence_is_a_timeout_and_leaves_the_task_uncancelled() -> None:
    watch = Watch()
    with pytest.raises(TimeoutError):
        await watch.read(parts(silent=True), SOON)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_shorter_patience_than_before_holds_at_once() -> None:
    """The first byte may take minutes, what follows may not: the timer of the one must not serve the other."""
    watch, stream = Watch(), parts(b"a", silent=True)
    assert await watch.read(stream, 3600) == b"a"
    with pytest.raises(TimeoutError):
        await watch.read(stream, SOON)


async def test_a_longer_patience_than_before_holds_too() -> None:
    watch, stream = Watch(), parts(b"a", silent=True)
    assert await watch.read(stream, SOON) == b"a"
    begun = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await watch.read(stream, 4 * SOON)
    assert asyncio.get_running_loop().time() - begun >= 4 * SOON


async def test_only_reading_counts() -> None:
    """A consumer that takes its time between two parts is not cut off for it."""
    watch, stream, passed = Watch(), parts(b"a", b"b"), asyncio.Event()
    assert await watch.read(stream, SOON) == b"a"
    asyncio.get_running_loop().call_later(3 * SOON, passed.set)
    await passed.wait()
    assert await watch.read(stream, SOON) == b"b"
    watch.end()


async def test_a_cancellation_by_others_is_never_taken_for_a_timeout() -> None:
    reading = asyncio.create_task(Watch().read(parts(silent=True), 60))
    started = asyncio.Event()
    asyncio.get_running_loop().call_soon(started.set)
    await started.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_an_error_of_the_stream_goes_through() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise ConnectionResetError

    watch, stream = Watch(), broken()
    assert await watch.read(stream, 60) == b"a"
    with pytest.raises(ConnectionResetError):
        await watch.read(stream, 60)
    watch.end()
