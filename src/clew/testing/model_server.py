"""A real HTTP server that speaks the OpenAI wire and says what a script tells it to.

For what a `ScriptedModel` cannot show: bytes, statuses, broken connections, and programs in another process.

    async with ModelServer([Served(text="Hello")]) as server: ... server.base_url ... server.requests
    python -m clew.testing.model_server --port 0 --script FILE     first line: {"port": N}
    python -m clew.testing.model_server --port 0 --echo

A script file is a JSON list of steps (the fields of `Served`), or {"steps": [...], "then": "refuse"|"last"|"first"}
for what follows the last one. The n-th request gets the n-th step; a step with `when` waits for a request whose last
message holds that text. `--echo` answers `echo: TEXT`, and to a message with a line `CALL_TOOL name {arguments}`
with that call.

    POST /v1/chat/completions   the scripted answer
    GET  /v1/models             the names, with a context length
    GET  /requests              the exact bodies received, as a JSON list
    GET  /stats                 {"requests", "open", "abandoned"}, and "input" and "output": the tokens it reported
    POST /script                replaces the script and forgets the requests
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from clew.testing.loopback import Loopback

Then = Literal["refuse", "last", "first"]

_CALL_TOOL: Final = re.compile(r"^CALL_TOOL (\w+) *(\{.*\})?\s*$", re.MULTILINE)
_NO_PAGES: Final[Mapping[str, bytes]] = MappingProxyType({})
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    429: "Too Many Requests",
}


class ServedCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call to ask for. `arguments` as text may be broken JSON; without an `id` one is made up."""

    name: str
    arguments: str | dict[str, Any] = msgspec.field(default_factory=dict)
    id: str | None = None


class ServedUsage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input: int = 10
    output: int = 5


