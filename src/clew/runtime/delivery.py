"""Delivers what is in the outbox: in order in each place, and no place waits for another.

A reply is `sending` on disk before the platform is called. If nobody knows what became of that call, it is repeated once, and
says that it may be a repetition; where the platform takes our key, or the reply only changes a preview, repeating shows
nothing twice and is done silently. A process that ended in the middle leaves `sending` rows: whoever lives takes them over.
"""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from clew.domain.conversation.ids import ConversationId, SessionId
from clew.domain.ledger.errors import LedgerError, NotFound, Refused
from clew.domain.ledger.rows import Undelivered
from clew.domain.routing.routes import Route, parse
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.owners import Owners
from clew.runtime.ports.platforms import (
    Button,
    ChatMoved,
    MaybeSent,
    NeverSent,
    NotSent,
    Platform,
    PlatformError,
    PlatformRefused,
)
from clew.runtime.ports.world import Clock
from clew.runtime.turns.outbox import FILE_KEY, NOTICE, FileReply, call_key, preview_of, shown_part

POSSIBLY_REPEATED: Final = "(possibly repeated)\n"
SEND_SECONDS_MAX: Final = 60.0
"""A call of the platform that takes longer has an unknown outcome."""
FILE_SECONDS_MAX: Final = 600.0
"""The same for one that sends a file."""
PLAIN_FILE: Final = "application/octet-stream"
POLL_SECONDS: Final = 5.0
"""How often the outbox is looked at when nobody says that something was put there."""
DRAINED_SECONDS: Final = 0.05
"""How often it is looked whether everything went out."""
EVER: Final = 2**62
"""A time that is never reached."""
BACKOFF_SECONDS: Final = (1.0, 300.0)
"""The first pause after a message that did not go out, and the longest; it doubles."""
ATTEMPTS_MAX: Final = 2
"""Calls that may have reached the person: the first, and one repetition."""


def raised_at(error: BaseException) -> str:
    """Where an error was raised, without its message: that may hold somebody's words."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))


class RateGate:
    """Lets one call at a time through to a chat, and none while the platform asked to be left alone there."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Route, asyncio.Lock] = WeakValueDictionary()
        self._closed_until: dict[Route, float] = {}
        self.pauses = 0
        """How often the platform asked for one."""

    @asynccontextmanager
    async def through(self, chat: Route) -> AsyncIterator[None]:
        """Waits for whoever is calling; not for a penalty, see `closed_for`."""
        async with self._locks.setdefault(chat, asyncio.Lock()):
            yield

    def close(self, chat: Route, seconds: float) -> None:
        """The platform asked for a pause."""
        self.pauses += 1
        self._closed_until[chat] = asyncio.get_running_loop().time() + seconds

    def closed_for(self, chat: Route) -> float:
        """Seconds that are left of a pause."""
        left = self._closed_until.get(chat, 0.0) - asyncio.get_running_loop().time()
        if left <= 0:
            self._closed_until.pop(chat, None)
        return max(left, 0.0)


def chat_of(route: Route) -> Route:
    """What a platform counts as one chat, whoever talks there."""
    return Route(platform=route.platform, account=route.account, workspace=route.workspace, chat=route.chat)


