"""One session, rebuilt by the commits that a living one is made of.

The ledger's rules hold for an imported history as for any other, because it comes in by the same door: the head is moved
to where a message was said, the message is appended, and a summary is made on the path it stands for. While this goes on
the session is archived, with `IMPORTING` as its reason, so that what a crash leaves behind is in nobody's list.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from clew.domain.conversation.ids import PrincipalId, SessionId, SummaryId
from clew.domain.conversation.messages import (
    AssistantBody,
    Body,
    EventBody,
    Head,
    NewMessage,
    Role,
    ToolBody,
    UserBody,
    blobs_named,
)
from clew.domain.ledger.commits import (
    Append,
    Compact,
    Expand,
    MoveHead,
    NewBlob,
    NewSession,
    Note,
    OpenTurn,
    SessionPatch,
    SetTurn,
)
from clew.domain.ledger.errors import Ambiguous, NotFound
from clew.domain.ledger.rows import Handle, OpKind, Origin, SessionRow, TurnState
from clew.runtime.archive.chain import Chain
from clew.runtime.archive.errors import ImportFailed
from clew.runtime.archive.lines import (
    BlobLine,
    BranchLine,
    EndLine,
    MessageLine,
    Position,
    SessionLine,
    SummaryLine,
)
from clew.runtime.archive.places import START, Places
from clew.runtime.archive.summaries import replay_order
from clew.runtime.ports.ledger import Ledger

IMPORTING: Final = "importing"
COMMIT_MESSAGES_MAX: Final = 64
COMMIT_CHARACTERS_MAX: Final = 1_000_000
TITLE_CHARACTERS_MAX: Final = 200
_BODIES: Final[dict[Role, type[Body]]] = {
    Role.USER: UserBody,
    Role.ASSISTANT: AssistantBody,
    Role.TOOL: ToolBody,
    Role.EVENT: EventBody,
}


class _Run(msgspec.Struct):
    """Messages that were said in one moment, one after the other: they go into one commit."""

    branch: int
    turn: int
    at: int
    messages: list[NewMessage]
    blobs: list[NewBlob]
    characters: int = 0

    def takes(self, line: MessageLine) -> bool:
        same = (self.branch, self.turn, self.at) == (line.branch, line.turn, line.created_at)
        return same and len(self.messages) < COMMIT_MESSAGES_MAX and self.characters < COMMIT_CHARACTERS_MAX

    def take(self, line: MessageLine, blobs: list[NewBlob]) -> None:
        self.messages.append(_said(line))
        self.blobs += blobs
        self.characters += len(line.text) + sum(len(blob.bytes) for blob in blobs)


class Replay:
    """Takes the lines of one session in order. Raises ImportFailed for a line that cannot follow those before it."""

    def __init__(
        self, ledger: Ledger, principal: PrincipalId, handle: Handle, line: SessionLine, at: int
    ) -> None:
        self._ledger = ledger
        self._principal = principal
        self._chain = Chain(ledger, principal, handle, at)
        self._at = at
        self._title = line.title
        self._places = Places(handle.head)
        self._run: _Run | None = None
        self._unclaimed: dict[str, NewBlob] = {}
        self._blobs_known: set[str] = set()
        self._summaries: dict[int, SummaryLine] = {}
        self._turn_max = 0
        self.messages = 0

    @classmethod
    async def begin(
        cls, ledger: Ledger, principal: PrincipalId, line: SessionLine, ident: SessionId, at: int
    ) -> Replay:
        """Opens the session, as old as the one it repeats."""
        new = NewSession(
            id=ident,
            owner=principal,
            surface=line.surface,
            origin=Origin.IMPORT,
            model=line.model,
            cwd=line.cwd,
        )
        return cls(ledger, principal, await ledger.open(new, actor=principal, at=line.created_at), line, at)

    async def hide(self) -> None:
        """Keeps the session out of lists until it is revealed."""
        patch = SessionPatch(archived_at=self._at, end_reason=IMPORTING)
        await self._chain.commit(op=Note(kind=OpKind.ARCHIVE), patch=patch)

    async def is_all_ours(self) -> bool:
        """Whether nobody else wrote to the session. Waits for what was handed in, whatever comes of it."""
        version = await self._chain.settle()
        row = await self._ledger.session(self._principal, self._chain.handle.session)
        return row.handle.version == version

    # -- the tree ------------------------------------------------------------------------------------------------
    def branch(self, line: BranchLine) -> None:
        if self.messages or self._summaries:
            raise ImportFailed("a branch is named after the messages began")
        self._places.add(line.branch, line.parent)

    def blob(self, line: BlobLine) -> None:
        if hashlib.sha256(line.data).hexdigest() != line.sha256:
            raise ImportFailed(f"the attachment {line.sha256[:12]} is damaged: its bytes have another hash")
        self._unclaimed[line.sha256] = NewBlob(
            sha256=line.sha256, media_type=line.media_type, bytes=line.data
        )

    async def message(self, line: MessageLine) -> None:
        if self._summaries:
            raise ImportFailed("a message comes after the summaries")
        if line.body is not None and not isinstance(line.body, _BODIES[line.role]):
            raise ImportFailed(f"a message of role {line.role} has the body of another role")
        blobs = self._claimed(line)
        self._places.check_next(line.branch, line.seq)
        run = self._run
        if run is None or not run.takes(line):
            await self._flush()
            await self._stand((line.branch, line.seq - 1))
            run = self._run = _Run(line.branch, line.turn, line.created_at, [], [])
        run.take(line, blobs)
        self._places.extend(line.branch, line.seq)
        self._turn_max = max(self._turn_max, line.turn)
        self.messages += 1

    def _claimed(self, line: MessageLine) -> list[NewBlob]:
        """The bytes this message brings. What the file did not bring is refused even if the ledger happens to have it:
        it would be somebody else's, and naming a hash gives no right to read it."""
        named = blobs_named(line.body)
        stray = self._unclaimed.keys() - set(named)
        if stray:
            raise ImportFailed(f"the attachment {min(stray)[:12]} belongs to no message")
        missing = set(named) - self._unclaimed.keys() - self._blobs_known
        if missing:
            raise ImportFailed(f"the attachment {min(missing)[:12]} is not in the file")
        claimed = list(self._unclaimed.values())
        self._blobs_known.update(self._unclaimed)
        self._unclaimed.clear()
        return claimed

    async def _flush(self) -> None:
        """Commits the messages that wait, and notes on which branch the ledger put them."""
        run, self._run = self._run, None
        if run is None:
            return
        first = self._chain.handle.head.seq + 1
        op = Append(messages=tuple(run.messages), turn=run.turn)
        await self._chain.append(op, at=run.at, blobs=tuple(run.blobs))
        self._places.put(run.branch, first, self._chain.handle.head.branch)

    # -- summaries and the end -----------------------------------------------------------------------------------
    def summary(self, line: SummaryLine) -> None:
        if line.summary != len(self._summaries) + 1:
            raise ImportFailed(f"summary {len(self._summaries) + 1} is missing")
        if line.previous is not None and line.previous not in self._summaries:
            raise ImportFailed(f"summary {line.summary} follows one that is not there")
        self._places.check(line.upto)
        self._summaries[line.summary] = line

    async def end(self, line: EndLine) -> None:
        """Makes the summaries, and puts the head where it stood."""
        if line.messages != self.messages:
            raise ImportFailed(f"{line.messages} messages were written and {self.messages} are here")
        if self._unclaimed:
            raise ImportFailed(f"the attachment {min(self._unclaimed)[:12]} belongs to no message")
        if line.summary is not None and line.summary not in self._summaries:
            raise ImportFailed("the summary in force is not there")
        self._places.check(line.head)
        await self._flush()
        # By this move, if by no other, the session was last active when it was imported, however old its messages are:
        # retention would otherwise delete it at once.
        await self._stand(START)
        made = await self._make_summaries(line.summary)
        await self._stand(line.head)
        if self._chain.handle.summary != (None if line.summary is None else made[line.summary]):
            raise ImportFailed("the summary in force does not stand on the head's path")

    async def reveal(self) -> SessionRow:
        """Lets the session be seen, under a title of its own."""
        patch = SessionPatch(archived_at=None, end_reason=None, title=await self._free_title())
        if self._turn_max:
            # The newest turn's row, so that the next turn has a number of its own also where later ones were undone.
            opened = OpenTurn(turn=self._turn_max, principal=self._principal, model=None)
            closed = SetTurn(turn=self._turn_max, state=TurnState.DONE, end_reason="imported")
            await self._chain.commit(
                op=Note(kind=OpKind.IMPORT), patch=patch, open_turn=opened, set_turn=closed
            )
        else:
            await self._chain.commit(op=Note(kind=OpKind.IMPORT), patch=patch)
        return await self._ledger.session(self._principal, self._chain.handle.session)

    async def _make_summaries(self, in_force: int | None) -> dict[int, SummaryId]:
        made: dict[int, SummaryId] = {}
        previous = {number: line.previous for number, line in self._summaries.items()}
        for number in replay_order(previous, in_force):
            line = self._summaries[number]
            before = None if line.previous is None else made[line.previous]
            await self._expand_to(before)
            await self._stand(line.upto)
            if self._chain.handle.summary != before:
                raise ImportFailed(f"summary {number} does not follow from the one before it")
            await self._chain.commit(op=_compaction(line, self._chain.handle.head), at=line.created_at)
            made[number] = _in_force(self._chain.handle)
        await self._expand_to(None if in_force is None else made[in_force])
        return made

    async def _expand_to(self, summary: SummaryId | None) -> None:
        while self._chain.handle.summary is not None and self._chain.handle.summary != summary:
            await self._chain.commit(op=Expand())

    async def _free_title(self) -> str | None:
        """The title, marked when the principal has it already: a title names one session."""
        words = " ".join((self._title or "").split())
        if not words:
            return None
        title, copies = words[:TITLE_CHARACTERS_MAX], 0
        while await self._is_taken(title):
            copies += 1
            mark = " (imported)" if copies == 1 else f" (imported {copies})"
            title = words[: TITLE_CHARACTERS_MAX - len(mark)] + mark
        return title

    async def _is_taken(self, title: str) -> bool:
        try:
            await self._ledger.resolve(self._principal, title)
        except Ambiguous:
            return True
        except NotFound:
            return False
        return True

    async def _stand(self, position: Position) -> None:
        """Puts the head on a position of the file."""
        to = self._places.find(position)
        if to != self._chain.handle.head:
            await self._chain.commit(op=MoveHead(kind=OpKind.IMPORT, to=to))


def _said(line: MessageLine) -> NewMessage:
    return NewMessage(
        role=line.role, text=line.text, step=line.step, actor=line.actor, status=line.status, body=line.body
    )


def _compaction(line: SummaryLine, upto: Head) -> Compact:
    return Compact(
        upto=upto,
        text=line.text,
        focus=line.focus,
        model=line.model,
        tokens_before=line.tokens_before,
        tokens_after=line.tokens_after,
    )


def _in_force(handle: Handle) -> SummaryId:
    if handle.summary is None:
        raise AssertionError("a summary was made and is not in force")
    return handle.summary
