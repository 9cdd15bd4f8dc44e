"""Server-sent events as a client takes them: together, on time, or not at all. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.types import Message

from clew.surfaces.http.streaming import QUIET_SECONDS, SEND_SECONDS_MAX, Client, EventStream
from clew.testing.virtual_time import simulate


class Wire:
    """The other side of an ASGI application. It takes so many parts of an answer, and leaves when it is told to."""

    def __init__(self, takes: int = 100) -> None:
        self.taken: list[bytes] = []
        self.took, self.gone = asyncio.Event(), asyncio.Event()
        self.left = 0
        self._takes = takes

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            if len(self.taken) == self._takes:
                await asyncio.Event().wait()
            self.taken.append(message["body"])
            self.took.set()

    async def leave(self) -> None:
        self.left += 1

    async def shown(self, events: AsyncGenerator[bytes, None]) -> None:
        await EventStream(Client(self.receive), events, self.leave)({}, self.receive, self.send)
        self.gone.set()


async def _slow(closed: list[float]) -> AsyncGenerator[bytes, None]:
    """A word, and no other for a long time."""
    try:
        yield b"word"
        await asyncio.sleep(10.5 * QUIET_SECONDS)
        yield b"other"
    finally:
        closed.append(asyncio.get_running_loop().time())


def test_a_quiet_stream_says_that_it_lives() -> None:
    """A comment whenever there was nothing for a while, and what comes late still comes."""

    async def run() -> None:
        wire = Wire()
        await wire.shown(_slow([]))
        assert wire.taken == [b"word", *[b": \n\n"] * 10, b"other", b""]
        assert wire.left == 0

    simulate(0, run())


def test_a_client_that_takes_nothing_has_left() -> None:
    """Whether it is a word or a comment that it does not take: once the time is over, its answer is let go of, once."""

    async def run() -> None:
        for takes, quiet in ((0, 0.0), (1, QUIET_SECONDS)):
            wire, closed = Wire(takes), list[float]()
            began = asyncio.get_running_loop().time()
            await wire.shown(_slow(closed))
            assert (wire.left, len(wire.taken)) == (1, takes)
            assert closed[0] - began == quiet + SEND_SECONDS_MAX

    simulate(0, run())


def test_a_client_that_leaves_is_let_go_of_at_once() -> None:
    """In the middle of a stream, or before it began."""

    async def run() -> None:
        for takes in (1, 0):
            wire, closed = Wire(takes), list[float]()
            if not takes:
                wire.gone.set()
            showing = asyncio.create_task(wire.shown(_slow(closed)))
            if takes:
                await wire.took.wait()
                wire.gone.set()
            await showing
            assert wire.left == 1
            assert not closed or closed[0] < QUIET_SECONDS

    simulate(0, run())


def test_a_wish_to_end_is_no_client_that_left() -> None:
    """Who cancels the answer is obeyed, and nobody is told that the client left."""

    async def run() -> None:
        wire = Wire()
        showing = asyncio.create_task(wire.shown(_slow([])))
        await wire.took.wait()
        showing.cancel()
        await asyncio.wait([showing])
        assert showing.cancelled()
        assert wire.left == 0
        wire.gone.set()

    simulate(0, run())
