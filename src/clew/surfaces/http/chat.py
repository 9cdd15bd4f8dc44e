"""`POST /v1/chat/completions`: its body as what is asked for, and pieces of an answer as its wire has them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from clew.domain.conversation.ids import CallId
from clew.domain.models.answer import Usage
from clew.runtime.turns import NewFile
from clew.surfaces.http.asked import (
    Asked,
    AssistantSaid,
    Brought,
    ClientTool,
    Said,
    ToolSaid,
    UserSaid,
    decoded,
    file_of,
)
from clew.surfaces.http.errors import unsupported
from clew.surfaces.http.exchange import Batches, Call, Ended, Piece, Text
from clew.wire import openai_chat as wire

NO_PARAMETERS = {"type": "object", "properties": {}}


def read(request: wire.ChatRequest) -> Asked:
    """Raises ApiError for what this server would have to ignore although it changes what the answer means."""
    if request.n not in (None, 1):
        raise unsupported("n", "More than one choice")
    if request.response_format is not None and request.response_format.type != "text":
        raise unsupported("response_format", "Another format than text")
    if request.stop:
        raise unsupported("stop", "A stop sequence")
    if request.logprobs:
        raise unsupported("logprobs", "Log probabilities")
    said: list[Said] = []
    system: list[str] = []
    for number, message in enumerate(request.messages):
        at = f"messages[{number}]"
        match message:
            case wire.SystemMessage(content=content) | wire.DeveloperMessage(content=content):
                system.append(_parts(content, at)[0])
            case wire.UserMessage(content=content):
                text, files = _parts(content, at)
                said.append(UserSaid(text=text, files=files))
            case wire.ToolMessage(content=content):
                text, files = _parts(content, at)
                said.append(ToolSaid(call=CallId(message.tool_call_id), text=text, files=files))
            case wire.AssistantMessage():
                text, _ = _parts(message.content or "", at)
                calls = tuple((call.id, call.function) for call in message.tool_calls or ())
                said.append(AssistantSaid(text=text, calls=calls))
    brought = Brought(
        tools=client_tools(request.tool_choice, [tool.function for tool in request.tools or ()]),
        instructions="\n\n".join(system),
        max_output=request.max_completion_tokens or request.max_tokens,
    )
    return Asked(model=request.model, said=tuple(said), brought=brought)


def client_tools(choice: object, declared: Sequence[wire.DeclaredFunction]) -> tuple[ClientTool, ...]:
    if choice == "none":
        return ()
    if choice not in (None, "auto"):
        raise unsupported("tool_choice", "To force a tool")
    return tuple(
        ClientTool(name=t.name, description=t.description or "", parameters=t.parameters or NO_PARAMETERS)
        for t in declared
    )


def _parts(content: str | Sequence[wire.Part], at: str) -> tuple[str, tuple[NewFile, ...]]:
    """(text, files). The texts of one message are one text."""
    if isinstance(content, str):
        return content, ()
    texts: list[str] = []
    files: list[NewFile] = []
    for number, part in enumerate(content):
        where = f"{at}.content[{number}]"
        match part:
            case wire.TextPart(text=text) | wire.RefusalPart(refusal=text):
                texts.append(text)
            case wire.ImagePart(image_url=image):
                files.append(file_of(image.url, f"image-{number + 1}", where))
            case wire.AudioPart(input_audio=sound):
                files.append(decoded(f"audio/{sound.format}", sound.data, f"sound-{number + 1}", where))
    return "\n".join(texts), tuple(files)


# -- answers -----------------------------------------------------------------------------------------------------
class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What every part of one answer says."""

    id: str
    created: int
    model: str


def usage(used: Usage) -> wire.Usage:
    return wire.Usage(
        prompt_tokens=used.input,
        completion_tokens=used.output,
        total_tokens=used.input + used.output,
        prompt_tokens_details=wire.TokenDetails(cached_tokens=used.cache_read),
    )


async def whole(batches: Batches, frame: Frame) -> wire.ChatCompletion:
    """Raises ApiError when the turn was not done."""
    texts: list[str] = []
    calls: list[wire.ToolCall] = []
    ended = Ended()
    async for batch in batches:
        for piece in batch:
            match piece:
                case Text(text=text):
                    texts.append(text)
                case Call():
                    calls.append(wire.ToolCall(id=piece.id, function=_function(piece)))
                case Ended():
                    ended = piece
                case _:
                    pass
    if ended.error is not None:
        raise ended.error
    content = "".join(texts)
    message = wire.SentMessage(
        content=None if calls and not content else content, tool_calls=calls or msgspec.UNSET
    )
    choice = wire.Choice(message=message, finish_reason=ended.finish)
    return wire.ChatCompletion(
        id=frame.id, created=frame.created, model=frame.model, choices=[choice], usage=usage(ended.usage)
    )


class Chunks:
    """One answer while it comes: pieces in, chunks out."""

    def __init__(self, frame: Frame, *, with_usage: bool) -> None:
        self._frame = frame
        self._with_usage = with_usage
        self._called = 0

    def begin(self) -> list[wire.Chunk | wire.ErrorBody]:
        return [self._chunk(wire.Delta(role="assistant", content=""))]

    def take(self, piece: Piece) -> list[wire.Chunk | wire.ErrorBody]:
        """An error is the last, where one ends it."""
        match piece:
            case Text(text=text):
                return [self._chunk(wire.Delta(content=text))]
            case Call():
                delta = wire.CallDelta(index=self._called, id=piece.id, function=_function(piece))
                self._called += 1
                return [self._chunk(wire.Delta(tool_calls=[delta]))]
            case Ended(error=None):
                last: list[wire.Chunk | wire.ErrorBody] = [self._chunk(wire.Delta(), piece.finish)]
                return [*last, self._of_usage(piece.usage)] if self._with_usage else last
            case Ended(error=error) if error is not None:
                return [error.body]
            case _:
                return []

    def _chunk(self, delta: wire.Delta, finish: wire.FinishReason | None = None) -> wire.Chunk:
        frame = self._frame
        of_usage: msgspec.UnsetType | None = None if self._with_usage else msgspec.UNSET
        choice = wire.ChunkChoice(delta=delta, finish_reason=finish)
        return wire.Chunk(
            id=frame.id, created=frame.created, model=frame.model, choices=[choice], usage=of_usage
        )

    def _of_usage(self, used: Usage) -> wire.Chunk:
        frame = self._frame
        return wire.Chunk(
            id=frame.id, created=frame.created, model=frame.model, choices=[], usage=usage(used)
        )


def _function(call: Call) -> wire.CalledFunction:
    return wire.CalledFunction(name=call.name, arguments=call.arguments)