class Delivery:
    """Sends for one platform. `wake` says that something was put into the outbox; `said` is told what went
    wrong, `sent` what went out and as what."""

    def __init__(  # noqa: PLR0917
        self,
        ledger: Ledger,
        owners: Owners,
        clock: Clock,
        platform: Platform,
        gate: RateGate,
        said: Callable[[str, Undelivered], None],
        sent: Callable[[Undelivered, str | None], None],
    ) -> None:
        self._ledger = ledger
        self._owners = owners
        self._clock = clock
        self._platform = platform
        self._gate = gate
        self._said = said
        self._sent = sent
        self._woken = asyncio.Event()
        self._under_way: dict[ConversationId, asyncio.Task[None]] = {}
        self._pauses: dict[ConversationId, float] = {}
        self._ripe: set[ConversationId] = set()
        """Places whose pause is over by the clock of the event loop, whatever the host's clock says."""
        self.moved = _not_followed
        """Called when a chat has another id. Returns the place's route there."""
        self.refusal = _to_nobody
        """Says why nothing of a session may be said in a place; None where it may."""
        self.looked_at = -math.inf
        """When the outbox was last looked at, by the clock of the event loop."""

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Delivers until it is cancelled. Raises StoreUnusable."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._woken.clear()
                pause = POLL_SECONDS
                due = [*await self._due()]
                for conversation in tuple(self._ripe):
                    due += await self._due(conversation)
                self.looked_at = asyncio.get_running_loop().time()
                for row in due:
                    route = self._ours(row)
                    if route is None or row.conversation in self._under_way:
                        continue
                    if closed := self._gate.closed_for(chat_of(route)):
                        pause = min(pause, closed)
                        continue
                    task = group.create_task(self._deliver(row.conversation, route))
                    self._under_way[row.conversation] = task
                try:
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
                except TimeoutError:
                    pass  # nobody called: look anyway

    async def drained(self) -> None:
        """Returns when nothing that can be sent now is left."""
        while self._under_way or any(self._can_go(row) for row in await self._due()):
            self.wake()
            if self._under_way:
                await asyncio.wait(self._under_way.values())
            await asyncio.sleep(DRAINED_SECONDS)

    async def _due(self, conversation: ConversationId | None = None) -> tuple[Undelivered, ...]:
        now = EVER if conversation in self._ripe else self._clock.now_ms()
        return await self._ledger.undelivered(self._platform.name, now, conversation=conversation)

    def _ours(self, row: Undelivered) -> Route | None:
        """Its route, if it is for our account and nobody else who lives is just sending it."""
        route = parse(row.route_key)
        if route is None or route.account != self._platform.account:
            return None
        if row.state != "sending" or row.owner is None or row.owner == self._owners.me:
            return route
        return route if self._owners.is_dead(row.owner) else None

    def _can_go(self, row: Undelivered) -> bool:
        route = self._ours(row)
        return route is not None and not self._gate.closed_for(chat_of(route))

    async def _deliver(self, conversation: ConversationId, route: Route) -> None:
        """Everything that is due in one place, in order."""
        chat = chat_of(route)
        try:
            while True:
                async with self._gate.through(chat):
                    if self._gate.closed_for(chat):
                        return
                    # Read here, not before: the preview that a reply takes the place of may just have been sent.
                    rows = [row for row in await self._due(conversation) if self._ours(row)]
                    if not rows or not await self._one(rows[0], route):
                        return
        finally:
            self._ripe.discard(conversation)
            del self._under_way[conversation]
            self.wake()  # for what was put there in this last moment

    async def _one(self, row: Undelivered, route: Route) -> bool:
        """Sends one row; False when the place has to wait."""
        edits = row.shown_as if self._platform.traits.edits else None
        doubtful = row.state != "pending" or row.attempts > 0 or row.may_be_shown
        shows_twice = doubtful and edits is None and not self._platform.traits.takes_key
        if shows_twice and row.attempts >= ATTEMPTS_MAX:
            return await self._failed(row, "twice nobody knew whether it arrived")
        if (why := await self.refusal(route, row.session)) is not None:
            return await self._failed(row, why)
        if not await self._ledger.take_reply(row, self._owners.me):
            return True  # somebody else was quicker: look again
        is_file = row.key.startswith(FILE_KEY)
        whole = is_file or row.kind == NOTICE
        text = row.text if whole else shown_part(row.text, self._platform.traits.holds, row.part)
        if not text.strip():
            await self._settle(row, "sent")
            return True
        try:
            async with asyncio.timeout(FILE_SECONDS_MAX if is_file else SEND_SECONDS_MAX):
                mark = POSSIBLY_REPEATED if shows_twice else ""

                async def call(to: Route) -> str:
                    if is_file:
                        return await self._supervised(self._send_file(to, row, mark))
                    return await self._supervised(self._call(to, row, mark + text, edits))

                try:
                    shown = await call(route)
                except ChatMoved as error:
                    shown = await call(await self.moved(route, error.to))
        except NotSent as error:
            if error.after:
                self._gate.close(chat_of(route), error.after)
            await self._put_off(row, "pending", error.after, f"it did not go out: {error}")
            return False
        except (MaybeSent, TimeoutError) as error:
            await self._put_off(row, "unknown", 0.0, f"nobody knows whether it arrived: {error}")
            return False
        except PlatformRefused as error:  # whoever receives finds out for good
            await self._put_off(row, "pending", 0.0, f"it did not go out: {error}")
            return False
        except (NeverSent, ChatMoved) as error:
            return await self._failed(row, str(error))
        self._pauses.pop(row.conversation, None)
        await self._settle(row, "sent", shown)
        self._sent(row, shown)
        return True

    async def _supervised(self, call: Coroutine[None, None, str]) -> str:
        """The supervisor of an adapter: an error that is none of its port becomes an unknown outcome of this one message."""
        try:
            return await call
        except (PlatformError, LedgerError, TimeoutError):
            raise
        except Exception as error:
            raise MaybeSent(f"an error inside Clew, {type(error).__name__} at {raised_at(error)}") from error

    async def _call(self, route: Route, row: Undelivered, text: str, edits: str | None) -> str:
        markdown, traits = row.kind != NOTICE, self._platform.traits
        if row.may_be_shown and traits.edits and traits.takes_key:
            key = call_key(row.session, preview_of(row.key))  # the preview itself, whatever became of it
            edits = await self._platform.send(route, text, markdown=markdown, key=key)
        if edits is not None:
            try:
                await self._platform.edit(route, edits, text, markdown=markdown)
            except NeverSent:
                pass  # the preview is gone, or too old to be changed: it is said anew
            else:
                return edits
        key = call_key(row.session, row.key)
        return await self._platform.send(route, text, markdown=markdown, buttons=buttons_of(row), key=key)

    async def _send_file(self, route: Route, row: Undelivered, mark: str) -> str:
        """A mark stands before the file's name; what has one is sent as a plain file, whose name is shown everywhere."""
        file = msgspec.json.decode(row.text, type=FileReply)
        try:
            blob = await self._ledger.blob(file.principal, row.session, file.sha256)
        except NotFound as error:
            raise NeverSent("its session was deleted") from error
        kind = PLAIN_FILE if mark else file.media_type
        name = f"{mark.strip()} {file.name}".strip()
        return await self._platform.send_file(
            route, name, kind, blob.bytes, key=call_key(row.session, row.key)
        )

    async def _put_off(self, row: Undelivered, state: str, after: float, why: str) -> None:
        first, longest = BACKOFF_SECONDS
        pause = min(self._pauses.get(row.conversation, first / 2) * 2, longest)
        self._pauses[row.conversation] = pause
        seconds = max(after, pause)
        await self._settle(row, state, next_at=self._clock.now_ms() + int(seconds * 1000))
        self._said(f"{why}; looked at again in {seconds:g} s", row)
        asyncio.get_running_loop().call_later(seconds + 0.01, self._ripen, row.conversation)

    def _ripen(self, conversation: ConversationId) -> None:
        self._ripe.add(conversation)
        self.wake()

    async def _failed(self, row: Undelivered, why: str) -> bool:
        """It is never sent; what comes behind it is."""
        await self._settle(row, "failed", reason=why)
        self._said(why, row)
        return True

    async def _settle(
        self,
        row: Undelivered,
        state: str,
        shown: str | None = None,
        *,
        next_at: int | None = None,
        reason: str | None = None,
    ) -> None:
        with suppress(NotFound, Refused):  # its session was deleted meanwhile, or somebody else has told it
            await self._ledger.settle_reply(row.id, state, shown, reason, next_at=next_at)


async def _not_followed(route: Route, to: str) -> Route:
    raise NeverSent(f"the chat {route.chat} is {to} by now")


async def _to_nobody(route: Route, session: SessionId) -> str | None:
    return "nobody has said who may be told"


def buttons_of(row: Undelivered) -> tuple[Button, ...]:
    """A question about a call can be answered by pressing."""
    kind, _, rest = row.key.partition(":")
    if kind != "approval":
        return ()
    approval = rest.rpartition(":")[2]
    return (Button("Allow once", f"/approve {approval}"), Button("Refuse", f"/deny {approval}"))
