"""That the torture of the gateway notices what it is there for."""

from __future__ import annotations

import pytest

from clew.runtime.delivery import POSSIBLY_REPEATED
from tests.acceptance.torture_gateway import SHORT, shown_wrongly, words

ANSWER = " ".join(words(7, SHORT))
AGAIN = f"{POSSIBLY_REPEATED}{ANSWER}"


@pytest.mark.parametrize(
    ("shown", "wrong"),
    [
        ((ANSWER,), ""),
        ((AGAIN,), ""),
        ((ANSWER, AGAIN), ""),
        (("n7w0 n7w1", AGAIN), ""),
        (("n7w0 n7w1",), "never shown: n7w2"),
        ((ANSWER, ANSWER), "shown twice without a mark"),
        (("n7w0 n7w1", ANSWER), "shown twice without a mark: n7w0, n7w1"),
        ((ANSWER, AGAIN, AGAIN), "repeated twice"),
        ((), "never shown"),
    ],
)
def test_each_word_is_counted(shown: tuple[str, ...], wrong: str) -> None:
    """Shown once, or twice with a mark; a part of an answer counts as well."""
    found = shown_wrongly(words(7, SHORT), ("something else", *shown))
    assert [wrong in sentence for sentence in found] == ([True] if wrong else [])
