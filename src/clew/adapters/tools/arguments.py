"""Arguments of a tool: one frozen struct is the JSON schema the model sees and the check its answer must pass.

Models send numbers as strings and null for what they leave out; both are taken as meant. Anything else that does
not fit becomes one sentence that says which argument is wrong, so that the next try can be right.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec

from clew.domain.tools.spec import JsonObject


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every tool's arguments derive from: an argument nobody declared is an error, not a surprise."""


ArgumentsT = TypeVar("ArgumentsT", bound=Arguments)


class Misfit(Exception):
    """These arguments do not fit the tool; the message is a sentence for the model."""


@cache
def parameters_of(kind: type[Arguments]) -> JsonObject:
    """The JSON schema of a tool's arguments: without references or titles, properties in the order declared."""
    schema = msgspec.json.schema(kind)
    inlined = _inline(schema, schema.get("$defs", {}))
    plain: JsonObject = msgspec.json.decode(msgspec.json.encode(inlined))  # defaults as JSON has them
    return plain


def _inline(node: Any, definitions: JsonObject) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target: str = node["$ref"].removeprefix("#/$defs/")
        beside = {key: value for key, value in node.items() if key not in {"$ref", "$defs"}}
        return {**_inline(definitions[target], definitions), **beside}
    return {key: _inline(value, definitions) for key, value in node.items() if not _is_title(key, value)}


def _is_title(key: str, value: object) -> bool:
    """Whether this is the struct's name: an argument called `title` has an object here."""
    return key == "title" and isinstance(value, str)


def fit(kind: type[ArgumentsT], arguments: JsonObject) -> ArgumentsT:
    """Reads the model's arguments. Raises Misfit with one sentence about the first thing that is wrong."""
    try:
        return msgspec.convert(_without_nulls(kind, arguments), kind, strict=False)
    except msgspec.ValidationError as error:
        raise Misfit(f"The arguments do not fit: {_sentence(str(error))}") from error


def _without_nulls(kind: type[Arguments], arguments: JsonObject) -> JsonObject:
    """Null for an argument that may be left out means that it was left out."""
    optional = {field.name for field in msgspec.structs.fields(kind) if not field.required}
    return {key: value for key, value in arguments.items() if value is not None or key not in optional}


def _sentence(problem: str) -> str:
    """The validator's words, with the path as a person would say it."""
    said, _, place = problem.partition(" - at `$.")
    return (
        f"`{place.rstrip('`')}`: {said[0].lower()}{said[1:]}." if place else f"{said[0].lower()}{said[1:]}."
    )
