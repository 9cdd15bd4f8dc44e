"""A chat platform as the runtime sees it. What a platform says about a message decides what may be done next.

PlatformError
├── NotSent          it certainly did not go out: it is tried again later, as often as needed
├── MaybeSent        nobody knows: it is repeated once, with a mark
├── NeverSent        it cannot go out: the person left, or the platform takes no such message
├── ChatMoved        it did not go out: the chat has another id by now
└── PlatformRefused  the platform does not take us: a wrong token, or somebody else with the same one
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from clew.domain.routing.routes import ChatKind, Route
from clew.domain.routing.splitting import TextLimit


class PlatformError(Exception):
    """The platform did not do it; the text says why."""


class NotSent(PlatformError):
    """It did not go out. `after` are the seconds that the platform asks to be left alone."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class MaybeSent(PlatformError):
    """It may have gone out."""


class NeverSent(PlatformError):
    """It will never go out."""


class ChatMoved(PlatformError):
    """It did not go out: the chat's id is `to` from now on."""

    def __init__(self, message: str, to: str) -> None:
        super().__init__(message)
        self.to = to


class PlatformRefused(PlatformError):
    """The platform does not talk to us."""


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What a platform can do."""

    holds: TextLimit
    """What one message holds, with room left for a mark."""
    edits: bool
    """A message can be changed after it was sent, so an answer is shown while it grows."""
    preview_seconds: float = 0.25
    """After its first word; an answer that is whole by then needs no preview, and is one message sooner there."""
    edit_seconds: float = 1.0
    """Between two changes of a preview."""
    typing_seconds: float = 0.0
    """For how long the platform shows that somebody types; 0 for not at all."""
    takes_key: bool = False
    """The same key sent twice is one message."""
    file_bytes_max: int = 20_000_000
    """The largest file that is fetched."""
    sends_bytes_max: int = 0
    """The largest file that can be sent; 0 where none can."""


class Button(msgspec.Struct, frozen=True):
    """Something to press; pressing it says `command` on behalf of whoever pressed."""

    label: str
    command: str


class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """A file that came with a message, not fetched yet."""

    reference: str
    media_type: str
    size: int | None = None
    name: str | None = None


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody sent. `key` names the message, not its delivery: the same message has the same key."""

    key: str
    chat: Route
    """Without a user: whether people share it is decided by the settings."""
    kind: ChatKind
    sender: str
    sender_name: str = ""
    also: tuple[str, ...] = ()
    """Ids of the sender that are not known as theirs yet; kept for people who may talk."""
    text: str
    files: tuple[Attached, ...] = ()
    addressed: bool = False
    """It names us, answers us, or is a command for us."""
    edits: str = ""
    """The key of the message that this is a change of."""
    unsupported: str = ""
    """What it is, if it is nothing that can be answered: a sticker, a location."""
    undelivered: str = ""
    """The id of a message of ours that did not arrive after all; `text` says why. Nothing was said."""
    moved_from: str = ""
    """The id that this chat had until now. Nothing was said: its places, and what waits for them, move."""


Take = Callable[[Incoming], Awaitable[None]]
"""Returns once the message is durable; only then may the platform be told that we have it."""


async def take_in_order(take: Take, incoming: Iterable[Incoming]) -> None:
    """Chats side by side, each in its order: behind what was not taken nothing of that chat is, and it comes again with it."""
    chats: dict[Route, list[Incoming]] = {}
    for message in incoming:
        chats.setdefault(message.chat, []).append(message)

    async def one_by_one(messages: Sequence[Incoming]) -> None:
        for message in messages:
            await take(message)

    await asyncio.gather(*map(one_by_one, chats.values()))


class Platform(Protocol):
    """One account on one platform. The name is the surface of its places."""

    @property
    def name(self) -> str: ...

    @property
    def account(self) -> str:
        """Our own id there; known once it was opened."""
        ...

    @property
    def traits(self) -> Traits: ...

    @property
    def contact(self) -> float:
        """When the platform last answered us, by the clock of the event loop; minus infinity before. While it receives, and
        has nothing to give, it asks at least once a minute: a minute and a half of silence ends `receive`."""
        ...

    async def open(self) -> None:
        """Proves that the platform takes us. Raises PlatformRefused, NotSent."""
        ...

    async def receive(self, take: Take) -> None:
        """Takes what comes, in the order of each chat, until it is cancelled. An error of `take` is raised, and what it was
        given comes again. Raises PlatformRefused, NotSent."""
        ...

    async def fetch(self, file: Attached) -> bytes:
        """Raises NotSent, NeverSent."""
        ...

    async def send(
        self, to: Route, text: str, *, markdown: bool = False, buttons: Sequence[Button] = (), key: str = ""
    ) -> str:
        """Returns the platform's id of the message. With `markdown` the text is a model's, to be shown as it means.

        Every call that sends may raise NotSent, MaybeSent, NeverSent, ChatMoved."""
        ...

    async def send_file(self, to: Route, name: str, media_type: str, content: bytes, *, key: str = "") -> str:
        """Sends a file that is no larger than the traits say, as the platform shows such files. Returns the message's id.
        Not called where `sends_bytes_max` is 0."""
        ...

    async def edit(self, to: Route, message: str, text: str, *, markdown: bool = False) -> None:
        """Changes a message; to what it is already, is no error."""
        ...

    async def typing(self, to: Route) -> None: ...

    async def close(self) -> None:
        """Idempotent."""
        ...
