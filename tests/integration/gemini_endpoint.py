"""The Gemini API on loopback, as far as gemini-cli uses it: a model that does what its newest line of a person orders."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Self

Content = dict[str, Any]


class GeminiEndpoint:
    """`CALL name {arguments}` calls a tool, `HANG` says `working` and nothing more, `HEARD` tells all texts it was sent,
    a tool's result is told, and anything else is answered `echo: TEXT`."""

    def __init__(self) -> None:
        self.base_url = ""
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 24)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _connected(self, reading: asyncio.StreamReader, writing: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while head := await reading.readuntil(b"\r\n\r\n"):
                lines = head.decode().splitlines()
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in lines[1:])
                }
                body = await reading.readexactly(int(headers.get("content-length", 0)))
                await self._answer(lines[0].split(" ")[1], json.loads(body or b"{}"), writing)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # gemini-cli hung up
        finally:
            self._serving.discard(task)
            writing.close()

    async def _answer(self, path: str, request: Any, writing: asyncio.StreamWriter) -> None:
        if "streamGenerateContent" not in path:
            answer = json.dumps(
                {"totalTokens": 10} if "countTokens" in path else _candidate({"text": "{}"})
            ).encode()
            writing.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                % len(answer)
            )
            writing.write(answer)
            await writing.drain()
            return
        writing.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for part in _parts(request):
            if part is None:
                await asyncio.Event().wait()
                return
            event = f"data: {json.dumps(_candidate(part))}\r\n\r\n".encode()
            writing.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writing.drain()
        writing.write(b"0\r\n\r\n")
        await writing.drain()


def _parts(request: Any) -> Iterator[Content | None]:
    """What the model says, part by part; None for a silence without end."""
    contents: list[Content] = request["contents"]
    results = [part["functionResponse"] for part in contents[-1]["parts"] if "functionResponse" in part]
    if results:
        yield {"text": "it said "}
        yield {"text": json.dumps([result.get("response") for result in results])}
        return
    texts = [
        part["text"] for part in contents[-1]["parts"] if "text" in part and not part["text"].startswith("<")
    ]
    said = texts[-1] if texts else ""
    order, _, rest = said.partition(" ")
    match order:
        case "CALL":
            name, _, arguments = rest.partition(" ")
            tools = [
                f["name"] for tool in request.get("tools", []) for f in tool.get("functionDeclarations", [])
            ]
            found = next((tool for tool in tools if tool.endswith(f"_{name}")), name)
            yield {"functionCall": {"name": found, "args": json.loads(arguments or "{}")}}
        case "HANG":
            yield {"text": "working"}
            yield None
        case "HEARD":
            yield {
                "text": "\n".join(part.get("text", "") for content in contents for part in content["parts"])
            }
        case _:
            yield {"text": "echo: "}
            yield {"text": said}


def _candidate(part: Content) -> Content:
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 100, "candidatesTokenCount": 7, "totalTokenCount": 107}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "scripted"}
