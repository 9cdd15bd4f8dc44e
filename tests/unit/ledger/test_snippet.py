"""What a hit shows of a message."""

from __future__ import annotations

import pytest

from clew.domain.ledger.search import parse, snippet

FAR = "word " * 100


@pytest.mark.parametrize(
    ("text", "typed", "shown"),
    [
        pytest.param("say kiwi", "kiwi", "say kiwi", id="a short text is shown whole"),
        pytest.param(f"{FAR}Kiwi", "kiwi", "Kiwi", id="whatever its case"),
        pytest.param(f"{FAR}crème brûlée", "creme", "crème", id="without its accents"),
        pytest.param(
            f"{FAR}crème kiwi", "absent kiwi", "kiwi", id="a later term, where the first is not there"
        ),
        pytest.param(f"{FAR}鳄梨酱", "鳄梨", "鳄梨酱", id="a pair of characters"),
        pytest.param(f"{FAR}a\n\n b", '"a b"', "a b", id="on one line"),
    ],
)
def test_a_snippet_shows_what_was_asked_for(text: str, typed: str, shown: str) -> None:
    """The words around the first term that occurs, on one line, cut on both sides."""
    made = snippet(text, parse(typed))
    assert shown in made
    assert made.startswith("…") == (len(text) > 200)


def test_a_text_without_the_words_is_shown_from_its_beginning() -> None:
    """A call's arguments may hold what the text does not."""
    assert snippet("a" * 200, parse("kiwi")) == "a" * 160 + "…"
