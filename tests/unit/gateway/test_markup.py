"""Markdown becomes text and spans; what is no markup stays as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.surfaces.gateway.markup import Marked, Style, marked


def spanned(text: str) -> list[tuple[str, str, str]]:
    """(style, the text it is on, detail)."""
    result = marked(text)
    units = result.text.encode("utf-16-le")
    return [
        (span.style, units[2 * span.at : 2 * (span.at + span.length)].decode("utf-16-le"), span.detail)
        for span in result.spans
    ]


def test_emphasis_code_and_links_become_spans() -> None:
    """The marks are gone, and each span is on exactly its words, also behind characters of two units."""
    text = "😀 **bold** and *so*, `x_1`, ~~no~~, [here](https://example.org/a_b)"
    assert marked(text).text == "😀 bold and so, x_1, no, here"
    assert spanned(text) == [
        (Style.BOLD, "bold", ""),
        (Style.ITALIC, "so", ""),
        (Style.CODE, "x_1", ""),
        (Style.STRUCK, "no", ""),
        (Style.LINK, "here", "https://example.org/a_b"),
    ]


def test_a_block_of_code_keeps_every_character() -> None:
    """Nothing in it is markup; its language is known; one that is never closed goes to the end."""
    assert spanned("a\n```py\n  x = **1**\n\n# no\n```\nb") == [(Style.BLOCK, "  x = **1**\n\n# no", "py")]
    assert marked("a\n```py\nx\n```\nb").text == "a\nx\nb"
    assert spanned("```\nx\ny") == [(Style.BLOCK, "x\ny", "")]


def test_headings_and_bullets_are_read_in_plain_text() -> None:
    """A heading is bold, a bullet a bullet, a number, a quote and a table stay."""
    assert (
        marked("## The *end*\n- a\n  * b\n1. c\n> d\n|e|f|").text == "The end\n• a\n  • b\n1. c\n> d\n|e|f|"
    )


@pytest.mark.parametrize(
    "text", ["snake_case_name", "2 * 3 * 4", "C:\\dir", "a < b & c", "50% *", "/etc/hosts", "  x"]
)
def test_what_is_no_markup_stays(text: str) -> None:
    """Letter for letter."""
    assert marked(text) == Marked(text, ())


@given(st.text(st.characters(codec="utf-8"), max_size=200) | st.text("*_`~[]()!#- \nab<>\\&;", max_size=80))
def test_spans_are_inside_the_text(text: str) -> None:
    """Whatever was written, every span is on text that is there."""
    result = marked(text)
    units = len(result.text.encode("utf-16-le")) // 2
    assert all(span.at >= 0 and span.length > 0 and span.at + span.length <= units for span in result.spans)


@given(st.text(st.characters(categories=["L", "N"]), max_size=100).map(" ".join))
def test_no_letter_is_lost(text: str) -> None:
    """Text without marks comes out as it went in."""
    assert marked(f"x {text} y").text == f"x {text} y"
