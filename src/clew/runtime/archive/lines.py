"""The JSONL format: what each line may be. Version 1.

One JSON object a line, UTF-8. A session is a run of lines in this order:

    export                  names the format's version; starts a session
    session                 title, place, times. Not its settings, approvals, leases or prompts: those are not history
    branch …                every branch of the tree, parents first; the first has no parent
    (blob … message) …      every message of the tree in the order it was written, undone ones too; before the first
                            message that names an attachment, its bytes
    summary …               in the order they were made
    end                     head and summary in force, and how many messages there were

Branches and summaries are numbered from 1 within the file. A position is [branch, seq], as in the ledger: seq is the
depth of the path. Several exports written one after the other are an export of several sessions. A reader refuses what
it does not know: a newer version, another type of line, an unknown field.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from clew.domain.conversation.messages import Body, Role, Status

FORMAT_VERSION: Final = 1

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Number = Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]
"""Since 1970-01-01 UTC, to the end of the year 9999."""
Position = tuple[Number, Count]
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are no line of the format."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """Read before anything else of an `export` line: a newer version may look otherwise."""

    type: str
    version: int = 0


class _Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    """What all lines have in common."""


class ExportLine(_Line, tag="export", frozen=True, kw_only=True):
    program: str
    version: Count


class SessionLine(_Line, tag="session", frozen=True, kw_only=True):
    id: str
    owner: str
    surface: str
    title: str | None
    model: str | None
    cwd: str | None
    origin: str
    parent: str | None
    created_at: Milliseconds
    last_active_at: Milliseconds


class BranchLine(_Line, tag="branch", frozen=True, kw_only=True):
    branch: Number
    parent: Position | None


class BlobLine(_Line, tag="blob", frozen=True, kw_only=True):
    """An attachment: its bytes as base64."""

    sha256: str
    media_type: str
    data: bytes


class MessageLine(_Line, tag="message", frozen=True, kw_only=True):
    branch: Number
    seq: Number
    turn: Count
    step: Count
    role: Role
    actor: str
    status: Status
    created_at: Milliseconds
    text: str
    body: Body | None


class SummaryLine(_Line, tag="summary", frozen=True, kw_only=True):
    summary: Number
    upto: Position
    previous: Number | None
    text: str
    focus: str | None
    model: str | None
    tokens_before: Count
    tokens_after: Count
    created_at: Milliseconds


class EndLine(_Line, tag="end", frozen=True, kw_only=True):
    head: Position
    summary: Number | None
    messages: Count


Line = ExportLine | SessionLine | BranchLine | BlobLine | MessageLine | SummaryLine | EndLine

_encoder: Final = msgspec.json.Encoder()
_decoder: Final[msgspec.json.Decoder[Line]] = msgspec.json.Decoder(Line)
_version: Final = msgspec.json.Decoder(Version)


def encoded(line: Line) -> bytes:
    """The line with its line feed."""
    return _encoder.encode(line) + b"\n"


def decoded(raw: bytes) -> Line:
    """Raises one of UNREADABLE; a msgspec.ValidationError for JSON that is no line of the format."""
    return _decoder.decode(raw)


def version_of(raw: bytes) -> int | None:
    """The version that an `export` line names; None for any other line."""
    try:
        found = _version.decode(raw)
    except UNREADABLE:
        return None
    return found.version if found.type == "export" else None
