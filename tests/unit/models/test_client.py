"""The OpenAI client against a server that can do everything wrong."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp.abc
import msgspec
import pytest

from clew.adapters.models.attempts import Patience
from clew.adapters.models.http import HttpClient
from clew.adapters.models.openai_chat.client import OpenAIChatClient
from clew.adapters.models.retries import RetryPolicy
from clew.domain.models.answer import Answer, Failure, FailureKind, ModelEvent, Retrying, TextDelta
from clew.domain.models.request import ModelRequest, TextPart, UserTurn
from clew.runtime.ports.models import ModelUnavailable
from clew.testing.model_server import ModelServer, Served, ServedUsage

pytestmark = pytest.mark.anyio

KEY: Final = "sk-test-0123456789abcdefghij"
REQUEST: Final = ModelRequest(
    model="m", system="", tools=(), messages=(UserTurn(parts=(TextPart("hello"),)),)
)
ONCE: Final = RetryPolicy(attempts_max=1)


class Pauses:
    """A `sleep` that takes no time and remembers."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@asynccontextmanager
async def client_of(base_url: str, **options: Any) -> AsyncIterator[OpenAIChatClient]:
    async with HttpClient() as http:
        yield OpenAIChatClient(http, base_url, **options)


async def events_of(client: OpenAIChatClient, key: str = "s-1-1") -> list[ModelEvent]:
    return [event async for event in client.stream(REQUEST, blobs={}, key=key)]


async def ask_once(step: Served, **options: Any) -> list[ModelEvent]:
    """What comes of one request that is not repeated."""
    async with ModelServer([step]) as server, client_of(server.base_url, retries=ONCE, **options) as client:
        return await events_of(client)


# -- keys -------------------------------------------------------------------------------------------------------------


async def test_the_key_goes_to_the_server_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    """Not into the failure that quotes it, not into logs at their loudest, not into a repr."""
    caplog.set_level(logging.DEBUG)
    async with (
        ModelServer([], api_key="another") as server,
        client_of(server.base_url, api_key=KEY) as client,
    ):
        (failure,) = await events_of(client)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        assert KEY not in repr(client) + repr(vars(client)["_redact"])
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.AUTH
    assert "Incorrect API key provided: [redacted]" in failure.message
    assert KEY not in caplog.text


async def test_headers_of_ones_own_are_sent_and_kept_secret() -> None:
    headers = {"X-Api-Key": "header-secret-77", "HTTP-Referer": "https://clew.example"}
    refusal = Served(status=403, message="key header-secret-77 has no access")
    async with ModelServer([refusal]) as server, client_of(server.base_url, headers=headers) as client:
        (failure,) = await events_of(client)
        assert server.headers[0]["x-api-key"] == "header-secret-77"
        assert "authorization" not in server.headers[0]
    assert isinstance(failure, Failure)
    assert "header-secret-77" not in failure.message


async def test_a_password_in_the_url_is_sent_as_such_and_logged_nowhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with ModelServer([Served(text="hi")]) as server:
        async with client_of(f"http://ann:s3cret-word@127.0.0.1:{server.port}") as client:
            await events_of(client)
        assert server.headers[0]["authorization"] == "Basic YW5uOnMzY3JldC13b3Jk"
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("key", ["sk-with\nnewline-in-it", "sk-ünïcode-0123456789"])
async def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    async with HttpClient() as http:
        with pytest.raises(ValueError) as caught:
            OpenAIChatClient(http, "http://localhost", api_key=key)
    assert key not in str(caught.value)


async def test_a_redirect_is_told_and_not_followed() -> None:
    """It would take the key to a host that nobody named."""
    step = Served(status=307, message="moved", headers={"location": "https://elsewhere.example/v1"})
    (failure,) = await ask_once(step, api_key=KEY)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.BAD_REQUEST
    assert "https://elsewhere.example/v1" in failure.message


async def test_the_steps_key_is_sent_for_idempotency() -> None:
    async with ModelServer([Served(), Served()]) as server, client_of(server.base_url) as client:
        await events_of(client, key="abc-1-2")
        await events_of(client, key="ключ")
        assert [headers.get("idempotency-key") for headers in server.headers] == ["abc-1-2", None]


# -- attempts -------------------------------------------------------------------------------------------------------


