"""A request in pydantic-ai's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

from pydantic_ai import messages as theirs
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from clew.adapters.models.attempts import Patience
from clew.adapters.models.pydantic_ai.kept import Kept, KeptPart, decode_kept
from clew.domain.models.request import (
    AssistantTurn,
    AudioPart,
    CallPart,
    ImagePart,
    ModelRequest,
    RequestMessage,
    TextPart,
    ToolTurn,
    UserTurn,
)


def messages_of(request: ModelRequest, blobs: Mapping[str, bytes]) -> list[theirs.ModelMessage]:
    """The conversation. What stands between two answers goes as one request, part by part.

    Raises:
        KeyError: the bytes of an image are not in `blobs`; the caller broke its promise.
    """
    found: list[theirs.ModelMessage] = []
    for is_answer, run in groupby(request.messages, key=lambda message: isinstance(message, AssistantTurn)):
        if is_answer:
            found.extend(_answer(turn) for turn in run if isinstance(turn, AssistantTurn))
        else:
            found.append(theirs.ModelRequest(parts=[_asked(turn, blobs) for turn in run]))
    return found


def parameters_of(request: ModelRequest) -> ModelRequestParameters:
    """System prompt and tools."""
    instructions = [theirs.InstructionPart(content=request.system)] if request.system else None
    tools = [
        ToolDefinition(name=tool.name, description=tool.description, parameters_json_schema=tool.parameters)
        for tool in request.tools
    ]
    return ModelRequestParameters(function_tools=tools, instruction_parts=instructions)


def settings_of(request: ModelRequest, patience: Patience) -> ModelSettings:
    """One attempt (repeating is ours to decide), patience, and the provider's cache for what is sent again."""
    settings = ModelSettings(max_retries=0, first_event_timeout=patience.first_byte, cache=True)
    if request.max_output is not None:
        settings["max_tokens"] = request.max_output
    if request.effort is not None:
        settings["thinking"] = request.effort.value
    return settings


def _asked(turn: RequestMessage, blobs: Mapping[str, bytes]) -> theirs.ModelRequestPart:
    match turn:
        case UserTurn(parts=(TextPart(text=text),)):
            return theirs.UserPromptPart(content=text)
        case UserTurn(parts=parts):
            return theirs.UserPromptPart(content=[_content(part, blobs) for part in parts])
        case ToolTurn(call=call, name=name, text=text, images=()):
            return theirs.ToolReturnPart(tool_name=name, content=text, tool_call_id=call)
        case ToolTurn(call=call, name=name, text=text, images=images):
            content = [text, *(_content(image, blobs) for image in images)]
            return theirs.ToolReturnPart(tool_name=name, content=content, tool_call_id=call)
        case AssistantTurn():
            raise AssertionError("an answer is not asked")


def _content(
    part: TextPart | ImagePart | AudioPart, blobs: Mapping[str, bytes]
) -> str | theirs.BinaryContent:
    if isinstance(part, TextPart):
        return part.text
    return theirs.BinaryContent(data=blobs[part.sha256], media_type=part.media_type)


def _answer(turn: AssistantTurn) -> theirs.ModelResponse:
    """As it came, if what was kept still fits; else its thinking is left out and the rest goes in plain order."""
    thinking = next(iter(turn.thinking), None)
    kept = decode_kept(thinking.signature) if thinking is not None else None
    if thinking is not None and kept is not None:
        measures = {"text": len(turn.text), "thinking": len(thinking.text), "calls": len(turn.calls)}
        if kept.fits(**measures):
            parts = list(_parts_as_kept(kept, turn, thinking.text))
            return theirs.ModelResponse(
                parts=parts, provider_name=kept.provider, canonical_system=kept.system
            )
    plain: list[theirs.ModelResponsePart] = [theirs.TextPart(content=turn.text)] if turn.text else []
    plain.extend(_call(call) for call in turn.calls)
    return theirs.ModelResponse(parts=plain)


def _parts_as_kept(kept: Kept, turn: AssistantTurn, thought: str) -> Iterator[theirs.ModelResponsePart]:
    text, calls = turn.text, iter(turn.calls)
    for part in kept.parts:
        match part.kind:
            case "text":
                content, text = text[: part.length], text[part.length :]
                yield theirs.TextPart(
                    content=content, id=part.id, provider_name=part.provider, provider_details=part.details
                )
            case "thinking":
                content, thought = thought[: part.length], thought[part.length :]
                yield _thinking(content, part)
            case "call":
                yield _call(next(calls), part)


def _thinking(content: str, part: KeptPart) -> theirs.ThinkingPart:
    return theirs.ThinkingPart(
        content=content,
        id=part.id,
        signature=part.signature,
        provider_name=part.provider,
        provider_details=part.details,
    )


def _call(call: CallPart, part: KeptPart | None = None) -> theirs.ToolCallPart:
    made = theirs.ToolCallPart(tool_name=call.name, args=call.arguments, tool_call_id=call.id)
    if part is not None:
        made.id, made.provider_name, made.provider_details = part.id, part.provider, part.details
    return made