class Served(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one request gets. The answer comes first in this list, then what goes wrong with it."""

    when: str | None = None
    text: str = ""
    deltas: tuple[str, ...] = ()
    thinking: str = ""
    calls: tuple[ServedCall, ...] = ()
    finish: str | None = None
    """Said instead of `stop` or `tool_calls`."""
    usage: ServedUsage | None = ServedUsage()
    streams: bool = True
    """Otherwise one JSON object, also to a streaming request."""
    raw: str | None = None
    """This body instead, byte for byte."""
    content_type: str = "text/event-stream"
    """Of what is streamed."""
    delay_seconds: float = 0.0
    status: int = 200
    message: str = ""
    """Of an error; a status without one has a page of HTML."""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    cut_after_bytes: int | None = None
    """Of the event stream: then the connection is closed."""
    garbage: bool = False
    """An event in place of the end that is no JSON."""
    breaks: bool = False
    """After the deltas the connection is closed."""
    stalls: bool = False
    """After the deltas nothing more, until the client leaves."""
    pause_after: int | None = None
    """After so many deltas nothing, until the server is told to `go_on`."""
    silent: bool = False
    """Not even a status, until the client leaves."""


class ScriptFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    steps: tuple[Served, ...]
    then: Then = "refuse"


class Script:
    """Gives each request its step, in order."""

    def __init__(self, steps: Sequence[Served], *, then: Then = "refuse") -> None:
        self._steps = tuple(steps)
        self._then = then
        self._left = list(steps)

    def __call__(self, body: Any) -> Served:
        said = _text_of(_last_message(body))
        for step in self._left:
            if step.when is None or step.when in said:
                self._left.remove(step)
                return step
        if self._then == "refuse" or not self._steps:
            return Served(
                status=400, message=f"the script has no step for this request, only {len(self._steps)}"
            )
        return self._steps[-1 if self._then == "last" else 0]


def echo(body: Any) -> Served:
    """Answers a person with their own words, and a tool's result with the result."""
    last = _last_message(body)
    text = _text_of(last)
    asked = _CALL_TOOL.search(text)
    if last.get("role") == "user" and asked and body.get("tools"):
        return Served(calls=(ServedCall(name=asked[1], arguments=asked[2] or "{}"),))
    return Served(text=f"echo: {text}" if last.get("role") == "user" else f"the tool said: {text}")


Answering = Callable[[Any], Served]


class ModelServer(Loopback):
    """Listens on 127.0.0.1 while it is entered.

    `requests` holds the exact bodies in the order of arrival, `headers` theirs; `abandoned` counts answers whose
    client left before their end, `reported` the usage it has told, `connections` those ever made; `models` may be changed. With an `api_key`, another
    one is refused in words that quote it, as servers do. `pages` are bodies of further GET requests, by path.

    A request that looks for facts comes when memory likes. Unless a test `notes`, it is told that there are none, and is not
    among the requests that the test knows of.
    """

    def __init__(
        self,
        answering: Answering | Sequence[Served],
        *,
        port: int = 0,
        models: Sequence[str] = ("scripted-model",),
        context_length: int = 32_768,
        api_key: str | None = None,
        record: Path | None = None,
        pages: Mapping[str, bytes] = _NO_PAGES,
        notes: bool = False,
    ) -> None:
        super().__init__(port)
        self._notes = notes
        self.requests: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.open = 0
        self.abandoned = 0
        self.reported: list[ServedUsage] = []
        self.connections = 0
        self._left = asyncio.Condition()
        self._going_on = asyncio.Event()
        self._answering: Answering = answering if callable(answering) else Script(answering)
        self.models = models
        self._context_length = context_length
        self._api_key = api_key
        self._record = record
        self._pages = pages

    @property
    def base_url(self) -> str:
        return f"{super().base_url}/v1"

    def go_on(self) -> None:
        """Ends every pause, also those to come."""
        self._going_on.set()

    async def was_abandoned(self) -> None:
        """Returns once a client has left before the end of its answer."""
        async with self._left:
            await self._left.wait_for(lambda: self.abandoned > 0)

    # -- connections ------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (request := await _read_request(reader)) is not None:
                if not await self._handle(request, reader, writer):
                    break
        except _NotHttp:
            writer.write(_response(400, _error("this is an HTTP server")))
        except (ConnectionError, asyncio.IncompleteReadError):
            await self._note_left()

    async def _handle(
        self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answers, and says whether the connection may be used again."""
        if request.what == "POST /v1/chat/completions":
            self.open += 1
            try:
                return await self._complete(request, reader, writer)
            finally:
                self.open -= 1
        writer.write(_response(*self._side_door(request)))
        await writer.drain()
        return True

    def _side_door(self, request: _Request) -> tuple[int, bytes]:
        page = self._pages.get(request.what.removeprefix("GET "))
        if page is not None:
            return 200, page
        match request.what:
            case "GET /v1/models":
                return 200, _json({"object": "list", "data": [self._model(name) for name in self.models]})
            case "GET /requests":
                return 200, b"[" + b",".join(self.requests) + b"]"
            case "GET /stats":
                stats = {"requests": len(self.requests), "open": self.open, "abandoned": self.abandoned}
                stats["input"] = sum(usage.input for usage in self.reported)
                stats["output"] = sum(usage.output for usage in self.reported)
                return 200, _json(stats)
            case "POST /go_on":
                self.go_on()
                return 200, b"{}"
            case "POST /script":
                self._answering = read_script(request.body)
                self.requests.clear()
                self.reported.clear()
                self.headers.clear()
                return 200, b"{}"
            case _:
                return 404, _error(f"no {request.what} here")

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "owned_by": "clew", "context_length": self._context_length}

    async def _complete(
        self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        body = msgspec.json.decode(request.body)
        if not self._notes and looks_for_facts(body):
            writer.write(_response(200, _json(_whole(Served(text="[]", usage=None), str(body.get("model"))))))
            return True
        self._keep(request)
        key = request.headers.get("authorization", "")
        if self._api_key is not None and key != f"Bearer {self._api_key}":
            writer.write(_response(401, _error(f"Incorrect API key provided: {key.removeprefix('Bearer ')}")))
            return True
        step = self._answering(body)
        await asyncio.sleep(step.delay_seconds)
        if step.silent:
            return await self._wait_until_left(reader)
        if step.status != 200:
            writer.write(_response(step.status, _error(step.message), headers=step.headers))
            return True
        if not body.get("stream") or not step.streams:
            whole = _json(_whole(step, str(body.get("model"))))
            writer.write(_response(200, whole))
            self.reported.extend(_reported(whole))
            return True
        return await self._stream(step, str(body.get("model")), reader, writer)

    async def _stream(
        self, step: Served, model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {step.content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        left = step.cut_after_bytes
        for n, event in enumerate(_events(step, model)):
            if step.pause_after is not None and n > step.pause_after:
                await self._going_on.wait()
            part = event if left is None else event[:left]
            if part:
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                await writer.drain()
                self.reported.extend(_reported(part))
            if left is not None and (left := left - len(part)) <= 0:
                return False
        if step.stalls:
            return await self._wait_until_left(reader)
        if step.breaks:
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _wait_until_left(self, reader: asyncio.StreamReader) -> bool:
        await reader.read()
        await self._note_left()
        return False

    async def _note_left(self) -> None:
        async with self._left:
            self.abandoned += 1
            self._left.notify_all()

    def _keep(self, request: _Request) -> None:
        self.requests.append(request.body)
        self.headers.append(request.headers)
        if self._record is not None:
            with self._record.open("ab") as file:
                file.write(request.body.replace(b"\n", b" ") + b"\n")


# -- HTTP -----------------------------------------------------------------------------------------------------------


class _Request(msgspec.Struct, frozen=True):
    what: str
    headers: dict[str, str]
    body: bytes


class _NotHttp(Exception):
    """What came is no request."""


async def _read_request(reader: asyncio.StreamReader) -> _Request | None:
    """The next request of a connection, or None when it was closed between two. Raises _NotHttp, as for TLS."""
    first_byte = await reader.read(1)
    if not first_byte:
        return None
    if not first_byte.isalpha():
        raise _NotHttp
    head = first_byte + await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length") or 0))
    method, path, _ = first.split(" ")
    return _Request(f"{method} {path.partition('?')[0]}", headers, body)


def _response(status: int, body: bytes, *, headers: dict[str, str] | None = None) -> bytes:
    kind = "text/html" if body.startswith(b"<") else "application/json"
    fields = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
    lines = [
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Scripted')}",
        *(f"{k}: {v}" for k, v in fields.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _error(message: str) -> bytes:
    if not message:
        return b"<html><body><h1>It went wrong</h1></body></html>"
    return _json({"error": {"message": message, "type": "scripted_error"}})


# -- the wire -------------------------------------------------------------------------------------------------------


def _events(step: Served, model: str) -> Iterator[bytes]:
    """The event stream, one event at a time."""
    if step.raw is not None:
        yield step.raw.encode()
        return
    base = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1, "model": model}
    for delta in _deltas(step):
        yield _event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    if step.stalls or step.breaks:
        return
    if step.garbage:
        yield b"data: {this is no JSON\n\n"
        return
    yield _event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": _finish(step)}]})
    if step.usage is not None:
        yield _event({**base, "choices": [], "usage": _usage(step.usage)})
    yield b"data: [DONE]\n\n"


def _deltas(step: Served) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": ""}
    if step.thinking:
        yield {"reasoning_content": step.thinking}
    for text in (step.text, *step.deltas):
        if text:
            yield {"content": text}
    for index, call in enumerate(_calls(step)):
        arguments = call["function"]["arguments"]
        first = {**call, "index": index, "function": {"name": call["function"]["name"], "arguments": ""}}
        yield {"tool_calls": [first]}
        middle = len(arguments) // 2
        for fragment in filter(None, (arguments[:middle], arguments[middle:])):
            yield {"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}


def _whole(step: Served, model: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": step.text + "".join(step.deltas)}
    if step.thinking:
        message["reasoning_content"] = step.thinking
    if step.calls:
        message["tool_calls"] = _calls(step)
    answer: dict[str, Any] = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 1,
        "model": model,
    }
    answer["choices"] = [{"index": 0, "message": message, "finish_reason": _finish(step)}]
    if step.usage is not None:
        answer["usage"] = _usage(step.usage)
    return answer


def _calls(step: Served) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{n}" if call.id is None else call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": _arguments(call)},
        }
        for n, call in enumerate(step.calls)
    ]


def _arguments(call: ServedCall) -> str:
    return call.arguments if isinstance(call.arguments, str) else _json(call.arguments).decode()


def _finish(step: Served) -> str:
    return step.finish or ("tool_calls" if step.calls else "stop")


def _usage(usage: ServedUsage) -> dict[str, int]:
    total = usage.input + usage.output
    return {"prompt_tokens": usage.input, "completion_tokens": usage.output, "total_tokens": total}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def _reported(sent: bytes) -> Iterator[ServedUsage]:
    """The usage in what was sent, whole or not."""
    for line in sent.splitlines():
        try:
            told = msgspec.json.decode(line.removeprefix(b"data: "))
        except msgspec.DecodeError:
            continue  # it was cut, or no JSON from the start: nobody can read a figure out of it
        match told:
            case {"usage": {"prompt_tokens": int(given), "completion_tokens": int(written)}}:
                yield ServedUsage(given, written)
            case _:
                pass


def looks_for_facts(body: Any) -> bool:
    """Whether it is memory that asks."""
    return _text_of((body.get("messages") or [{}])[0]).startswith("You note what is worth remembering")


def _last_message(body: Any) -> dict[str, Any]:
    messages = body.get("messages") or [{}]
    last: dict[str, Any] = messages[-1]
    return last


def _text_of(message: dict[str, Any]) -> str:
    """What was said; of several parts the first, because the rest is context."""
    content = message.get("content")
    if isinstance(content, list):
        return next((str(part.get("text", "")) for part in content if part.get("type") == "text"), "")
    return str(content or "")


# -- as a program ---------------------------------------------------------------------------------------------------


def read_script(text: bytes) -> Script:
    """A script file. Raises msgspec.ValidationError, which names the field that is wrong."""
    file = msgspec.json.decode(text, type=ScriptFile | tuple[Served, ...])
    return Script(file.steps, then=file.then) if isinstance(file, ScriptFile) else Script(file)


async def _serve(server: ModelServer) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server:
        sys.stdout.write(f'{{"port": {server.port}}}\n')
        sys.stdout.flush()
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until it is told to stop by SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m clew.testing.model_server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", type=Path, help="append each body to this file, one a line")
    parser.add_argument("--model", action="append", help="a name to offer; may be given again")
    parser.add_argument("--context-length", type=int, default=32_768)
    parser.add_argument("--key", help="the API key to ask for")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--script", type=Path)
    what.add_argument("--echo", action="store_true")
    given = parser.parse_args(arguments)
    server = ModelServer(
        echo if given.echo else read_script(given.script.read_bytes()),
        port=given.port,
        models=given.model or ("scripted-model",),
        context_length=given.context_length,
        api_key=given.key,
        record=given.record,
    )
    asyncio.run(_serve(server))


if __name__ == "__main__":
    main()
