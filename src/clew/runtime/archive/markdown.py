"""A conversation as Markdown.

Rule: what was said stands in block quotes and in fences, what we say stands outside. So no text, whatever Markdown or HTML
it holds, can swallow what comes after it or look like another person's message.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.messages import AssistantBody, Message, ToolBody, ToolCall
from clew.runtime.archive.reading import (
    Entry,
    Story,
    Undone,
    attachment_line,
    elided,
    glimpse,
    how_many,
    moment,
    one_line,
    outcome,
    speaker,
    story,
)
from clew.runtime.ports.ledger import Ledger

_LINE_END: Final = re.compile(r"\r\n|\n|\r")
"""What ends a line in CommonMark; Python knows more."""
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>#|~&])")
INLINE_ARGUMENTS_MAX: Final = 100


async def export_markdown(
    ledger: Ledger, principal: PrincipalId, session: SessionId, *, whole_tree: bool = False
) -> AsyncIterator[bytes]:
    """The path of the head, and the names of what was undone; with `whole_tree` also what was said there."""
    told = await story(ledger, principal, session, whole_tree=whole_tree)
    yield _heading(told).encode()
    async for entry in told.entries():
        yield _entry(entry, told).encode()
        if told.summary is not None and entry.holds(told.summary.upto.seq):
            words = "Up to here, the model is shown this summary instead:"
            yield f"*{words}*\n\n{quoted(told.summary.text)}\n\n".encode()
    async for chunk in _undone(told):
        yield chunk.encode()


def _heading(told: Story) -> str:
    facts = [
        how_many(told.length, "message"),
        f"begun {moment(told.row.created_at)}",
        f"session `{told.row.id}`",
    ]
    return f"# {escaped(one_line(told.title))}\n\n{' · '.join(facts)}\n\n"


async def _undone(told: Story) -> AsyncIterator[str]:
    if not told.undone:
        return
    yield "---\n\n## Undone\n\nNot part of the conversation as it stands, and not lost:\n\n"
    yield "".join(f"{undone.number}. {escaped(_name(undone))}\n" for undone in told.undone) + "\n"
    if told.whole_tree:
        for undone in told.undone:
            yield f"## Undone branch {undone.number}, {undone.start}\n\n"
            async for entry in told.entries_of(undone):
                yield _entry(entry, told)


def _name(undone: Undone) -> str:
    count = how_many(undone.segment.length, "message")
    return f"{count} {undone.start}, {moment(undone.first.created_at)}: “{glimpse(undone.first.text)}”"


def _entry(entry: Entry, told: Story) -> str:
    message = entry.message
    who = escaped(speaker(message, told.row.owner))
    parts = [f"### {message.seq} · {who} · {moment(message.created_at)}"]
    if isinstance(message.body, ToolBody):
        parts += _result(message)
    else:
        parts += _thinking(message)
        parts += [quoted(message.text)] if message.text else []
        parts += _attached(message)
    for call in message.calls:
        parts += _call(call, entry.result(call))
    return "\n\n".join(parts) + "\n\n"


def _thinking(message: Message) -> list[str]:
    if not isinstance(message.body, AssistantBody):
        return []
    return [f"*Thinking:*\n\n{fenced(elided(part.text).text)}" for part in message.body.thinking if part.text]


def _call(call: ToolCall, result: Message | None) -> list[str]:
    name = f"**→ {code(call.name)}**"
    short = len(call.arguments) <= INLINE_ARGUMENTS_MAX and not _LINE_END.search(call.arguments)
    line = f"{name} {code(call.arguments)} · {outcome(result)}" if short else f"{name} · {outcome(result)}"
    parts = [line] if short else [line, fenced(elided(call.arguments).text)]
    return parts + (_result(result) if result is not None else [])


def _result(result: Message) -> list[str]:
    parts = [fenced(elided(result.text).text)] if result.text else []
    if isinstance(result.body, ToolBody) and result.body.diff:
        parts.append(fenced(elided(result.body.diff).text, "diff"))
    return parts + _attached(result)


def _attached(message: Message) -> list[str]:
    return [f"*Attached:* {escaped(attachment_line(attachment))}" for attachment in message.attachments]


# -- Markdown ------------------------------------------------------------------------------------------------------
def quoted(text: str) -> str:
    """A block quote. Each line carries its mark, so nothing inside goes on after it."""
    return "\n".join(f"> {line}" if line else ">" for line in _lines(text))


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return "\n".join((f"{fence}{language}", *_lines(text), fence))


def code(text: str) -> str:
    """Code within a line."""
    flat = one_line(text)
    ticks = "`" * (_longest_run(flat) + 1)
    space = " " if not flat or flat[0] == "`" or flat[-1] == "`" else ""
    return f"{ticks}{space}{flat}{space}{ticks}"


def escaped(text: str) -> str:
    """Text that means nothing but itself."""
    return _SPECIAL.sub(r"\\\1", text)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _lines(text: str) -> list[str]:
    return _LINE_END.split(text.replace("\0", "\ufffd"))
