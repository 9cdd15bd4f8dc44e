"""What a stored text may hold."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from clew.domain.conversation.text import clean

ANY = st.text(st.characters(codec=None)) | st.binary()


@given(ANY)
@example("a lone \ud800 surrogate")
@example("\ud83e\uddf5 as two")
@example(b"bytes \xff that are no UTF-8")
@example(b"\xed\xa0\x80 and \xff")
def test_what_was_replaced_is_replaced_the_same_way_again(raw: str | bytes) -> None:
    """A message that waits is kept as the bytes it came in: its text is that of one that did not wait."""
    cleaned = clean(raw)
    cleaned.text.encode()
    if cleaned.original is not None:
        assert clean(cleaned.original).text == cleaned.text
