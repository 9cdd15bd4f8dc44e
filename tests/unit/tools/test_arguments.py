"""What models are told about arguments, and what becomes of those that do not fit."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from clew.adapters.tools.arguments import Arguments, Misfit, fit, parameters_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Place(Arguments, frozen=True, kw_only=True):
    title: str
    line: Annotated[int, Meta(ge=1, description="From 1.")] = 1


class Sample(Arguments, frozen=True, kw_only=True):
    path: str
    where: Place
    also: tuple[Place, ...] = ()
    deep: bool = False


def test_the_schema_is_one_object_without_references() -> None:
    """Nested arguments are written out, unknown ones are forbidden, and an argument may be called `title`."""
    place = {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "line": {"description": "From 1.", "type": "integer", "minimum": 1, "default": 1},
        },
        "required": ["title"],
        "additionalProperties": False,
    }
    assert parameters_of(Sample) == {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "where": place,
            "also": {"type": "array", "items": place, "default": []},
            "deep": {"type": "boolean", "default": False},
        },
        "required": ["path", "where"],
        "additionalProperties": False,
    }


def test_the_schema_is_the_same_bytes_each_time_in_the_order_declared() -> None:
    """A session's tool list is frozen: a different order would be a different prefix."""
    assert msgspec.json.encode(parameters_of(Sample)) == msgspec.json.encode(parameters_of(Sample))
    assert list(parameters_of(Sample)["properties"]) == ["path", "where", "also", "deep"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "The arguments do not fit: object missing required field `path`."),
        ({"path": 1, "where": {"title": ""}}, "The arguments do not fit: `path`: expected `str`, got `int`."),
        (
            {"path": "", "where": {"title": "", "line": 0}},
            "The arguments do not fit: `where.line`: expected `int` >= 1.",
        ),
        (
            {"path": "", "where": {"title": ""}, "colour": 1},
            "The arguments do not fit: object contains unknown field `colour`.",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    """The sentence names the argument."""
    with pytest.raises(Misfit) as caught:
        fit(Sample, arguments)
    assert str(caught.value) == sentence


def test_numbers_as_strings_and_null_for_left_out_are_taken_as_meant() -> None:
    """Models write both."""
    assert fit(Place, {"title": "x", "line": "7"}) == Place(title="x", line=7)
    assert fit(Place, {"title": "x", "line": None}) == Place(title="x")
    with pytest.raises(Misfit):
        fit(Place, {"title": None})


@given(st.dictionaries(st.sampled_from(["path", "where", "also", "deep", "x"]), JSON))
def test_any_object_either_fits_or_is_refused_with_a_sentence(arguments: dict[str, Any]) -> None:
    """Nothing a model can write raises anything else."""
    with suppress(Misfit):
        assert isinstance(fit(Sample, arguments), Sample)
