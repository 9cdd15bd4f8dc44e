"""The event stream decoder, held against the WHATWG standard and against every way bytes can be split."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.wire.sse import EventTooLarge, ServerSentEvent, SseDecoder


def decode(*chunks: bytes, event_bytes_max: int = 1 << 20) -> list[ServerSentEvent]:
    decoder = SseDecoder(event_bytes_max=event_bytes_max)
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def data_of(*chunks: bytes) -> list[str]:
    return [event.data for event in decode(*chunks)]


def by_the_standard(stream: bytes) -> list[ServerSentEvent]:
    """The standard's algorithm, read off its text and applied to a whole stream at once."""
    lines = re.split("\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"))[:-1]
    data, event, last_id, found = "", "", "", []
    for line in lines:
        if line == "":
            if data:
                found.append(
                    ServerSentEvent(
                        data=data.removesuffix("\n"), event=event or "message", last_event_id=last_id
                    )
                )
            data, event = "", ""
            continue
        name, colon, value = line.partition(":")
        value = value.removeprefix(" ") if colon else ""
        if name == "data":
            data += value + "\n"
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            last_id = value
    return found


# Lines that mean something, in every kind of ending, are likelier to meet than in random bytes.
pieces = st.sampled_from(
    [
        b"data: a", b"data:b", b"data", b"data:", b"data:  two", b"event: ping", b"id: 7", b"id: x\0y", b"id",
        b"retry: 10", b": comment", b":", b"what: ever", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n",
        "data: ü€😀".encode(), b"\xef\xbb\xbf", b"data: \xff\xc3", b" data: no field",
    ]
)  # fmt: skip
streams = st.one_of(st.lists(pieces, max_size=24).map(b"".join), st.binary(max_size=200))


@st.composite
def split_streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    stream = draw(streams)
    everywhere = st.just(list(range(len(stream))))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=30) | everywhere))
    edges = [0, *cuts, len(stream)]
    return stream, [stream[a:b] for a, b in itertools.pairwise(edges)]


@given(streams)
def test_events_are_those_of_the_standards_algorithm(stream: bytes) -> None:
    """Incremental decoding finds what the standard's own algorithm finds in the whole stream."""
    assert decode(stream) == by_the_standard(stream)


@given(split_streams())
def test_the_split_makes_no_difference(case: tuple[bytes, list[bytes]]) -> None:
    """Whatever the network does to a stream, its events are the same."""
    stream, chunks = case
    assert decode(*chunks) == decode(stream)


@given(split_streams())
def test_the_bound_is_met_at_the_same_event_in_every_split(case: tuple[bytes, list[bytes]]) -> None:
    """Also the events before an oversized one, and the error itself, do not depend on the split."""
    stream, chunks = case

    def until_too_large(parts: list[bytes]) -> tuple[list[ServerSentEvent], bool]:
        decoder = SseDecoder(event_bytes_max=12)
        found: list[ServerSentEvent] = []
        try:
            for part in parts:
                found.extend(decoder.feed(part))
        except EventTooLarge:
            return found, True
        return found, False

    assert until_too_large(chunks) == until_too_large([stream])


def test_an_event_ends_at_an_empty_line_and_joins_its_data_lines() -> None:
    assert data_of(b"data: YHOO\ndata: +2\ndata: 10\n\n") == ["YHOO\n+2\n10"]


def test_only_one_space_after_the_colon_is_framing() -> None:
    assert data_of(b"data:test\n\ndata: test\n\ndata:  test\n\n") == ["test", "test", " test"]


def test_empty_data_is_an_event_and_no_data_is_none() -> None:
    """The standard's third example: two empty events, then a block that is never finished."""
    assert data_of(b"data\n\ndata\ndata\n\ndata:") == ["", "\n"]
    assert data_of(b"event: ping\n\nid: 1\n\n") == []


def test_an_event_type_holds_for_its_event_only() -> None:
    found = decode(b"event: error\ndata: x\n\ndata: y\n\n")
    assert [event.event for event in found] == ["error", "message"]


def test_the_last_id_stays_until_it_is_changed() -> None:
    found = decode(b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n")
    assert [event.last_event_id for event in found] == ["1", "1", ""]


def test_comments_between_events_are_dropped() -> None:
    """OpenRouter keeps a slow connection awake with them."""
    assert data_of(b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\ndata: x\n\n") == ["x"]


def test_a_carriage_return_ends_an_event_without_waiting_for_a_line_feed() -> None:
    assert data_of(b"data: x\r\r") == ["x"]
    assert data_of(b"data: x\r", b"\n\r", b"\ndata: y\r\n\r\n") == ["x", "y"]


def test_a_line_end_cut_in_two_is_one_line_end() -> None:
    """Taken for two, it would end the event in its middle."""
    assert data_of(b"data: a\r", b"\ndata: b\r\n\r\n") == ["a\nb"]


def test_the_byte_order_mark_is_ignored_once_and_only_at_the_start() -> None:
    assert data_of(b"\xef\xbb", b"\xbfdata: x\n\n\xef\xbb\xbfdata: y\n\n") == ["x"]


def test_what_the_stream_leaves_unfinished_is_no_event() -> None:
    assert data_of(b"data: x\n\ndata: y\n") == ["x"]


def test_a_character_split_between_chunks_is_whole() -> None:
    assert data_of(b"data: \xf0\x9f", b"\x98\x80\n\n") == ["😀"]


def test_an_event_without_end_is_refused_before_it_fills_the_memory() -> None:
    decoder = SseDecoder(event_bytes_max=1000)
    for _ in range(66):
        assert list(decoder.feed(b"data: xxxxxxxxx")) == []
    with pytest.raises(EventTooLarge) as caught:
        list(decoder.feed(b"data: xxxxxxxxx"))
    assert caught.value.bytes_max == 1000


def test_comments_without_end_are_no_event_and_fill_no_bound() -> None:
    """A server that only ever sends keep-alive comments, with no empty line between, is not refused for it."""
    assert decode(*[b": keep-alive\n"] * 1000, event_bytes_max=100) == []
