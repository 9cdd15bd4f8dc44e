"""What a message of WhatsApp says, and a model's Markdown in WhatsApp's own marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clew.runtime.ports.platforms import Attached
from clew.surfaces.gateway.markup import Span, Style, marked
from clew.wire.whatsapp import Content, File

ANSWERS: Final = ("/approve ", "/deny ")
"""What buttons may say."""
_FILES: Final = ("image", "document", "audio", "video")
_MARKS: Final = {Style.BOLD: "*", Style.ITALIC: "_", Style.STRUCK: "~", Style.CODE: "`", Style.BLOCK: "```"}


def text_of(content: Content) -> str:
    pressed = content.button
    if content.interactive is not None:
        pressed = content.interactive.button_reply or content.interactive.list_reply
    if pressed is not None:
        return pressed.id if pressed.id.startswith(ANSWERS) else pressed.title or pressed.text
    captions = [file.caption for kind in _FILES if (file := _file(content, kind)) is not None]
    return content.text.body or "\n".join(filter(None, captions))


def _file(content: Content, kind: str) -> File | None:
    files = {
        "image": content.image,
        "document": content.document,
        "audio": content.audio,
        "video": content.video,
    }
    return files[kind] if content.type == kind else None


def files_of(content: Content) -> tuple[Attached, ...]:
    files = [file for kind in _FILES if (file := _file(content, kind)) is not None]
    return tuple(
        Attached(reference=file.id, media_type=file.mime_type.partition(";")[0], name=file.filename)
        for file in files
    )


def formatted(markdown: str) -> str:
    """A model's Markdown with WhatsApp's own marks: *bold*, _italic_, ~struck~, `code`."""
    shown = marked(markdown)
    units = shown.text.encode("utf-16-le", "surrogatepass")
    marks: list[tuple[tuple[int, int, int, int], str]] = []
    for order, span in enumerate(shown.spans):
        begin, end = span.at, span.at + span.length
        said = units[2 * begin : 2 * end].decode("utf-16-le", "surrogatepass")
        opening, closing = _marks(span, said, shown.spans)
        marks.append(((begin, 1, -span.length, -order), opening))
        marks.append(((end, 0, span.length, order), closing))
    parts, at = [], 0
    for (place, *_), mark in sorted(marks):
        parts += [units[2 * at : 2 * place].decode("utf-16-le", "surrogatepass"), mark]
        at = place
    return "".join([*parts, units[2 * at :].decode("utf-16-le", "surrogatepass")])


def _marks(span: Span, said: str, spans: Sequence[Span]) -> tuple[str, str]:
    """What stands before and behind a span."""
    if span.style == Style.LINK:
        return "", "" if span.detail in (said, f"mailto:{said}") else f" ({span.detail})"
    if span.style == Style.BLOCK:
        return "```\n", "\n```"
    around = (
        other is not span
        and other.style == span.style
        and other.at <= span.at
        and span.at + span.length <= other.at + other.length
        for other in spans
    )
    mark = "" if any(around) or said != said.strip() else _MARKS[span.style]
    return mark, mark
