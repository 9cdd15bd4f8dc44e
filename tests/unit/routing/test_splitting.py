"""Long texts are cut so that every part fits and no word is lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.domain.routing.splitting import LIMIT_MIN, TextLimit, Units, split

LINES = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["", "```", "```py", "~~~", "    x = 1", "a b c " * 9, "😀🧵 " * 9, "word" * 30]),
)
TEXTS = st.lists(LINES, max_size=25).map("\n".join)
LIMITS = st.builds(TextLimit, most=st.integers(LIMIT_MIN, 200), units=st.sampled_from(list(Units)))


def letters(text: str) -> str:
    """A text without white space and without fences, whose lines may be repeated at a cut."""
    lines = [line for line in text.split("\n") if not re.match(r" {0,3}(`{3,8}|~{3,8})", line)]
    return "".join("".join(lines).split())


@given(TEXTS, LIMITS)
def test_every_part_fits(text: str, limit: TextLimit) -> None:
    """No part is larger than the platform takes, in its own units, and none is empty."""
    for part in split(text, limit):
        assert limit.fits(part)
        assert part.strip()


@given(
    st.lists(st.text(st.characters(exclude_characters="`~"), max_size=80), max_size=20).map("\n".join), LIMITS
)
def test_no_letter_of_prose_is_lost(text: str, limit: TextLimit) -> None:
    """Without code, the parts hold every letter of the text, in order, and nothing else."""
    assert "".join("".join(split(text, limit)).split()) == "".join(text.split())


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=300), st.integers(LIMIT_MIN, 60))
def test_no_surrogate_pair_is_cut(text: str, most: int) -> None:
    """Each part can be written as UTF-16 by itself."""
    for part in split(text, TextLimit(most=most, units=Units.UTF16)):
        assert part.encode("utf-16-le").decode("utf-16-le") == part


@given(st.integers(1, 60), st.integers(1, 200), LIMITS)
def test_code_stays_in_fences(before: int, lines: int, limit: TextLimit) -> None:
    """Every line of a block of code, however long the block, stands between fences in its part, each once, in order."""
    code = [f"  row {n}" for n in range(lines)]
    text = "\n".join(["word " * before, "", "```python", *code, "```", "", "The end."])
    found: list[str] = []
    for part in split(text, limit):
        inside = False
        for line in part.split("\n"):
            if line.startswith("```"):
                inside = not inside
            elif inside:
                found.append(line)
            else:
                assert not line.startswith("  row")
        assert not inside, "a part leaves its fence open"
    assert found == code


@given(TEXTS, LIMITS)
def test_cutting_says_everything_once(text: str, limit: TextLimit) -> None:
    """With code of any shape too, every letter outside of the fences' own lines is there once."""
    assert letters("\n".join(split(text, limit))) == letters(text)


def test_a_block_that_fits_is_not_cut() -> None:
    """A block of code that fits into one message is moved into the next one, whole; a longer one begins where it stands."""
    block = "```py\n" + "\n".join(f"line {n}" for n in range(8)) + "\n```"
    parts = split("Some words.\n" + block + "\nMore.", TextLimit(most=90))
    assert any(block in part for part in parts)
    longer = "```py\n" + "\n".join(f"line {n}" for n in range(40)) + "\n```"
    assert split("Some words.\n" + longer, TextLimit(most=90))[0].startswith("Some words.\n```py\nline 0\n")


@pytest.mark.parametrize("text", ["", " \n\n ", "\n" * 5000])
def test_nothing_is_no_message(text: str) -> None:
    """A text of white space is not sent."""
    assert split(text, TextLimit(most=4096, units=Units.UTF16)) == ()


def test_a_short_text_stays_as_it_is() -> None:
    """What fits is one part, byte for byte."""
    assert split("  a\n\n  b", TextLimit(most=100)) == ("  a\n\n  b",)


def test_it_is_cut_where_a_reader_would() -> None:
    """After the last paragraph that leaves half a message full, else after a line, else after a word, else anywhere."""
    limit = TextLimit(most=100)
    paragraph, line = "A paragraph of prose. " * 3, "A line of verse."
    assert split(f"{paragraph}\n\n{line}\n{line}\n{line}", limit) == (
        paragraph.rstrip(),
        f"{line}\n{line}\n{line}",
    )
    verses = "\n".join([line] * 8)
    assert split(f"Short.\n\n{verses}", limit)[0] == "Short.\n\n" + "\n".join([line] * 4)
    assert split("word " * 30, limit)[0].endswith("word")
    assert set(split("w" * 150 + " end", limit)[0]) == {"w"}
