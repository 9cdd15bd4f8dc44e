"""What other people's agents talk to, on loopback: three wires, and one model behind them that does as it is told.

It obeys the newest line of a person: `CALL name {arguments}` calls a tool and tells its result, `HANG` says `working` and
nothing more, `HEARD` tells all texts that were sent, `SEES` how many images, and anything else is answered `echo: TEXT`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

from clew.testing.loopback import Loopback

Json = dict[str, Any]


class Said(NamedTuple):
    text: str


class Called(NamedTuple):
    name: str
    arguments: str


Part = Said | Called


class Asked(NamedTuple):
    """A request, whatever its wire. `newest` are the texts of the last message, `results` those of tools that it holds."""

    newest: list[str]
    results: list[str]
    heard: list[str]
    images: int
    tools: list[str]

    def parts(self) -> Iterator[Part | None]:
        """What the model says, part by part; None for a silence without end."""
        if self.results:
            yield Said("it said ")
            yield Said(json.dumps(self.results))
            return
        ordered = [text.strip() for text in self.newest if text and not text.startswith(("<", "["))]
        said = ordered[-1] if ordered else ""
        order, _, rest = said.partition(" ")
        match order:
            case "CALL":
                name, _, arguments = rest.partition(" ")
                found = next((tool for tool in self.tools if tool.endswith(f"_{name}")), name)
                yield Called(found, arguments or "{}")
            case "HANG":
                yield Said("working")
                yield None
            case "SEES":
                yield Said(f"images: {self.images}")
            case "HEARD":
                yield Said("\n".join(self.heard))
            case _:
                yield Said("echo: ")
                yield Said(said)


class Endpoint(Loopback):
    """An HTTP server of one wire: a subclass says what a request asks, and in which events its answer comes."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = count(1)
        """Agents join what has the same id."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.decode().splitlines()
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
            }
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            await self._answer(lines[0].split(" ")[1], json.loads(body or b"{}"), writer)

    async def _answer(self, path: str, request: Json, writing: asyncio.StreamWriter) -> None:
        if (asked := self.asked(path, request)) is None:
            answer = json.dumps(self.aside(path)).encode()
            head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            writing.write((head % len(answer)).encode() + answer)
            await writing.drain()
            return
        writing.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for event in self.events(asked.parts()):
            if event is None:
                await asyncio.Event().wait()
                return
            name = f"event: {event['type']}\r\n" if "type" in event else ""
            line = f"{name}data: {json.dumps(event)}\r\n\r\n".encode()
            writing.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writing.drain()
        writing.write(b"0\r\n\r\n")
        await writing.drain()

    def asked(self, path: str, request: Json) -> Asked | None:
        """What a request for a streamed answer asks; None for any other request."""
        raise NotImplementedError

    def events(self, parts: Iterator[Part | None]) -> Iterator[Json | None]:
        raise NotImplementedError

    def aside(self, path: str) -> Json:
        """The answer to what is not a request for a streamed answer."""
        return {}


class GeminiEndpoint(Endpoint):
    """The Gemini API, as far as gemini-cli uses it."""

    def asked(self, path: str, request: Json) -> Asked | None:
        if "streamGenerateContent" not in path:
            return None
        parts = [content["parts"] for content in request["contents"]]
        results = [part["functionResponse"] for part in parts[-1] if "functionResponse" in part]
        return Asked(
            newest=[part["text"] for part in parts[-1] if "text" in part],
            results=[json.dumps(result.get("response")) for result in results],
            heard=[part.get("text", "") for each in parts for part in each],
            images=sum("inlineData" in part for each in parts for part in each),
            tools=[
                f["name"] for tool in request.get("tools", []) for f in tool.get("functionDeclarations", [])
            ],
        )

    def events(self, parts: Iterator[Part | None]) -> Iterator[Json | None]:
        for part in parts:
            match part:
                case None:
                    yield None
                case Said(text):
                    yield self._candidate({"text": text})
                case Called(name, arguments):
                    yield self._candidate({"functionCall": {"name": name, "args": json.loads(arguments)}})

    def aside(self, path: str) -> Json:
        return {"totalTokens": 10} if "countTokens" in path else self._candidate({"text": "{}"})

    def _candidate(self, part: Json) -> Json:
        candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
        usage = {"promptTokenCount": 100, "candidatesTokenCount": 7, "totalTokenCount": 107}
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "scripted"}


class AnthropicEndpoint(Endpoint):
    """The Anthropic messages API, as far as Claude Code uses it."""

    def asked(self, path: str, request: Json) -> Asked | None:
        if not path.startswith("/v1/messages?") or not request.get("stream"):
            return None
        people = [message for message in request["messages"] if message["role"] == "user"]
        contents = [self._blocks(message["content"]) for message in people]
        results = [block["content"] for block in contents[-1] if block["type"] == "tool_result"]
        return Asked(
            newest=[block["text"] for block in contents[-1] if block["type"] == "text"],
            results=[json.dumps(result) for result in results],
            heard=[block.get("text", "") for blocks in contents for block in blocks],
            images=sum(block["type"] == "image" for blocks in contents for block in blocks),
            tools=[tool["name"] for tool in request.get("tools", [])],
        )

    def _blocks(self, content: str | list[Json]) -> list[Json]:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    def events(self, parts: Iterator[Part | None]) -> Iterator[Json | None]:
        usage = {"input_tokens": 100, "output_tokens": 7}
        head: Json = {
            "id": f"msg_{next(self.ids)}",
            "type": "message",
            "role": "assistant",
            "model": "scripted",
        }
        message = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        yield {"type": "message_start", "message": message}
        stop = "end_turn"
        for index, part in enumerate(parts):
            if part is None:
                yield None
                return
            stop = "tool_use" if isinstance(part, Called) else stop
            block, delta = self._block(part)
            yield {"type": "content_block_start", "index": index, "content_block": block}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        yield {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": usage}
        yield {"type": "message_stop"}

    def _block(self, part: Part) -> tuple[Json, Json]:
        match part:
            case Said(text):
                return {"type": "text", "text": ""}, {"type": "text_delta", "text": text}
            case Called(name, arguments):
                use = {"type": "tool_use", "id": f"toolu_{next(self.ids)}", "name": name, "input": {}}
                return use, {"type": "input_json_delta", "partial_json": arguments}


class ResponsesEndpoint(Endpoint):
    """The OpenAI responses API, as far as Codex uses it."""

    def asked(self, path: str, request: Json) -> Asked | None:
        if not path.endswith("/responses"):
            return None
        items = request["input"]
        messages = [item for item in items if item["type"] == "message"]
        texts = [[part.get("text", "") for part in item["content"]] for item in messages]
        after = items[items.index(messages[-1]) + 1 :]
        return Asked(
            newest=texts[-1],
            results=[json.dumps(item["output"]) for item in after if item["type"].endswith("_call_output")],
            heard=[text for each in texts for text in each],
            images=sum(part["type"] == "input_image" for item in messages for part in item["content"]),
            tools=[  # a namespace and a name in it, which a call names apart
                f"{tool['name']}/_{inner['name']}"
                for tool in request.get("tools", [])
                for inner in tool.get("tools", [])
            ],
        )

    def events(self, parts: Iterator[Part | None]) -> Iterator[Json | None]:
        response = f"resp_{next(self.ids)}"
        yield {"type": "response.created", "response": {"id": response}}
        message = {"type": "message", "id": f"item_{next(self.ids)}", "role": "assistant"}
        said = ""
        for part in parts:
            match part:
                case None:
                    yield None
                    return
                case Said(text):
                    if not said:
                        yield {"type": "response.output_item.added", "item": {**message, "content": []}}
                    said += text
                    yield {"type": "response.output_text.delta", "delta": text}
                case Called(name, arguments):
                    space, _, tool = name.partition("/_")
                    call = {"type": "function_call", "call_id": f"call_{next(self.ids)}", "namespace": space,
                            "name": tool, "arguments": arguments}  # fmt: skip
                    yield {"type": "response.output_item.done", "item": call}
        if said:
            content = [{"type": "output_text", "text": said}]
            yield {"type": "response.output_item.done", "item": {**message, "content": content}}
        usage = {"input_tokens": 100, "output_tokens": 7, "total_tokens": 107}
        yield {"type": "response.completed", "response": {"id": response, "usage": usage}}
