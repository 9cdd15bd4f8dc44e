"""The OpenAPI document: made of the types that requests are read into and answers are made of, so neither can drift."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from clew import __version__
from clew.surfaces.http.operations import Operation
from clew.wire.openai_chat import ErrorBody

_NAMED: Final = re.compile(r"\{(\w+)\}")
_REF: Final = "#/components/schemas/{name}"


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """OpenAPI 3.1, which takes JSON Schema as it is."""
    types: list[type] = [ErrorBody]
    for operation in operations:
        used = (operation.query, operation.answer, operation.body, *operation.events)
        types += [one for one in used if one is not None]
    schemas, components = msgspec.json.schema_components(list(dict.fromkeys(types)), ref_template=_REF)
    of_type = dict(zip(dict.fromkeys(types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(
            operation, of_type, components
        )
    for operation in operations:
        components.pop(operation.query.__name__, None)  # said as parameters, one by one
    return {
        "openapi": "3.1.0",
        "info": {"title": "Clew", "version": __version__},
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Error": {
                    "description": "It was not done; the body says why.",
                    "content": _json(of_type[ErrorBody]),
                }
            },
        },
    }


def _described(operation: Operation, of_type: dict[type, Any], components: dict[str, Any]) -> dict[str, Any]:
    content = {} if operation.answer is None else _json(of_type[operation.answer])
    if operation.events:
        content["text/event-stream"] = {"schema": _event(operation, of_type)}
    query = components[operation.query.__name__]
    required = query.get("required", ())
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _NAMED.findall(operation.path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in query["properties"].items()
    ]
    parameters += [{"name": name, "in": "header", "schema": {"type": "string"}} for name in operation.headers]
    described: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            str(operation.status): {"description": "Done.", "content": content},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _json(of_type[operation.body])}
    return described


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _event(operation: Operation, of_type: dict[type, Any]) -> dict[str, Any]:
    """One event of a stream. What its data hold is JSON in a string."""
    held = {"anyOf": [of_type[one] for one in operation.events]}
    data: dict[str, Any] = {"type": "string", "contentMediaType": "application/json", "contentSchema": held}
    if operation.end:
        data = {"anyOf": [{"const": operation.end}, data]}
    properties = {"event": {"type": "string"}, "id": {"type": "string"}, "data": data}
    return {"type": "object", "properties": properties, "required": ["data"]}
