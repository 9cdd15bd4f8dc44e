"""A conversation as people read it: what was said, each call beside its result, and what was undone named at the end.

Every format for people is written from these values, so that all of them tell the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from datetime import UTC, datetime
from typing import Final

import msgspec

from clew.domain.conversation.ids import BranchId, CallId, PrincipalId, SessionId
from clew.domain.conversation.messages import (
    Attachment,
    EventBody,
    Message,
    Role,
    Status,
    ToolBody,
    ToolCall,
    UserBody,
)
from clew.domain.ledger.rows import SessionRow, SummaryRow
from clew.runtime.archive.tree import Reader, Segment, Snapshot, snapshot
from clew.runtime.ports.ledger import Ledger

RESULT_CHARACTERS_MAX: Final = 2000
"""What is shown of a tool's result; more is left out of the middle, and said."""
LINE_CHARACTERS_MAX: Final = 200
GLIMPSE_CHARACTERS_MAX: Final = 80
_STATUS_WORDS: Final = {
    Status.INTERRUPTED: "interrupted",
    Status.ERROR: "failed",
    Status.REFUSED: "refused",
    Status.UNKNOWN: "outcome unknown",
    Status.NOT_RUN: "not run",
}
_YEAR_10000_SECONDS: Final = 253_402_300_800


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A message, and the results of the calls it made that came right after it."""

    message: Message
    results: tuple[Message, ...] = ()

    def result(self, call: ToolCall) -> Message | None:
        return next((m for m in self.results if _answers(m, {call.id})), None)

    def holds(self, seq: int) -> bool:
        """Whether a position is here."""
        last = self.results[-1] if self.results else self.message
        return self.message.seq <= seq <= last.seq


class Undone(msgspec.Struct, frozen=True, kw_only=True):
    """Messages that are not on the path of the head: where they turned off, and how they begin."""

    number: int
    segment: Segment
    first: Message
    start: str
    """Where they turned off, in words."""


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be written. Messages are read while it is."""

    row: SessionRow
    summary: SummaryRow | None
    path: tuple[Segment, ...]
    undone: tuple[Undone, ...]
    reader: Reader
    whole_tree: bool

    @property
    def title(self) -> str:
        return self.row.title or "Untitled conversation"

    @property
    def length(self) -> int:
        return self.row.handle.head.seq

    def messages(self) -> AsyncIterator[Message]:
        return self.reader.run(self.path)

    def entries(self) -> AsyncIterator[Entry]:
        """The path of the head."""
        return paired(self.messages())

    def entries_of(self, undone: Undone) -> AsyncIterator[Entry]:
        return paired(self.reader.run([undone.segment]))


async def story(
    ledger: Ledger, principal: PrincipalId, session: SessionId, *, whole_tree: bool = False
) -> Story:
    """Raises NotFound, Refused (temporary)."""
    taken = await snapshot(ledger, principal, session)
    reader = Reader(ledger, principal, session)
    segments = taken.undone
    numbers = {segment.branch: number for number, segment in enumerate(segments, 1)}
    undone = [
        Undone(
            number=numbers[segment.branch],
            segment=segment,
            first=await reader.first(segment),
            start=_start(taken, segment, numbers),
        )
        for segment in segments
    ]
    return Story(
        row=taken.row,
        summary=taken.in_force,
        path=tuple(taken.path(taken.row.handle.head)),
        undone=tuple(undone),
        reader=reader,
        whole_tree=whole_tree,
    )


def _start(taken: Snapshot, segment: Segment, numbers: dict[BranchId, int]) -> str:
    if segment.low == 0:
        return "at the start"
    parents = {row.id: row.parent for row in taken.branches}
    parent = parents[segment.branch]
    turned = parent is not None and parent.seq == segment.low
    before = parent.branch if turned and parent is not None else segment.branch
    on_path = {part.branch: part.high for part in taken.path(taken.row.handle.head)}
    after = f"after message {segment.low}"
    return after if segment.low <= on_path.get(before, 0) else f"{after} of undone branch {numbers[before]}"


