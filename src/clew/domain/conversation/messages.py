"""Messages: immutable entries of a session, exactly as they are stored.

A message is flat because ten thousand of them are read at once; what only some roles have is in `body`,
which is absent when it would be empty. `text` is the only copy of what was said. They hold no cycles, so the
collector need not look at them (`gc=False`): walking through a long history would stop everything else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from clew.domain.conversation.ids import BranchId, CallId, MessageId

_TEXT_TYPES: Final = frozenset({"application/json", "application/xml", "application/toml"})


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    EVENT = "event"


class Status(StrEnum):
    """How a message came out. Anything but OK is shown to the person and, in words, to the model."""

    OK = "ok"
    INTERRUPTED = "interrupted"
    ERROR = "error"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    NOT_RUN = "not_run"


class Head(msgspec.Struct, frozen=True, order=True):
    """A position in a session's tree. `seq` is the depth of the path; 0 is before the first message."""

    branch: BranchId
    seq: int


class Attachment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A reference to a blob: the bytes are stored once, under their hash."""

    sha256: str
    media_type: str
    size: int
    name: str | None = None
    is_sent: bool = False
    """A tool sent it to the person: no model is shown it."""

    @property
    def is_image(self) -> bool:
        """Whether a model is shown the file as a picture."""
        return not self.is_sent and self.media_type.startswith("image/")

    @property
    def is_audio(self) -> bool:
        return self.media_type.startswith("audio/")

    @property
    def is_text(self) -> bool:
        """Whether a model is shown the file as text."""
        text = self.media_type.startswith("text/") or self.media_type in _TEXT_TYPES
        return text and not self.is_sent


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A call the model asked for. `arguments` is the model's own JSON text, valid or not."""

    id: CallId
    name: str
    arguments: str
    provider_id: str = ""


class Thinking(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A model's reasoning; a signature is only ever shown to the model that made it."""

    text: str
    signature: str | None = None
    model: str = ""


class UserBody(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="user", tag_field="t", gc=False
):
    attachments: tuple[Attachment, ...] = ()
    cwd: str | None = None
    original: str | None = None
    """sha256 of the blob with the bytes as they came, when they were not valid Unicode."""
    sender: str = ""
    """The name of whoever said this, where several people share the session; the message's actor is their id."""


class AssistantBody(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="assistant", tag_field="t", gc=False
):
    calls: tuple[ToolCall, ...] = ()
    thinking: tuple[Thinking, ...] = ()
    model: str = ""


class ToolBody(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="tool", tag_field="t", gc=False
):
    call: CallId
    name: str
    attachments: tuple[Attachment, ...] = ()
    diff: str = ""
    """What an edit changed, for people; the model sees `text`."""


class EventBody(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="event", tag_field="t", gc=False
):
    kind: str


Body = UserBody | AssistantBody | ToolBody | EventBody


class NewMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message on its way into the ledger; position, turn and time are given to it there."""

    role: Role
    text: str
    step: int
    """0 for what a person sent to start a turn; a model step and its results share a number from 1 on."""
    actor: str
    status: Status = Status.OK
    body: Body | None = None


class Message(msgspec.Struct, frozen=True, gc=False):
    """A stored message. Positional, so that thousands are made quickly from rows."""

    id: MessageId
    branch: BranchId
    seq: int
    turn: int
    step: int
    role: Role
    actor: str
    status: Status
    text: str
    body: Body | None
    created_at: int
    """Milliseconds since 1970-01-01 UTC."""

    @property
    def head(self) -> Head:
        return Head(self.branch, self.seq)

    @property
    def opens_turn(self) -> bool:
        """Whether a person sent this to start a turn: what `/undo n` and `/retry` count."""
        return self.role == Role.USER and self.step == 0

    @property
    def is_asked(self) -> bool:
        """Whether the turn answers this: what people sent in it, and what had happened before it, or started it."""
        return self.role == Role.USER or (self.role == Role.EVENT and self.step == 0)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return self.body.calls if isinstance(self.body, AssistantBody) else ()

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        return self.body.attachments if isinstance(self.body, UserBody | ToolBody) else ()


def blobs_named(body: Body | None) -> tuple[str, ...]:
    """The hashes of the blobs that a message with this body needs, each once."""
    if not isinstance(body, UserBody | ToolBody):
        return ()
    original = (body.original,) if isinstance(body, UserBody) and body.original else ()
    return tuple(dict.fromkeys((*(attachment.sha256 for attachment in body.attachments), *original)))
