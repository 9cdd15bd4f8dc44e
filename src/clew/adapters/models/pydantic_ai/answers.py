"""What pydantic-ai streams, in our words."""

from __future__ import annotations

from typing import Final

from pydantic_ai import messages as theirs
from pydantic_ai.usage import RequestUsage

from clew.adapters.models.openai_chat.assembly import estimate_tokens
from clew.adapters.models.pydantic_ai.kept import Kept, KeptPart
from clew.domain.conversation.messages import Thinking
from clew.domain.models.answer import (
    Answer,
    AskedCall,
    CallDelta,
    StopReason,
    TextDelta,
    ThinkingDelta,
    Usage,
)

Delta = TextDelta | ThinkingDelta | CallDelta

_STOPS: Final = {"length": StopReason.LENGTH, "content_filter": StopReason.FILTERED}


class Deltas:
    """Translates the events of one stream. `text` is what was streamed so far."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._written = 0
        self._calls: dict[int, tuple[int, str]] = {}  # part index -> (our index, name)

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def is_empty(self) -> bool:
        return self._written == 0 and not self._calls

    @property
    def tokens_estimate(self) -> int:
        return estimate_tokens(self._written)

    def take(self, event: theirs.ModelResponseStreamEvent) -> Delta | None:
        """What is new to show; None for events that only frame others."""
        match event:
            case theirs.PartStartEvent(part=theirs.TextPart(content=text)):
                return self._said(text)
            case theirs.PartDeltaEvent(delta=theirs.TextPartDelta(content_delta=text)):
                return self._said(text)
            case theirs.PartStartEvent(part=theirs.ThinkingPart(content=text)):
                return self._thought(text)
            case theirs.PartDeltaEvent(delta=theirs.ThinkingPartDelta(content_delta=thought)):
                return self._thought(thought or "")
            case theirs.PartStartEvent(index=index, part=theirs.ToolCallPart() as call):
                self._calls[index] = (len(self._calls), call.tool_name)
                return self._asked(index, _arguments(call))
            case theirs.PartDeltaEvent(index=index, delta=theirs.ToolCallPartDelta(args_delta=str(more))):
                return self._asked(index, more)
            case _:
                return None

    def _said(self, text: str) -> TextDelta | None:
        self._texts.append(text)
        self._written += len(text)
        return TextDelta(text) if text else None

    def _thought(self, text: str) -> ThinkingDelta | None:
        self._written += len(text)
        return ThinkingDelta(text) if text else None

    def _asked(self, index: int, arguments: str) -> CallDelta | None:
        if index not in self._calls:
            return None
        position, name = self._calls[index]
        self._written += len(arguments)
        return CallDelta(index=position, name=name, arguments=arguments)


def answer_of(response: theirs.ModelResponse, *, model: str, estimate: Usage) -> Answer:
    """The whole answer. `model` is the name it was asked by; `estimate` stands in where nothing was counted."""
    calls = tuple(
        AskedCall(provider_id=part.tool_call_id, name=part.tool_name, arguments=_arguments(part) or "{}")
        for part in response.parts
        if isinstance(part, theirs.ToolCallPart)
    )
    stop = _STOPS.get(response.finish_reason or "", StopReason.CALLS if calls else StopReason.END)
    return Answer(
        text="".join(part.content for part in response.parts if isinstance(part, theirs.TextPart)),
        calls=calls,
        thinking=_thinking(response, model),
        stop=stop,
        usage=_usage(response.usage, estimate),
        model=response.model_name or model,
    )


def _arguments(call: theirs.ToolCallPart) -> str:
    """As the model wrote them, valid or not: `args_as_json_str` would wrap what is no JSON."""
    return call.args if isinstance(call.args, str) else call.args_as_json_str() if call.args else ""


def _thinking(response: theirs.ModelResponse, model: str) -> tuple[Thinking, ...]:
    """All of it as one, with what the provider wants back as its signature; nothing where there is neither."""
    thought = "".join(part.content for part in response.parts if isinstance(part, theirs.ThinkingPart))
    parts = tuple(made for part in response.parts if (made := _kept(part)) is not None)
    kept = Kept(parts, response.provider_name, response.canonical_system)
    signature = kept.encoded() if thought or any(part.is_marked for part in parts) else None
    return (Thinking(text=thought, signature=signature, model=model),) if signature else ()


def _kept(part: theirs.ModelResponsePart) -> KeptPart | None:
    """None for parts that we do not have: files, and what a provider's own tools did."""
    match part:
        case theirs.TextPart():
            return KeptPart(
                "text",
                len(part.content),
                id=part.id,
                provider=part.provider_name,
                details=part.provider_details,
            )
        case theirs.ThinkingPart():
            return KeptPart(
                "thinking",
                len(part.content),
                part.id,
                part.signature,
                part.provider_name,
                part.provider_details,
            )
        case theirs.ToolCallPart():
            return KeptPart("call", id=part.id, provider=part.provider_name, details=part.provider_details)
        case _:
            return None


def _usage(usage: RequestUsage, estimate: Usage) -> Usage:
    """`input` includes what was read from and written to the cache, as pydantic-ai counts it for every provider."""
    if not (usage.input_tokens or usage.output_tokens):
        return estimate
    return Usage(
        input=usage.input_tokens,
        output=usage.output_tokens,
        cache_read=usage.cache_read_tokens,
        cache_write=usage.cache_write_tokens,
    )
