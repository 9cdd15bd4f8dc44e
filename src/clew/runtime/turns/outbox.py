"""What a turn has to tell the place it came from, where a gateway delivers it: rows of the commit that makes it true."""

from __future__ import annotations

from typing import Final

import msgspec

from clew.domain.conversation.ids import ConversationId, PrincipalId, SessionId
from clew.domain.conversation.messages import Attachment
from clew.domain.ledger.commits import AddReply
from clew.domain.routing.splitting import TextLimit, split

REPLY: Final = "reply"
PREVIEW: Final = "preview"
NOTICE: Final = "notice"
FILE_KEY: Final = "attached:"
"""How the key of a reply begins that is a file."""
PARTS_MAX: Final = 100
"""Messages that one answer may be cut into; what is left then is in the last, and cut off by the platform."""


def preview_key(session: SessionId, turn: int, step: int) -> str:
    return f"{PREVIEW}:{session}:{turn}:{step}"


def preview_of(reply: str) -> str:
    """The key of the preview that a reply with this key takes the place of."""
    return f"{PREVIEW}:{reply.partition(':')[2].rpartition(':')[0]}"


def call_key(session: SessionId, key: str) -> str:
    """By which a platform knows a repetition. Ids of rows begin anew with each ledger, those of sessions do not."""
    return f"{session}:{key}"


def part_number(step: int, part: int = 0) -> int:
    """The place of a message among those of a turn."""
    return step * PARTS_MAX + part


def shown_part(text: str, limit: TextLimit, number: int) -> str:
    """The part of an answer that a row with this number stands for."""
    parts = split(text, limit)
    at = number % PARTS_MAX
    return parts[at] if at < len(parts) else ""


class FileReply(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a reply that is a file: which, and as whom it is read."""

    principal: PrincipalId
    sha256: str
    media_type: str
    name: str


class Outbox(msgspec.Struct, frozen=True, kw_only=True):
    """A place, and what one message holds there."""

    conversation: ConversationId
    holds: TextLimit

    def says(self, session: SessionId, turn: int, step: int, text: str) -> tuple[AddReply, ...]:
        """A row for each message that the text takes; it is the text of the last message of the same commit."""
        return tuple(
            AddReply(
                conversation=self.conversation,
                turn=turn,
                part=part_number(step, part),
                kind=REPLY,
                key=f"reply:{session}:{turn}:{step}:{part}",
            )
            for part in range(min(len(split(text, self.holds)), PARTS_MAX))
        )

    def tells(self, session: SessionId, turn: int, step: int, sentence: str) -> tuple[AddReply, ...]:
        """A notice that is no message of the conversation."""
        notice = AddReply(
            conversation=self.conversation,
            turn=turn,
            part=part_number(step),
            kind=NOTICE,
            key=f"notice:{session}:{turn}:{step}",
            body=sentence,
        )
        return (notice,)

    def hands_over(
        self, turn: int, step: int, key: str, who: PrincipalId, attachment: Attachment
    ) -> AddReply:
        """A file that belongs to a message of the same commit."""
        body = FileReply(
            principal=who,
            sha256=attachment.sha256,
            media_type=attachment.media_type,
            name=attachment.name or "file",
        )
        return AddReply(
            conversation=self.conversation,
            turn=turn,
            part=part_number(step, PARTS_MAX - 1),  # no preview is of this part
            kind=REPLY,
            key=f"{FILE_KEY}{key}",
            body=msgspec.json.encode(body).decode(),
        )

    def asks(self, session: SessionId, turn: int, approval: str, question: str) -> AddReply:
        """A question about a call. Its key names the approval, so that whoever delivers it can offer an answer."""
        return AddReply(
            conversation=self.conversation,
            turn=turn,
            part=0,
            kind=NOTICE,
            key=f"approval:{session}:{approval}",
            body=question,
        )
