"""OpenAI's wire, as clients see it: who may ask, what carries on, what meets nobody, what an answer is when something fails."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import msgspec
import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.config.settings import HttpSettings
from clew.domain.conversation.ids import LOCAL, BranchId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import Caps
from clew.domain.ledger.rows import Handle, InboxRow, TurnState
from clew.domain.models.answer import AskedCall, FailureKind, StopReason, Usage
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.domain.routing.keys import PLAIN, account
from clew.domain.tools.spec import Effect
from clew.runtime.ports.models import Cost
from clew.runtime.turns import TurnOutcome, TurnStatus
from clew.surfaces.http.exchange import Began, Ended, Exchange, Text
from clew.testing.scripted_model import Hold, Step, ask, fail, say
from clew.testing.world import RecordingTool
from tests.unit.http.serving import KEY, chat, events, said, serving, until

pytestmark = pytest.mark.anyio
CHAT, RESPONSES, SESSION = "/v1/chat/completions", "/v1/responses", "X-Clew-Session"
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def echo(request: ModelRequest) -> Step:
    """Answers with how many messages it was shown, and the last one's text."""
    last = msgspec.to_builtins(request.messages[-1])
    text = last["parts"][0]["text"] if "parts" in last else last["text"]
    return say(f"{len(request.messages)}: ", text)


# -- keys --------------------------------------------------------------------------------------------------------
async def test_nobody_is_answered_without_a_key_of_theirs() -> None:
    """None, a wrong one, one in another way and one that was taken back: 401, in the wire's own shape, and nothing is stored."""
    async with serving(echo) as served:
        key = await served.key("ann")
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {KEY}"},
            {"Authorization": "Bearer"},
        ):
            async with served.client("") as client:
                for path in (CHAT, RESPONSES, "/v1/clew/sessions", "/v1/nothing"):
                    refused = await client.post(path, json=chat("hi"), headers=headers)
                    assert refused.status_code == 401
                    assert refused.json()["error"]["code"] == "invalid_api_key"
        async with served.client(key) as client:
            assert (await client.post(CHAT, json=chat("hi"))).status_code == 200
            await served.ledger.unpair(account(key, PLAIN))
            assert (await client.post(CHAT, json=chat("hi"))).status_code == 401
        assert len(served.model.sent) == 1


async def test_a_key_that_asks_too_often_waits() -> None:
    """So many a minute, by key; whoever else asks is answered."""
    async with serving(echo, settings=HttpSettings(requests_per_minute=2)) as served:
        async with served.client() as client, served.client(await served.key("ann")) as other:
            answers = [(await client.get("/v1/models")).status_code for _ in range(3)]
            assert answers == [200, 200, 429]
            refused = await client.get("/v1/models")
            assert (refused.json()["error"]["type"], refused.headers["retry-after"]) == (
                "rate_limit_error",
                "30",
            )
            assert (await other.get("/v1/models")).status_code == 200


async def test_a_session_of_somebody_else_is_not_found() -> None:
    """Not told from one that never was: over every path, also by the id of a response."""
    async with serving(echo) as served, served.client() as mine:
        opened = await mine.post(RESPONSES, json={"model": "clew", "input": "mine"})
        session = opened.headers[SESSION]
        async with served.client(await served.key("eve")) as eve:
            for ident in (session, "0" * 12):
                asked = await eve.post(CHAT, json=chat("hi"), headers={SESSION: ident})
                assert (asked.status_code, asked.json()["error"]["code"]) == (404, "not_found")
                for path in ("", "/messages", "/tree", "/events", "/approvals"):
                    assert (await eve.get(f"/v1/clew/sessions/{ident}{path}")).status_code == 404
                for path in ("messages", "undo", "redo", "retry", "stop", "branch", "title", "approve"):
                    body = {"text": "x", "title": "x"}
                    assert (await eve.post(f"/v1/clew/sessions/{ident}/{path}", json=body)).status_code == 404
            carried = {"model": "clew", "input": "hi", "previous_response_id": opened.json()["id"]}
            assert (await eve.post(RESPONSES, json=carried)).status_code == 404
            assert (await eve.get("/v1/clew/sessions")).json()["data"] == []
            assert (await eve.get("/v1/clew/search", params={"q": "mine"})).json()["data"] == []
            await served.ledger.share(LOCAL, SessionId(session), PrincipalId("eve"), "read")
            assert (await eve.get(f"/v1/clew/sessions/{session}/messages")).status_code == 200
            assert (await eve.post(CHAT, json=chat("hi"), headers={SESSION: session})).status_code == 404
            assert (await eve.post(f"/v1/clew/sessions/{session}/undo")).status_code == 404
        assert len(served.model.sent) == 1
        assert await served.ledger.queued(LOCAL, SessionId(session)) == ()


