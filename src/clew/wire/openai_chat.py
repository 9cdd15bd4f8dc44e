"""`POST /v1/chat/completions` and `GET /v1/models` as a server sees them: what clients send, and what they are sent.

Lenient in what is taken: fields that are not declared are ignored. What is sent has every field that clients look for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Limit = Annotated[int, Meta(ge=1, le=10_000_000)]


# -- what is sent to us ------------------------------------------------------------------------------------------
class TextPart(msgspec.Struct, tag="text", tag_field="type"):
    text: str


class RefusalPart(msgspec.Struct, tag="refusal", tag_field="type"):
    refusal: str


class ImageUrl(msgspec.Struct):
    url: str
    """A `data:` address: nothing is fetched."""


class ImagePart(msgspec.Struct, tag="image_url", tag_field="type"):
    image_url: ImageUrl


class Sound(msgspec.Struct):
    data: str
    format: Annotated[str, Meta(pattern="^[a-z0-9]{2,8}$")]


class AudioPart(msgspec.Struct, tag="input_audio", tag_field="type"):
    input_audio: Sound


Part = TextPart | RefusalPart | ImagePart | AudioPart


class CalledFunction(msgspec.Struct):
    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class SystemMessage(msgspec.Struct, tag="system", tag_field="role"):
    content: str | list[TextPart]


class DeveloperMessage(msgspec.Struct, tag="developer", tag_field="role"):
    content: str | list[TextPart]


class UserMessage(msgspec.Struct, tag="user", tag_field="role"):
    content: str | list[Part]


class AssistantMessage(msgspec.Struct, tag="assistant", tag_field="role"):
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None


class ToolMessage(msgspec.Struct, tag="tool", tag_field="role"):
    tool_call_id: str
    content: str | list[Part]


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class DeclaredFunction(msgspec.Struct, kw_only=True):
    name: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, kw_only=True):
    type: Literal["function"] = "function"
    function: DeclaredFunction


class StreamOptions(msgspec.Struct, kw_only=True):
    include_usage: bool | None = None


class ResponseFormat(msgspec.Struct, kw_only=True):
    type: str


class ChatRequest(msgspec.Struct, kw_only=True):
    """The body of `POST /v1/chat/completions`."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1, max_length=10_000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[Tool], Meta(max_length=256)] | None = None
    tool_choice: Any = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    n: int | None = None
    response_format: ResponseFormat | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None


# -- what we send ------------------------------------------------------------------------------------------------
class TokenDetails(msgspec.Struct, kw_only=True):
    cached_tokens: int


class Usage(msgspec.Struct, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: TokenDetails


FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class SentMessage(msgspec.Struct, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Choice(msgspec.Struct, kw_only=True):
    index: int = 0
    message: SentMessage
    logprobs: None = None
    finish_reason: FinishReason


class ChatCompletion(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class CallDelta(msgspec.Struct, kw_only=True):
    index: int
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Delta(msgspec.Struct, kw_only=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[CallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, kw_only=True):
    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: FinishReason | None = None


class Chunk(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET


class Model(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "clew"


class ModelList(msgspec.Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Model]


class Error(msgspec.Struct, kw_only=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct, kw_only=True):
    """What every error answer holds."""

    error: Error
