"""A reply cut into pieces while it streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.surfaces.cli.chat.blocks import (
    CODE_LINES,
    LINE_CHARACTERS_MAX,
    PROSE_CHARACTERS_MAX,
    BlockSplitter,
    Piece,
)

MARKS = st.sampled_from(
    [
        "# ",
        "- ",
        "1. ",
        "  - ",
        "```",
        "```py\n",
        "~~~",
        "\n",
        "\n\n",
        "    ",
        "> ",
        "| a |",
        "word ",
        "*",
        "\t",
        "你好",
    ]
)
MARKDOWN = st.lists(MARKS, max_size=40).map("".join)


def pieces(text: str, size: int = 10_000) -> list[Piece]:
    splitter = BlockSplitter()
    found = [piece for at in range(0, len(text), size) for piece in splitter.feed(text[at : at + size])]
    return found + splitter.finish()


@given(MARKDOWN)
def test_the_pieces_are_the_reply(text: str) -> None:
    """Not a character is lost or doubled."""
    assert "".join(piece.source for piece in pieces(text)) == text


@given(MARKDOWN, st.integers(1, 9))
def test_the_size_of_the_deltas_does_not_matter(text: str, size: int) -> None:
    """The same pieces come of one delta and of many."""
    assert pieces(text, size) == pieces(text)


@given(MARKDOWN)
def test_what_grows_is_what_is_left(text: str) -> None:
    """What is shown stands at the start of what came."""
    splitter, finished = BlockSplitter(), ""
    for at, character in enumerate(text):
        finished += "".join(piece.source for piece in splitter.feed(character))
        growing = splitter.growing()
        rest = growing.source if growing is not None else ""
        assert text[: at + 1].startswith(finished + rest)


def test_a_block_is_finished_by_the_line_after_it() -> None:
    """A heading at once, a paragraph by an empty line, a list by what is no item."""
    splitter = BlockSplitter()
    assert [p.text for p in splitter.feed("# Title\nText\n")] == ["# Title\n"]
    assert [p.text for p in splitter.feed("\n")] == ["Text\n"]
    assert [p.text for p in splitter.feed("- one\n  - deep\n\n  more\n- two\n")] == [
        "- one\n  - deep\n\n  more\n"
    ]
    assert [p.text for p in splitter.feed("\nAfter\n")] == ["- two\n\n"]


def test_items_stay_together_with_what_is_inside_them() -> None:
    """Code in an item does not end it, whatever stands in it."""
    text = "- one\n  ```\n# no heading\n\n- no item\n  ```\n- two\n"
    assert [p.text for p in pieces(text)] == ["- one\n  ```\n# no heading\n\n- no item\n  ```\n", "- two\n"]


def test_code_is_printed_while_it_grows() -> None:
    """A few lines at a time, with its language, without its fences, and with the lines before it as context."""
    lines = [f"x = {n}\n" for n in range(2 * CODE_LINES + 1)]
    first, second, third = pieces("```python title\n" + "".join(lines) + "```\n")[:3]
    assert (first.text, first.language, first.context) == ("".join(lines[:CODE_LINES]), "python", "")
    assert (second.text, second.spaced) == ("".join(lines[CODE_LINES : 2 * CODE_LINES]), False)
    assert third.context == "".join(lines[: 2 * CODE_LINES])


@pytest.mark.parametrize("fence", ["```", "~~~~"])
def test_only_its_own_fence_closes_code(fence: str) -> None:
    """Longer ones do, shorter and other ones are code."""
    other = "``" if fence == "```" else "~~~"
    (code, *_) = pieces(f"{fence}\n{other}\n{fence}`x\n{fence}{fence[0]}\nafter\n")
    assert code.text == f"{other}\n{fence}`x\n"


def test_no_piece_grows_without_end() -> None:
    """A paragraph without an end, and a line without one, are cut at a space."""
    for text in ("word " * 20_000, "word \n" * 20_000, "```\n" + "word " * 20_000):
        assert (
            max(len(p.text) for p in pieces(text, 100))
            <= max(PROSE_CHARACTERS_MAX, LINE_CHARACTERS_MAX) + 100
        )


def test_where_empty_lines_belong() -> None:
    """Between blocks, not between the items of a tight list or the parts of one code block."""
    text = "Intro:\n- a\n- b\n\n- c\n\nEnd\n"
    assert [(p.text.strip(), p.spaced) for p in pieces(text)] == [
        ("Intro:", True),
        ("- a", False),
        ("- b", False),
        ("- c", True),
        ("End", True),
    ]