# -- without a session -------------------------------------------------------------------------------------------
async def test_two_clients_that_say_the_same_do_not_meet() -> None:
    """With one key, at the same time: each is answered what it said itself, and not a word of either is kept."""
    holds = [Hold(), Hold()]
    script = [say("to one", holds[0]), say("to another", holds[1])]
    async with serving(script) as served, served.client() as one, served.client() as another:
        first = asyncio.create_task(one.post(CHAT, json=chat("hi")))
        await holds[0].reached()
        second = asyncio.create_task(another.post(CHAT, json=chat("hi")))
        await holds[1].reached()
        for hold in holds:
            hold.release()
        texts = [(await t).json()["choices"][0]["message"]["content"] for t in (first, second)]
        assert texts == ["to one", "to another"]
        assert [said(served.model, n) for n in (0, 1)] == [[("user", "hi")]] * 2
        assert SESSION not in (await first).headers
        assert (await one.get("/v1/clew/sessions")).json()["data"] == []
        assert (await one.get("/v1/clew/search", params={"q": "hi"})).json()["data"] == []
        assert (await served.ledger.usage(LOCAL)).input == 20


@pytest.mark.parametrize("third", [{}, {SESSION: "new"}])
async def test_all_at_once_they_spend_no_more_than_the_day_has(third: dict[str, str]) -> None:
    """As many run side by side as the cap has room for, with a session or without; what is refused is told so at once."""
    holds = [Hold(), Hold()]
    script = [Step(deltas=(hold,), usage=Usage(input=0, output=1_000)) for hold in holds]
    async with (
        serving(
            script,
            caps=Caps(usd_per_day=2.5),
            profile=ModelProfile(name="scripted-model", max_output=1_000),
            price=lambda usage: Cost(usd=usage.output / 1_000, source="test"),
        ) as served,
        served.client() as client,
    ):
        asked = [asyncio.create_task(client.post(CHAT, json=chat("hi"))) for _ in holds]
        for hold in holds:
            await hold.reached()
        refused = await client.post(CHAT, json=chat("hi"), headers=third)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert "$2.0000 of the $2.5 allowed a day (limits.usd_per_day)" in refused.text
        for hold in holds:
            hold.release()
        assert [(await one).status_code for one in asked] == [200, 200]
        assert (await served.ledger.usage(LOCAL)).cost_usd == 2.0


async def test_they_are_counted_also_when_what_counts_them_was_deleted() -> None:
    """As old sessions are: the next request has another."""
    async with serving(echo) as served, served.client() as client:
        assert (await client.post(CHAT, json=chat("hi"))).status_code == 200
        counts = served.api._completions.stateless._tabs[LOCAL]._session
        assert counts is not None
        await served.ledger.forget(LOCAL, counts, 2**41)
        assert (await client.post(CHAT, json=chat("hi"))).status_code == 200
        assert (await served.ledger.usage(LOCAL)).calls == 2


async def test_what_a_client_brings_is_the_whole_talk() -> None:
    """Its history, its instructions, its pictures; and the answer says what it used."""
    picture = base64.b64encode(b"\x89PNG").decode()
    parts = [
        {"type": "text", "text": "and this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}", "detail": "low"}},
    ]
    history = (
        {"role": "system", "content": "Speak like a pirate."}, "one", {"role": "assistant", "content": "ONE"},
        {"role": "user", "name": "ann", "content": parts},
    )  # fmt: skip
    async with serving(echo) as served, served.client() as client:
        answer = (await client.post(CHAT, json=chat(*history, temperature=0.2, max_tokens=7))).json()
        assert said(served.model) == [("user", "one"), ("assistant", "ONE"), ("user", "and this? [image]")]
        request = served.model.sent[-1].request
        assert '<instructions from="client">\nSpeak like a pirate.\n</instructions>' in request.system
        assert (request.max_output, request.tools) == (7, ())
        assert answer["choices"][0]["message"]["content"] == "3: and this?"
        assert answer["usage"]["total_tokens"] == 15
        assert answer["model"] == "scripted-model"


