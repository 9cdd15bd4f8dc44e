"""A conversation as one JSON document, for people with scripts: a message a line, nothing shortened.

For a copy that can be imported again there is JSONL: this names attachments without their bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.messages import AssistantBody, EventBody, Message, ToolBody
from clew.runtime.archive.reading import Story, Undone, iso, story
from clew.runtime.ports.ledger import Ledger

_encode: Final = msgspec.json.Encoder().encode

Json = str | int | None | list["Json"] | dict[str, "Json"]


async def export_json(
    ledger: Ledger, principal: PrincipalId, session: SessionId, *, whole_tree: bool = False
) -> AsyncIterator[bytes]:
    """`{"session", "messages", "undone"}`: the path of the head, and where what was undone turned off; with `whole_tree`
    each of those holds its messages too."""
    told = await story(ledger, principal, session, whole_tree=whole_tree)
    yield b'{\n  "session": ' + _encode(_session(told)) + b',\n  "messages": '
    async for chunk in _array(told.messages(), "  "):
        yield chunk
    yield b',\n  "undone": ['
    for undone in told.undone:
        yield (b",\n    " if undone.number > 1 else b"\n    ") + _encode(_undone(undone))[:-1]
        if told.whole_tree:
            yield b', "messages": '
            async for chunk in _array(told.reader.run([undone.segment]), "    "):
                yield chunk
        yield b"}"
    yield b"\n  ]\n}\n" if told.undone else b"]\n}\n"


async def _array(messages: AsyncIterator[Message], indent: str) -> AsyncIterator[bytes]:
    start = f"[\n{indent}  ".encode()
    is_empty = True
    async for message in messages:
        yield start + _encode(_message(message))
        start, is_empty = f",\n{indent}  ".encode(), False
    yield b"[]" if is_empty else f"\n{indent}]".encode()


def _session(told: Story) -> dict[str, Json]:
    row = told.row
    summary = told.summary
    return {
        "id": row.id,
        "title": row.title,
        "surface": row.surface,
        "owner": row.owner,
        "model": row.model,
        "created_at": iso(row.created_at),
        "last_active_at": iso(row.last_active_at),
        "summary": None if summary is None else {"upto": summary.upto.seq, "text": summary.text},
    }


def _undone(undone: Undone) -> dict[str, Json]:
    return {"branch": undone.number, "start": undone.start, "length": undone.segment.length}


def _message(message: Message) -> dict[str, Json]:
    """What every message has, then what this one has besides."""
    return {
        "position": message.seq,
        "turn": message.turn,
        "step": message.step,
        "role": message.role,
        "actor": message.actor,
        "status": message.status,
        "at": iso(message.created_at),
        "text": message.text,
        **_besides(message),
    }


def _besides(message: Message) -> dict[str, Json]:
    found: dict[str, Json] = {}
    if message.attachments:
        found["attachments"] = [
            {"name": item.name, "media_type": item.media_type, "size": item.size, "sha256": item.sha256}
            for item in message.attachments
        ]
    match message.body:
        case AssistantBody(calls=calls, thinking=thinking):
            if thinking:
                found["thinking"] = [part.text for part in thinking]
            if calls:
                found["calls"] = [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in calls]
        case ToolBody(call=call, diff=diff):
            found["call"] = call
            if diff:
                found["diff"] = diff
        case EventBody(kind=kind):
            found["kind"] = kind
        case _:
            pass
    return found
