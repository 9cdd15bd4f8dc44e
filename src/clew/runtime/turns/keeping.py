"""What goes on beside a turn: the lease is kept alive, and its seconds are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.errors import Fenced, NotFound, Outdated, StoreUnusable
from clew.runtime.turns.job import Means

LOOK_SECONDS: Final = 0.5
"""A stop from another process is noticed after this long, not at the next beat."""


class Lease:
    """Shows other processes that this one lives, and notices when the session is no longer its own."""

    def __init__(self, means: Means, session: SessionId, epoch: int) -> None:
        self._means = means
        self._session = session
        self._epoch = epoch
        self._look = asyncio.Event()
        self._known_at = asyncio.get_running_loop().time()
        """When the session was last known to be ours: the opening's commit, or a beat."""

    @property
    def is_certain(self) -> bool:
        """Whether nobody can have taken the session: false after a pause as long as a lease, until the next beat."""
        return asyncio.get_running_loop().time() - self._known_at < self._means.settings.lease_seconds

    async def confirm(self) -> None:
        """Returns at once when it is certain; else asks the ledger. Raises Fenced when the session is somebody else's."""
        while not self.is_certain:  # again after the beat: the pause may have come while it was on its way
            if not await self._beat():
                raise Fenced(
                    "This process was silent for longer than its lease, and the session was taken over."
                )

    def look(self) -> None:
        """Somebody may have ended the turn: beat now instead of later."""
        self._look.set()

    async def kept(self) -> None:
        """Beats until the lease is lost; then returns. Raises Outdated."""
        while True:
            try:
                async with asyncio.timeout(self._means.settings.lease_seconds / 3):
                    await self._look.wait()
            except TimeoutError:
                pass  # nobody called: it is simply time for the next beat
            self._look.clear()
            try:
                if not await self._beat():
                    return
            except Outdated:
                raise  # nothing of this turn can be recorded any more: it ends here
            except StoreUnusable:
                continue  # a missed beat proves nothing; the turn's next commit says what is wrong

    async def _beat(self) -> bool:
        now = asyncio.get_running_loop().time()
        if not await self._means.ledger.beat(self._session, self._means.owners.me, self._epoch):
            return False
        self._known_at = now
        return True


async def notice_cut(means: Means, principal: PrincipalId, session: SessionId, epoch: int) -> None:
    """Returns soon after a commit of whatever process took the session away from this epoch's turn.

    Reading is cheap; only the next beat or commit proves it.
    """
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            if (await means.ledger.session(principal, session)).handle.epoch != epoch:
                return
        except NotFound:
            return
        except StoreUnusable:
            continue  # as for a beat


class TimeLimit:
    """Counts the seconds of a turn; they stand still while a person is asked."""

    def __init__(self, seconds: float, reached: Callable[[], None]) -> None:
        self._left = seconds
        self._reached = reached
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        self._timer = loop.call_later(max(self._left, 0.0), self._reached)

    def stop(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._left -= asyncio.get_running_loop().time() - self._since
            self._timer.cancel()
            self._timer = None

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()
