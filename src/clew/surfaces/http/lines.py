"""The lines of one process: at most one a session and surface, and who follows what is said there."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.errors import NotFound, Outdated
from clew.domain.routing.keys import SURFACES
from clew.runtime.ports.people import TurnNews
from clew.runtime.talk import Services
from clew.surfaces.http.line import STOPPING, Line

LINES_MAX: Final = 256
"""Idle sessions whose tools are kept open."""
NEWS_MAX: Final = 1_000
"""News that wait for whoever follows a session; older ones are dropped, what is on disk is read from there."""


class Follower:
    """What one client has yet to be told of a session."""

    def __init__(self) -> None:
        self._news: deque[TurnNews] = deque(maxlen=NEWS_MAX)
        self._woken = asyncio.Event()

    def tell(self, news: TurnNews) -> None:
        self._news.append(news)
        self._woken.set()

    def taken(self) -> tuple[TurnNews, ...]:
        self._woken.clear()
        news = tuple(self._news)
        self._news.clear()
        return news

    async def wait(self, seconds: float) -> None:
        """Returns when there is news, or it is time to look."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass  # what other processes do is only seen by looking


class Lines:
    def __init__(self, services: Services, tool_seconds: float, outdated: Callable[[Outdated], None]) -> None:
        self._services = services
        self._tool_seconds = tool_seconds
        self._outdated = outdated
        self._lines: OrderedDict[tuple[str, SessionId, PrincipalId], Line] = OrderedDict()
        self._followers: dict[SessionId, set[Follower]] = {}
        self._is_draining = False

    async def line(self, who: PrincipalId, session: SessionId, surface: str) -> Line:
        """For whoever may write there: that is for the caller to know. Raises Outdated while this process ends."""
        if self._is_draining:
            raise Outdated(STOPPING)
        key = (surface, session, who)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(
                self._services,
                who,
                session,
                surface,
                tool_seconds=self._tool_seconds,
                watch=self._tell,
                outdated=self._outdated,
            )
        self._lines.move_to_end(key)
        if len(self._lines) > LINES_MAX:
            await self._close_idle(key)
        return line

    async def _close_idle(self, kept: tuple[str, SessionId, PrincipalId]) -> None:
        for key, idle in list(self._lines.items()):
            if len(self._lines) <= LINES_MAX:
                break
            if idle.is_idle and key != kept:
                del self._lines[key]
                await idle.close()

    async def go_on(self) -> None:
        """Takes up what was left: turns that a process left in the middle, and messages that wait."""
        ledger = self._services.ledger
        left = [
            (row.route_key, row.session, row.principal) for s in SURFACES for row in await ledger.waiting(s)
        ]
        left += [(row.route_key or "", row.session, row.principal) for row in await ledger.unfinished()]
        for route_key, session, who in left:
            surface, _, _ = route_key.partition(":")
            if surface not in SURFACES:
                continue
            try:
                await ledger.session(who, session)
            except NotFound:
                continue
            (await self.line(who, session, surface)).wake()

    @contextmanager
    def following(self, session: SessionId) -> Iterator[Follower]:
        follower = Follower()
        self._followers.setdefault(session, set()).add(follower)
        try:
            yield follower
        finally:
            self._followers[session].discard(follower)
            if not self._followers[session]:
                del self._followers[session]

    def _tell(self, session: SessionId, news: TurnNews) -> None:
        for follower in self._followers.get(session, ()):
            follower.tell(news)

    async def drain(self, seconds: float) -> None:
        self._is_draining = True
        await asyncio.gather(*(line.stop(seconds) for line in self._lines.values()))

    async def close(self) -> None:
        for line in self._lines.values():
            await line.close()
        self._lines.clear()
