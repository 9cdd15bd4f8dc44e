"""WhatsApp's Cloud API on the wire: what a webhook posts, and what the Graph API answers, as far as Clew looks at it.

Nearly everything may be missing: Meta leaves out what a person hides, and adds kinds of messages as it likes.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Said(msgspec.Struct):
    body: str = ""


class File(msgspec.Struct):
    id: str
    mime_type: str = "application/octet-stream"
    caption: str = ""
    filename: str | None = None


class Pressed(msgspec.Struct):
    id: str = ""
    title: str = ""
    text: str = ""


class Interactive(msgspec.Struct):
    button_reply: Pressed | None = None
    list_reply: Pressed | None = None


class Context(msgspec.Struct):
    sender: str = msgspec.field(name="from", default="")


class Content(msgspec.Struct):
    type: str
    text: Said = msgspec.field(default_factory=Said)
    image: File | None = None
    document: File | None = None
    audio: File | None = None
    video: File | None = None
    interactive: Interactive | None = None
    button: Pressed | None = None
    context: Context = msgspec.field(default_factory=Context)


class Edit(msgspec.Struct):
    original_message_id: str
    message: Content


class Message(Content, kw_only=True):
    id: str
    number: str = msgspec.field(name="from", default="")
    from_user_id: str = ""
    group_id: str = ""
    edit: Edit | None = None


class Profile(msgspec.Struct):
    name: str = ""


class Contact(msgspec.Struct):
    profile: Profile = msgspec.field(default_factory=Profile)
    wa_id: str = ""
    user_id: str = ""


class Wrong(msgspec.Struct):
    code: int = -1
    title: str = ""
    message: str = ""
    error_data: Any = None
    is_transient: bool = False

    @property
    def why(self) -> str:
        data = self.error_data
        details = str(data.get("details", "")) if isinstance(data, dict) else ""
        return f"{self.title or self.message}{f' ({details})' if details else ''} [{self.code}]"


class Status(msgspec.Struct):
    id: str
    status: str
    recipient_id: str = ""
    recipient_user_id: str = ""
    recipient_type: str = "individual"
    biz_opaque_callback_data: str = ""
    errors: list[Wrong] = []


class Metadata(msgspec.Struct):
    phone_number_id: str = ""
    display_phone_number: str = ""


class Value(msgspec.Struct):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    contacts: list[Contact] = []
    messages: list[msgspec.Raw] = []
    statuses: list[msgspec.Raw] = []


class Change(msgspec.Struct):
    field: str
    value: msgspec.Raw


class Entry(msgspec.Struct):
    changes: list[Change] = []


class Posted(msgspec.Struct):
    entry: list[Entry]


class Named(msgspec.Struct):
    id: str


class Sent(msgspec.Struct):
    messages: list[Named]


class Media(msgspec.Struct):
    url: str
    file_size: int = 0


class Failure(msgspec.Struct):
    error: Wrong
