"""`POST /v1/responses` as a server sees it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from clew.wire.openai_chat import Limit


# -- what is sent to us ------------------------------------------------------------------------------------------
class InputText(msgspec.Struct, tag="input_text", tag_field="type"):
    text: str


class OutputTextIn(msgspec.Struct, tag="output_text", tag_field="type"):
    text: str


class RefusalIn(msgspec.Struct, tag="refusal", tag_field="type"):
    refusal: str


class InputImage(msgspec.Struct, tag="input_image", tag_field="type"):
    image_url: str
    """A `data:` address: nothing is fetched."""


Part = InputText | OutputTextIn | RefusalIn | InputImage


class Item(msgspec.Struct, kw_only=True):
    """One item of the input. Clients leave `type` out where it is a message."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None


class FunctionTool(msgspec.Struct, kw_only=True):
    type: Literal["function"] = "function"
    name: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Format(msgspec.Struct, kw_only=True):
    type: str = "text"


class TextSettings(msgspec.Struct, kw_only=True):
    format: Format | None = None


class ResponsesRequest(msgspec.Struct, kw_only=True):
    """The body of `POST /v1/responses`."""

    model: str
    input: str | Annotated[list[Item], Meta(min_length=1, max_length=10_000)]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=256)] | None = None
    tool_choice: Any = None
    max_output_tokens: Limit | None = None
    text: TextSettings | None = None
    background: bool | None = None


# -- what we send ------------------------------------------------------------------------------------------------
Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(msgspec.Struct, tag="output_text", tag_field="type", kw_only=True):
    text: str
    annotations: list[str] = []
    logprobs: list[str] = []


class MessageItem(msgspec.Struct, tag="message", tag_field="type", kw_only=True):
    id: str
    role: Literal["assistant"] = "assistant"
    status: Status
    content: list[OutputText]


class CallItem(msgspec.Struct, tag="function_call", tag_field="type", kw_only=True):
    id: str
    call_id: str
    name: str
    arguments: str
    status: Status


OutputItem = MessageItem | CallItem


class InputTokensDetails(msgspec.Struct, kw_only=True):
    cached_tokens: int


class OutputTokensDetails(msgspec.Struct, kw_only=True):
    reasoning_tokens: int = 0


class Usage(msgspec.Struct, kw_only=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(msgspec.Struct, kw_only=True):
    code: str
    message: str


class IncompleteDetails(msgspec.Struct, kw_only=True):
    reason: str


class Response(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    model: str
    output: list[OutputItem]
    previous_response_id: str | None = None
    instructions: str | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    usage: Usage | None = None
    tools: list[FunctionTool] = []
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] = {}
    store: bool = True


class StreamEvent(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One event of a streamed response; which fields it has is told by its type."""

    type: str
    sequence_number: int
    response: Response | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    item: OutputItem | UnsetType = UNSET
    part: OutputText | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    logprobs: list[str] | UnsetType = UNSET
    code: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    param: UnsetType | None = UNSET