async def test_a_client_that_leaves_stops_a_turn_without_a_session() -> None:
    """The model's stream is closed, whether the answer was to be streamed or not."""
    for stream in (True, False):
        hold = Hold()
        async with serving([say("so far", hold)]) as served, served.client() as client:
            asking = asyncio.create_task(client.post(CHAT, json=chat("hi", stream=stream)))
            await hold.reached()
            assert served.model.open_streams == 1
            asking.cancel()
            await until(lambda model=served.model: model.open_streams == 0)  # type: ignore[misc]
            await asyncio.gather(asking, return_exceptions=True)


# -- with a session ----------------------------------------------------------------------------------------------
async def test_a_session_is_carried_on_by_its_id() -> None:
    """What is new in the request carries it on; what the client has of its history is not looked at."""
    async with serving(echo) as served, served.client() as client:
        first = await client.post(CHAT, json=chat("one"), headers={SESSION: "new"})
        session = first.headers[SESSION]
        lies = ("ONE", {"role": "assistant", "content": "never said"}, "two", "three")
        second = await client.post(CHAT, json=chat(*lies), headers={SESSION: session})
        assert (second.status_code, second.headers[SESSION]) == (200, session)
        expected = [("user", "one"), ("assistant", "1: one"), ("user", "two"), ("user", "three")]
        assert said(served.model) == expected
        kept = (await client.get(f"/v1/clew/sessions/{session}/messages")).json()["data"]
        assert [(m["role"], m["text"]) for m in kept] == [*expected, ("assistant", "4: three")]
        nothing = await client.post(
            CHAT, json=chat("x", {"role": "assistant", "content": "y"}), headers={SESSION: session}
        )
        assert nothing.status_code == 400


async def test_messages_that_come_at_once_are_answered_one_after_the_other() -> None:
    """Each client gets its own answer, streamed or not."""
    hold = Hold()
    script = [say("first", hold), say("second"), say("third")]
    async with serving(script) as served, served.client() as client:
        session = (await client.post("/v1/clew/sessions", json={})).json()["id"]
        asked: list[asyncio.Task[httpx.Response]] = []

        async def all_received(count: int) -> bool:
            return len(await served.ledger.received(LOCAL, SessionId(session))) == count

        for text, stream in (("one", False), ("two", True), ("three", False)):
            body = chat(text, stream=stream)
            asked.append(asyncio.create_task(client.post(CHAT, json=body, headers={SESSION: session})))
            await hold.reached()
            await until(lambda: all_received(len(asked)))
        hold.release()
        first, second, third = [await task for task in asked]
        assert first.json()["choices"][0]["message"]["content"] == "first"
        assert "second" in second.text
        assert third.json()["choices"][0]["message"]["content"] == "third"
        assert said(served.model)[-1] == ("user", "three")


@pytest.mark.parametrize("disconnect", ["go_on", "stop"])
async def test_a_client_that_leaves_finds_its_answer_under_the_session(disconnect: Any) -> None:
    """The turn goes on, or is stopped where the settings say so."""
    hold = Hold()
    settings = HttpSettings(requests_per_minute=0, disconnect=disconnect)
    async with (
        serving([say("so far", hold, " and on")], settings=settings) as served,
        served.client() as client,
    ):
        session = (await client.post("/v1/clew/sessions")).json()["id"]
        async with client.stream(
            "POST", CHAT, json=chat("hi", stream=True), headers={SESSION: session}
        ) as response:
            async for event in events(response):
                if "so far" in event.data:
                    break
        if disconnect == "go_on":
            hold.release()
        wanted = "so far and on" if disconnect == "go_on" else "so far"

        async def is_over() -> bool:
            turn = await served.ledger.turn(LOCAL, session)
            return turn is not None and turn.state != TurnState.RUNNING

        await until(is_over)
        kept = (await client.get(f"/v1/clew/sessions/{session}/messages")).json()["data"]
        assert [m["text"] for m in kept] == ["hi", wanted]


