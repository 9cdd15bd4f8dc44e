"""The session API: lists, history, search, tree, commands, and what happens as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest

from clew.config.settings import HttpSettings
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.ledger.rows import OpKind
from clew.domain.models.answer import FailureKind
from clew.domain.routing.keys import PLAIN, account
from clew.testing.scripted_model import Hold, fail, say
from clew.wire.sse import ServerSentEvent
from tests.unit.http.serving import chat, events, serving, until
from tests.unit.http.test_api import CHAT, SESSION, echo

pytestmark = pytest.mark.anyio
ROOT = "/v1/clew/sessions"


async def talked(client: httpx.AsyncClient, *texts: str) -> str:
    """A session in which this was said."""
    headers = {SESSION: "new"}
    for text in texts:
        answer = await client.post(CHAT, json=chat(text), headers=headers)
        assert answer.status_code == 200, answer.text
        headers = {SESSION: answer.headers[SESSION]}
    return headers[SESSION]


async def texts(client: httpx.AsyncClient, session: str) -> list[str]:
    return [m["text"] for m in (await client.get(f"{ROOT}/{session}/messages")).json()["data"]]


async def test_sessions_are_listed_read_and_found_page_by_page() -> None:
    """Newest first; a page names the next; nothing twice, nothing left out."""
    async with serving(echo) as served, served.client() as client:
        made = [await talked(client, f"word{n}", "more") for n in range(5)]
        query: dict[str, Any] = {"limit": 2}
        listed: list[str] = []
        while True:
            page = (await client.get(ROOT, params=query)).json()
            listed += [row["id"] for row in page["data"]]
            if page["next"] is None:
                break
            query["before"] = page["next"]
        assert listed == made[::-1]
        query = {"limit": 3}
        read: list[str] = []
        while True:
            page = (await client.get(f"{ROOT}/{made[0]}/messages", params=query)).json()
            read += [m["text"] for m in page["data"]]
            if page["next"] is None:
                break
            query["after"] = page["next"]
        assert read == ["word0", "1: word0", "more", "3: more"]
        found = (await client.get("/v1/clew/search", params={"q": "word3"})).json()["data"]
        assert {hit["session"] for hit in found} == {made[3]}
        inside = {"q": "more", "session": made[1], "newest": "true"}
        assert len((await client.get("/v1/clew/search", params=inside)).json()["data"]) == 2
        for query in ({"limit": 0}, {"limit": "x"}, {"before": "x"}, {"before": "1"}):
            assert (await client.get(ROOT, params=query)).status_code == 400


async def test_commands_do_what_they_do_everywhere() -> None:
    """Undo, redo, retry, branch and title, with their sentences and the session after them; what cannot be done is 409."""
    async with serving(echo) as served, served.client() as client:
        session = await talked(client, "one", "two")

        async def done(command: str, body: Any = None, status: int = 200) -> dict[str, Any]:
            answer = await client.post(f"{ROOT}/{session}/{command}", json=body)
            assert answer.status_code == status, answer.text
            found: dict[str, Any] = answer.json()
            return found

        assert "Undone" in (await done("undo"))["text"]
        assert await texts(client, session) == ["one", "1: one"]
        assert (await done("redo"))["session"]["head"]["seq"] == 4
        assert "only 2 turns" in (await done("undo", {"turns": 3}, 409))["error"]["message"]
        await done("undo", {"turns": 0}, 400)
        branched = (await done("branch", {"title": "Elsewhere"}))["session"]
        assert (branched["parent_id"], branched["title"]) == (session, "Elsewhere")
        await done("retry")
        await until(lambda: len(served.model.sent) == 3)
        tree = (await client.get(f"{ROOT}/{session}/tree")).json()
        assert [child["id"] for child in tree["children"]] == [branched["id"]]
        assert (await done("title", {"title": "A talk"}))["session"]["title"] == "A talk"
        await done("title", {"title": "  "}, 400)
        assert await texts(client, branched["id"]) == ["one", "1: one", "two", "3: two"]
        await done("approve", None, 409)
        assert (await done("stop"))["text"] == "Nothing is running."


async def followed(client: httpx.AsyncClient, session: str, **query: Any) -> AsyncIterator[ServerSentEvent]:
    async with client.stream("GET", f"{ROOT}/{session}/events", **query) as response:
        assert response.status_code == 200
        async for event in events(response):
            yield event


async def test_what_happens_is_told_as_it_happens_and_again_to_whoever_missed_it() -> None:
    """Words on the way, then the ops as they are on disk: from the last id seen, every later op comes, once."""
    hold = Hold()
    async with serving([say("so far", hold, " and on"), fail(FailureKind.SERVER, "gone", "cut")]) as served:
        async with served.client() as client:
            session = (await client.post(ROOT)).json()["id"]
            live: list[ServerSentEvent] = []

            async def follow() -> None:
                async for event in followed(client, session):
                    live.append(event)  # noqa: PERF401 - looked at meanwhile

            following = asyncio.create_task(follow())
            await until(lambda: served.api._lines._followers)
            accepted = (await client.post(f"{ROOT}/{session}/messages", json={"text": "hi"})).json()
            assert accepted["session"]["id"] == session
            await hold.reached()
            await until(lambda: any("so far" in event.data for event in live))
            await served.world.services.desk.title(LOCAL, SessionId(session), "By somebody else")
            hold.release()
            await until(lambda: any('"done"' in event.data for event in live))
            following.cancel()
            ops = [msgspec.json.decode(event.data) for event in live if event.event == "op"]
            assert [op["version"] for op in ops] == [int(e.last_event_id) for e in live if e.event == "op"]
            deltas = [msgspec.json.decode(event.data)["text"] for event in live if event.event == "delta"]
            assert "".join(deltas) == "so far and on"
            said = [m["text"] for op in ops for m in op["messages"]]
            assert said == ["hi", "so far and on"]
            assert OpKind.TITLE in [op["kind"] for op in ops]
            last = next(e.last_event_id for e in live if "hi" in e.data)
            again = []
            async for event in followed(client, session, headers={"Last-Event-ID": last}):
                again.append(event)
                if event.event == "turn":
                    break
            missed = [op["version"] for op in ops if op["version"] > int(last)]
            assert [int(e.last_event_id) for e in again if e.event == "op"] == missed
            assert msgspec.json.decode(again[-1].data)["state"] == "done"
            everything = []
            async for event in followed(client, session, params={"after": 0}):
                if event.event == "turn":
                    break
                everything.append(int(event.last_event_id))
            assert everything == list(range(everything[0], ops[-1]["version"] + 1))
            for wrong in ("99999", "x", "-1"):
                headers = {"Last-Event-ID": wrong}
                assert (await client.get(f"{ROOT}/{session}/events", headers=headers)).status_code == 400
            assert (await client.post(CHAT, json=chat("x"), headers={SESSION: session})).status_code == 502
            assert await texts(client, session) == ["hi", "so far and on", "x", "cut"]


async def test_whoever_follows_comes_back_after_a_while() -> None:
    """A second, here: the stream ends by itself, and a key that was taken back is not let in again."""
    settings = HttpSettings(requests_per_minute=0, events_seconds=1)
    async with serving(echo, settings=settings) as served:
        key = await served.key("ann")
        async with served.client(key) as client:
            session = await talked(client, "one")
            seen = [event.event async for event in followed(client, session, params={"after": 0})]
            assert {"op", "turn"} == set(seen)
            await served.ledger.unpair(account(key, PLAIN))
            assert (await client.get(f"{ROOT}/{session}/events")).status_code == 401


async def test_whoever_follows_a_session_that_is_deleted_is_told_so() -> None:
    """The stream ends there."""
    async with serving(echo) as served, served.client() as client:
        session = await talked(client, "one")
        seen = []
        async for event in followed(client, session):
            seen.append(event.event)
            if event.event == "turn":
                await served.ledger.forget(LOCAL, SessionId(session), 2**41)
        assert seen[-1] == "gone"
        assert (await client.get(f"{ROOT}/{session}")).status_code == 404


async def test_the_document_describes_what_is_served() -> None:
    """It is valid OpenAPI as far as we can tell, names each operation once, and no schema is missing."""
    async with serving(echo) as served, served.client("") as client:
        document = (await client.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        operations = {(o.method.lower(), o.path) for o in served.api.operations}
        assert operations == {(method, path) for path, item in document["paths"].items() for method in item}
        text = msgspec.json.encode(document).decode()
        for name, schema in document["components"]["schemas"].items():
            jsonschema.Draft202012Validator.check_schema(schema)
            assert f"#/components/schemas/{name}" in text
        assert len(operations) == len(served.api.operations) == 20


async def test_a_message_waits_for_a_turn_that_runs_elsewhere_on_the_same_session() -> None:
    """A key with tools and one without have a line each: they take turns."""
    hold = Hold()
    async with serving([say("one", hold), say("two")]) as served:
        other = await served.key("local", tools=True)
        async with served.client() as client, served.client(other) as second:
            session = (await client.post(ROOT)).json()["id"]
            asked = asyncio.create_task(client.post(CHAT, json=chat("a"), headers={SESSION: session}))
            await hold.reached()
            waits = asyncio.create_task(second.post(CHAT, json=chat("b"), headers={SESSION: session}))

            async def both() -> bool:
                return len(await served.ledger.received(LOCAL, SessionId(session))) == 2

            await until(both)
            hold.release()
            for task, text in ((asked, "one"), (waits, "two")):
                assert (await task).json()["choices"][0]["message"]["content"] == text
