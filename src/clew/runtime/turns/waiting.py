"""What waits in a session's inbox before a turn takes it: messages, and what happened while nothing ran."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from clew.domain.conversation.text import clean
from clew.domain.ledger.rows import InboxRow

MESSAGE: Final = "message"
EVENT: Final = "event"


class NewFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file on its way in."""

    media_type: str
    bytes: bytes
    name: str | None = None


class QueuedMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of an inbox row: what a person sent, or what happened, before a turn took it."""

    text: str
    original: str = ""
    """base64 of the bytes as they came, when they were not valid Unicode."""
    cwd: str | None = None
    files: tuple[tuple[str, str, str | None], ...] = ()
    """(media type, base64, name)"""
    event: str = ""

    @property
    def said(self) -> str | bytes:
        return base64.b64decode(self.original) if self.original else self.text

    @property
    def attached(self) -> tuple[NewFile, ...]:
        return tuple(
            NewFile(media_type=kind, bytes=base64.b64decode(encoded), name=name)
            for kind, encoded, name in self.files
        )


def pack_message(text: str | bytes, cwd: str, files: Sequence[NewFile]) -> QueuedMessage:
    """A message as it is kept; nothing of it is lost."""
    cleaned = clean(text)
    return QueuedMessage(
        text=cleaned.text,
        original="" if cleaned.original is None else base64.b64encode(cleaned.original).decode(),
        cwd=cwd,
        files=tuple((f.media_type, base64.b64encode(f.bytes).decode(), f.name) for f in files),
    )


def pack_event(kind: str, text: str) -> QueuedMessage:
    return QueuedMessage(text=clean(text).text, event=kind)


def written(body: QueuedMessage) -> str:
    return msgspec.json.encode(body).decode()


unpack: Final = msgspec.json.Decoder(QueuedMessage).decode


def events_among(rows: Iterable[InboxRow]) -> list[InboxRow]:
    return [row for row in rows if row.kind == EVENT]


def messages_among(rows: Iterable[InboxRow]) -> list[InboxRow]:
    return [row for row in rows if row.kind == MESSAGE]
