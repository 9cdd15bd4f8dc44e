"""A chat platform in memory: people type, the bot's messages can be looked at, and calls fail as asked for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

import msgspec

from clew.domain.routing.routes import ChatKind, Route
from clew.domain.routing.splitting import TextLimit
from clew.runtime.ports.platforms import (
    Attached,
    Button,
    ChatMoved,
    Incoming,
    MaybeSent,
    NeverSent,
    PlatformRefused,
    Take,
    Traits,
    take_in_order,
)


class FakeChats:
    """The platform's side; it outlives the processes that connect to it. `failing` are met by the next calls, one each."""

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.account = "bot"
        self.refuses = ""
        self.breaks: list[Exception] = []
        """What receiving ends with, instead of giving the next message."""
        self.is_silent = False
        self.failing: list[Exception] = []
        self.answer_lost = False
        """The next message is sent, and nobody is told."""
        self.answer_seconds = 0.0
        """How long it takes until the caller is told that a message was sent."""
        self.messages: dict[str, dict[str, tuple[str, tuple[Button, ...]]]] = {}
        self.files: dict[str, bytes] = {}
        self.files_shown: dict[str, list[tuple[str, bytes]]] = {}
        self.taken: dict[str, str] = {}
        """Keys that messages were sent with, and the ids of those, where the platform takes keys."""
        self.fails_files: list[Exception] = []
        """Met by the next files that are sent, one each."""
        self.moved: dict[str, str] = {}
        """Chats that have another id by now."""
        self._unconfirmed: list[Incoming] = []
        self._number = 0
        self._change = asyncio.Event()

    async def say(
        self,
        sender: str,
        text: str,
        *,
        chat: str = "",
        kind: ChatKind = ChatKind.DM,
        thread: str | None = None,
        files: tuple[Attached, ...] = (),
        addressed: bool = False,
        times: int = 1,
    ) -> None:
        """In the person's own chat, or a group's."""
        self._number += 1
        where = Route(platform=self.name, account=self.account, chat=chat or sender, thread=thread)
        incoming = Incoming(
            key=f"m{self._number}",
            chat=where,
            kind=kind,
            sender=sender,
            sender_name=sender.title(),
            text=text,
            files=files,
            addressed=addressed,
        )
        self._unconfirmed += [incoming] * times
        self._note()

    async def move(self, old: str, new: str) -> None:
        """A group gets another id. Whoever listens is told, and nothing is sent to the old one any more."""
        self.moved[old] = new
        self._number += 1
        where = Route(platform=self.name, account=self.account, chat=new)
        kind = ChatKind.GROUP
        self._unconfirmed.append(
            Incoming(key=f"m{self._number}", chat=where, kind=kind, sender="", text="", moved_from=old)
        )
        self._note()

    async def press(self, sender: str, label: str) -> None:
        """The newest button with this label in the person's chat."""
        buttons = [
            button for _, row in self.messages[sender].values() for button in row if button.label == label
        ]
        await self.say(sender, buttons[-1].command)

    def shown(self, chat: str) -> list[str]:
        """What the bot's messages in a chat say now, oldest first."""
        return [text for text, _ in self.messages.get(chat, {}).values()]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when it holds; looked at whenever something changes."""
        while not holds():
            await self._change.wait()

    def _note(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    @property
    def unconfirmed(self) -> int:
        return len(self._unconfirmed)

    async def next(self) -> list[Incoming]:
        """What can be taken side by side, as platforms give it; what says that a chat has another id comes alone."""
        await self.until(lambda: bool(self._unconfirmed))
        moving = [at for at, one in enumerate(self._unconfirmed) if one.moved_from]
        return self._unconfirmed[: max(moving[0], 1) if moving else None]

    def confirm(self, incoming: Incoming) -> None:
        self._unconfirmed.remove(incoming)
        self._note()

    async def put(
        self,
        chat: str,
        ident: str,
        text: str,
        buttons: tuple[Button, ...],
        *,
        file: tuple[str, bytes] | None = None,
        key: str = "",
    ) -> None:
        """A message as it is from now on. A fault that was asked for is met here.

        The call is on its way for a while, and so is its answer.
        """
        await asyncio.sleep(0)
        if self.failing:
            self._note()
            raise self.failing.pop(0)
        if file is not None and self.fails_files:
            self._note()
            raise self.fails_files.pop(0)
        if chat in self.moved:
            raise ChatMoved("The chat has another id.", self.moved[chat])
        if key:
            self.taken[key] = ident
        self.messages.setdefault(chat, {})[ident] = (text, buttons)
        if file is not None:
            self.files_shown.setdefault(chat, []).append(file)
        self._note()
        await asyncio.sleep(self.answer_seconds)
        if self.answer_lost:
            self.answer_lost = False
            raise MaybeSent("The connection ended.")


class FakePlatform:
    """`Platform` over `FakeChats`: one process's connection."""

    def __init__(
        self,
        chats: FakeChats,
        *,
        most: int = 200,
        edits: bool = True,
        takes_key: bool = False,
        preview_seconds: float = 0.0,
    ) -> None:
        self.traits = Traits(
            holds=TextLimit(most=most),
            edits=edits,
            preview_seconds=preview_seconds,
            edit_seconds=0.0,
            takes_key=takes_key,
            sends_bytes_max=1_000_000,
        )
        self.name = chats.name
        self.account = ""
        self._chats = chats
        self._contact = -math.inf

    @property
    def contact(self) -> float:
        if self.account and not self._chats.is_silent:
            self._contact = asyncio.get_running_loop().time()
        return self._contact

    async def open(self) -> None:
        if self._chats.refuses:
            raise PlatformRefused(self._chats.refuses)
        self.account = self._chats.account

    async def receive(self, take: Take) -> None:
        while True:
            together = await self._chats.next()
            if self._chats.refuses:
                raise PlatformRefused(self._chats.refuses)
            if self._chats.breaks:
                raise self._chats.breaks.pop(0)
            await take_in_order(take, together)
            for incoming in together:
                self._chats.confirm(incoming)

    async def fetch(self, file: Attached) -> bytes:
        if file.reference not in self._chats.files:
            raise NeverSent("There is no such file.")
        return self._chats.files[file.reference]

    async def send(
        self, to: Route, text: str, *, markdown: bool = False, buttons: Sequence[Button] = (), key: str = ""
    ) -> str:
        self._check(text)
        key = key if self.traits.takes_key else ""
        if key in self._chats.taken:
            return self._chats.taken[key]
        ident = str(sum(map(len, self._chats.messages.values())) + 1)
        await self._chats.put(to.chat, ident, text, tuple(buttons), key=key)
        return ident

    async def send_file(self, to: Route, name: str, media_type: str, content: bytes, *, key: str = "") -> str:
        if len(content) > self.traits.sends_bytes_max:
            raise NeverSent("The file is too large.")
        key = key if self.traits.takes_key else ""
        if key in self._chats.taken:
            return self._chats.taken[key]
        ident = str(sum(map(len, self._chats.messages.values())) + 1)
        await self._chats.put(to.chat, ident, f"[file {name}]", (), file=(name, content), key=key)
        return ident

    async def edit(self, to: Route, message: str, text: str, *, markdown: bool = False) -> None:
        self._check(text)
        if message not in self._chats.messages.get(to.chat, {}):
            raise NeverSent("There is no such message.")
        await self._chats.put(to.chat, message, text, ())

    async def typing(self, to: Route) -> None:
        """Nobody looks."""

    async def close(self) -> None:
        """Holds nothing."""

    def _check(self, text: str) -> None:
        room = msgspec.structs.replace(self.traits.holds, most=self.traits.holds.most + 40)
        if not text.strip() or not room.fits(text):
            raise NeverSent("The text is empty or too long.")
