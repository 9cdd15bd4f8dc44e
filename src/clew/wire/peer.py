"""One end of a JSON-RPC connection, whichever end: it calls, is called, and survives whatever the other end sends.

Requests are served side by side, each in a task of its own, begun in the order in which they came; `$/cancel_request`
cancels one, and an answer is given all the same. It reads and writes nothing itself: bytes come in by `receive`, and go
out by the function it was given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeVar

import msgspec

from clew.wire import jsonrpc
from clew.wire.jsonrpc import (
    CANCEL,
    CANCELLED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    Id,
    Lines,
    Misframed,
    Notification,
    Request,
    Response,
    RpcError,
)

T = TypeVar("T")
SERVED_MAX: Final = 1000
"""Requests of the other end that may be under way at once."""


class Disconnected(Exception):
    """The other end is gone: what was asked of it gets no answer any more."""


class Then(NamedTuple):
    """A result, and what is to be done once it was sent."""

    result: object
    then: Callable[[], Awaitable[None]]


class _Cancel(msgspec.Struct):
    request_id: int | str | None = msgspec.field(name="requestId")


class Peer:
    """`serve` answers a request or raises RpcError; `heard` takes a notification, at once; `broke` is told of errors of ours."""

    def __init__(
        self,
        write: Callable[[bytes], None],
        *,
        serve: Callable[[str, msgspec.Raw], Awaitable[object]],
        heard: Callable[[str, msgspec.Raw], None],
        broke: Callable[[BaseException], None],
        answers_noise: bool = True,
    ) -> None:
        """`answers_noise`: whether a line that is no frame, and has no id, is answered all the same, as JSON-RPC wants it."""
        self._write = write
        self._serve = serve
        self._heard = heard
        self._broke = broke
        self._answers_noise = answers_noise
        self._lines = Lines()
        self._asked: dict[Id, asyncio.Future[msgspec.Raw]] = {}
        self._number = 0
        self._serving: dict[Id, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    # -- what comes in -------------------------------------------------------------------------------------------
    def receive(self, data: bytes) -> None:
        """Takes bytes as they come. Never raises for what they hold.

        A notification is heard after the requests before it have begun, and before those behind it do.
        """
        soon = asyncio.get_running_loop().call_soon
        for line in self._lines.feed(data):
            match jsonrpc.read(line):
                case Request() as request:
                    self._begin(request)
                case Notification(method, params) if method == CANCEL:
                    soon(self._cancel, params)
                case Notification(method, params):
                    soon(self._hear, method, params)
                case Response() as response:
                    self._settle(response)
                case Misframed(number, error, answer) if answer and (
                    self._answers_noise or number is not None
                ):
                    self._write(jsonrpc.failure(number, error))
                case _:
                    pass  # an empty line, or one that cannot be answered

    def _begin(self, request: Request) -> None:
        if request.id in self._serving:
            error = RpcError(INVALID_REQUEST, "A request with this id is still under way.")
        elif len(self._serving) >= SERVED_MAX:
            error = RpcError(INTERNAL_ERROR, f"{SERVED_MAX} requests are under way: this one was not taken.")
        else:
            task = asyncio.create_task(self._answer(request))
            self._serving[request.id] = task
            self._tasks.add(task)
            task.add_done_callback(lambda done: self._ended(request.id, done))
            return
        self._write(jsonrpc.failure(request.id, error))

    async def _answer(self, request: Request) -> None:
        """The supervisor of what is served: whatever becomes of it, one answer is sent."""
        then: Callable[[], Awaitable[None]] | None = None
        try:
            result = await self._serve(request.method, request.params)
            if isinstance(result, Then):
                result, then = result
            answer = jsonrpc.result(request.id, result)
        except RpcError as error:
            answer = jsonrpc.failure(request.id, error)
        except asyncio.CancelledError:
            answer = jsonrpc.failure(request.id, RpcError(CANCELLED, "The request was cancelled."))
        except Exception as error:  # noqa: BLE001 - the supervisor: the other end is told, and so is ours
            self._broke(error)
            answer = jsonrpc.failure(
                request.id, RpcError(INTERNAL_ERROR, f"An error inside Clew: {error!r}.")
            )
        self._serving.pop(request.id, None)
        self._write(answer)
        if then is not None:
            await self._afterwards(then)

    def _ended(self, number: Id, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._serving.get(number) is task:  # it was cancelled before it began
            del self._serving[number]
            self._write(jsonrpc.failure(number, RpcError(CANCELLED, "The request was cancelled.")))

    async def _afterwards(self, then: Callable[[], Awaitable[None]]) -> None:
        try:
            await then()
        except Exception as error:  # noqa: BLE001 - the supervisor: nobody waits for this any more
            self._broke(error)

    def _hear(self, method: str, params: msgspec.Raw) -> None:
        try:
            self._heard(method, params)
        except RpcError:
            pass  # a notification has no answer, also when it is wrong
        except Exception as error:  # noqa: BLE001 - the supervisor: nothing that was sent ends us
            self._broke(error)

    def _cancel(self, params: msgspec.Raw) -> None:
        try:
            number = jsonrpc.decoded(params, _Cancel).request_id
        except RpcError:
            return
        self.cancel(number)

    def cancel(self, number: Id) -> None:
        """Cancels a request that is being served; it is answered as cancelled. Nothing happens where there is none."""
        if (task := self._serving.get(number)) is not None:
            task.cancel()

    def _settle(self, response: Response) -> None:
        asked = self._asked.pop(response.id, None)
        if asked is None or asked.done():
            return  # an answer that nobody waits for, or not any more
        if response.error is not None:
            asked.set_exception(response.error)
        else:
            asked.set_result(response.result)

    # -- what goes out -------------------------------------------------------------------------------------------
    def notify(self, method: str, params: object) -> None:
        if not self._closed:
            self._write(jsonrpc.notification(method, params))

    async def call(self, method: str, params: object, kind: type[T]) -> T:
        """Asks the other end. Cancelled, it tells the other end so. Raises RpcError, Disconnected."""
        if self._closed:
            raise Disconnected
        self._number += 1
        number = self._number
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        self._write(jsonrpc.request(number, method, params))
        try:
            return jsonrpc.decoded(await asked, kind)
        except asyncio.CancelledError:
            if self._asked.pop(number, None) is not None:
                self.notify(CANCEL, {"requestId": number})
            raise

    async def close(self) -> None:
        """Ends the connection: what is served is cancelled and waited for, what was asked fails. Idempotent."""
        self._closed = True
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(Disconnected())
                asked.exception()  # whoever waited for it may be gone already
        self._asked.clear()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
