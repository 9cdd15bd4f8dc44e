"""The gateway: receives, runs turns and delivers for each platform, and ends them in the right order.

A platform that fails, in whatever way, is begun anew by itself within two minutes, and disturbs no other; one that refuses
us is said once and left alone. When
none is left, or the package was replaced, or the process is asked to end, nothing more is taken; what runs may end.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.errors import HeadMoved, LedgerError, NotFound, Outdated
from clew.domain.ledger.rows import JobRow
from clew.domain.routing.routes import Route, moved, parse
from clew.runtime.delivery import chat_of, raised_at
from clew.runtime.ports.endpoints import Endpoint
from clew.runtime.ports.platforms import NotSent, PlatformError, PlatformRefused
from clew.runtime.reminders import Reminders
from clew.runtime.sessions import Place
from clew.runtime.talk import Services, Talk
from clew.surfaces.gateway.access import Access
from clew.surfaces.gateway.channel import LOG, Channel
from clew.surfaces.gateway.health import Health
from clew.surfaces.gateway.line import Line
from clew.surfaces.gateway.reception import Reception
from clew.surfaces.gateway.turned_away import turned_away

LINES_MAX: Final = 256
"""Idle sessions whose tools are kept open."""
RETRY_SECONDS: Final = (1.0, 60.0)
"""The first pause after a platform failed, and the longest; it doubles."""
LOOK_SECONDS: Final = 10.0
SILENT_SECONDS_MAX: Final = 90.0
"""Where nothing was heard of a platform for so long, its connection is given up; looked at every so many seconds."""
DELIVERY_SECONDS: Final = 5.0
"""Time that what was said last has to go out when the gateway ends."""


class Listening(Protocol):
    async def run(self) -> None:
        """Until it is cancelled. Raises OSError when the address cannot be listened on."""
        ...

    def check(self) -> None:
        """Raises OSError when the address cannot be listened on."""
        ...


Listen = Callable[[Sequence[Endpoint]], Listening]
"""Makes what listens for HTTP."""


class Api(Protocol):
    """What is served over HTTP beside the chats."""

    services: Services
    outdated: Callable[[Outdated], None]

    async def check(self) -> tuple[str, str | None]: ...

    async def run(self) -> None:
        """Until it is cancelled."""
        ...

    async def drain(self, seconds: float) -> None: ...

    async def close(self) -> None: ...


class Wing:
    """What serves one platform."""

    def __init__(self, channel: Channel, ended: asyncio.Event) -> None:
        services = channel.services
        self.channel = channel
        self.outdated: Outdated | None = None
        self._access = access = Access(services.ledger, services.clock, channel.platform.name, channel.allow)
        self._reception = Reception(channel, self._access, self.line, self.move)
        self._lines: OrderedDict[tuple[str, SessionId], Line] = OrderedDict()
        channel.delivery.moved = self.move
        channel.delivery.refusal = access.refusal
        self._ended = ended
        self._began = False
        self.is_refused = False
        self.looked_at = -math.inf
        """When it was last looked for what other processes left."""

    async def line(self, place: Place, who: PrincipalId, session: SessionId) -> Line:
        """The line of a session in a place."""
        key = (place.route_key, session)
        line = self._lines.get(key)
        if line is not None and line.talk.principal != who and not line.is_busy:
            await self._lines.pop(key).close()  # whoever this was is somebody else by now
            line = None
        if line is None:
            talk = Talk(self.channel.services, who, place, self.channel.cwd, session)
            line = self._lines[key] = Line(self.channel, talk, self._outdate)
        self._lines.move_to_end(key)
        for old, idle in list(self._lines.items()):
            if len(self._lines) <= LINES_MAX:
                break
            if idle.can_be_closed and old != key:
                del self._lines[old]
                await idle.close()
        return line

    async def move(self, route: Route, to: str) -> Route:
        """A chat has another id: its places and their lines are there from now on. Returns what this route is by now."""
        old, new = chat_of(route), msgspec.structs.replace(chat_of(route), chat=to)
        await self.channel.services.ledger.move_chat(self.channel.platform.name, old.key, new.key)
        for (key, session), line in list(self._lines.items()):
            there = moved(key, old.key, new.key)
            if there is not None and (there, session) not in self._lines:
                line.talk.place = msgspec.structs.replace(line.talk.place, route_key=there)
                self._lines[there, session] = self._lines.pop((key, session))
        LOG.info("moved", platform=self.channel.platform.name, chat=old.chat, to=to)
        return msgspec.structs.replace(route, chat=to)

    def _outdate(self, error: Outdated) -> None:
        self.outdated = error
        self._ended.set()

    # -- what runs until it is cancelled ---------------------------------------------------------------------------
    async def receive(self) -> None:
        """Raises PlatformRefused."""
        await self._kept("receive", self._receive)

    async def watch(self) -> None:
        """Looks for turns that other processes leave, once a lease."""
        await self._kept("watch", self._watch)

    async def deliver(self) -> None:
        await self._kept("deliver", self.channel.delivery.run)

    async def _kept(self, part: str, work: Callable[[], Awaitable[None]]) -> None:
        """The supervisor of one part of one platform: what ends it is logged, and it begins anew after a pause."""
        name, loop, pause = self.channel.platform.name, asyncio.get_running_loop(), RETRY_SECONDS[0]
        while True:
            began = loop.time()
            try:
                return await work()
            except Exception as group:  # noqa: BLE001 - the supervisor: logged by where it was raised, and begun anew
                error = _first(group)
            if isinstance(error, Outdated):
                return self._outdate(error)
            if isinstance(error, PlatformRefused):
                self.is_refused = True
                LOG.error("refused", platform=name, why=str(error))
                raise error
            if loop.time() - began > RETRY_SECONDS[1]:
                pause = RETRY_SECONDS[0]
            seconds = max(pause, error.after if isinstance(error, NotSent) else 0.0)
            known = isinstance(error, PlatformError | LedgerError)
            why = {"why": str(error)} if known else {"error": type(error).__name__, "at": raised_at(error)}
            LOG.log(
                logging.WARNING if known else logging.ERROR,
                "failed",
                platform=name,
                part=part,
                **why,
                again_in_seconds=seconds,
            )
            self.channel.services.meter.count("clew_channel_restarts_total", platform=name, part=part)
            await asyncio.sleep(seconds)
            pause = min(pause * 2, RETRY_SECONDS[1])

    async def _receive(self) -> None:
        platform = self.channel.platform
        await platform.open()
        await self.go_on()
        LOG.info("ready", platform=platform.name, account=platform.account)
        receiving = asyncio.create_task(platform.receive(self._reception.take))
        try:
            while not receiving.done():
                await asyncio.wait([receiving], timeout=LOOK_SECONDS)
                if not receiving.done() and self.silent_seconds > SILENT_SECONDS_MAX:
                    raise NotSent(f"nothing was heard of the platform for {self.silent_seconds:.0f} s")
            receiving.result()
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self.looked_at = asyncio.get_running_loop().time()
            await asyncio.sleep(self.lease_seconds)
            await self.go_on()

    async def remind(self) -> None:
        """Says what is due in the places of this platform."""
        await self._kept("remind", self._remind)

    async def _remind(self) -> None:
        made = self.channel.services.reminders
        assert made is not None, "a gateway keeps what is said"
        reminders = made()
        while True:
            due, seconds = await reminders.due(self.channel.platform.name)
            for row in due:
                if self._began and not self._ended.is_set():
                    await self._fire(reminders, row)
            await asyncio.sleep(seconds if self._began else RETRY_SECONDS[0])

    async def _fire(self, reminders: Reminders, row: JobRow) -> None:
        route, platform = parse(row.route_key), self.channel.platform
        if route is None or (route.platform, route.account) != (platform.name, platform.account):
            return  # it is for a gateway with another account
        if (person := await self.channel.services.ledger.person(row.owner)) is not None:
            row = msgspec.structs.replace(row, owner=person.id)  # whom they joined since
        if await self._access.at(route) != row.owner:
            await reminders.put_off(row, f"{row.owner} may not talk here any more")
            return
        place = self._reception.place(route)
        session = await reminders.session_of(row.owner, place, str(self.channel.cwd))
        try:
            fired = await reminders.fire(row, place, session)
        except (HeadMoved, NotFound):
            return  # the place has just gone on in another session: looked at again
        if fired is not None:
            self.channel.delivery.wake()
            (await self.line(place, row.owner, session)).wake()

    @property
    def lease_seconds(self) -> float:
        return self.channel.services.runner.settings.lease_seconds

    @property
    def silent_seconds(self) -> float:
        """How long the platform has not answered; not counted while we take what it gave us."""
        heard = max(self.channel.platform.contact, self._reception.took_at)
        return asyncio.get_running_loop().time() - heard

    async def go_on(self) -> None:
        """Takes up what was left: turns that a process left in the middle, messages and commands that wait."""
        ledger = self.channel.services.ledger
        for row in await ledger.waiting(self.channel.platform.name):
            line = await self._left_line(row.route_key, row.principal, row.session)
            if line is None:
                continue
            if not self._began:
                await self._reception.left_over(line)  # later on they are this process's own, and under way
            line.wake()
        for left in await ledger.unfinished():
            if left.route_key is not None:
                line = await self._left_line(left.route_key, left.principal, left.session)
                if line is not None:
                    line.wake()
        self._began = True

    async def _left_line(self, route_key: str, who: PrincipalId, session: SessionId) -> Line | None:
        route, platform = parse(route_key), self.channel.platform
        if route is None or (route.platform, route.account) != (platform.name, platform.account):
            return None
        try:
            await self.channel.services.ledger.session(who, session)
            if not await turned_away(self.channel.services, self._access, route, who, session):
                return await self.line(self._reception.place(route), who, session)
        except NotFound:
            pass  # it was deleted
        return None

    async def drain(self, seconds: float) -> None:
        """Lets what runs end, and delivers what was said."""
        await self._reception.settled()
        await asyncio.gather(*(line.stop(seconds) for line in self._lines.values()))
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                await self.channel.delivery.drained()
        except TimeoutError:
            LOG.warning("left in the outbox", platform=self.channel.platform.name)

    async def close(self) -> None:
        for line in self._lines.values():
            await line.close()
        await self.channel.platform.close()


def _first(error: Exception) -> Exception:
    """The error itself, or the first of a group: that the program is outdated comes before all."""
    if isinstance(error, ExceptionGroup) and (outdated := error.subgroup(Outdated)) is not None:
        error = outdated
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


class Gateway:
    """Runs until `stop` is called, no platform is left, or this program was replaced."""

    def __init__(
        self,
        channels: Sequence[Channel],
        listen: Listen | None = None,
        *,
        api: Api | None = None,
        drain_seconds: float = 30,
    ) -> None:
        """With an `api` it goes on also when no platform takes us."""
        self._ended = asyncio.Event()
        self._outdated: Outdated | None = None
        self._api = api
        self._drain_seconds = drain_seconds
        if api is not None:
            api.outdated = self._outdate
        self._wings = [Wing(channel, self._ended) for channel in channels]
        self._services = services = api.services if api is not None else channels[0].services
        self.health = Health(self._wings, self._ended, services.ledger, services.meter)
        endpoints = [*self.health.endpoints, *(one for channel in channels for one in channel.endpoints)]
        self._listener = listen(endpoints) if listen is not None else None

    def stop(self) -> None:
        """Takes nothing more, and lets `run` come to its end."""
        self._ended.set()

    async def check(self) -> list[tuple[str, str | None]]:
        """Opens every platform and closes it, and looks whether we can listen: each by name, with what is wrong."""
        found: list[tuple[str, str | None]] = []
        for wing in self._wings:
            platform = wing.channel.platform
            try:
                await platform.open()
                found.append((f"{platform.name} as {platform.account}", None))
            except PlatformError as error:
                found.append((platform.name, str(error)))
            finally:
                await wing.close()
        if self._api is not None:
            found.append(await self._api.check())
        if self._listener is not None:
            try:
                self._listener.check()
                found.append((str(self._listener), None))
            except OSError as error:
                found.append((str(self._listener), error.strerror or str(error)))
        return found

    async def run(self) -> None:
        """Raises PlatformRefused when no platform took us, Outdated when another program has to go on."""
        receiving = [asyncio.create_task(wing.receive()) for wing in self._wings]
        beside = [asyncio.create_task(wing.deliver()) for wing in self._wings]
        beside += [asyncio.create_task(wing.watch()) for wing in self._wings]
        beside += [asyncio.create_task(wing.remind()) for wing in self._wings]
        if (jobs := self._services.jobs) is not None:
            beside.append(asyncio.create_task(jobs.run()))
        if self._listener is not None:
            beside += [
                asyncio.create_task(self._listen(self._listener)),
                asyncio.create_task(self.health.feel()),
            ]
        if self._api is not None:
            beside.append(asyncio.create_task(self._api.run()))
        ended = asyncio.create_task(self._wait())
        try:
            await self._until_the_end(receiving, beside, ended)
            for task in receiving:
                task.cancel()
            await asyncio.gather(*receiving, return_exceptions=True)
            draining = [wing.drain(self._drain_seconds) for wing in self._wings]
            if self._api is not None:
                draining.append(self._api.drain(self._drain_seconds))
            await asyncio.gather(*draining)
        finally:
            for task in (*receiving, *beside, ended):
                task.cancel()
            await asyncio.gather(*receiving, *beside, ended, return_exceptions=True)
            for wing in self._wings:
                await wing.close()
            if self._api is not None:
                await self._api.close()
        outdated = next((wing.outdated for wing in self._wings if wing.outdated is not None), self._outdated)
        if outdated is not None:
            raise outdated
        refused = [task.exception() for task in receiving if not task.cancelled()]
        if refused and len(refused) == len(receiving) and refused[0] is not None:
            raise refused[0]

    def _outdate(self, error: Outdated) -> None:
        self._outdated = error
        self._ended.set()

    async def _listen(self, listener: Listening) -> None:
        """An address that somebody else holds takes no chat down: it is tried again."""
        pause = RETRY_SECONDS[0]
        while True:
            try:
                await listener.run()
            except OSError as error:
                LOG.error("not listening", why=error.strerror or str(error), again_in_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_SECONDS[1])

    async def _wait(self) -> None:
        await self._ended.wait()

    async def _until_the_end(
        self, receiving: list[asyncio.Task[None]], beside: list[asyncio.Task[None]], ended: asyncio.Task[None]
    ) -> None:
        """Returns when the gateway has to end; raises what broke what runs beside."""
        left = set(receiving)
        while (left or self._api is not None) and not ended.done():
            done, _ = await asyncio.wait({*left, *beside, ended}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task in left:
                    left.discard(task)
                    if not isinstance(task.exception(), PlatformRefused):
                        task.result()
                elif task is not ended:
                    task.result()
