"""A request as the body of `POST /chat/completions`.

Rule: a message's JSON depends on that message alone (and, for the images of tool results, on the results beside it).
With keys in a fixed order this makes request N a byte prefix of request N+1, message by message: what providers'
prompt caches and our prefix rule live on.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from clew.adapters.models.openai_chat.assembly import ReasoningField, estimate_tokens
from clew.domain.models.request import (
    AssistantTurn,
    AudioPart,
    ImagePart,
    ModelRequest,
    Part,
    RequestMessage,
    TextPart,
    ToolDeclaration,
    ToolTurn,
    UserTurn,
)
from clew.domain.tools.spec import JsonObject

OutputLimitField = Literal["max_tokens", "max_completion_tokens"]

IMAGE_TOKENS_ESTIMATE: Final = 1_000
"""Of an image of ordinary size; OpenAI counts 85 to 1,445."""


class _Url(msgspec.Struct):
    url: str


class _TextContent(msgspec.Struct, tag="text"):
    text: str


class _ImageContent(msgspec.Struct, tag="image_url"):
    image_url: _Url


class _Sound(msgspec.Struct):
    data: str
    format: str


class _AudioContent(msgspec.Struct, tag="input_audio"):
    input_audio: _Sound


_Content = str | list[_TextContent | _ImageContent | _AudioContent] | None


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _Call(msgspec.Struct):
    id: str
    function: _Function
    type: str = "function"


class _Message(msgspec.Struct):
    role: str
    content: _Content
    tool_calls: list[_Call] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET


class _Declaration(msgspec.Struct):
    name: str
    description: str
    parameters: JsonObject


class _Tool(msgspec.Struct):
    function: _Declaration
    type: str = "function"


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = True


class _Body(msgspec.Struct):
    model: str
    messages: list[_Message]
    tools: list[_Tool] | UnsetType = UNSET
    reasoning_effort: str | UnsetType = UNSET
    stream: bool = True
    stream_options: _StreamOptions = _StreamOptions()
    max_tokens: int | UnsetType = UNSET
    max_completion_tokens: int | UnsetType = UNSET


_encoder = msgspec.json.Encoder(order="deterministic")


def encode_request(
    request: ModelRequest,
    blobs: Mapping[str, bytes],
    *,
    output_limit_field: OutputLimitField = "max_tokens",
) -> bytes:
    """The JSON body: equal requests give equal bytes.

    Raises:
        KeyError: the bytes of an image are not in `blobs`; the caller broke its promise.
    """
    limit = UNSET if request.max_output is None else request.max_output
    return _encoder.encode(
        _Body(
            model=request.model,
            messages=list(_messages(request, blobs)),
            tools=[_tool(tool) for tool in request.tools] or UNSET,
            reasoning_effort=request.effort or UNSET,
            max_tokens=limit if output_limit_field == "max_tokens" else UNSET,
            max_completion_tokens=limit if output_limit_field == "max_completion_tokens" else UNSET,
        )
    )


def estimate_input(request: ModelRequest) -> int:
    """Tokens the request may come to, for when the server does not count: characters / 3, and images."""
    characters, images = len(request.system), 0
    for tool in request.tools:
        characters += len(tool.name) + len(tool.description) + len(_encoder.encode(tool.parameters))
    for message in request.messages:
        texts, pictures = _measure(message)
        characters += texts
        images += pictures
    return estimate_tokens(characters) + images * IMAGE_TOKENS_ESTIMATE


def _measure(message: RequestMessage) -> tuple[int, int]:
    """(characters, images) of a message."""
    match message:
        case UserTurn(parts=parts):
            texts = [part.text for part in parts if isinstance(part, TextPart)]
            return sum(map(len, texts)), len(parts) - len(texts)
        case AssistantTurn(text=text, calls=calls, thinking=thinking):
            asked = sum(len(call.name) + len(call.arguments) for call in calls)
            return len(text) + asked + sum(len(part.text) for part in thinking), 0
        case ToolTurn(text=text, images=images):
            return len(text), len(images)


def _messages(request: ModelRequest, blobs: Mapping[str, bytes]) -> Iterator[_Message]:
    if request.system:
        yield _Message(role="system", content=request.system)
    for is_tool, run in groupby(request.messages, key=lambda message: isinstance(message, ToolTurn)):
        if is_tool:
            yield from _tool_results([message for message in run if isinstance(message, ToolTurn)], blobs)
        else:
            yield from (_message(message, blobs) for message in run)


def _message(message: RequestMessage, blobs: Mapping[str, bytes]) -> _Message:
    match message:
        case UserTurn(parts=parts):
            return _Message(role="user", content=_user_content(parts, blobs))
        case AssistantTurn():
            return _assistant(message)
        case ToolTurn(call=call, text=text):
            return _Message(role="tool", content=text, tool_call_id=call)


def _tool_results(results: list[ToolTurn], blobs: Mapping[str, bytes]) -> Iterator[_Message]:
    """The wire takes no images in tool results: they follow the batch, in a message that names their calls."""
    yield from (_message(result, blobs) for result in results)
    parts: list[Part] = []
    for result in results:
        if result.images:
            parts.append(TextPart(f"[images returned by {result.name}, call {result.call}]"))
            parts.extend(result.images)
    if parts:
        yield _Message(role="user", content=_user_content(tuple(parts), blobs))


def _user_content(parts: tuple[Part, ...], blobs: Mapping[str, bytes]) -> _Content:
    """One text goes as a plain string, which every server takes; anything else as a list."""
    match parts:
        case ():
            return ""
        case (TextPart(text=text),):
            return text
        case _:
            return [_part(part, blobs) for part in parts]


def _part(part: Part, blobs: Mapping[str, bytes]) -> _TextContent | _ImageContent | _AudioContent:
    match part:
        case TextPart(text=text):
            return _TextContent(text=text)
        case ImagePart(sha256=sha256, media_type=media_type):
            encoded = b64encode(blobs[sha256]).decode("ascii")
            return _ImageContent(image_url=_Url(url=f"data:{media_type};base64,{encoded}"))
        case AudioPart(sha256=sha256, media_type=media_type):
            encoded = b64encode(blobs[sha256]).decode("ascii")
            return _AudioContent(input_audio=_Sound(data=encoded, format=_audio_format(media_type)))


def _audio_format(media_type: str) -> str:
    """The wire knows sound by the ending of its files."""
    kind = media_type.partition("/")[2].removeprefix("x-")
    return {"mpeg": "mp3", "wave": "wav"}.get(kind, kind)


def _assistant(turn: AssistantTurn) -> _Message:
    """Thinking goes back only beside calls, where servers want it (DeepSeek refuses the request without it)."""
    if not turn.calls:
        return _Message(role="assistant", content=turn.text)
    calls = [_Call(id=call.id, function=_Function(call.name, call.arguments)) for call in turn.calls]
    return _Message(
        role="assistant",
        content=turn.text or None,
        tool_calls=calls,
        reasoning_content=_thought_in(turn, "reasoning_content"),
        reasoning=_thought_in(turn, "reasoning"),
    )


def _thought_in(turn: AssistantTurn, field: ReasoningField) -> str | UnsetType:
    """The thinking that came in this field of an answer: its signature says so."""
    return "".join(part.text for part in turn.thinking if part.signature == field) or UNSET


def _tool(tool: ToolDeclaration) -> _Tool:
    return _Tool(
        function=_Declaration(name=tool.name, description=tool.description, parameters=tool.parameters)
    )
