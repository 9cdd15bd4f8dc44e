"""Whoever watches a turn and answers its questions: a terminal, an editor, a chat, or nobody."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import msgspec

from clew.domain.conversation.ids import ApprovalId, CallId, SessionId, SummaryId
from clew.domain.conversation.messages import Status
from clew.domain.models.answer import StopReason, Usage


class TextShown(msgspec.Struct, frozen=True):
    """More of the reply. Void if `AttemptVoid` follows."""

    text: str


class ThinkingShown(msgspec.Struct, frozen=True):
    text: str


class AttemptVoid(msgspec.Struct, frozen=True, kw_only=True):
    """The model's attempt failed; what it had shown is taken back and another attempt follows."""

    reason: str
    after_seconds: float


class StepRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """A model's message is on disk, whole."""

    text: str
    usage: Usage
    stop: StopReason = StopReason.END


class CallAnnounced(msgspec.Struct, frozen=True, kw_only=True):
    call: CallId
    name: str
    line: str
    """One line for people: what the call would do."""
    arguments: str = ""
    """The model's own JSON text, valid or not."""


class CallRunning(msgspec.Struct, frozen=True):
    call: CallId


class CallOutput(msgspec.Struct, frozen=True):
    call: CallId
    text: str


class CallEnded(msgspec.Struct, frozen=True, kw_only=True):
    call: CallId
    status: Status
    text: str
    diff: str


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """A message that arrived during the turn is part of it from here on."""

    text: str
    files: tuple[str, ...] = ()
    """Names of what was attached."""


class Noticed(msgspec.Struct, frozen=True):
    """One line that concerns the turn but is not part of it."""

    text: str
    summary: SummaryId | None = None
    """The news is this summary: from here on it stands for what it covers."""


TurnNews = (
    TextShown | ThinkingShown | AttemptVoid | StepRecorded | CallAnnounced | CallRunning | CallOutput | CallEnded | Joined
    | Noticed
)  # fmt: skip
Watch = Callable[[TurnNews], None]


def nobody_watches(_: TurnNews) -> None:
    """A watch for turns that nobody follows."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    session: SessionId
    """Where the call stands: the session talked in, or one that works beside it."""
    approval: ApprovalId
    call: CallId
    name: str
    line: str
    arguments: str


class Consent(StrEnum):
    ONCE = "once"
    SESSION = "session"
    """This tool needs no further question in this session."""
    NO = "no"


class Approver(Protocol):
    async def ask(self, question: Question) -> Consent | None:
        """The person's answer; None when there is nobody to ask. Cancelled when the turn stops."""
        ...


class NobodyToAsk:
    """An approver for scripts: every question waits in the ledger."""

    async def ask(self, question: Question) -> Consent | None:
        return None
