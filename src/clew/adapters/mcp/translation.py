"""A server's words in ours: its tools as declarations, its results as results."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Final, assert_never

import msgspec
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
)

from clew.adapters.mcp.settings import McpLimits
from clew.domain.conversation.messages import Status
from clew.domain.conversation.text import clean
from clew.domain.tools.spec import Effect, JsonObject, ToolFile, ToolResult, ToolSpec

NAME_CHARS_MAX: Final = 64
"""What every provider takes as the name of a tool: so many letters, digits, `_` and `-`."""
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]")


def spec_of(server: str, tool: Tool) -> ToolSpec:
    """The declaration of a remote tool. What it says of itself (read-only, idempotent) is taken on trust."""
    hints = tool.annotations
    read_only = bool(hints and hints.read_only_hint)
    return ToolSpec(
        name=tool_name(server, tool.name),
        description=clean(tool.description or tool.title or "").text,
        parameters=_object_schema(tool.input_schema),
        effect=Effect.READ if read_only else Effect.EXECUTE,
        safe_to_repeat=read_only or bool(hints and hints.idempotent_hint),
    )


def tool_name(server: str, tool: str) -> str:
    """`server__tool`, with what names cannot hold as `_`; one that is too long ends in a hash of itself."""
    whole = f"{server}__{tool}"
    name = _NOT_IN_NAMES.sub("_", whole)
    if len(name) <= NAME_CHARS_MAX:
        return name
    return f"{name[: NAME_CHARS_MAX - 9]}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _object_schema(schema: JsonObject) -> JsonObject:
    return schema if schema.get("type") == "object" else {**schema, "type": "object"}


def result_of(result: CallToolResult, limits: McpLimits) -> ToolResult:
    """What a call came to, within the limits; what did not fit is said."""
    texts, files = _parts(result.content, limits)
    if not result.content and result.structured_content is not None:
        texts = [msgspec.json.encode(result.structured_content).decode()]
    return ToolResult(
        text=_bounded("\n".join(texts), limits.output_bytes) or ("[no text]" if files else "[no output]"),
        status=Status.ERROR if result.is_error else Status.OK,
        files=tuple(files),
    )


def _parts(content: Iterable[ContentBlock], limits: McpLimits) -> tuple[list[str], list[ToolFile]]:
    texts: list[str] = []
    files: list[ToolFile] = []
    for block in content:
        part = _part(block, limits)
        if isinstance(part, ToolFile):
            files.append(part)
        else:
            texts.append(part)
    return texts, files


def _part(block: ContentBlock, limits: McpLimits) -> str | ToolFile:
    match block:
        case TextContent(text=text):
            return clean(text).text
        case ImageContent(data=data, mime_type=media_type) | AudioContent(data=data, mime_type=media_type):
            return _file(data, media_type, None, limits)
        case ResourceLink(uri=uri, name=name):
            return f"[resource {name}: {uri}]"
        case EmbeddedResource(resource=TextResourceContents(uri=uri, text=text)):
            return f"[resource {uri}]\n{clean(text).text}"
        case EmbeddedResource(resource=BlobResourceContents(uri=uri, blob=blob, mime_type=media_type)):
            return _file(blob, media_type or "application/octet-stream", str(uri), limits)
        case EmbeddedResource():
            return "[a resource of an unknown kind]"
        case _:
            assert_never(block)


def _file(data: str, media_type: str, name: str | None, limits: McpLimits) -> str | ToolFile:
    if len(data) * 3 // 4 > limits.file_bytes:
        return f"[a file of type {media_type} was left out: over {limits.file_bytes:,} bytes]"
    try:
        return ToolFile(media_type=media_type, bytes=base64.b64decode(data, validate=True), name=name)
    except binascii.Error:
        return f"[a file of type {media_type} was left out: it is not valid base64]"


def _bounded(text: str, limit: int) -> str:
    """The beginning of the text, in whole characters, and how much is missing."""
    data = text.encode("utf-8")
    if len(data) <= limit:
        return text
    return f"{data[:limit].decode('utf-8', errors='ignore')}\n[… {len(data) - limit:,} bytes left out …]"
