"""Tool calls, put together from pieces as many servers send them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.adapters.models.openai_chat.calls import CallAssembly
from clew.adapters.models.openai_chat.chunks import CallPiece
from clew.domain.models.answer import AskedCall, CallDelta

Pieces = list[list[dict[str, Any]]]
"""Chunks of pieces, as JSON."""


def take(chunks: Pieces) -> tuple[tuple[AskedCall, ...], list[CallDelta]]:
    assembly = CallAssembly()
    deltas = [delta for chunk in chunks for delta in assembly.take(msgspec.convert(chunk, list[CallPiece]))]
    return assembly.calls(), deltas


def piece(arguments: str | None = None, name: str | None = None, **fields: Any) -> dict[str, Any]:
    return {**fields, "function": {"name": name, "arguments": arguments}}


# How servers render calls. Each gets (position, id, name, fragments of the arguments) and says what it streams.
Call = tuple[int, str, str, list[str]]


def openai(call: Call) -> Pieces:
    n, own, name, fragments = call
    return [[piece("", name, index=n, id=own)], *([piece(f, index=n)] for f in fragments)]


def llama_cpp(call: Call) -> Pieces:
    n, own, name, (first, *rest) = call
    return [[piece(first, name, index=n, id=own)], *([piece(f, index=n)] for f in rest)]


def ollama(call: Call) -> Pieces:
    _, own, name, fragments = call
    return [[piece("".join(fragments), name, index=0, id=own)]]


def ollama_without_index(call: Call) -> Pieces:
    _, own, name, fragments = call
    return [[piece("".join(fragments), name, id=own)]]


def vllm_index_0(call: Call) -> Pieces:
    _, own, name, fragments = call
    return [[piece("", name, index=0, id=own)], *([piece(f, index=0, id="")] for f in fragments)]


def sglang(call: Call) -> Pieces:
    _, own, name, fragments = call
    return [[piece("", name, index=0, id=own)], *([piece(f, index=0, id=own)] for f in fragments)]


def lm_studio(call: Call) -> Pieces:
    n, own, name, fragments = call
    return [[piece("", name, index=n, id=own)], *([piece(f, "", index=n)] for f in fragments)]


def name_in_every_piece(call: Call) -> Pieces:
    n, own, name, fragments = call
    return [[piece(f, name, index=n, id=own)] for f in fragments]


def another_id_in_every_piece(call: Call) -> Pieces:
    n, own, name, fragments = call
    return [
        [piece("", name, index=n, id=own)],
        *([piece(f, index=n, id=f"{own}-{i}")] for i, f in enumerate(fragments)),
    ]


def name_after_id(call: Call) -> Pieces:
    n, own, name, fragments = call
    return [[piece(index=n, id=own)], [piece(None, name, index=n)], *([piece(f, index=n)] for f in fragments)]


SERVERS: Final = [
    openai, llama_cpp, ollama, ollama_without_index, vllm_index_0, sglang, lm_studio, name_in_every_piece,
    another_id_in_every_piece, name_after_id,
]  # fmt: skip

arguments = st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=20)), max_size=3)


@st.composite
def some_calls(draw: st.DrawFn) -> list[Call]:
    names = draw(st.lists(st.sampled_from(["read", "write"]), min_size=1, max_size=4))
    calls = []
    for n, name in enumerate(names):
        text = msgspec.json.encode(draw(arguments)).decode()
        cuts = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=4)))
        edges = [0, *cuts, len(text)]
        fragments = [text[a:b] for a, b in itertools.pairwise(edges) if a < b]
        calls.append((n, f"call_{n}", name, fragments))
    return calls


@given(some_calls(), st.sampled_from(SERVERS))
def test_the_calls_are_those_the_model_made(calls: list[Call], server: Callable[[Call], Pieces]) -> None:
    """Whatever server streams them, and however finely."""
    found, deltas = take([chunk for call in calls for chunk in server(call)])
    assert [(c.provider_id, c.name, c.arguments) for c in found] == [
        (own, name, "".join(fragments)) for _, own, name, fragments in calls
    ]
    for n, call in enumerate(found):
        mine = [delta for delta in deltas if delta.index == n]
        assert "".join(delta.arguments for delta in mine) == call.arguments
        assert {delta.name for delta in mine} == {call.name}


@given(some_calls(), st.sampled_from([ollama, ollama_without_index, openai]))
def test_whole_calls_in_one_chunk_stay_apart(calls: list[Call], server: Callable[[Call], Pieces]) -> None:
    """Also when a server puts all of them into one chunk under one index."""
    found, _ = take([[p for call in calls for chunk in server(call) for p in chunk]])
    assert [(c.name, c.arguments) for c in found] == [(name, "".join(fs)) for _, _, name, fs in calls]


def test_interleaved_calls_are_told_apart_by_their_index() -> None:
    found, _ = take(
        [
            [piece("", "a", index=0, id="x")],
            [piece("", "b", index=1, id="y")],
            [piece('{"n":', index=0)],
            [piece('{"m":', index=1)],
            [piece("1}", index=0)],
            [piece("2}", index=1)],
        ]
    )
    assert [c.arguments for c in found] == ['{"n":1}', '{"m":2}']


@pytest.mark.parametrize("fields", [{}, {"index": 0}, {"id": ""}, {"id": None, "index": None}])
def test_the_same_call_twice_is_two_calls_without_ids(fields: dict[str, Any]) -> None:
    """A model may ask for the same thing twice; once the first is whole, the name opens another."""
    found, _ = take([[piece('{"n":1}', "a", **fields)], [piece('{"n":1}', "a", **fields)]])
    assert [(c.provider_id, c.arguments) for c in found] == [("", '{"n":1}'), ("", '{"n":1}')]


def test_the_same_call_twice_in_one_chunk_is_two_calls_even_without_arguments() -> None:
    found, _ = take([[piece("", "now", index=0), piece("", "now", index=0)]])
    assert [c.name for c in found] == ["now", "now"]


def test_an_id_that_two_calls_share_names_only_the_first() -> None:
    found, _ = take([[piece("{}", "a", index=0, id="same")], [piece("{}", "b", index=1, id="same")]])
    assert [(c.provider_id, c.name) for c in found] == [("same", "a"), ("", "b")]


def test_a_call_without_arguments_asks_with_an_empty_object() -> None:
    found, deltas = take([[piece("", "now", index=0, id="x")], [piece(None, None, index=0)]])
    assert found == (AskedCall(provider_id="x", name="now", arguments="{}"),)
    assert deltas == [CallDelta(index=0, name="now", arguments="")]


def test_arguments_that_a_proxy_parsed_become_text_again() -> None:
    found, _ = take([[{"index": 0, "id": 7, "function": {"name": "a", "arguments": {"city": "Ünna"}}}]])
    assert found == (AskedCall(provider_id="7", name="a", arguments='{"city":"Ünna"}'),)


def test_nothing_is_shown_of_a_call_before_its_name() -> None:
    _, deltas = take(
        [[piece('{"a"', index=0, id="x")], [piece(":1", "late", index=0)], [piece("}", index=0)]]
    )
    assert deltas == [
        CallDelta(index=0, name="late", arguments='{"a":1'),
        CallDelta(index=0, name="late", arguments="}"),
    ]


def test_a_long_call_in_many_pieces_takes_time_in_proportion() -> None:
    """A megabyte in pieces of four characters: joined once, not at every piece."""
    assembly = CallAssembly()
    assembly.take(msgspec.convert([piece("", "write", index=0, id="x")], list[CallPiece]))
    fragment = msgspec.convert([piece("abcd", index=0)], list[CallPiece])
    for _ in range(250_000):
        assembly.take(fragment)
    assert len(assembly.calls()[0].arguments) == 1_000_000
