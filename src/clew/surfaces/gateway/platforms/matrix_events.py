"""Matrix events as values: what a message says to us, and what we say as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from clew.domain.routing.routes import Route
from clew.runtime.commands import COMMANDS
from clew.runtime.ports.platforms import Attached, NeverSent
from clew.surfaces.gateway.channel import LOG
from clew.surfaces.gateway.markup import html_of

NAME: Final = "matrix"
EVENT_BYTES_MAX: Final = 50_000
"""Above this the HTML is left out."""
FILES: Final = frozenset({"m.image", "m.file", "m.audio", "m.video"})
UNSUPPORTED: Final = {"m.sticker": "sticker", "m.poll.start": "poll", "org.matrix.msc3381.poll.start": "poll"}
SPOKEN: Final = {"pair"}.union(*({command.name, *command.aliases} for command in COMMANDS))
Json = dict[str, Any]


class Reply(msgspec.Struct, frozen=True):
    event_id: str = ""


class Relation(msgspec.Struct, frozen=True):
    rel_type: str | None = None
    event_id: str | None = None
    is_falling_back: bool | None = None
    in_reply_to: Reply | None = msgspec.field(name="m.in_reply_to", default=None)


class Info(msgspec.Struct, frozen=True):
    mimetype: str | None = None
    size: int | None = None


class Mentions(msgspec.Struct, frozen=True):
    user_ids: tuple[str, ...] | None = None


class Content(msgspec.Struct, frozen=True):
    """What a message says; https://spec.matrix.org/v1.11/client-server-api/#mroommessage."""

    msgtype: str | None = None
    body: str | None = None
    filename: str | None = None
    url: str | None = None
    info: Info | None = None
    mentions: Mentions | None = msgspec.field(name="m.mentions", default=None)
    relates: Relation | None = msgspec.field(name="m.relates_to", default=None)
    new: Content | None = msgspec.field(name="m.new_content", default=None)
    membership: str | None = None
    displayname: str | None = None


class Event(msgspec.Struct, frozen=True):
    type: str
    sender: str
    content: Content
    event_id: str = ""
    origin_server_ts: int = 0
    state_key: str | None = None

    def moves(self, who: str, membership: str) -> bool:
        """Whether it makes somebody a member of this kind."""
        return self.type == "m.room.member" and (self.state_key, self.content.membership) == (who, membership)


def parsed_events(parsed: Sequence[Any]) -> list[Event]:
    return converted([event.source for event in parsed])


def converted(raw: Sequence[Any]) -> list[Event]:
    """Those that are what Matrix says an event is."""
    events = []
    for event in raw:
        try:
            events.append(msgspec.convert(event, Event))
        except msgspec.ValidationError:
            LOG.warning("an event that is none", platform=NAME, id=str(event.get("event_id", ""))[:100])
    return events


def said(content: Content, kind: str, relates: Relation) -> tuple[str, tuple[Attached, ...], str]:
    """Text, files, and what it is if it is nothing that can be answered."""
    body = content.body or ""
    if kind in UNSUPPORTED:
        return "", (), UNSUPPORTED[kind]
    if content.msgtype == "m.location":
        return "", (), "location"
    if content.msgtype in FILES and content.url:
        info, name = content.info or Info(), content.filename or body
        file = Attached(
            reference=content.url,
            media_type=info.mimetype or "application/octet-stream",
            size=info.size,
            name=name or None,
        )
        return "" if body == name else body, (file,), ""
    if content.msgtype not in {"m.text", "m.emote"}:
        return "", (), ""
    if relates.in_reply_to is not None and not relates.is_falling_back:
        body = re.sub(r"\A(?:>[^\n]*\n)+\n", "", body)  # the quoted message, put there by their program
    if body[:1] == "!" and body[1:].partition(" ")[0].lower() in SPOKEN:
        body = f"/{body[1:]}"  # their program keeps what begins with / for itself
    return body, (), ""


# -- what is sent --------------------------------------------------------------------------------------------------
def written(text: str, markdown: bool) -> Json:
    """A text as the content of a message. Raises NeverSent for an empty one."""
    if not text.strip():
        raise NeverSent("the text is empty")
    body = text.encode("utf-8", "replace").decode()
    content = {"msgtype": "m.text", "body": body}
    if markdown:
        with_html = content | {"format": "org.matrix.custom.html", "formatted_body": html_of(body)}
        if len(msgspec.json.encode(with_html)) < EVENT_BYTES_MAX:
            return with_html
    return content


def in_thread(to: Route) -> Json:
    if to.thread is None:
        return {}
    fallback = {"is_falling_back": True, "m.in_reply_to": {"event_id": to.thread}}
    return {"m.relates_to": {"rel_type": "m.thread", "event_id": to.thread, **fallback}}
