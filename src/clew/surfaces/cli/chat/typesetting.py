"""Markdown, code and diffs as terminal text, cut to a width.

Rule: nothing a model says vanishes: HTML is shown as it was written, links show where they lead, lines end where they
were ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from io import StringIO
from typing import ClassVar, Final

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.syntax import Syntax
from rich.text import Text
from rich.theme import Theme

from clew.surfaces.cli.chat.blocks import Piece
from clew.surfaces.cli.chat.printable import printable

PROSE_COLUMNS_MAX: Final = 110
"""Longer lines are hard to read."""
CODE_THEME: Final = "ansi_dark"
"""The terminal's own sixteen colours, which fit its background."""
HIGHLIGHTED_CHARACTERS_MAX: Final = 50_000

_THEME: Final = Theme({
    "markdown.code": "cyan",
    "markdown.h1": "bold underline",
    "markdown.h2": "bold",
    "markdown.h3": "bold",
    "markdown.h4": "bold italic",
    "markdown.item.bullet": "cyan",
    "markdown.item.number": "cyan",
    "markdown.block_quote": "italic",
    "markdown.link": "underline",
    "markdown.link_url": "dim",
    "markdown.hr": "dim",
    "markdown.table.header": "bold",
    "markdown.table.border": "dim",
})  # fmt: skip
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_TRAILING: Final = re.compile(r"(?:[ \t]|\x1b\[[0-9;]*m)+$", re.MULTILINE)
_parser: Final = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])


class Typesetter:
    """Turns what is to be shown into text with colours."""

    def __init__(self, *, styles: bool, colours: bool) -> None:
        self._console = Console(
            file=StringIO(), force_terminal=styles, no_color=not colours, theme=_THEME, legacy_windows=False,
            highlight=False, emoji=False, markup=False, color_system="auto" if styles else None,
        )  # fmt: skip

    def set(self, renderable: RenderableType, columns: int) -> str:
        """Whole lines, without spaces at their ends and without empty ones around them."""
        self._console.width = max(columns, 1)
        with self._console.capture() as capture:
            self._console.print(renderable)
        return _trimmed(capture.get())

    def piece(self, piece: Piece, columns: int) -> str:
        """A piece of a reply, without the empty line before it."""
        if piece.language is not None:
            return self.code(piece.text, piece.language, columns, context=piece.context)
        text = printable(piece.text).strip("\n")
        return self.set(ReplyMarkdown(text), min(columns, PROSE_COLUMNS_MAX)) if text.strip() else ""

    def code(self, text: str, language: str, columns: int, *, context: str = "") -> str:
        """Code as it stands, coloured where the language is known; long lines are left to the terminal to wrap.

        `context` is the code before it: a text may begin inside of a string.
        """
        shown = printable(text).removesuffix("\n")
        if not language or len(shown) + len(context) > HIGHLIGHTED_CHARACTERS_MAX:
            return shown + "\n"
        return self.text(_coloured(Syntax("", language), printable(context), shown))

    def text(self, text: Text) -> str:
        """Text whose lines are not broken: the terminal wraps them, and they are copied whole."""
        with self._console.capture() as capture:
            self._console.print(text, soft_wrap=True)
        return capture.get()

    def diff(self, diff: str, *, lines_max: int | None = None) -> str:
        """A unified diff, its lines coloured by what became of them; of a longer one the first lines and a count."""
        lines = printable(diff).splitlines()
        shown = lines if lines_max is None or len(lines) <= lines_max else lines[:lines_max]
        text = Text("\n").join(Text(line, style=_diff_style(line)) for line in shown)
        more = len(lines) - len(shown)
        if more:
            text.append(f"\n… {more} more lines", style="dim")
        return self.text(text)


def _coloured(syntax: Syntax, before: str, shown: str) -> Text:
    theme, text, whole, at = Syntax.get_theme(CODE_THEME), Text(), before + shown, 0
    for kind, token in syntax.lexer.get_tokens(whole) if syntax.lexer else [(None, whole)]:
        end = at + len(token)
        if end > len(before):
            visible = whole[max(at, len(before)) : end]  # a lexer may add a line end
            text.append(visible, theme.get_style_for_token(kind) if kind else None)
        at = end
    return text


def _trimmed(text: str) -> str:
    lines = _TRAILING.sub(lambda found: "\x1b[0m" if "\x1b" in found[0] else "", text).split("\n")
    shown = [at for at, line in enumerate(lines) if _COLOUR.sub("", line).strip()]
    return "\n".join(lines[shown[0] : shown[-1] + 1]) + "\n" if shown else ""


def _diff_style(line: str) -> str:
    if line.startswith(("+++", "---")):
        return "bold"
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")


class _LeftHeading(Heading):
    LEVEL_ALIGN: ClassVar = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class _BareCode(CodeBlock):
    """Code inside lists and quotes: without a coloured box, so that it can be copied."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        yield Syntax(
            code, self.lexer_name, theme=CODE_THEME, background_color="default", word_wrap=True, padding=0
        )


class ReplyMarkdown(Markdown):
    """Markdown in which every character of the source can be seen."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _LeftHeading,
        "fence": _BareCode,
        "code_block": _BareCode,
    }

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme=CODE_THEME, hyperlinks=False)
        self.markup = text
        self.parsed = list(_as_written(_parser.parse(text)))


def _as_written(tokens: Iterable[Token]) -> Iterable[Token]:
    """Line ends stay where they are, and an image is its description and its address."""
    for token in tokens:
        if token.children:
            token.children = list(_as_written(token.children))
        if token.type == "softbreak":
            token.type = "hardbreak"
        elif token.type == "image":
            token.type, token.tag = "text", ""
            token.content = f"![{token.content}]({token.attrs.get('src', '')})"
            token.children = None
        yield token