async def test_what_may_pass_is_repeated_after_the_pause_that_was_announced() -> None:
    """A rate limit with its own pause, a server's fault, a cut answer, then the answer: four attempts, said as such."""
    steps = [
        Served(status=429, message="slow down", headers={"retry-after": "2"}),
        Served(status=503),
        Served(deltas=("half an ans",), breaks=True),
        Served(text="whole"),
    ]
    pauses = Pauses()
    async with (
        ModelServer(steps) as server,
        client_of(server.base_url, sleep=pauses, chance=lambda: 0.0) as client,
    ):
        events = await events_of(client)
        assert len(server.requests) == 4
        assert len(set(server.requests)) == 1
    retries = [event for event in events if isinstance(event, Retrying)]
    assert [(event.attempt, event.after_seconds) for event in retries] == [(1, 2.0), (2, 1.0), (3, 2.0)]
    assert pauses.seconds == [2.0, 1.0, 2.0]
    assert isinstance(events[-1], Answer)
    assert events[-1].text == "whole"


async def test_a_date_to_come_back_at_is_understood() -> None:
    step = Served(status=429, headers={"retry-after": "Tue, 14 Jul 2026 12:00:05 GMT"})
    pauses = Pauses()
    async with (
        ModelServer([step, Served(text="x")]) as server,
        client_of(server.base_url, sleep=pauses, now=lambda: 1_784_030_400.0) as client,
    ):
        await events_of(client)
    assert pauses.seconds == [5.0]


async def test_after_four_attempts_it_is_said_how_often_it_was_tried() -> None:
    async with (
        ModelServer([Served(status=500)] * 9) as server,
        client_of(server.base_url, sleep=Pauses()) as client,
    ):
        *retries, last = await events_of(client)
        assert len(server.requests) == 4
    assert all(isinstance(event, Retrying) for event in retries)
    assert isinstance(last, Failure)
    assert last.message.endswith("Tried 4 times.")


async def test_a_pause_nobody_would_sit_through_is_told_instead() -> None:
    step = Served(status=429, message="daily limit", headers={"retry-after": "3600"})
    async with ModelServer([step]) as server, client_of(server.base_url, sleep=Pauses()) as client:
        (failure,) = await events_of(client)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.RATE_LIMITED
    assert "asks to wait 3600 s" in failure.message


async def test_a_refused_request_is_sent_once() -> None:
    async with (
        ModelServer([Served(status=400, message="no")] * 2) as server,
        client_of(server.base_url) as client,
    ):
        await events_of(client)
        assert len(server.requests) == 1


# -- time -----------------------------------------------------------------------------------------------------------


async def test_a_server_that_never_answers_is_left() -> None:
    async with (
        ModelServer([Served(silent=True)]) as server,
        client_of(server.base_url, retries=ONCE, patience=Patience(first_byte=0.05)) as client,
    ):
        (failure,) = await events_of(client)
        await server.was_abandoned()
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.NETWORK
    assert "did not answer within 0.05 s" in failure.message
    assert f"127.0.0.1:{server_port(failure)}" in failure.message


def server_port(failure: Failure) -> str:
    return failure.message.partition("127.0.0.1:")[2].partition(" ")[0]


async def test_a_status_without_a_word_after_it_is_no_answer_either() -> None:
    """Headers come at once from servers that then read the prompt for minutes: the first byte is what counts."""
    step = Served(raw="", stalls=True)
    (failure,) = await ask_once(step, patience=Patience(first_byte=0.05, between_bytes=30))
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.NETWORK


async def test_a_server_that_goes_silent_in_its_answer_is_left() -> None:
    step = Served(deltas=("Once upon",), stalls=True)
    *_, failure = await ask_once(step, patience=Patience(between_bytes=0.05))
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.CUT
    assert failure.partial == "Once upon"
    assert failure.usage is not None
    assert failure.usage.estimated
    assert "went silent" in failure.message


async def test_silence_after_the_end_of_an_answer_is_no_failure() -> None:
    """Some servers keep the line open when all is said."""
    raw = 'data: {"choices":[{"delta":{"content":"all"},"finish_reason":"stop"}]}\n\n'
    *_, last = await ask_once(Served(raw=raw, stalls=True), patience=Patience(between_bytes=0.05))
    assert isinstance(last, Answer)
    assert last.text == "all"


async def test_a_line_that_breaks_after_the_end_of_an_answer_is_no_failure() -> None:
    raw = 'data: {"choices":[{"delta":{"content":"all"},"finish_reason":"length"}]}\n\n'
    *_, last = await ask_once(Served(raw=raw, breaks=True))
    assert isinstance(last, Answer)
    assert last.text == "all"
    assert last.usage.estimated