async def test_a_session_goes_on_with_the_model_that_is_named() -> None:
    """Named once it is the session's; `clew` is whatever it has; one that there is not is 404, and nothing is taken."""
    async with serving(echo) as served, served.client() as client:
        listed = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
        assert listed == ["clew", "scripted-model", "other-model"]
        session = (await client.post("/v1/clew/sessions")).json()["id"]
        for name, used in (
            ("clew", "scripted-model"),
            ("other-model", "other-model"),
            ("clew", "other-model"),
        ):
            answer = await client.post(CHAT, json=chat("x", model=name), headers={SESSION: session})
            assert answer.json()["model"] == used
            assert served.model.sent[-1].request.model == used
        for headers in ({}, {SESSION: session}):
            refused = await client.post(CHAT, json=chat("x", model="gpt-17"), headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert len((await client.get(f"/v1/clew/sessions/{session}/messages")).json()["data"]) == 6


# -- tools of the client's ---------------------------------------------------------------------------------------
def result(call: dict[str, Any], text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call["id"], "content": text}


TWO_CALLS = Step(
    text="I look.",
    calls=tuple(AskedCall(provider_id="same", name="weather", arguments=f'{{"at": "{n}"}}') for n in "ab"),
)


@pytest.mark.parametrize("is_kept", [True, False])
async def test_the_clients_own_tools_are_called_by_the_client(is_kept: bool) -> None:
    """Its calls end the answer with `tool_calls`, each with an id of its own; their results carry it on to the reply."""
    async with serving([TWO_CALLS, say("Sunny and wet.")]) as served, served.client() as client:
        headers = {SESSION: "new"} if is_kept else {}
        first = await client.post(CHAT, json=chat("weather?", tools=[WEATHER]), headers=headers)
        choice = first.json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        calls = choice["message"]["tool_calls"]
        assert [call["function"] for call in calls] == [
            {"name": "weather", "arguments": '{"at": "a"}'}, {"name": "weather", "arguments": '{"at": "b"}'}
        ]  # fmt: skip
        assert len({call["id"] for call in calls}) == 2
        assert first.json()["usage"]["total_tokens"] == 15
        if is_kept:
            headers = {SESSION: first.headers[SESSION]}
        messages = ["weather?", choice["message"], result(calls[1], "wet"), result(calls[0], "sunny")]
        second = await client.post(CHAT, json=chat(*messages, tools=[WEATHER]), headers=headers)
        assert second.json()["choices"][0]["message"]["content"] == "Sunny and wet."
        assert second.json()["usage"]["total_tokens"] == 15
        shown = said(served.model)
        assert shown == [("user", "weather?"), ("assistant", "I look."), ("tool", "sunny"), ("tool", "wet")]
        assert [t.name for t in served.model.sent[-1].request.tools] == ["weather"]
        if is_kept:
            again = await client.post(CHAT, json=chat(*messages, tools=[WEATHER]), headers=headers)
            assert again.status_code == 400


async def test_calls_are_streamed_as_they_are_handed_over() -> None:
    """Text first, then each call whole, then the reason; over both wires."""
    async with serving([TWO_CALLS, TWO_CALLS]) as served, served.client() as client:
        answer = await client.post(CHAT, json=chat("weather?", tools=[WEATHER], stream=True))
        chunks = [
            line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")
        ]
        deltas = [msgspec.json.decode(chunk)["choices"][0] for chunk in chunks]
        assert deltas[1]["delta"] == {"content": "I look."}
        assert [d["delta"]["tool_calls"][0]["index"] for d in deltas[2:4]] == [0, 1]
        assert deltas[4]["finish_reason"] == "tool_calls"
        tool = {"type": "function", "name": "weather", "parameters": {}}
        answer = await client.post(
            RESPONSES, json={"model": "clew", "input": "?", "tools": [tool], "stream": True, "store": False}
        )
        kinds = [
            line.removeprefix("event: response.")
            for line in answer.text.splitlines()
            if line.startswith("event: ")
        ]
        assert kinds[-1] == "completed"
        assert kinds.count("function_call_arguments.done") == 2


async def test_a_client_that_goes_on_without_its_tools_is_answered() -> None:
    """The turn that waited ends; the next message has its own."""
    async with serving([ask("weather"), say("fine")]) as served, served.client() as client:
        first = await client.post(CHAT, json=chat("weather?", tools=[WEATHER]), headers={SESSION: "new"})
        headers = {SESSION: first.headers[SESSION]}
        second = await client.post(CHAT, json=chat("never mind", tools=[WEATHER]), headers=headers)
        assert second.json()["choices"][0]["message"]["content"] == "fine"
        states = [(await served.ledger.turn(LOCAL, SessionId(headers[SESSION]), n)) for n in (1, 2)]
        assert [t and t.state for t in states] == [TurnState.INTERRUPTED, TurnState.DONE]


async def test_a_broken_call_of_the_clients_tool_is_not_handed_over() -> None:
    """The model is told, and tries again."""
    async with (
        serving([ask("weather", "{broken"), ask("weather"), say("ok")]) as served,
        served.client() as client,
    ):
        first = await client.post(CHAT, json=chat("?", tools=[WEATHER]), headers={SESSION: "new"})
        call = first.json()["choices"][0]["message"]["tool_calls"][0]
        assert call["function"]["arguments"] == "{}"
        assert len(served.model.sent) == 2
        headers = {SESSION: first.headers[SESSION]}
        assert (await client.post(CHAT, json=chat(result(call, "x")), headers=headers)).status_code == 200


async def test_the_agents_own_tools_work_where_the_key_says_so() -> None:
    """Without a word of the key they are not even offered; what needs a yes is refused where nobody can be asked."""
    reading, editing = RecordingTool("look"), RecordingTool("change", effect=Effect.EDIT)
    script = [say("none"), ask("look"), ask("change"), say("done"), ask("change"), say("after the yes")]
    async with serving(script, tools=(reading, editing)) as served:
        async with served.client(await served.key("ann")) as client:
            assert (await client.post(CHAT, json=chat("hi"))).status_code == 200
            assert served.model.sent[-1].request.tools == ()
        async with served.client(await served.key("ann", tools=True)) as client:
            answer = await client.post(CHAT, json=chat("hi"))
            assert answer.json()["choices"][0]["message"]["content"] == "done"
            assert (len(reading.ran), len(editing.ran)) == (1, 0)
            asked = await client.post(CHAT, json=chat("change it"), headers={SESSION: "new"})
            assert (asked.status_code, asked.json()["error"]["code"]) == (409, "approval_required")
            session = (await client.get("/v1/clew/sessions")).json()["data"][0]["id"]
            waiting = (await client.get(f"/v1/clew/sessions/{session}/approvals")).json()["data"]
            assert (
                await client.post(f"/v1/clew/sessions/{session}/approve", json={"approval": waiting[0]["id"]})
            ).status_code == 200
            await until(lambda: served.model.sent[5:])
            assert len(editing.ran) == 1


# -- responses ---------------------------------------------------------------------------------------------------
async def test_a_response_is_carried_on_or_forked_by_its_id() -> None:
    """The newest one's session goes on; from an older one a fork does, and neither sees what the other said."""
    async with serving(echo) as served, served.client() as client:

        async def respond(text: str, previous: str | None = None) -> dict[str, Any]:
            body = {
                "model": "clew",
                "input": [{"role": "user", "content": text}],
                "previous_response_id": previous,
            }
            answer = await client.post(RESPONSES, json=body)
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return {
                **found,
                "session": answer.headers[SESSION],
                "text": found["output"][0]["content"][0]["text"],
            }

        first = await respond("a")
        second = await respond("b", first["id"])
        third = await respond("c", first["id"])
        fourth = await respond("d", second["id"])
        assert [r["text"] for r in (first, second, third, fourth)] == ["1: a", "3: b", "3: c", "5: d"]
        assert first["session"] == second["session"] == fourth["session"] != third["session"]
        undone = await client.post(f"/v1/clew/sessions/{first['session']}/undo", json={"turns": 2})
        assert undone.status_code == 200
        assert (await respond("e", fourth["id"]))["text"] == "7: e"
        for missing in ("resp_000000000000_1", f"resp_{first['session']}_99", "nonsense"):
            body = {"model": "clew", "input": "x", "previous_response_id": missing}
            assert (await client.post(RESPONSES, json=body)).status_code == 404
        alone = await client.post(RESPONSES, json={"model": "clew", "input": "x", "store": False})
        assert SESSION not in alone.headers
        assert (
            await client.post(
                RESPONSES, json={"model": "clew", "input": "x", "previous_response_id": alone.json()["id"]}
            )
        ).status_code == 404


async def test_results_of_calls_carry_a_response_on() -> None:
    """As items of the input, by the id of the response that asked. Each response of the turn has its own, and is carried on by it."""
    script = [ask("weather"), ask("weather"), say("sunny"), say("welcome"), say("sorry")]
    async with serving(script) as served, served.client() as client:
        tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}

        async def respond(given: Any, previous: dict[str, Any] | None) -> dict[str, Any]:
            ident = None if previous is None else previous["id"]
            body = {"model": "clew", "input": given, "previous_response_id": ident, "tools": [tool]}
            answer = await client.post(RESPONSES, json=body)
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = {**answer.json(), "session": answer.headers[SESSION]}
            return found

        def output(response: dict[str, Any], text: str) -> list[dict[str, Any]]:
            call = response["output"][0]["call_id"]
            return [{"type": "function_call_output", "call_id": call, "output": text}]

        first = await respond("?", None)
        second = await respond(output(first, "blue sky"), first)
        third = await respond(output(second, "no wind"), second)
        assert third["output"][0]["content"][0]["text"] == "sunny"
        assert said(served.model)[-1] == ("tool", "no wind")
        fourth = await respond("thanks", third)
        beside = await respond("never mind", second)
        assert len({r["id"] for r in (first, second, third, fourth)}) == 4
        assert len({r["session"] for r in (first, second, third, fourth)}) == 1
        assert beside["session"] != first["session"]
        assert "sunny" not in str(said(served.model))
        assert ("tool", "blue sky") in said(served.model)


