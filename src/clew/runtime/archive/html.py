"""A conversation as one HTML file that needs nothing else: no script, no font, no picture from elsewhere.

Rule: what was said is text, never markup. Every word goes through `_text`, and the page's own policy forbids scripts and
requests, should a word ever slip by.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from html import escape
from typing import Final, NamedTuple

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.messages import (
    AssistantBody,
    Attachment,
    Message,
    Status,
    ToolBody,
    ToolCall,
)
from clew.runtime.archive.page import PAGE_END, STYLE
from clew.runtime.archive.reading import (
    Elided,
    Entry,
    Story,
    Undone,
    attachment_line,
    elided,
    glimpse,
    how_many,
    iso,
    moment,
    one_line,
    outcome,
    speaker,
    story,
)
from clew.runtime.ports.ledger import Ledger

SHOWN_IMAGES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
IMAGE_BYTES_MAX: Final = 10_000_000
OPEN_LINES_MAX: Final = 12
OPEN_CHARACTERS_MAX: Final = 1000
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


async def export_html(
    ledger: Ledger, principal: PrincipalId, session: SessionId, *, whole_tree: bool = False
) -> AsyncIterator[bytes]:
    """The path of the head, and the names of what was undone; with `whole_tree` also what was said there."""
    told = await story(ledger, principal, session, whole_tree=whole_tree)
    yield _head(told).encode()
    async for entry in told.entries():
        yield (await _entry(entry, told)).encode()
        if told.summary is not None and entry.holds(told.summary.upto.seq):
            yield _summary(told.summary.text).encode()
    async for chunk in _undone(told):
        yield chunk.encode()
    yield PAGE_END.encode()


def _head(told: Story) -> str:
    facts = (
        how_many(told.length, "message"),
        f"begun {moment(told.row.created_at)}",
        f"session <code>{_text(told.row.id)}</code>",
    )
    title = _text(one_line(told.title))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{title}</h1><p>{' · '.join(facts)}</p></header>\n<main>\n"
    )


async def _undone(told: Story) -> AsyncIterator[str]:
    if not told.undone:
        return
    names = "".join(f"<li>{_name(undone)}</li>" for undone in told.undone)
    yield (
        "<section><h2>Undone</h2><p>Not part of the conversation as it stands, and not lost:</p>"
        f"<ol>{names}</ol></section>\n"
    )
    if told.whole_tree:
        for undone in told.undone:
            yield f'<h2 id="undone-{undone.number}">Undone branch {undone.number}, {_text(undone.start)}</h2>\n'
            async for entry in told.entries_of(undone):
                yield await _entry(entry, told)


def _name(undone: Undone) -> str:
    count = how_many(undone.segment.length, "message")
    first = undone.first
    return f"{count} {_text(undone.start)}, {_time(first)}: “<bdi>{_text(glimpse(first.text))}</bdi>”"


def _summary(text: str) -> str:
    return (
        '<aside class="summary"><details><summary>Up to here, the model is shown a summary instead</summary>'
        f"{_said(text)}</details></aside>\n"
    )


async def _entry(entry: Entry, told: Story) -> str:
    message = entry.message
    if isinstance(message.body, ToolBody):
        inner = [await _result(message, told)]
    else:
        inner = [_thinking(message), _said(message.text), await _attached(message, told)]
    for call in message.calls:
        inner.append(await _call(call, entry.result(call), told))
    kind = message.role if message.status == Status.OK else f"{message.role} troubled"
    return (
        f'<article class="{kind}"><p class="who"><b>{_text(speaker(message, told.row.owner))}</b> <span>{message.seq} · {_time(message)}</span></p>'
        f"{''.join(inner)}</article>\n"
    )


def _thinking(message: Message) -> str:
    thoughts = message.body.thinking if isinstance(message.body, AssistantBody) else ()
    return "".join(
        f'<details class="thinking"><summary>Thinking</summary>{_said(part.text)}</details>'
        for part in thoughts
        if part.text
    )


async def _call(call: ToolCall, result: Message | None, told: Story) -> str:
    inner = [_block(elided(call.arguments))] if len(call.arguments) > 2 else []
    if result is not None:
        inner.append(await _result(result, told))
    is_short = result is None or _is_short(result.text)
    return (
        f'<details class="call"{" open" if is_short else ""}><summary><code>{_text(one_line(call.name))}</code> '
        f'<span class="glimpse">{_text(glimpse(call.arguments))}</span> <span class="outcome">{_text(outcome(result))}</span>'
        f"</summary>{''.join(inner)}</details>"
    )


async def _result(result: Message, told: Story) -> str:
    diff = result.body.diff if isinstance(result.body, ToolBody) else ""
    blocks = [_block(elided(text)) for text in (result.text, diff) if text]
    return "".join(blocks) + await _attached(result, told)


def _is_short(text: str) -> bool:
    return len(text) <= OPEN_CHARACTERS_MAX and text.count("\n") < OPEN_LINES_MAX


async def _attached(message: Message, told: Story) -> str:
    return "".join([await _attachment(attachment, told) for attachment in message.attachments])


async def _attachment(attachment: Attachment, told: Story) -> str:
    line = _text(attachment_line(attachment))
    if attachment.media_type not in SHOWN_IMAGES or attachment.size > IMAGE_BYTES_MAX:
        return f'<p class="file">Attached: {line}</p>'
    content = base64.b64encode((await told.reader.blob(attachment.sha256)).bytes).decode()
    source = f"data:{attachment.media_type};base64,{content}"
    return f'<figure><img src="{source}" alt="{line}"><figcaption>{line}</figcaption></figure>'


# -- text ----------------------------------------------------------------------------------------------------------
class _Part(NamedTuple):
    """A stretch of prose, or a code block with the word that names its language."""

    lines: list[str]
    is_code: bool = False
    language: str = ""


def _said(text: str) -> str:
    """What was said, with its code blocks set as such and nothing else interpreted."""
    shown = []
    for part in _parts(text):
        if part.is_code:
            label = f'<span class="language">{_text(part.language)}</span>' if part.language else ""
            shown.append(f"<pre>{label}<code>{_text(chr(10).join(part.lines))}</code></pre>")
        elif any(line.strip() for line in part.lines):
            shown.append(
                f'<div class="text" dir="auto">{_text(chr(10).join(part.lines).strip(chr(10)))}</div>'
            )
    return "".join(shown)


def _parts(text: str) -> list[_Part]:
    parts = [_Part([])]
    fence = ""
    for line in text.split("\n"):
        found = _FENCE.fullmatch(line.rstrip("\r"))
        if not fence and found and not ("`" in found[1] and "`" in found[2]):
            fence = found[1]
            parts.append(_Part([], is_code=True, language=found[2].strip()))
        elif fence and found and found[1].startswith(fence) and not found[2].strip():
            fence = ""
            parts.append(_Part([]))
        else:
            parts[-1].lines.append(line)
    return parts


def _block(shown: Elided) -> str:
    if not shown.left_out:
        return f"<pre><code>{_text(shown.start)}</code></pre>"
    note = f'<span class="left-out">{_text(shown.note)}</span>'
    return f"<pre><code>{_text(shown.start)}\n{note}\n{_text(shown.end)}</code></pre>"


def _time(message: Message) -> str:
    return f'<time datetime="{iso(message.created_at)}">{moment(message.created_at)}</time>'


def _text(text: str) -> str:
    """Text that is nothing but text, between tags and in quoted attributes."""
    return escape(text.replace("\0", "\ufffd"), quote=True)