async def paired(messages: AsyncIterable[Message]) -> AsyncIterator[Entry]:
    """Puts each result beside the call it answers. A result that comes late, or answers nothing, stands alone."""
    asked: Message | None = None
    results: list[Message] = []
    async for message in messages:
        if asked is not None and _answers(message, {call.id for call in asked.calls}):
            results.append(message)
            continue
        if asked is not None:
            yield Entry(message=asked, results=tuple(results))
        asked, results = (message, []) if message.calls else (None, [])
        if asked is None:
            yield Entry(message=message)
    if asked is not None:
        yield Entry(message=asked, results=tuple(results))


def _answers(message: Message, calls: set[CallId]) -> bool:
    return isinstance(message.body, ToolBody) and message.body.call in calls


# -- words ---------------------------------------------------------------------------------------------------------
def speaker(message: Message, owner: str) -> str:
    """Who says this, and whether it came out as it should."""
    trouble = _STATUS_WORDS.get(message.status)
    return one_line(f"{_who(message, owner)}, {trouble}" if trouble else _who(message, owner))


def _who(message: Message, owner: str) -> str:
    match message.role:
        case Role.USER:
            name = message.body.sender if isinstance(message.body, UserBody) else ""
            return "User" if message.actor == owner else f"User ({name or message.actor})"
        case Role.ASSISTANT:
            return f"Assistant ({message.actor})"
        case Role.TOOL:
            return f"Result of {message.actor}"
        case Role.EVENT:
            kind = message.body.kind if isinstance(message.body, EventBody) else message.actor
            return f"Event ({kind.replace('_', ' ')})"


def outcome(result: Message | None) -> str:
    """What became of a call."""
    if result is None:
        return "no result"
    return _STATUS_WORDS.get(result.status, "done")


def moment(milliseconds: int) -> str:
    """A time in UTC, to the minute."""
    seconds = min(max(milliseconds // 1000, 0), _YEAR_10000_SECONDS - 1)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def iso(milliseconds: int) -> str:
    """A time for programs, to the millisecond."""
    seconds = min(max(milliseconds // 1000, 0), _YEAR_10000_SECONDS - 1)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def file_size(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1000:.0f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"


def attachment_line(attachment: Attachment) -> str:
    """Its name, kind and size."""
    name = attachment.name or "unnamed file"
    return one_line(f"{name} ({attachment.media_type}, {file_size(attachment.size)})")


def how_many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def glimpse(text: str) -> str:
    """The start of a text, on one line."""
    flat = one_line(text)
    return flat if len(flat) <= GLIMPSE_CHARACTERS_MAX else f"{flat[: GLIMPSE_CHARACTERS_MAX - 1]}…"


def one_line(text: str) -> str:
    return " ".join(text.replace("\0", "\ufffd").split())


class Elided(msgspec.Struct, frozen=True):
    """A text whose middle may be left out."""

    start: str
    left_out: int = 0
    end: str = ""

    @property
    def note(self) -> str:
        return f"[… {how_many(self.left_out, 'character')} left out …]"

    @property
    def text(self) -> str:
        return f"{self.start}\n{self.note}\n{self.end}" if self.left_out else self.start


def elided(text: str) -> Elided:
    """Keeps the start and the end of a long text, in whole lines if they are not long: errors are told last."""
    if len(text) <= RESULT_CHARACTERS_MAX:
        return Elided(text)
    start, end = text[: RESULT_CHARACTERS_MAX * 2 // 3], text[-RESULT_CHARACTERS_MAX // 3 :]
    cut, resumed = start.rfind("\n"), end.find("\n")
    start = start[:cut] if cut >= len(start) - LINE_CHARACTERS_MAX else start
    end = end[resumed + 1 :] if 0 <= resumed < LINE_CHARACTERS_MAX else end
    return Elided(start, len(text) - len(start) - len(end), end)