async def test_results_are_sent_all_at_once() -> None:
    """One that is missing is named, nothing is taken, and the turn goes on waiting for all of them."""
    async with serving([TWO_CALLS, say("ok")]) as served, served.client() as client:
        first = await client.post(CHAT, json=chat("?", tools=[WEATHER]), headers={SESSION: "new"})
        one, other = first.json()["choices"][0]["message"]["tool_calls"]
        headers = {SESSION: first.headers[SESSION]}
        part = await client.post(CHAT, json=chat(result(one, "x")), headers=headers)
        assert (part.status_code, other["id"] in part.text) == (400, True)
        both = chat(result(one, "x"), result(other, "y"))
        assert (await client.post(CHAT, json=both, headers=headers)).status_code == 200
        assert said(served.model)[-2:] == [("tool", "x"), ("tool", "y")]


# -- what goes wrong ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "status", "code"), [
    (FailureKind.RATE_LIMITED, 429, "rate_limit_exceeded"),
    (FailureKind.OVERFLOW, 400, "context_length_exceeded"),
    (FailureKind.AUTH, 502, "model_auth"),
    (FailureKind.SERVER, 502, "model_failed"),
])  # fmt: skip
async def test_what_the_model_cannot_do_is_an_error_of_the_wire(
    kind: FailureKind, status: int, code: str
) -> None:
    """Before a word was sent it is a status; after that it is the stream's last word."""
    script = [fail(kind), fail(kind), fail(kind, "so", "far")]
    async with serving(script) as served, served.client() as client:
        for stream in (False, True):
            answer = await client.post(CHAT, json=chat("hi", stream=stream))
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        answer = await client.post(CHAT, json=chat("hi", stream=True))
        assert answer.status_code == 200
        last = [line for line in answer.text.splitlines() if line.startswith("data: {")][-1]
        assert msgspec.json.decode(last.removeprefix("data: "))["error"]["code"] == code


