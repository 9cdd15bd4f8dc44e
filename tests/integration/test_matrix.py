"""The Matrix adapter keeps the promises of its port towards a real homeserver."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clew.runtime.ports.platforms import Platform
from clew.surfaces.gateway.platforms.matrix import Matrix
from clew.testing.contracts.platforms import ANN, BEN, GROUP, Bench, PlatformContract
from tests.integration.homeserver import Homeserver, Proxy, Someone, relates


async def everybody(sender: str, is_direct: bool) -> bool:
    return True


class MatrixBench:
    """Ann, Ben and the bot, each pair in a room of their own, and all of them in one: each made when it is first needed."""

    def __init__(self, server: Homeserver, proxy: Proxy) -> None:
        self.proxy = proxy
        self.bot = server.person("clew")
        self.connected: list[Platform] = []
        self._server = server
        self._people: dict[str, Someone] = {}
        self._rooms: dict[str, str] = {}

    def person(self, who: str) -> Someone:
        if who not in self._people:
            self._people[who] = self._server.person({ANN: "ann", BEN: "ben"}[who])
        return self._people[who]

    def sender(self, who: str) -> str:
        return self.person(who).id

    def chat(self, where: str) -> str:
        if where not in self._rooms:
            others = (self.person(BEN),) if where == GROUP else ()
            room = self.person(ANN if others else where).room(self.bot, *others, direct=not others)
            for someone in (self.bot, *others):
                someone.join(room)
            self._rooms[where] = room
        return self._rooms[where]

    def close(self) -> None:
        for someone in (self.bot, *self._people.values()):
            someone.close()

    def connect(self) -> Platform:
        self.connected.append(Matrix(self.bot.token, self.proxy.url, everybody))
        return self.connected[-1]

    async def say(
        self, sender: str, text: str, *, group: str = "", topic: str = "", named: bool = False
    ) -> None:
        person, room = self.person(sender), self.chat(group or sender)
        thread = relates("m.thread", self.bot.say(room, topic)) if topic else {}
        person.say(room, f"{self.bot.id}: {text}" if named else text, **thread)

    async def send_file(self, sender: str, content: bytes, name: str) -> None:
        self.person(sender).send_file(self.chat(sender), content, name)

    async def press(self, sender: str, label: str) -> None:
        """Says what is written behind it: Matrix has no buttons."""
        lines = self.shown(sender)[-1].split("\n")
        (command,) = [line.removeprefix(f"{label}: ") for line in lines if line.startswith(f"{label}: ")]
        self.person(sender).say(self.chat(sender), command)

    def files_shown(self, chat: str) -> list[tuple[str, bytes]]:
        return self.person(chat).files(self.chat(chat), self.bot)

    def shown(self, chat: str) -> list[str]:
        return self.person(chat).shown(self.chat(chat), self.bot)

    def slow_down(self, seconds: int) -> None:
        self.proxy.pause_ms = seconds * 1000

    def lose_answer(self) -> None:
        self.proxy.loses_answer = True

    def revoke(self) -> None:
        self.chat(ANN)  # while it can still join
        self.bot.log_out()


@pytest.fixture
async def matrix(homeserver: Homeserver) -> AsyncIterator[MatrixBench]:
    async with Proxy(homeserver.url) as proxy:
        bench = MatrixBench(homeserver, proxy)
        yield bench
        for platform in bench.connected:
            await platform.close()
        bench.close()


class TestMatrix(PlatformContract):
    """Synapse."""

    @pytest.fixture
    async def bench(self, matrix: MatrixBench) -> Bench:
        return matrix
