"""Writes `src/clew/wire/acp_types.py` anew from the official schema of the Agent Client Protocol: `make acp-types`.

The schema comes from the npm package of the protocol's own SDK; the generator is installed for this run only, so that
neither is a dependency of Clew. What msgspec cannot express is said differently first (see `prepared`).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

SDK: Final = "@agentclientprotocol/sdk@2.4.0"
GENERATOR: Final = "datamodel-code-generator==0.89.0"
SCHEMA: Final = "package/schema/v1/schema.json"
ROOT: Final = Path(__file__).parents[1]
TARGET: Final = ROOT / "src" / "clew" / "wire" / "acp_types.py"
KEPT_SCHEMA: Final = ROOT / "tests" / "data" / "acp_schema_v1.json"

UNSPOKEN: Final = ("elicitation/", "protocol")
"""Methods that Clew does not speak, or that the JSON-RPC layer handles itself."""
SUFFIXES: Final = {
    "SessionUpdate": "Sent",
    "ContentBlock": "Block",
    "ToolCallContent": "Part",
    "RequestPermissionOutcome": "Outcome",
    "SessionConfigOption": "Option",
}
"""How the members of a tagged union are named: the tag in camel case, and this."""
MERGED: Final = {
    "McpServer": ("type",),
    "EmbeddedResourceResource": (),
    "AuthMethod": ("type",),
    "SetSessionConfigOptionRequest": ("type",),
}
"""Unions whose members cannot be told apart by a tag: one struct with the fields of all, these tags among them. Whoever
reads one looks at what is there."""
EITHER_CHOICE: Final = {
    "anyOf": [{"$ref": "#/$defs/SessionConfigSelectOption"}, {"$ref": "#/$defs/SessionConfigSelectGroup"}]
}
HEADER: Final = f'"""Types of the Agent Client Protocol, version 1. Written by `make acp-types` from {SDK}: not edited by hand."""'

LEFT_OUT: Final = {"_meta", "elicitation"}
"""Fields that are nobody's parameter (`_meta` is for whoever asks for it by itself), or of something that is not spoken."""

Schema = dict[str, Any]


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        schema = fetched(work)
        KEPT_SCHEMA.parent.mkdir(exist_ok=True)
        KEPT_SCHEMA.write_text(
            json.dumps(without_prose(schema), separators=(",", ":"), sort_keys=True) + "\n"
        )
        (work / "prepared.json").write_text(json.dumps(prepared(schema)))
        TARGET.write_text(HEADER + "\n\n" + generated(work))
    for command in (["check", "--fix", "--quiet"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, str(TARGET)], check=True)
    return 0


def fetched(work: Path) -> Schema:
    """The schema as it was published."""
    packed = subprocess.run(
        ["npm", "pack", "--silent", SDK], cwd=work, check=True, capture_output=True, text=True
    )
    with tarfile.open(work / packed.stdout.strip().splitlines()[-1]) as archive:
        member = archive.extractfile(SCHEMA)
        assert member is not None, f"{SDK} holds {SCHEMA}"
        schema: Schema = json.load(member)
    return schema


