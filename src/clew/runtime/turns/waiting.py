"""What waits in a session's inbox before a turn takes it: messages, and what happened while nothing ran."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from clew.domain.conversation.ids import PrincipalId
from clew.domain.conversation.messages import Attachment, EventBody, NewMessage, Role, UserBody
from clew.domain.conversation.text import clean
from clew.domain.ledger.commits import NewBlob
from clew.domain.ledger.rows import InboxRow

MESSAGE: Final = "message"
EVENT: Final = "event"
WAKE: Final = "wake"
"""An event that starts a turn, where none runs."""
EVENTS: Final = frozenset({EVENT, WAKE})
BYSTANDER: Final = "said_in_the_group"
"""The kind of event that something said in a group is, but not to us."""
NOT_TO_US: Final = "Said in this group meanwhile, not to you:"
BYSTANDER_CHARACTERS_MAX: Final = 500


class BusyMode(StrEnum):
    """What a message does that arrives while a turn runs."""

    QUEUE = "queue"
    """It gets a turn of its own, after those before it."""
    STEER = "steer"
    """It joins the running turn before the next call of the model; too late for that, it starts the next turn."""
    INTERRUPT = "interrupt"
    """It cuts the running turn, and its own is next."""


class NewFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file on its way in."""

    media_type: str
    bytes: bytes
    name: str | None = None


class Speaker(msgspec.Struct, frozen=True, kw_only=True):
    """One of the people who share a session."""

    who: PrincipalId
    name: str
    """What they call themselves, on one line."""


class QueuedMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of an inbox row: what a person sent, or what happened, before a turn took it."""

    text: str
    original: str = ""
    """base64 of the bytes as they came, when they were not valid Unicode."""
    cwd: str | None = None
    files: tuple[tuple[str, str, str | None], ...] = ()
    """(media type, base64, name)"""
    event: str = ""
    mode: BusyMode = BusyMode.QUEUE
    not_before: int = 0
    """The first step of a turn that a steering message may join: where it stood in a turn that is tried again."""
    sender: str = ""
    """The person who sent it: where a group owns the session, another than the row's principal."""
    sender_name: str = ""
    """What they call themselves, where several people share the session."""

    @property
    def speaker(self) -> Speaker | None:
        return Speaker(who=PrincipalId(self.sender), name=self.sender_name) if self.sender_name else None

    @property
    def said(self) -> str | bytes:
        return base64.b64decode(self.original) if self.original else self.text

    @property
    def attached(self) -> tuple[NewFile, ...]:
        return tuple(
            NewFile(media_type=kind, bytes=base64.b64decode(encoded), name=name)
            for kind, encoded, name in self.files
        )


def pack_message(
    text: str | bytes,
    cwd: str | None,
    files: Sequence[NewFile],
    mode: BusyMode = BusyMode.QUEUE,
    not_before: int = 0,
    *,
    speaker: Speaker | None = None,
) -> QueuedMessage:
    """A message as it is kept; nothing of it is lost."""
    cleaned = clean(text)
    return QueuedMessage(
        text=cleaned.text,
        original="" if cleaned.original is None else base64.b64encode(cleaned.original).decode(),
        cwd=cwd,
        files=tuple((f.media_type, base64.b64encode(f.bytes).decode(), f.name) for f in files),
        mode=mode,
        not_before=not_before,
        sender=speaker.who if speaker else "",
        sender_name=speaker.name if speaker else "",
    )


def pack_event(kind: str, text: str) -> QueuedMessage:
    return QueuedMessage(text=clean(text).text, event=kind)


def pack_bystander(speaker: Speaker, text: str) -> QueuedMessage:
    """One line, whatever somebody calls themselves or writes: none of it can look like another's."""
    said = " ".join(text.split())
    if len(said) > BYSTANDER_CHARACTERS_MAX:
        said = f"{said[:BYSTANDER_CHARACTERS_MAX]} …"
    return pack_event(BYSTANDER, f"{speaker.name} ({speaker.who}): {said}")


def written(body: QueuedMessage) -> str:
    return msgspec.json.encode(body).decode()


unpack: Final = msgspec.json.Decoder(QueuedMessage).decode


# -- as messages of the ledger -----------------------------------------------------------------------------------
def message_of_person(
    text: str | bytes,
    files: Sequence[NewFile],
    cwd: str | None,
    *,
    actor: str,
    step: int,
    speaker: Speaker | None = None,
) -> tuple[NewMessage, tuple[NewBlob, ...]]:
    """What a person said, byte for byte, and the blobs it needs. Step 0 opens a turn."""
    cleaned = clean(text)
    blobs = [_blob(file.bytes, file.media_type) for file in files]
    attachments = tuple(
        Attachment(sha256=blob.sha256, media_type=blob.media_type, size=len(blob.bytes), name=file.name)
        for blob, file in zip(blobs, files, strict=True)
    )
    original = None
    if cleaned.original is not None:
        blobs.append(_blob(cleaned.original, "application/octet-stream"))
        original = blobs[-1].sha256
    body = UserBody(
        attachments=attachments, cwd=cwd, original=original, sender=speaker.name if speaker else ""
    )
    message = NewMessage(
        role=Role.USER,
        text=cleaned.text,
        step=step,
        actor=speaker.who if speaker else actor,
        body=body if body != UserBody() else None,
    )
    return message, tuple(blobs)


def event_message(kind: str, text: str, step: int) -> NewMessage:
    """Something that happened outside the talk: data for the model, never the person's words."""
    return NewMessage(
        role=Role.EVENT, text=clean(text).text, step=step, actor="clew", body=EventBody(kind=kind)
    )


def event_messages(rows: Iterable[InboxRow], step: int) -> tuple[NewMessage, ...]:
    """What waited as events. What bystanders said becomes one message, before the others."""
    bodies = [unpack(row.body) for row in rows]
    said = [body.text for body in bodies if body.event == BYSTANDER]
    overheard = (event_message(BYSTANDER, "\n".join((NOT_TO_US, *said)), step),) if said else ()
    others = [event_message(body.event, body.text, step) for body in bodies if body.event != BYSTANDER]
    return (*overheard, *others)


def bystanders_among(rows: Iterable[InboxRow]) -> list[InboxRow]:
    return [row for row in events_among(rows) if unpack(row.body).event == BYSTANDER]


def _blob(content: bytes, media_type: str) -> NewBlob:
    return NewBlob(sha256=hashlib.sha256(content).hexdigest(), media_type=media_type, bytes=content)


# -- which of the rows -------------------------------------------------------------------------------------------
def events_among(rows: Iterable[InboxRow]) -> list[InboxRow]:
    return [row for row in rows if row.kind in EVENTS]


def messages_among(rows: Iterable[InboxRow]) -> list[InboxRow]:
    """In the order in which they get their turns: those that interrupt first, then as they came."""
    return sorted(
        (row for row in rows if row.kind == MESSAGE),
        key=lambda row: (unpack(row.body).mode != BusyMode.INTERRUPT, row.id),
    )
