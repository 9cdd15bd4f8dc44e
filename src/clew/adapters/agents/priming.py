"""What an agent is told: what it has not heard yet of a conversation, as the request has it.

The request is the truth. An agent's session is a copy of a stretch of it; whether it still is one is decided here, by
comparing, and never by remembering what happened to the session.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

from clew.domain.models.request import (
    AssistantTurn,
    ImagePart,
    ModelRequest,
    Part,
    RequestMessage,
    TextPart,
    ToolTurn,
    UserTurn,
)
from clew.domain.turn.prompt import GO_ON, NO_REPLY

_NOTE: Final = "what was said so far, in order; answer what comes after it"


def unheard(
    told: Sequence[RequestMessage], now: Sequence[RequestMessage]
) -> tuple[RequestMessage, ...] | None:
    """What is new since an agent was told the first list; None where the second is not a continuation of it."""
    if len(now) <= len(told) or not all(map(_same, told, now)):
        return None
    return tuple(now[len(told) :])


def _same(told: RequestMessage, now: RequestMessage) -> bool:
    """An overlay is told in one turn and gone in the next; a model's thinking and calls it knows by itself."""
    if isinstance(told, UserTurn) and isinstance(now, UserTurn):
        return told.parts[: len(now.parts)] == now.parts
    if isinstance(told, AssistantTurn) and isinstance(now, AssistantTurn):
        return told.text == now.text and [c.id for c in told.calls] == [c.id for c in now.calls]
    return told == now


def answered(text: str) -> AssistantTurn:
    """An answer as the next request will show it."""
    return AssistantTurn(text=text or NO_REPLY)


def opening_parts(request: ModelRequest) -> list[Part]:
    """For an agent that knows nothing: the system prompt, the conversation so far, and what is to be answered.

    The images of the conversation follow it, in the order of their places in it.
    """
    asked = len(request.messages)
    while asked and isinstance(request.messages[asked - 1], UserTurn):
        asked -= 1
    before, asking = request.messages[:asked], request.messages[asked:]
    parts: list[Part] = []
    if request.system:
        parts.append(TextPart(f"<instructions>\n{request.system.strip()}\n</instructions>"))
    if before:
        lines = "\n".join(_line(message) for message in before)
        parts.append(TextPart(f'<conversation_so_far note="{_NOTE}">\n{lines}\n</conversation_so_far>'))
        parts.extend(part for part in new_parts(before) if isinstance(part, ImagePart))
    return [*parts, *(new_parts(asking) or [TextPart(GO_ON)])]


def new_parts(messages: Sequence[RequestMessage]) -> list[Part]:
    """What people said, and what happened, each part as it stands."""
    return [part for message in messages if isinstance(message, UserTurn) for part in message.parts]


def new_texts(messages: Sequence[RequestMessage]) -> list[str]:
    """The same as texts, where nothing else can be told."""
    return [part.text if isinstance(part, TextPart) else "[image]" for part in new_parts(messages)]


def _line(message: RequestMessage) -> str:
    match message:
        case UserTurn():
            return "[user]\n" + "\n".join(new_texts([message]))
        case AssistantTurn(text=text, calls=calls):
            called = [f"(called {call.name} {call.arguments})" for call in calls]
            return "\n".join(["[assistant]", *([text] if text else []), *called])
        case ToolTurn(name=name, text=text):
            return f"[result of {name}]\n{text}"
        case _:
            assert_never(message)
