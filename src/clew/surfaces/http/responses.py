"""`POST /v1/responses`: its body as what is asked for, and pieces of an answer as its wire has them.

The id of a response is its session and turn, and the step that it goes on from where the client ran tools in that turn: so
it can be named after a restart, and carried on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from clew.domain.conversation.ids import CallId, SessionId
from clew.domain.models.answer import Usage
from clew.runtime.turns import NewFile
from clew.surfaces.http.asked import Asked, AssistantSaid, Brought, Said, ToolSaid, UserSaid, file_of
from clew.surfaces.http.chat import client_tools
from clew.surfaces.http.errors import bad_request, unsupported
from clew.surfaces.http.exchange import Batches, Began, Call, Ended, Piece, Text
from clew.wire import openai_responses as wire
from clew.wire.openai_chat import CalledFunction, DeclaredFunction

_ID: Final = re.compile(r"resp_([0-9a-z]{12})_([0-9]{1,9})(?:_([0-9]{1,9}))?", re.ASCII)


def response_id(began: Began) -> str:
    return f"resp_{began.ident}"


def named(ident: str) -> Began | None:
    """Where the response with this id began; None for what is no id."""
    match = _ID.fullmatch(ident)
    if match is None:
        return None
    return Began(session=SessionId(match[1]), turn=int(match[2]), after=int(match[3] or 0))


def read(request: wire.ResponsesRequest) -> Asked:
    """Raises ApiError for what this server would have to ignore although it changes what the answer means."""
    if request.background:
        raise unsupported("background", "An answer in the background")
    if request.text is not None and request.text.format is not None and request.text.format.type != "text":
        raise unsupported("text.format", "Another format than text")
    said: list[Said] = []
    system = [request.instructions] if request.instructions else []
    if isinstance(request.input, str):
        said.append(UserSaid(text=request.input))
    else:
        for number, item in enumerate(request.input):
            _take(item, f"input[{number}]", said, system)
    functions = [
        DeclaredFunction(name=tool.name, description=tool.description, parameters=tool.parameters)
        for tool in request.tools or ()
    ]
    brought = Brought(
        tools=client_tools(request.tool_choice, functions),
        instructions="\n\n".join(system),
        max_output=request.max_output_tokens,
    )
    return Asked(model=request.model, said=tuple(said), brought=brought)


def _take(item: wire.Item, at: str, said: list[Said], system: list[str]) -> None:
    match item.type:
        case "message":
            text, files = _parts(item.content or "", at)
            match item.role:
                case "user":
                    said.append(UserSaid(text=text, files=files))
                case "assistant":
                    said.append(AssistantSaid(text=text))
                case "system" | "developer":
                    system.append(text)
                case None:
                    raise bad_request("A message has a role.", at)
        case "function_call":
            if not item.call_id or not item.name:
                raise bad_request("A function_call has a call_id and a name.", at)
            call = (item.call_id, CalledFunction(name=item.name, arguments=item.arguments or ""))
            before = said[-1] if said else None
            if isinstance(before, AssistantSaid):  # the wire tells apart what one message of the model is
                said[-1] = msgspec.structs.replace(before, calls=(*before.calls, call))
            else:
                said.append(AssistantSaid(text="", calls=(call,)))
        case "function_call_output":
            if not item.call_id:
                raise bad_request("A function_call_output has a call_id.", at)
            text, files = _parts(item.output or "", at)
            said.append(ToolSaid(call=CallId(item.call_id), text=text, files=files))
        case "reasoning":
            pass  # another server's thoughts are for that server


def _parts(content: str | Sequence[wire.Part], at: str) -> tuple[str, tuple[NewFile, ...]]:
    if isinstance(content, str):
        return content, ()
    texts: list[str] = []
    files: list[NewFile] = []
    for number, part in enumerate(content):
        match part:
            case wire.InputText(text=text) | wire.OutputTextIn(text=text) | wire.RefusalIn(refusal=text):
                texts.append(text)
            case wire.InputImage(image_url=url):
                files.append(file_of(url, f"image-{number + 1}", f"{at}.content[{number}]"))
    return "\n".join(texts), tuple(files)


# -- answers -----------------------------------------------------------------------------------------------------
def usage(used: Usage) -> wire.Usage:
    return wire.Usage(
        input_tokens=used.input,
        input_tokens_details=wire.InputTokensDetails(cached_tokens=used.cache_read),
        output_tokens=used.output,
        output_tokens_details=wire.OutputTokensDetails(),
        total_tokens=used.input + used.output,
    )


class Answer:
    """One response while it comes: pieces in, events out, and at the end the whole."""

    def __init__(self, response: wire.Response) -> None:
        self.response = response
        self.error: Exception | None = None
        self._texts: list[str] = []
        self._number = -1
        self._message: wire.MessageItem | None = None

    async def run(self, batches: Batches) -> wire.Response:
        """The whole response. Raises ApiError when the turn was not done."""
        async for batch in batches:
            for piece in batch:
                self.take(piece)
        if self.error is not None:
            raise self.error
        return self.response

    def begin(self) -> list[wire.StreamEvent]:
        kinds = ("response.created", "response.in_progress")
        return [self._event(kind, response=self.response) for kind in kinds]

    def take(self, piece: Piece) -> list[wire.StreamEvent]:
        match piece:
            case Text(text=text):
                begun = self._begin_message() if self._message is None else []
                self._texts.append(text)
                return [*begun, self._of_text("response.output_text.delta", delta=text, logprobs=[])]
            case Call():
                return [*self._end_message(), *self._call(piece)]
            case Ended():
                return [*self._end_message(), self._end(piece)]
            case _:
                return []

    def _begin_message(self) -> list[wire.StreamEvent]:
        ident = f"msg_{self.response.id.removeprefix('resp_')}_{len(self.response.output)}"
        self._message = wire.MessageItem(id=ident, status="in_progress", content=[])
        index = len(self.response.output)
        return [
            self._event("response.output_item.added", output_index=index, item=self._message),
            self._of_text("response.content_part.added", part=wire.OutputText(text="")),
        ]

    def _end_message(self) -> list[wire.StreamEvent]:
        if self._message is None:
            return []
        whole = wire.OutputText(text="".join(self._texts))
        done = msgspec.structs.replace(self._message, status="completed", content=[whole])
        events = [
            self._of_text("response.output_text.done", text=whole.text, logprobs=[]),
            self._of_text("response.content_part.done", part=whole),
            self._event("response.output_item.done", output_index=len(self.response.output), item=done),
        ]
        self.response.output.append(done)
        self._message = None
        return events

    def _call(self, call: Call) -> list[wire.StreamEvent]:
        index = len(self.response.output)
        item = wire.CallItem(
            id=f"fc_{call.id}", call_id=call.id, name=call.name, arguments=call.arguments, status="completed"
        )
        self.response.output.append(item)
        begun = msgspec.structs.replace(item, arguments="", status="in_progress")
        of_item = {"item_id": item.id, "output_index": index}
        return [
            self._event("response.output_item.added", output_index=index, item=begun),
            self._event("response.function_call_arguments.delta", delta=item.arguments, **of_item),
            self._event(
                "response.function_call_arguments.done", arguments=item.arguments, name=item.name, **of_item
            ),
            self._event("response.output_item.done", output_index=index, item=item),
        ]

    def _end(self, ended: Ended) -> wire.StreamEvent:
        status: wire.Status = "completed" if ended.finish in ("stop", "tool_calls") else "incomplete"
        if status == "incomplete":
            reason = "max_output_tokens" if ended.finish == "length" else "content_filter"
            self.response.incomplete_details = wire.IncompleteDetails(reason=reason)
        if ended.error is not None:
            self.error, status = ended.error, "failed"
            self.response.error = wire.ResponseError(code=ended.error.code, message=str(ended.error))
        self.response.status = status
        self.response.usage = usage(ended.usage)
        return self._event(f"response.{status}", response=self.response)

    def _of_text(self, kind: str, **fields: object) -> wire.StreamEvent:
        assert self._message is not None
        index = len(self.response.output)
        return self._event(kind, item_id=self._message.id, output_index=index, content_index=0, **fields)

    def _event(self, kind: str, **fields: object) -> wire.StreamEvent:
        self._number += 1
        return wire.StreamEvent(type=kind, sequence_number=self._number, **fields)  # type: ignore[arg-type]
