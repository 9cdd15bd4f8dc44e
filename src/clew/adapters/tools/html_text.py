"""The program that turns a page of HTML into text a model can read: a process of its own.

HTML parsers, Python's and others, take quadratic time on some input (80 kB of `<!--` took 5 s), and a page is
written by a stranger. It reads one `Page` as JSON from standard input and writes the text as UTF-8.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from typing import BinaryIO, Final
from urllib.parse import urljoin

import msgspec

_NEVER_TEXT: Final = frozenset({"script", "style", "noscript", "template"})
_SKIPPED: Final = _NEVER_TEXT | {
    "svg",
    "math",
    "iframe",
    "object",
    "canvas",
    "select",
    "datalist",
    "nav",
    "dialog",
}
_HEADINGS: Final = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_PARAGRAPHS: Final = _HEADINGS | {"p", "pre", "table", "ul", "ol", "blockquote", "title"}
_BLOCKS: Final = _PARAGRAPHS | frozenset({
    "address", "article", "aside", "body", "caption", "dd", "details", "div", "dl", "dt", "fieldset", "figcaption",
    "figure", "footer", "form", "header", "hr", "li", "main", "section", "summary", "tbody", "tfoot", "thead", "tr",
})  # fmt: skip


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A page and the address its links are relative to."""

    html: str
    url: str


class _Writer(HTMLParser):
    """Collects text; blank lines between paragraphs, links with their addresses, code as it stands."""

    def __init__(self, url: str, skipped: frozenset[str]) -> None:
        super().__init__(convert_charrefs=True)
        self._url = url
        self._skipped = skipped
        self._pieces: list[str] = []
        self._skipping: list[str] = []
        self._links: list[str] = []
        self._pre = 0

    @property
    def balanced(self) -> bool:
        """Whether everything that was skipped had an end: a forgotten one would hide the rest of the page."""
        return not self._skipping

    def text(self) -> str:
        joined = "".join(self._pieces)
        return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", joined)).strip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipping or tag in self._skipped:
            if tag in self._skipped:
                self._skipping.append(tag)
            return
        if tag in _BLOCKS:
            self._break(2 if tag in _PARAGRAPHS else 1)
        self._open(tag, dict(attrs))

    def _open(self, tag: str, attributes: dict[str, str | None]) -> None:
        match tag:
            case _ if tag in _HEADINGS:
                self._pieces.append(f"{'#' * int(tag[1])} ")
            case "title":
                self._pieces.append("# ")
            case "li":
                self._pieces.append("- ")
            case "br":
                self._pieces.append("\n")
            case "hr":
                self._pieces.append("---\n")
            case "td" | "th":
                self._separate_cell()
            case "pre":
                self._pre += 1
                self._pieces.append("```\n")
            case "a":
                self._links.append(self._address(attributes.get("href")))
            case "img" if alt := (attributes.get("alt") or "").strip():
                self._pieces.append(f"[image: {' '.join(alt.split())}]")
            case _:
                pass

    def _separate_cell(self) -> None:
        if self._pieces and not self._pieces[-1].endswith("\n"):
            self._pieces.append(" | ")

    def _address(self, href: str | None) -> str:
        if not href or href.startswith(("#", "javascript:", "data:")):
            return ""
        try:
            return urljoin(self._url, href.strip())
        except ValueError:
            return ""

    def handle_endtag(self, tag: str) -> None:
        if self._skipping:
            if tag in self._skipping:
                del self._skipping[self._skipping.index(tag) :]
            return
        match tag:
            case "pre" if self._pre:
                self._pre -= 1
                self._pieces.append("\n```")
            case "a" if self._links:
                address = self._links.pop()
                self._pieces.append(f" <{address}>" if address else "")
            case _:
                pass
        if tag in _BLOCKS:
            self._break(2 if tag in _PARAGRAPHS else 1)

    def _break(self, lines: int) -> None:
        """Ends the line, once: what follows begins a new block."""
        if self._pieces and not self._pieces[-1].endswith("\n" * lines):
            self._pieces.append("\n" * lines)

    def handle_data(self, data: str) -> None:
        if self._skipping:
            return
        if self._pre:
            self._pieces.append(data)
            return
        words = " ".join(data.split())
        if words:
            before = " " if data[0].isspace() and self._mid_line() else ""
            self._pieces.append(f"{before}{words}{' ' if data[-1].isspace() else ''}")
        elif data and self._mid_line():
            self._pieces.append(" ")

    def _mid_line(self) -> bool:
        return bool(self._pieces) and not self._pieces[-1].endswith(("\n", " "))


def readable(page: Page) -> str:
    """The text of a page. Takes any string; promises nothing about time."""
    writer = _read(page, _SKIPPED)
    return writer.text() if writer.balanced else _read(page, _NEVER_TEXT).text()


def _read(page: Page, skipped: frozenset[str]) -> _Writer:
    writer = _Writer(page.url, skipped)
    writer.feed(page.html)
    writer.close()
    return writer


def main(source: BinaryIO, sink: BinaryIO) -> None:
    """Answers one request."""
    sink.write(readable(msgspec.json.decode(source.read(), type=Page)).encode("utf-8", errors="replace"))


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
