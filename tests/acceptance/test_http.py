"""`clew serve` as a process that programs talk to over HTTP, and that is killed while they do."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
from pathlib import Path

import httpx
import msgspec
import pytest

from clew.testing.model_server import ModelServer, Served, ServedCall, echo
from clew.wire.sse import ServerSentEvent
from tests.acceptance.serving_http import CHAT, SECONDS_MAX, SESSION, api
from tests.unit.http.serving import chat, events

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


async def test_killed_in_mid_stream_it_tells_the_rest_once(tmp_path: Path) -> None:
    """Whoever follows comes back with the last id it saw; whoever asked and was cut off finds the answer in the session."""
    script = [Served(deltas=("so ", "far"), pause_after=2), Served(text="all of it")]
    async with api(tmp_path, model := ModelServer(script)) as served:
        served.show(await served.key())
        await served.start()
        session = (await served.client.post("/v1/clew/sessions")).json()["id"]
        seen: list[ServerSentEvent] = []
        follows, shown = asyncio.Event(), asyncio.Event()

        async def follow() -> None:
            async with served.client.stream("GET", f"/v1/clew/sessions/{session}/events") as response:
                follows.set()
                async for event in events(response):
                    seen.append(event)
                    if "far" in event.data:
                        shown.set()

        following = asyncio.create_task(follow())
        await asyncio.wait_for(follows.wait(), SECONDS_MAX)
        asking = asyncio.create_task(
            served.client.post(CHAT, json=chat("hi", stream=True), headers={SESSION: session})
        )
        await asyncio.wait_for(shown.wait(), SECONDS_MAX)
        await served.end(signal.SIGKILL)
        cut = await asyncio.gather(following, asking, return_exceptions=True)
        assert all(isinstance(one, httpx.TransportError) for one in cut), cut
        await served.start()
        last = [e.last_event_id for e in seen if e.event == "op"][-1]
        rest: list[ServerSentEvent] = []
        url = f"/v1/clew/sessions/{session}/events"
        async with (
            asyncio.timeout(SECONDS_MAX),
            served.client.stream("GET", url, headers={"Last-Event-ID": last}) as response,
        ):
            async for event in events(response):
                rest.append(event)
                if event.event == "turn" and '"done"' in event.data:
                    break
        ops = [msgspec.json.decode(e.data) for e in (*seen, *rest) if e.event == "op"]
        assert [op["version"] for op in ops] == list(range(ops[0]["version"], ops[-1]["version"] + 1))
        assert [m["text"] for op in ops for m in op["messages"] if m["role"] in ("user", "assistant")] == [
            "hi",
            "all of it",
        ]
        kept = (await served.client.get(f"/v1/clew/sessions/{session}/messages")).json()["data"]
        assert [m["text"] for m in kept if m["role"] != "event"] == ["hi", "all of it"]
        assert len(model.requests) == 2
        assert (await served.end(signal.SIGTERM))[0] == 0


async def test_killed_while_the_client_runs_its_tools_it_takes_their_results(tmp_path: Path) -> None:
    """The turn waits for them again, with the client's own tools and instructions, and nobody is asked twice."""
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    script = [Served(calls=(ServedCall(name="weather", id="x"),)), Served(text="sunny")]
    async with api(tmp_path, model := ModelServer(script)) as served:
        served.show(await served.key())
        await served.start()
        system = {"role": "system", "content": "Like a pirate."}
        first = await served.client.post(CHAT, json=chat(system, "?", tools=[tool]), headers={SESSION: "new"})
        message = first.json()["choices"][0]["message"]
        await served.end(signal.SIGKILL)
        await served.start()
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "blue sky"}
        body = chat(system, "?", message, result, tools=[tool])
        second = await served.client.post(CHAT, json=body, headers={SESSION: first.headers[SESSION]})
        assert second.status_code == 200, second.text
        assert second.json()["choices"][0]["message"]["content"] == "sunny"
        assert len(model.requests) == 2
        asked = msgspec.json.decode(model.requests[-1])
        assert "Like a pirate." in asked["messages"][0]["content"]
        assert [t["function"]["name"] for t in asked["tools"]] == ["weather"]


async def test_who_may_ask_is_told_by_keys_alone(tmp_path: Path) -> None:
    """None: nothing is served. One that is made or taken back counts from the next request on, and lines up with its person."""
    async with api(tmp_path, ModelServer(echo)) as served:
        none = await served.clew.run("serve", "--check")
        assert (none.code, "clew pair key create" in none.err) == (2, True)
        assert (await served.clew.run("pair", "key", "create", "ann")).code == 2
        key = await served.key()
        checked = await served.clew.run("serve", "--check")
        assert "ok  API: 1 key" in checked.out
        await served.start()
        assert (await served.client.get("/v1/models")).status_code == 401
        await served.clew.run("pair", "ann")
        for shown, whose in ((key, "local"), (await served.key("ann", "--tools"), "ann")):
            served.show(shown)
            assert (await served.client.post("/v1/clew/sessions")).json()["owner"] == whose
        listed = (await served.clew.run("pair", "key", "list")).out.splitlines()
        assert sorted(line.split("\t")[1:] for line in listed) == [["ann", "tools"], ["local", "-"]]
        hers = next(line.split("\t")[0] for line in listed if "ann" in line)
        assert (await served.clew.run("pair", "key", "revoke", hers)).code == 0
        assert (await served.client.get("/v1/models")).status_code == 401
        database = (tmp_path / "home" / "clew.db").read_bytes() + (
            tmp_path / "home" / "clew.db-wal"
        ).read_bytes()
        assert key.encode() not in database
        assert key.removeprefix("clew-").encode() not in database


async def test_a_thousand_connections_that_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    """Half a head, or none: whoever asks meanwhile is answered."""
    async with api(tmp_path, ModelServer(echo)) as served:
        served.show(await served.key())
        await served.start()
        silent = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 4_096, hard))
        try:
            for number in range(1_000):
                one = socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS_MAX)
                silent.append(one)
                if number % 2:
                    one.send(b"POST /v1/chat/completions HTTP/1.1\r\nX: ")
                await asyncio.sleep(0)
            answer = await served.client.post(CHAT, json=chat("hi"))
            assert answer.json()["choices"][0]["message"]["content"] == "echo: hi"
        finally:
            for one in silent:
                one.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
