"""Messages as text for the summary model: in bounded parts, each of which fits its window.

What is far longer than the window (one message of 200 kB before a model that takes 8k tokens) is not sent in twenty
calls: the longest texts are shortened in the middle, which is said there, until all fits the parts allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clew.domain.compaction.estimate import MESSAGE_TOKENS, fitting_characters, text_tokens
from clew.domain.conversation.messages import Attachment, EventBody, Message, Role, Status

_MARK_TOKENS: Final = 24
"""For the words that say how much was left out."""
ENTRY_TOKENS_MIN: Final = 64
"""What a message is shortened to at least."""


def parts(messages: Sequence[Message], *, part_tokens: int, parts_max: int) -> tuple[str, ...]:
    """The messages in order, as at most `parts_max` texts of at most `part_tokens` each; whole where that holds them."""
    entries = [entry(message) for message in messages]
    sizes = [text_tokens(text) + 1 for text in entries]
    longest = _level(sizes, part_tokens * parts_max * 9 // 10)
    texts = [
        text if size <= longest else abridged(text, longest)
        for text, size in zip(entries, sizes, strict=True)
    ]
    packed = _packed(texts, part_tokens)
    if len(packed) <= parts_max:
        return tuple(packed)
    return tuple(_without_the_middle(packed, part_tokens, parts_max))


def _without_the_middle(packed: list[str], part_tokens: int, parts_max: int) -> list[str]:
    """So many messages that even their beginnings are too much: the first part stays, and the newest."""
    first = packed[: parts_max // 2][:1]
    newest = packed[len(packed) - parts_max + len(first) :]
    mark = f"[… {len(packed) - parts_max} parts like this one left out …]\n"
    newest[0] = mark + newest[0][: fitting_characters(newest[0], part_tokens - text_tokens(mark))]
    return first + newest


def entry(message: Message) -> str:
    """One message: who, how it came out, what was said, called and attached."""
    lines = [f"[{message.seq}] {_speaker(message)}:", message.text]
    lines += [f"calls {call.name} {call.arguments}" for call in message.calls]
    lines += [described(attachment) for attachment in message.attachments]
    return "\n".join(line for line in lines if line)


def described(attachment: Attachment) -> str:
    """An attachment in words: its bytes are not sent to the summary model."""
    return f"[attached: {attachment.name or 'a file'}, {attachment.media_type}, {attachment.size} bytes]"


def abridged(text: str, tokens: int) -> str:
    """The beginning and the end of a text, and between them how much was left out."""
    room = max(tokens - _MARK_TOKENS, 2)
    head = fitting_characters(text, room * 2 // 3)
    tail = fitting_characters(text[:head:-1], room // 3)  # read from the end
    left_out = len(text) - head - tail
    return f"{text[:head]}\n[… {left_out} characters left out …]\n{text[len(text) - tail :]}"


def abridged_to(text: str, tokens: int) -> str:
    """The text itself when it takes no more than that."""
    return text if text_tokens(text) <= tokens else abridged(text, tokens)


def _speaker(message: Message) -> str:
    kind = f" {message.body.kind}" if isinstance(message.body, EventBody) else ""
    name = f" {message.actor}" if message.role == Role.TOOL else ""
    status = "" if message.status == Status.OK else f" ({message.status})"
    return f"{message.role}{kind}{name}{status}"


def _level(sizes: Sequence[int], capacity: int) -> int:
    """The size to which the longest have to come down so that all together fit."""
    left, among = capacity, len(sizes)
    for size in sorted(sizes):
        if size * among > left:
            return max(left // among, ENTRY_TOKENS_MIN)
        left -= size
        among -= 1
    return max(sizes, default=0)


def _packed(texts: Sequence[str], part_tokens: int) -> list[str]:
    """The texts one after the other, cut wherever a part is full."""
    packed: list[str] = []
    room = 0
    for text in texts:
        rest = text + "\n"
        while rest:
            needed = text_tokens(rest)
            if room < needed and room < MESSAGE_TOKENS * 2:
                packed.append("")
                room = part_tokens
            fits = fitting_characters(rest, room)
            packed[-1] += rest[:fits]
            room -= text_tokens(rest[:fits])
            rest = rest[fits:]
            room = room if not rest else 0
    return packed
