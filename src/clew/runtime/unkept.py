"""Models for words that are not kept: what their calls use is set aside and counted where everything is.

Rule: whoever talks without keeping a word spends from the same caps, at the same time, as everybody else. So each call is paid
for in the ledger that is kept, under a session of its own that has no word; the cap of a session is the business of the
ledger that has the words.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

import msgspec

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.commits import AddUsage, AsObserver, Caps, Commit, NewSession, Reserve
from clew.domain.ledger.errors import NotFound
from clew.domain.ledger.rows import Handle, Origin
from clew.domain.models.answer import ModelEvent
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.runtime.ports.models import ModelChoice, ModelSource
from clew.runtime.ports.world import Clock
from clew.runtime.sessions import SessionDesk
from clew.runtime.spending import PaidCalls


class Tab:
    """What one person spends on such words. Its session is opened by the first call, and listed nowhere."""

    def __init__(
        self, desk: SessionDesk, clock: Clock, caps: Caps, *, who: PrincipalId, surface: str, task: str
    ) -> None:
        self._desk = desk
        self._clock = clock
        self._caps = msgspec.structs.replace(caps, usd_per_session=None)
        self._who = who
        self._surface = surface
        self._task = task
        self._session: SessionId | None = None
        self._opening = asyncio.Lock()
        self._calls = 0

    def models(self, source: ModelSource) -> ModelSource:
        """The same models, whose calls are paid for here."""
        return _Source(source, self)

    def calls(self, choice: ModelChoice) -> PaidCalls:
        self._calls += 1
        caps = self._caps.today(self._clock.now_ms())
        return PaidCalls(choice, self._commit, caps=caps, turn=self._calls, step=0, task=self._task)

    async def count(self, paid: PaidCalls) -> None:
        if rows := paid.rows():
            await self._commit(None, rows)

    async def _commit(self, reserve: Reserve | None, rows: tuple[AddUsage, ...]) -> None:
        """Raises CapReached."""
        handle, who, now = await self._seen(), self._who, self._clock.now_ms()
        fence = AsObserver(version=handle.version, head=handle.head)
        work = Commit(session=handle.session, actor=who, at=now, fence=fence, reserve=reserve, usage=rows)
        await self._desk.ledger.commit(work)

    async def _seen(self) -> Handle:
        """The session as it is; another where it was deleted, as old ones are by `clew sessions prune`."""
        ledger, session = self._desk.ledger, self._session
        if session is not None:
            with suppress(NotFound):
                return (await ledger.session(self._who, session)).handle
        async with self._opening:
            if self._session == session:
                new = NewSession(
                    id=self._desk.new_id(),
                    owner=self._who,
                    surface=self._surface,
                    origin=Origin.NEW,
                    temporary=True,
                )
                await ledger.open(new, actor=self._who, at=self._clock.now_ms())
                self._session = new.id
            assert self._session is not None
            return (await ledger.session(self._who, self._session)).handle


class _Source:
    """`ModelSource`."""

    def __init__(self, source: ModelSource, tab: Tab) -> None:
        self._source = source
        self._tab = tab

    async def choose(self, name: str | None) -> ModelChoice:
        return _paid(await self._source.choose(name), self._tab)


class _Client:
    """`ModelClient`."""

    def __init__(self, choice: ModelChoice, tab: Tab) -> None:
        self._choice = choice
        self._tab = tab

    async def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncGenerator[ModelEvent, None]:
        paid = self._tab.calls(self._choice)
        try:
            async with aclosing(paid.stream(request, blobs=blobs, key=key)) as events:
                async for event in events:
                    yield event
        finally:
            await self._tab.count(paid)

    async def profile(self, model: str) -> ModelProfile:
        return await self._choice.client.profile(model)

    async def models(self) -> tuple[str, ...]:
        return await self._choice.client.models()

    async def close(self) -> None:
        """Nothing: it is others' too."""


def _paid(choice: ModelChoice, tab: Tab) -> ModelChoice:
    within = choice.within
    return choice._replace(
        client=_Client(choice, tab),
        within=None if within is None else lambda session, cwd: _paid(within(session, cwd), tab),
    )
