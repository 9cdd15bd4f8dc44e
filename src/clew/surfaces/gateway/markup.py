"""A model's Markdown as plain text and spans, for platforms that take formatting as ranges of the text; and as HTML.

Line by line, and with what a line begins with (a bullet, a number, a quote) left as it is: a message that was cut anywhere is
still read right, and nothing a person could miss is dropped. What is no markup stays letter for letter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from html import escape
from typing import Any, Final

import msgspec
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from clew.domain.routing.splitting import TextLimit, Units

_INLINE: Final = MarkdownIt("commonmark", {"html": False}).enable("strikethrough")
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^`\s]*)[^`]*$")
_HEADING: Final = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*$")
_BULLET: Final = re.compile(r"(\s*)[-*+][ \t]+(?=\S)")
_SIZE: Final = TextLimit(most=0, units=Units.UTF16)


class Style(StrEnum):
    BOLD = "bold"
    ITALIC = "italic"
    STRUCK = "strikethrough"
    CODE = "code"
    BLOCK = "pre"
    LINK = "text_link"


class Span(msgspec.Struct, frozen=True):
    """`at` and `length` in UTF-16 units. `detail` is a link's address, or the language of a block of code."""

    style: Style
    at: int
    length: int
    detail: str = ""


class Marked(msgspec.Struct, frozen=True):
    text: str
    spans: tuple[Span, ...]


_STYLES: Final = {"strong": Style.BOLD, "em": Style.ITALIC, "s": Style.STRUCK, "link": Style.LINK}


class _Writer:
    """Collects text, and the spans over it."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.spans: list[Span] = []
        self.size = 0

    def write(self, text: str) -> None:
        self.parts.append(text)
        self.size += _SIZE.size(text)

    def span(self, style: Style, since: int, detail: str = "") -> None:
        if self.size > since:
            self.spans.append(Span(style, since, self.size - since, detail))

    def inline(self, text: str) -> None:
        """One line's emphasis, code and links."""
        stripped = text.lstrip()
        self.write(text[: len(text) - len(stripped)])
        (parsed,) = _INLINE.parseInline(stripped)
        opened: list[tuple[Style, int, str]] = []
        for token in parsed.children or ():
            kind, _, end = token.type.rpartition("_")
            if kind in _STYLES and end == "open":
                opened.append((_STYLES[kind], self.size, str(token.attrGet("href") or "")))
            elif kind in _STYLES and end == "close":
                self.span(*opened.pop())
            else:
                self._token(token)

    def _token(self, token: Token) -> None:
        since = self.size
        match token.type:
            case "code_inline":
                self.write(token.content)
                self.span(Style.CODE, since)
            case "image":
                self.write(f"{token.content} ({token.attrGet('src')})".lstrip())
            case "softbreak" | "hardbreak":
                self.write("\n")
            case _:
                self.write(token.content)


def marked(markdown: str) -> Marked:
    """The text without its marks, and what they said of it."""
    writer = _Writer()
    lines = markdown.split("\n")
    at = 0
    while at < len(lines):
        if at:
            writer.write("\n")
        fence = _FENCE.match(lines[at])
        if fence is not None:
            at = _block(writer, lines, at, fence[1], fence[2])
        else:
            _line(writer, lines[at])
            at += 1
    return Marked("".join(writer.parts), tuple(writer.spans))


def _block(writer: _Writer, lines: list[str], at: int, fence: str, language: str) -> int:
    """A block of code; returns the line after it."""
    end = at + 1
    while end < len(lines) and not (
        lines[end].strip().startswith(fence) and not lines[end].strip().strip(fence[0])
    ):
        end += 1
    since = writer.size
    writer.write("\n".join(lines[at + 1 : end]))
    writer.span(Style.BLOCK, since, language)
    return end + 1


def _line(writer: _Writer, line: str) -> None:
    heading = _HEADING.match(line)
    since = writer.size
    if heading is not None and heading[1]:
        writer.inline(heading[1])
        writer.span(Style.BOLD, since)
        return
    bullet = _BULLET.match(line)
    if bullet is not None:
        writer.write(f"{bullet[1]}• ")
        line = line[bullet.end() :]
    writer.inline(line)


def _picture(_: RendererHTML, tokens: Sequence[Token], at: int, *__: Any) -> str:
    """As a link: chat programs show no pictures from elsewhere."""
    source = str(tokens[at].attrGet("src") or "")
    return f'<a href="{escape(source)}">{escape(tokens[at].content or source)}</a>'


_HTML: Final = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["strikethrough", "table"])
_HTML.add_render_rule("image", _picture)


def html_of(markdown: str) -> str:
    """What it means as HTML. HTML in it is text; a line break stays one."""
    return str(_HTML.render(markdown)).strip()