async def test_what_is_kept_is_not_to_be_said_again() -> None:
    """Clients repeat a request by themselves after an error: not where its words are in a session already, which is named."""
    async with serving([fail(FailureKind.AUTH)] * 3) as served, served.client() as client:
        for headers, path, body in (
            ({SESSION: "new"}, CHAT, chat("hi")),
            ({}, RESPONSES, {"model": "clew", "input": "hi"}),
            ({}, CHAT, chat("hi")),
        ):
            answer = await client.post(path, json=body, headers=headers)
            assert answer.status_code == 502
            kept = answer.headers.get(SESSION)
            assert answer.headers.get("x-should-retry") == (kept and "false")
            if kept is not None:
                said = (await client.get(f"/v1/clew/sessions/{kept}/messages")).json()["data"]
                assert said[0]["text"] == "hi"
        assert len((await client.get("/v1/clew/sessions")).json()["data"]) == 2


async def test_what_another_process_answered_is_shown_whole() -> None:
    """Also where the turn had begun, and ended, before we looked."""
    exchange = Exchange(frozenset(), is_kept=True)
    exchange.end(
        TurnOutcome(
            turn=3,
            handle=Handle(session=SessionId("s"), version=1, epoch=1, head=Head(branch=BranchId(1), seq=2)),
            status=TurnStatus.DONE,
            text="from elsewhere",
            model="m",
            usage=Usage(),
        )
    )
    began, text, ended = await exchange.taken()
    assert (began, text) == (Began(session=SessionId("s"), turn=3), Text("from elsewhere"))
    assert isinstance(ended, Ended)


