"""The test doubles themselves: a fake that cannot fail proves nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from clew.domain.models.answer import Answer, AskedCall, FailureKind, TextDelta
from clew.domain.models.request import ModelRequest, TextPart, UserTurn
from clew.testing.model_server import ModelServer, Served, echo, read_script
from clew.testing.scripted_model import Hold, ScriptedModel, ScriptExhausted, Step, ask, fail, say

pytestmark = pytest.mark.anyio


def request_of(text: str) -> ModelRequest:
    return ModelRequest(model="m", system="", tools=(), messages=(UserTurn(parts=(TextPart(text),)),))


async def answer_of(model: ScriptedModel, text: str = "hello") -> Any:
    *_, last = [event async for event in model.stream(request_of(text), blobs={}, key="k")]
    return last


async def test_a_held_stream_goes_on_when_the_test_says_so() -> None:
    """Between `reached` and `release` a test knows exactly what has been said and what has not."""
    hold = Hold()
    model = ScriptedModel([say("before ", hold, "after")])
    events = model.stream(request_of("x"), blobs={}, key="k")
    assert await anext(events) == TextDelta("before ")
    waiting = asyncio.ensure_future(anext(events))
    await hold.reached()
    assert not waiting.done()
    hold.release()
    assert await waiting == TextDelta("after")
    assert isinstance(await anext(events), Answer)


async def test_a_script_may_be_a_function_of_the_request() -> None:
    def parrot(request: ModelRequest) -> Step:
        (turn,) = request.messages
        assert isinstance(turn, UserTurn)
        (part,) = turn.parts
        assert isinstance(part, TextPart)
        return say(part.text.upper())

    assert (await answer_of(ScriptedModel(parrot), "quietly")).text == "QUIETLY"


async def test_every_request_is_recorded_as_it_came() -> None:
    model = ScriptedModel([say("1"), ask("read", provider_id="c")])
    await answer_of(model, "first")
    assert (await answer_of(model, "second")).calls == (
        AskedCall(provider_id="c", name="read", arguments="{}"),
    )
    assert [sent.request for sent in model.sent] == [request_of("first"), request_of("second")]
    assert [sent.key for sent in model.sent] == ["k", "k"]


async def test_a_question_the_test_did_not_foresee_fails_the_test() -> None:
    model = ScriptedModel([fail(FailureKind.SERVER)])
    await answer_of(model)
    with pytest.raises(ScriptExhausted):
        await answer_of(model)


# -- the server -----------------------------------------------------------------------------------------------------


async def ask_server(base_url: str, text: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    async with httpx.AsyncClient(verify=False) as http:
        response = await http.post(f"{base_url}/chat/completions", json=body)
        answer: dict[str, Any] = response.json()
        return answer


def said(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


async def test_a_step_may_wait_for_its_own_request() -> None:
    """With several chats at once the order of requests is nobody's promise."""
    async with ModelServer([Served(when="bob", text="hi bob"), Served(text="hi")]) as server:
        assert said(await ask_server(server.base_url, "I am ann")) == "hi"
        assert said(await ask_server(server.base_url, "I am bob")) == "hi bob"


@pytest.mark.parametrize(("then", "third"), [("last", "two"), ("first", "one")])
async def test_a_script_may_go_on_after_its_end(then: str, third: str) -> None:
    script = read_script(json.dumps({"steps": [{"text": "one"}, {"text": "two"}], "then": then}).encode())
    async with ModelServer(script) as server:
        words = [said(await ask_server(server.base_url, "x")) for _ in range(3)]
    assert words == ["one", "two", third]


async def test_an_exhausted_script_refuses_in_words() -> None:
    async with ModelServer([]) as server:
        answer = await ask_server(server.base_url, "x")
    assert "no step for this request" in answer["error"]["message"]


async def test_echo_answers_with_ones_own_words_and_calls_tools_when_told() -> None:
    tools = [{"type": "function", "function": {"name": "read", "description": "", "parameters": {}}}]
    async with ModelServer(echo) as server:
        assert said(await ask_server(server.base_url, "hello")) == "echo: hello"
        answer = await ask_server(server.base_url, 'Please.\nCALL_TOOL read {"p": 1}', tools=tools)
    call = answer["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call == {"name": "read", "arguments": '{"p": 1}'}


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clew.testing.model_server",
        "--port",
        "0",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    port = json.loads(await process.stdout.readline())["port"]
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_as_a_program_it_says_its_port_and_keeps_the_exact_bodies(tmp_path: Path) -> None:
    """What other programs' tests rely on: the first line, the record, /requests and /script."""
    script = tmp_path / "script.json"
    script.write_text('[{"text": "one"}]')
    record = tmp_path / "record.jsonl"
    async with program("--script", str(script), "--record", str(record)) as (_, root):
        assert said(await ask_server(f"{root}/v1", "first")) == "one"
        async with httpx.AsyncClient(verify=False) as http:
            (kept,) = (await http.get(f"{root}/requests")).json()
            assert kept["messages"] == [{"role": "user", "content": "first"}]
            assert (await http.post(f"{root}/script", content=b'[{"text": "two"}]')).status_code == 200
            assert said(await ask_server(f"{root}/v1", "second")) == "two"
            assert (await http.get(f"{root}/stats")).json() == {
                "requests": 1,
                "open": 0,
                "abandoned": 0,
                "input": 10,
                "output": 5,
            }
            assert (await http.get(f"{root}/v1/models")).json()["data"][0]["id"] == "scripted-model"
    assert [json.loads(line)["messages"][0]["content"] for line in record.read_text().splitlines()] == [
        "first",
        "second",
    ]


async def test_as_a_program_it_echoes() -> None:
    async with program("--echo", "--model", "parrot") as (_, root):
        assert said(await ask_server(f"{root}/v1", "hello")) == "echo: hello"
