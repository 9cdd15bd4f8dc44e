"""Route keys: the name of a place on a chat platform. Two places never share one, whatever their ids hold.

A key is `platform/account/w:WORKSPACE/c:CHAT/t:THREAD/u:USER`, without the parts that the place does not have. Every id is
percent-encoded, so that none can hold a separator; the letters keep a topic and a user of the same number apart.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from clew.domain.conversation.ids import PrincipalId


class ChatKind(StrEnum):
    DM = "dm"
    GROUP = "group"
    CHANNEL = "channel"
    THREAD = "thread"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A place. `account` is ours on the platform; `user` is there where each person of a chat has a talk of their own."""

    platform: str
    account: str
    chat: str
    workspace: str | None = None
    thread: str | None = None
    user: str | None = None

    @property
    def key(self) -> str:
        tagged = (("w", self.workspace), ("c", self.chat), ("t", self.thread), ("u", self.user))
        parts = [f"{tag}:{_escaped(value)}" for tag, value in tagged if value is not None]
        return "/".join((_escaped(self.platform), _escaped(self.account), *parts))


def moved(key: str, old: str, new: str) -> str | None:
    """The key of a place once its chat `old` is `new`; None for a place of another chat."""
    return new + key[len(old) :] if key == old or key.startswith(f"{old}/") else None


def group_principal(key: str) -> PrincipalId:
    """Everybody of a shared place, as one."""
    return PrincipalId(f"{GROUPS}{key}")


GROUPS: Final = "group:"
"""How the principal of a shared place begins, and the platform of its identity at another place."""
_FIELDS: Final = {"w": "workspace", "c": "chat", "t": "thread", "u": "user"}


@lru_cache(maxsize=1024)  # a turn asks ten times, and writing the key again to compare is most of it
def parse(key: str) -> Route | None:
    """The route of a key; None for the key of a place that is not on a chat platform, such as the terminal."""
    platform, _, rest = key.partition("/")
    account, _, tagged = rest.partition("/")
    found: dict[str, str] = {}
    for part in tagged.split("/"):
        tag, colon, value = part.partition(":")
        if not colon or tag not in _FIELDS:
            return None
        found[_FIELDS[tag]] = _plain(value)
    if "chat" not in found:
        return None
    route = Route(
        platform=_plain(platform),
        account=_plain(account),
        chat=found["chat"],
        workspace=found.get("workspace"),
        thread=found.get("thread"),
        user=found.get("user"),
    )
    return route if route.key == key else None


def _escaped(value: str) -> str:
    return quote(value, safe="", errors="surrogatepass")


def _plain(value: str) -> str:
    return unquote(value, errors="surrogatepass")


class Sharing(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the people of a group, or of a thread, each have a talk of their own."""

    group_per_user: bool = True
    thread_per_user: bool = False

    def is_shared(self, kind: ChatKind) -> bool:
        """Whether everybody there is in one talk."""
        match kind:
            case ChatKind.DM:
                return False
            case ChatKind.THREAD:
                return not self.thread_per_user
            case ChatKind.GROUP | ChatKind.CHANNEL:
                return not self.group_per_user

    def route(self, chat: Route, kind: ChatKind, sender: str) -> Route:
        """The place of what `sender` says in a chat. In a direct message the chat is the person."""
        if kind == ChatKind.DM or self.is_shared(kind):
            return msgspec.structs.replace(chat, user=None)
        return msgspec.structs.replace(chat, user=sender)


def is_meant(kind: ChatKind, *, addressed: bool, require_mention: bool) -> bool:
    """Whether a message is for us: always between two, and where others talk when it names or answers us."""
    return kind == ChatKind.DM or addressed or not require_mention