async def test_what_was_sent_is_never_taken_back() -> None:
    """An attempt that fails after its first words: the next one goes on from them, or the answer ends in an error."""
    for again, ends_well in (("Hello world", True), ("Good day", False)):
        script = [Step(void=("Hello",), text=again)]
        async with serving(script) as served, served.client() as client:
            answer = await client.post(CHAT, json=chat("hi", stream=True))
            chunks = [
                msgspec.json.decode(line[6:])
                for line in answer.text.splitlines()
                if line.startswith("data: {")
            ]
            text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if "choices" in c)
            assert text == ("Hello world" if ends_well else "Hello")
            assert ("error" in chunks[-1]) != ends_well
        async with serving(script) as served, served.client() as client:
            whole = await client.post(CHAT, json=chat("hi"))
            assert whole.status_code == (200 if ends_well else 502)


async def test_an_answer_that_was_cut_by_its_limit_says_so() -> None:
    """`length` over one wire, `incomplete` over the other."""
    script = [Step(text="so far", stop=StopReason.LENGTH, usage=Usage(input=1, output=2))] * 2
    async with serving(script) as served, served.client() as client:
        assert (await client.post(CHAT, json=chat("hi"))).json()["choices"][0]["finish_reason"] == "length"
        answer = (await client.post(RESPONSES, json={"model": "clew", "input": "hi"})).json()
        assert (answer["status"], answer["incomplete_details"]["reason"]) == (
            "incomplete",
            "max_output_tokens",
        )


