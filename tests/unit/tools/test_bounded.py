"""Output in a fixed amount of memory."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from clew.adapters.tools.bounded import BoundedOutput, cut_after, whole_characters


def filled(limit: int, chunks: list[bytes], head_share: float = 0.5) -> BoundedOutput:
    output = BoundedOutput(limit, head_share=head_share)
    for chunk in chunks:
        output.add(chunk)
    return output


@given(st.lists(st.binary(max_size=90), max_size=20), st.integers(80, 400))
def test_what_fits_is_kept_and_what_does_not_is_counted(chunks: list[bytes], limit: int) -> None:
    """However the stream is cut into chunks: kept and left out make up the whole, and the ends are the stream's."""
    whole = b"".join(chunks)
    output = filled(limit, chunks)
    text = output.text()
    if len(whole) <= limit - 64:
        assert text == whole.decode("utf-8", "replace")
    elif len(whole) > limit:
        assert output.left_out == len(whole) - (limit - 64)
        assert f"[… {output.left_out:,} bytes left out …]" in text


def test_the_middle_is_left_out() -> None:
    """The beginning says what was run, the end how it went."""
    text = filled(164, [b"a" * 100, b"b" * 10_000, b"c" * 100]).text()
    assert text == "a" * 50 + "\n[… 10,100 bytes left out …]\n" + "c" * 50


@given(st.text(alphabet="aé€😀", min_size=200, max_size=300), st.integers(80, 160))
def test_the_gap_cuts_no_character_in_two(text: str, limit: int) -> None:
    """Both edges of what was left out are whole."""
    assert "\ufffd" not in filled(limit, [text.encode()]).text()


def test_a_ring_keeps_the_end_only() -> None:
    """A server's last lines are the ones that matter."""
    text = filled(164, [b"%d\n" % n for n in range(10_000)], head_share=0.0).text()
    assert text.endswith("9998\n9999\n")
    assert text.startswith("[… 48,790 bytes left out …]\n")


@given(st.text(max_size=60), st.integers(0, 80))
def test_a_character_is_never_cut_in_two(text: str, limit: int) -> None:
    """Whatever the limit: whole characters, and no more bytes than allowed."""
    text = text.encode("utf-8", "replace").decode()
    cut = cut_after(text, limit)
    assert text.startswith(cut)
    assert len(cut.encode()) <= limit
    assert len(cut.encode()) > limit - 4 or cut == text


def test_invalid_bytes_are_replaced_not_dropped() -> None:
    """A stray byte in the middle is shown as U+FFFD."""
    assert whole_characters(b"a\xffb") == "a\ufffdb"
    assert whole_characters("aé".encode()[:-1]) == "a"


def test_memory_is_bounded() -> None:
    """A gigabyte in small pieces leaves no more than the limit and one piece."""
    tracemalloc.start()
    try:
        output = BoundedOutput(1000)
        for n in range(100_000):
            output.add(b"%100d" % n)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert output.total == 10_000_000
    assert len(output.text()) <= 1000
    assert peak < 20_000