def generated(work: Path) -> str:
    venv.create(work / "venv", with_pip=True)
    python = str(work / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", GENERATOR], check=True)
    options = [
        "--input-file-type", "jsonschema", "--output-model-type", "msgspec.Struct", "--use-msgspec-tagged-unions",
        "--target-python-version", "3.11", "--snake-case-field", "--use-standard-collections", "--use-union-operator",
        "--collapse-root-models", "--enum-field-as-literal", "all", "--disable-timestamp", "--keyword-only",
        "--class-name", "Unused",
    ]  # fmt: skip
    command = [
        python,
        "-m",
        "datamodel_code_generator",
        "--input",
        "prepared.json",
        "--output",
        "generated.py",
    ]
    subprocess.run([*command, *options], cwd=work, check=True, stderr=subprocess.DEVNULL)
    return plainer((work / "generated.py").read_text())


def plainer(text: str) -> str:
    """Without the struct that stands for the whole schema; what is absent is None, and is not written either."""
    text = text[text.index("from __future__") :]
    text = re.sub(r"\n\nclass Unused\(.*?(?=\n\nclass |\Z)", "", text, flags=re.DOTALL)
    text = text.replace(
        "from msgspec import UNSET, Meta, Struct, UnsetType, field", "from msgspec import Meta, Struct, field"
    )
    text = (
        text.replace(" | UnsetType = False", " = False").replace("UnsetType", "None").replace("UNSET", "None")
    )
    text = re.sub(r"\|\s*None\s*\|\s*None", "| None", text)
    return text.replace("Struct, kw_only=True", "Struct, frozen=True, kw_only=True, omit_defaults=True")


def prepared(schema: Schema) -> Schema:
    """The part of the schema that is spoken, in words that become good msgspec structs."""
    defs: dict[str, Schema] = {name: without_prose(found) for name, found in schema["$defs"].items()}
    for found in defs.values():
        if "properties" in found:
            found["properties"] = {n: p for n, p in found["properties"].items() if n not in LEFT_OUT}
    defs["SessionConfigChoice"] = merged(defs, EITHER_CHOICE, ())
    defs["SessionConfigSelectOptions"] = {"type": "array", "items": {"$ref": "#/$defs/SessionConfigChoice"}}
    for name, tags in MERGED.items():
        defs[name] = merged(defs, defs[name], tags)
    for name, suffix in SUFFIXES.items():
        defs[name] = tagged(defs, defs[name], suffix)
    defs = {name: with_enums(found) for name, found in defs.items()}
    spoken = sorted(
        name
        for name, found in schema["$defs"].items()
        if "x-method" in found
        and not found["x-method"].startswith(UNSPOKEN)
        and found["x-side"] != "protocol"
    )
    needed = sorted(reachable(defs, spoken))
    return {
        "$schema": schema["$schema"],
        "title": "Unused",
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/{name}"} for name in spoken},
        "$defs": {name: defs[name] for name in needed},
    }


def without_prose(node: Any) -> Any:
    """The same schema without descriptions and hints for other generators."""
    if isinstance(node, list):
        return [without_prose(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: without_prose(value)
        for key, value in node.items()
        if not (key.startswith("x-deserialize") or (key == "description" and isinstance(value, str)))
    }
    only = kept.get("allOf")
    if isinstance(only, list) and len(only) == 1 and "properties" not in kept and "type" not in kept:
        return {
            **only[0],
            **{key: value for key, value in kept.items() if key == "default" and value is None},
        }
    return kept


def resolved(defs: dict[str, Schema], node: Schema) -> Schema:
    """A struct's schema with what it includes by reference."""
    if "$ref" in node:
        return resolved(defs, defs[node["$ref"].rpartition("/")[2]])
    properties: Schema = {}
    required: list[str] = []
    for part in (
        *node.get("allOf", ()),
        {key: node[key] for key in ("properties", "required") if key in node},
    ):
        whole = resolved(defs, part) if "$ref" in part else part
        properties |= whole.get("properties", {})
        required += whole.get("required", [])
    return {"type": "object", "properties": properties, "required": sorted(set(required))}


def tagged(defs: dict[str, Schema], union: Schema, suffix: str) -> Schema:
    """A union told apart by a constant: each member a struct of its own."""
    common = {key: union[key] for key in ("properties", "required") if key in union}
    members = []
    field = ""
    for member in union["oneOf"]:
        whole = resolved(defs, {**member, "allOf": [*member.get("allOf", ()), common]})
        field, value = next((f, p["const"]) for f, p in member["properties"].items() if "const" in p)
        name = "".join(word.capitalize() for word in value.split("_")) + suffix
        defs[name] = {**whole, "title": name}
        members.append((value, {"$ref": f"#/$defs/{name}"}))
    mapping = {value: reference["$ref"] for value, reference in members}
    return {
        "oneOf": [reference for _, reference in members],
        "discriminator": {"propertyName": field, "mapping": mapping},
    }


def merged(defs: dict[str, Schema], union: Schema, tags: tuple[str, ...]) -> Schema:
    """A union as one struct: what only some members have is optional."""
    common = {key: union[key] for key in ("properties", "required") if key in union}
    members = [resolved(defs, {**m, "allOf": [*m.get("allOf", ()), common]}) if "$ref" not in m else resolved(defs, m)
               for m in union["anyOf"]]  # fmt: skip
    properties: Schema = {}
    for member in members:
        for name, found in member["properties"].items():
            known = properties.get(name)
            if name in tags:
                values = [*(known or {}).get("enum", []), found.get("const")]
                properties[name] = {"type": "string", "enum": sorted(filter(None, values))}
            elif known is not None and known != found:
                properties[name] = {"anyOf": [known, found]}
            else:
                properties[name] = found
    required = set.intersection(*(set(member["required"]) for member in members)) - set(tags)
    return {"type": "object", "properties": properties, "required": sorted(required)}


def with_enums(node: Any) -> Any:
    """Unions of constants as enumerations; those that allow anything else as plain text."""
    if isinstance(node, list):
        return [with_enums(each) for each in node]
    if not isinstance(node, dict):
        return node
    members = [m for m in node.get("oneOf") or node.get("anyOf") or [] if isinstance(m, dict)]
    if any("const" in m for m in members) and all(m.get("type") in ("string", "integer") for m in members):
        kind = members[0]["type"]
        if all("const" in member for member in members):
            return {"type": kind, "enum": [member["const"] for member in members]}
        return {"type": kind}
    return {key: with_enums(value) for key, value in node.items()}


def reachable(defs: dict[str, Schema], roots: list[str]) -> set[str]:
    found: set[str] = set()
    left = list(roots)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += references(defs[name])
    return found


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"].rpartition("/")[2]
        for key, value in node.items():
            if key != "discriminator":
                yield from references(value)
    elif isinstance(node, list):
        for each in node:
            yield from references(each)


if __name__ == "__main__":
    sys.exit(main())