# -- the network ----------------------------------------------------------------------------------------------------


async def test_nothing_listening_is_said_with_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with client_of(f"http://127.0.0.1:{port}", retries=ONCE) as client:
            (failure,) = await events_of(client)
            with pytest.raises(ModelUnavailable, match=f"Nothing answers at 127.0.0.1:{port}"):
                await client.models()
    assert failure == Failure(
        kind=FailureKind.NETWORK,
        message=f"Nothing answers at 127.0.0.1:{port}: is the model server running?",
        was_sent=False,
    )
    assert not failure.may_have_cost


async def test_https_to_a_server_that_speaks_http_is_said() -> None:
    async with (
        ModelServer([]) as server,
        client_of(f"https://127.0.0.1:{server.port}", retries=ONCE) as client,
    ):
        (failure,) = await events_of(client)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.NETWORK
    assert "TLS" in failure.message


async def test_connections_are_used_again() -> None:
    """A stream read to its end gives its connection back: the next call needs no handshake."""
    async with ModelServer([Served(text="x")] * 5) as server, client_of(server.base_url) as client:
        for _ in range(5):
            await events_of(client)
        assert server.connections == 1


@pytest.mark.parametrize("size", [1, 7, 100, 200])
async def test_a_stream_cut_anywhere_is_a_cut(size: int) -> None:
    *_, failure = await ask_once(Served(text="Once upon a time", cut_after_bytes=size))
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.CUT


@pytest.mark.parametrize("finish", ["null", '""'])
async def test_a_stream_that_ends_properly_without_an_end_of_the_answer_is_a_cut(finish: str) -> None:
    """The connection was closed in good order, but nobody said that the answer was whole."""
    raw = f'data: {{"choices":[{{"delta":{{"content":"Once upon"}},"finish_reason":{finish}}}]}}\n\n'
    *_, failure = await ask_once(Served(raw=raw))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.partial) == (FailureKind.CUT, "Once upon")


# -- bodies -------------------------------------------------------------------------------------------------------


async def test_a_server_that_does_not_stream_is_understood() -> None:
    events = await ask_once(Served(text="all at once", thinking="hm", usage=ServedUsage(7, 3), streams=False))
    last = events[-1]
    assert isinstance(last, Answer)
    assert (last.text, last.usage.input, last.usage.output) == ("all at once", 7, 3)
    assert TextDelta("all at once") in events


async def test_a_page_to_sign_in_at_is_said_to_be_one() -> None:
    (failure,) = await ask_once(Served(raw="<html>sign in first</html>", content_type="text/html"))
    assert isinstance(failure, Failure)
    assert "a web page" in failure.message


@pytest.mark.parametrize(
    "step",
    [
        Served(raw="<html>sign in first</html>", content_type="text/html; charset=utf-8"),
        Served(raw="hello, I am no API"),
        Served(raw='{"models": []}', content_type="application/json"),
        Served(raw="not json", content_type="application/json"),
        Served(raw='data: ["a list"]\n\n'),
        Served(raw='data: {"choices": 7}\n\n'),
        Served(text="well", garbage=True),
    ],
)
async def test_what_is_no_chat_completion_is_said_to_be_none(step: Served) -> None:
    *_, failure = await ask_once(step)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.GARBAGE
    assert "check the base URL" in failure.message


@pytest.mark.parametrize(
    "raw",
    [
        'event: error\ndata: {"message": "the engine died", "type": "server_error"}\n\n',
        'data: {"error": "the engine died"}\n\n',
        'data: {"error": {"message": "the engine died"}}\n\n',
        'data: {"object": "error", "message": "the engine died", "code": 500}\n\n',
    ],
)
async def test_an_error_in_the_stream_is_told_in_its_own_words(raw: str) -> None:
    *_, failure = await ask_once(Served(raw=raw))
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.SERVER
    assert "the engine died" in failure.message


async def test_an_error_with_a_status_of_success_is_an_error() -> None:
    """llama.cpp has answered 200 with an error of code 400 in it (oobabooga/textgen issue 7257)."""
    raw = '{"error":{"code":400,"message":"the request exceeds the available context size","n_ctx":8192}}'
    (failure,) = await ask_once(Served(raw=raw, content_type="application/json"))
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.OVERFLOW


