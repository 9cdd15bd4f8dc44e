"""Messages as text for the summary model: in bounded parts, each of which fits its window.

What is far longer than the window (one message of 200 kB before a model that takes 8k tokens) is not sent in twenty
calls: the longest texts are shortened in the middle, which is said there, until all fits the parts allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from clew.domain.compaction.estimate import fitting_characters, text_tokens
from clew.domain.conversation.messages import Attachment, EventBody, Message, Role, Status, UserBody

_MARK_TOKENS: Final = 24
"""For the words that say how much was left out."""
_SLACK_TOKENS: Final = 48
"""What may stay empty at the end of a part."""
ENTRY_TOKENS_MIN: Final = 64
"""What a message is shortened to at least."""


def parts(messages: Sequence[Message], *, part_tokens: int, parts_max: int) -> tuple[str, ...]:
    """The messages in order, as at most `parts_max` texts of at most `part_tokens` each; whole where that holds them.

    Where even their beginnings do not fit, the first and the newest messages are told, and how many between them are not.
    """
    capacity = parts_max * (part_tokens - _SLACK_TOKENS) * 9 // 10
    entries = _few_enough(messages, max(capacity // ENTRY_TOKENS_MIN, 3))
    sizes = [text_tokens(text) for text in entries]
    longest = _level(sizes, capacity)
    for index, size in enumerate(sizes):
        if size > longest:
            entries[index] = abridged(entries[index], longest)
            sizes[index] = text_tokens(entries[index])
    return tuple(_packed(entries, sizes, part_tokens))


def _few_enough(messages: Sequence[Message], most: int) -> list[str]:
    if len(messages) <= most:
        return [entry(message) for message in messages]
    first, newest = most // 3, most - most // 3 - 1
    left_out = f"[… {len(messages) - first - newest} messages left out …]\n"
    return [
        *map(entry, messages[:first]),
        left_out,
        *map(entry, messages[len(messages) - newest :]),
    ]


def entry(message: Message) -> str:
    """One message: who, how it came out, what was said, called and attached."""
    lines = [f"[{message.seq}] {_speaker(message)}:", message.text]
    lines += [f"calls {call.name} {call.arguments}" for call in message.calls]
    lines += [described(attachment) for attachment in message.attachments]
    return "\n".join(line for line in lines if line) + "\n"


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
    if isinstance(message.body, UserBody) and message.body.sender:
        name = f" {message.body.sender} ({message.actor})"
    status = "" if message.status == Status.OK else f" ({message.status})"
    return f"{message.role}{kind}{name}{status}"


def _level(sizes: Sequence[int], capacity: int) -> int:
    """The size to which the longest have to come down so that all together fit."""
    left, among = capacity, len(sizes)
    for size in sorted(sizes):
        if size * among > left:
            return left // among
        left -= size
        among -= 1
    return max(sizes, default=0)


def _packed(texts: Sequence[str], sizes: Sequence[int], part_tokens: int) -> Iterator[str]:
    """The texts one after the other, cut wherever a part is full."""
    part: list[str] = []
    room = part_tokens
    for whole, size in zip(texts, sizes, strict=True):
        rest, needed = whole, size
        while needed > room:
            if room >= _SLACK_TOKENS // 2:
                fits = fitting_characters(rest, room)
                part.append(rest[:fits])
                rest = rest[fits:]
                needed = text_tokens(rest)
            yield "".join(part)
            part, room = [], part_tokens
        part.append(rest)
        room -= needed
    if part:
        yield "".join(part)