ASSISTANT = {"role": "assistant", "content": "x"}
CALLING = {
    "role": "assistant",
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
BAD = {
    "no JSON": b"{",
    "not UTF-8": b'{"model": "\xff"}',
    "half a character": b'{"model": "clew", "messages": [{"role": "user", "content": "\\ud800"}]}',
    "deep": b'{"tool_choice": ' + b"[" * 100_000,
    "a list": b"[]",
    "nothing": b"",
    "no messages": chat(),
    "no model": {"messages": [{"role": "user", "content": "x"}]},
    "unknown role": chat({"role": "wizard", "content": "x"}),
    "no content": chat({"role": "user"}),
    "unknown part": chat({"role": "user", "content": [{"type": "video", "url": "x"}]}),
    "a picture to fetch": chat(
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://localhost/x"}}]}
    ),
    "a broken picture": chat(
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%%"}}]}
    ),
    "the assistant last": chat("x", ASSISTANT),
    "only a system prompt": chat({"role": "system", "content": "x"}),
    "a result of nothing": chat("x", result({"id": "1"}, "y")),
    "a result twice": chat("x", CALLING, result({"id": "1"}, "y"), result({"id": "1"}, "y")),
    "a call without result": chat("x", CALLING, "y"),
    "a call last": chat("x", CALLING),
    "two choices": chat("x", n=2),
    "another format": chat("x", response_format={"type": "json_object"}),
    "a forced tool": chat("x", tools=[WEATHER], tool_choice="required"),
    "a tool without name": chat("x", tools=[{"type": "function", "function": {}}]),
    "no tokens": chat("x", max_tokens=0),
}


async def test_bad_input_is_told_from_good() -> None:
    """400 in the wire's own shape, with and without a session; the model is not asked, and nothing is stored."""
    async with serving(echo) as served, served.client() as client:
        session = (await client.post("/v1/clew/sessions")).json()["id"]
        for what, body in BAD.items():
            content = body if isinstance(body, bytes) else msgspec.json.encode(body)
            for headers in ({}, {SESSION: session}):
                answer = await client.post(CHAT, content=content, headers=headers)
                in_session = headers and what in ("a call without result",)  # its history is not looked at
                assert answer.status_code == (200 if in_session else 400), (what, answer.text)
        for headers in ({SESSION: "new"}, {}):
            for body in (chat("x", model="gpt-17"), chat({"role": "system", "content": "x"})):
                assert (await client.post(CHAT, json=body, headers=headers)).status_code in (400, 404)
            asked = {"model": "gpt-17", "input": "x"}
            assert (await client.post(RESPONSES, json=asked, headers=headers)).status_code == 404
        assert len(served.model.sent) == 1
        listed = (await client.get("/v1/clew/sessions")).json()["data"]
        assert [row["id"] for row in listed] == [session]
        for path, body in ((CHAT, chat("x")), (RESPONSES, {"model": "clew", "input": "x"})):
            assert (await client.get(path)).status_code == 405
            assert (await client.options(path)).status_code == 405
            assert (
                "access-control-allow-origin"
                not in (await client.post(path, json=body, headers={"Origin": "http://x"})).headers
            )
        assert (await client.get("/v1/nothing")).json()["error"]["code"] == "unknown_url"


async def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    """413 in the wire's own shape; one that is just not is answered."""
    settings = HttpSettings(requests_per_minute=0, body_mb_max=1)
    async with serving([say("ok")], settings=settings) as served, served.client() as client:
        large = await client.post(CHAT, json=chat("x" * 1_000_000))
        assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")
        assert (await client.post(CHAT, json=chat("x" * 900_000))).status_code == 200


async def test_web_pages_are_let_in_where_the_settings_say_so() -> None:
    """Those of the origins that are named, and no others."""
    settings = HttpSettings(requests_per_minute=0, cors_origins=("https://example.org",))
    async with serving([say("ok")], settings=settings) as served, served.client("") as client:
        for origin, allowed in (
            ("https://example.org", "https://example.org"),
            ("https://evil.example", None),
        ):
            headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            answer = await client.options(
                CHAT, headers={**headers, "Access-Control-Request-Headers": "authorization"}
            )
            assert answer.headers.get("access-control-allow-origin") == allowed


class Unhurried(MemoryLedger):
    """Says what waits in a session only when so many more requests were let in, and had time to ask as well."""

    awaited = 0

    async def identified(self, platform: str, external_id: str) -> PrincipalId | None:
        self.awaited -= 1
        return await super().identified(platform, external_id)

    async def queued(self, principal: PrincipalId, session: SessionId) -> tuple[InboxRow, ...]:
        waiting = await super().queued(principal, session)
        await until(lambda: self.awaited <= 0)
        for _ in range(200):
            await asyncio.sleep(0)
        return waiting


async def test_responses_that_are_carried_on_at_once_do_not_meet() -> None:
    """Of clients that name the same response at the same time one has its session, the others a fork each."""
    async with serving(echo, ledger=(ledger := Unhurried())) as served:
        async with served.client(await served.key("ann")) as client:
            first = (await client.post(RESPONSES, json={"model": "clew", "input": "a"})).json()
            body = {"model": "clew", "input": "b", "previous_response_id": first["id"]}
            ledger.awaited = 4
            answers = await asyncio.gather(*(client.post(RESPONSES, json=body) for _ in range(4)))
        assert {a.json()["output"][0]["content"][0]["text"] for a in answers} == {"3: b"}
        assert len({a.headers[SESSION] for a in answers}) == 4