async def test_half_a_character_in_two_chunks_does_not_stop_the_answer() -> None:
    """Some servers cut a surrogate pair between two tokens; each half alone is no character."""
    raw = "".join(
        f'data: {{"choices":[{{"delta":{{"content":"{half}"}},"finish_reason":"stop"}}]}}\n\n'
        for half in (r"a\ud83e", r"\uddf5b")
    )
    *_, last = await ask_once(Served(raw=raw))
    assert isinstance(last, Answer)
    assert last.text == "a\ufffd\ufffdb"


async def test_usage_is_estimated_and_marked_where_the_server_counts_nothing() -> None:
    *_, last = await ask_once(Served(text="x" * 31, usage=None))
    assert isinstance(last, Answer)
    assert last.usage.estimated
    assert (last.usage.input, last.usage.output) == (2, 11)


# -- what the server offers ---------------------------------------------------------------------------------------


async def test_the_window_is_the_servers_own() -> None:
    async with (
        ModelServer([], models=("m",), context_length=9000) as server,
        client_of(server.base_url) as client,
    ):
        assert (await client.profile("m")).context_window == 9000
        assert await client.models() == ("m",)


async def test_a_profile_never_fails() -> None:
    async with client_of("http://127.0.0.1:9", retries=ONCE) as client:
        assert (await client.profile("gpt-4o")).context_window == 128_000
        assert (await client.profile("whatever")).context_window == 32_768


async def test_the_list_is_asked_for_once_and_again_when_it_has_grown_old() -> None:
    time = 0.0
    async with (
        ModelServer([], models=["a"]) as server,
        client_of(server.base_url, monotonic=lambda: time) as client,
    ):
        assert await client.models() == ("a",)
        server.models = ["a", "b"]
        assert await client.models() == ("a",)
        time = 301.0
        assert await client.models() == ("a", "b")


OLLAMA_MODELS: Final = (
    b'{"object":"list","data":[{"id":"llama3.1:8b","object":"model","owned_by":"library"}]}'
)


@pytest.mark.parametrize(
    ("pages", "window"),
    [
        ({"/api/ps": b'{"models":[{"name":"llama3.1:8b","context_length":4096}]}'}, 4096),
        ({"/api/ps": b'{"models":[]}'}, 32_768),
        ({"/api/v0/models": b'{"data":[{"id":"llama3.1:8b","loaded_context_length":8192}]}'}, 8192),
        ({}, 131_072),
    ],
)
async def test_a_local_server_is_asked_for_what_it_has_loaded(pages: dict[str, bytes], window: int) -> None:
    """Ollama cuts a longer prompt without a word: what the family could take would lose the thread."""
    pages = {"/v1/models": OLLAMA_MODELS, **pages}
    async with ModelServer([], pages=pages) as server, client_of(server.base_url) as client:
        assert (await client.profile("llama3.1:8b")).context_window == window


async def test_a_name_without_a_tag_is_the_latest() -> None:
    pages = {
        "/v1/models": b'{"data":[{"id":"llama3.1:latest"}]}',
        "/api/ps": b'{"models":[{"name":"llama3.1:latest","context_length":4096}]}',
    }
    async with ModelServer([], pages=pages) as server, client_of(server.base_url) as client:
        profile = await client.profile("llama3.1")
    assert (profile.name, profile.context_window) == ("llama3.1", 4096)


async def test_a_list_that_cannot_be_had_is_said() -> None:
    async with (
        ModelServer([], pages={"/v1/models": b"<html>"}) as server,
        client_of(server.base_url) as client,
    ):
        with pytest.raises(ModelUnavailable, match="check the base URL"):
            await client.models()
    async with ModelServer([]) as server, client_of(f"{server.base_url}/v9") as client:
        with pytest.raises(ModelUnavailable, match="HTTP 404"):
            await client.models()


class Loopback(aiohttp.abc.AbstractResolver):
    """Every name is this machine's."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[Any]:
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
        ]

    async def close(self) -> None: ...


async def test_openais_own_server_is_told_the_limit_under_its_new_name() -> None:
    limited = msgspec.structs.replace(REQUEST, max_output=50)
    async with ModelServer([Served(text="x")] * 2) as server, HttpClient(resolver=Loopback()) as http:
        for host in ("api.openai.com", "api.example.org"):
            client = OpenAIChatClient(http, f"http://{host}:{server.port}/v1", api_key=KEY)
            assert [event async for event in client.stream(limited, blobs={}, key="")]
        new, old = map(msgspec.json.decode, server.requests)
    assert new["max_completion_tokens"] == old["max_tokens"] == 50
