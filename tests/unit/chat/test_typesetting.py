"""Markdown and code as terminal text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from clew.surfaces.cli.chat.blocks import BlockSplitter
from clew.surfaces.cli.chat.printable import exact, one_line, printable
from clew.surfaces.cli.chat.typesetting import Typesetter

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
setter = Typesetter(styles=True, colours=True)
plain = Typesetter(styles=False, colours=False)


def shown(text: str, columns: int = 60) -> str:
    splitter = BlockSplitter()
    return "".join(plain.piece(piece, columns) for piece in (*splitter.feed(text), *splitter.finish()))


@pytest.mark.parametrize(
    "text",
    [
        "a <b>tag</b> and <think>thoughts</think>",
        "<div>\nblock\n</div>",
        "[words](http://example.org/x) and http://example.org/y",
        "![picture](http://example.org/z.png)",
        "one\ntwo\nthree",
        "| a | b |\n|---|---|\n| cell 1 | cell 2 |",
        "> quoted",
        "~~struck~~ **bold** `code`",
    ],
)
def test_nothing_a_model_says_vanishes(text: str) -> None:
    """HTML, addresses and line ends are there."""
    words = re.findall(r"[\w/:.]{2,}|<[^>]+>", text.replace("~~", " "))
    for word in words:
        assert word in shown(text)


def test_lines_end_where_they_were_ended() -> None:
    """A poem stays one."""
    assert shown("roses\nviolets\n") == "roses\nviolets\n"


@given(st.text(alphabet="#-*`~>|_[]()!<&1. \n\tab你🎉\\", max_size=120), st.integers(1, 60))
def test_any_text_can_be_set_at_any_width(text: str, columns: int) -> None:
    """No markup breaks it."""
    splitter = BlockSplitter()
    for piece in (*splitter.feed(text), *splitter.finish()):
        setter.piece(piece, columns)


@given(st.lists(st.text(alphabet="ab 你🎉", min_size=1, max_size=30), max_size=8))
def test_prose_is_never_wider_than_the_terminal(words: list[str]) -> None:
    """Wide characters counted as two."""
    for line in shown(" ".join(words), 20).splitlines():
        assert cell_len(line) <= 20


def test_code_is_copied_as_it_was_written() -> None:
    """Empty lines and indentation too, whether its language is known or not."""
    code = "def f():\n\n    return '''x\n\n'''\n\n"
    for language in ("python", "no-such-language", ""):
        assert COLOURS.sub("", setter.code(code, language, 20)) == code


def test_code_goes_on_in_the_colours_it_began_with() -> None:
    """A piece that begins inside of a string is one."""
    inside = setter.code("x = 1\n", "python", 80, context="'''\n")
    assert "\x1b[94m" not in inside
    assert "\x1b[94m1" in setter.code("x = 1\n", "python", 80)


@given(st.text())
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    """Whatever a model, a tool or a file holds."""
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", printable(text))


def test_sequences_are_taken_out_whole() -> None:
    """Colours, titles, the clipboard: none of their letters stay."""
    assert printable("a\x1b[31mred\x1b[0m \x1b]0;title\x07b \x1b]52;c;eA==\x1b\\c \x1b(Bd") == "ared b c d"


def test_what_is_decided_about_is_spelled_out() -> None:
    """What cannot be seen is written as its number."""
    assert exact("rm \u202e x\u200b\x1b[2J\r\n") == "rm \\u202e x\\u200b\\x1b[2J\\x0d\n"
    assert exact("日本 é 🎉") == "日本 é 🎉"


def test_one_line_is_one() -> None:
    """However many there were."""
    assert one_line("a\n\n b\tc", 20) == "a b c"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"


def test_a_diff_is_bounded() -> None:
    """And says what it leaves out."""
    text = COLOURS.sub("", setter.diff("\n".join(f"+{n}" for n in range(50)), lines_max=10))
    assert text.splitlines()[-1] == "… 40 more lines"
