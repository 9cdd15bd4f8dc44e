"""What errors of servers and networks come to."""

from __future__ import annotations

import socket
import ssl

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.adapters.models.openai_chat import failures
from clew.adapters.models.openai_chat.chunks import WireError
from clew.adapters.models.redaction import Redactor
from clew.domain.models.answer import FailureKind

KEY = "sk-abcdefghijklmnop1234"
SERVER = failures.Server(host="api.example.org", model="gpt-x", redact=Redactor([KEY]))


def error(message: str, **fields: object) -> bytes:
    return msgspec.json.encode({"error": {"message": message, **fields}})


# Messages as their servers word them: see the sources at `failures._OVERFLOW`.
OVERFLOWS = [
    (400, error("This model's maximum context length is 8192 tokens. However, your messages resulted in 9000.")),
    (400, error("Too long.", type="invalid_request_error", code="context_length_exceeded")),
    (400, error("the request exceeds the available context size, try increasing it", type="exceed_context_size_error")),
    (500, error("the request exceeds the available context size. try increasing the context size")),
    (400, b'{"object":"error","message":"This model\'s maximum context length is 2048 tokens.","code":400}'),
    (400, error("Trying to keep the first 9000 tokens when context the overflows. greater than the context length of 4096")),
    (400, error("prompt is too long: 213462 tokens > 200000 maximum")),
    (400, error("This model's maximum prompt length is 131072 but the request contains 537812 tokens")),
    (413, error("Request too large for model `llama` on tokens per minute (TPM)", code="rate_limit_exceeded")),
    (413, b"<html>413 Payload Too Large</html>"),
    (422, b'{"detail":"Input is too long for requested model."}'),
]  # fmt: skip

STATUSES = [
    (401, error("Incorrect API key provided"), FailureKind.AUTH),
    (403, b"", FailureKind.AUTH),
    (402, error("Insufficient credits"), FailureKind.AUTH),
    (429, error("You exceeded your current quota", code="insufficient_quota"), FailureKind.AUTH),
    (429, error("Rate limit reached"), FailureKind.RATE_LIMITED),
    (429, error("Resource exhausted, too many tokens per minute"), FailureKind.RATE_LIMITED),
    (404, error("The model `gpt-x` does not exist"), FailureKind.UNKNOWN_MODEL),
    (404, b"404 page not found", FailureKind.UNKNOWN_MODEL),
    (400, error("gpt-x is not a valid model ID"), FailureKind.UNKNOWN_MODEL),
    (400, error('model "gpt-x" not found, try pulling it first'), FailureKind.UNKNOWN_MODEL),
    (400, error("temperature must be below 2"), FailureKind.BAD_REQUEST),
    (405, b"", FailureKind.BAD_REQUEST),
    (408, b"", FailureKind.SERVER),
    (500, b"<html>oops</html>", FailureKind.SERVER),
    (503, b"", FailureKind.SERVER),
    (529, error("Overloaded"), FailureKind.SERVER),
]


@pytest.mark.parametrize(("status", "body"), OVERFLOWS)
def test_every_servers_way_of_saying_too_long_is_understood(status: int, body: bytes) -> None:
    """The runtime compacts on it, so it must not be taken for an error to repeat or to give up on."""
    assert failures.from_status(SERVER, status, body).kind is FailureKind.OVERFLOW


@pytest.mark.parametrize(("status", "body", "kind"), STATUSES)
def test_a_status_has_its_kind(status: int, body: bytes, kind: FailureKind) -> None:
    assert failures.from_status(SERVER, status, body).kind is kind


@pytest.mark.parametrize(("status", "body"), [*OVERFLOWS, *[(s, b) for s, b, _ in STATUSES]])
def test_a_sentence_names_the_host_and_ends(status: int, body: bytes) -> None:
    message = failures.from_status(SERVER, status, body).message
    assert "api.example.org" in message
    assert message.endswith(".")
    assert "\n" not in message
    assert "<html>" not in message


def test_what_we_sent_is_not_taken_for_what_the_server_says() -> None:
    """A validation error quotes our own message, which may well talk of context lengths."""
    quoting = {"detail": [{"msg": "field required", "input": {"content": "explain: maximum context length"}}]}
    failure = failures.from_status(SERVER, 422, msgspec.json.encode(quoting))
    assert failure.kind is FailureKind.BAD_REQUEST
    assert "field required" in failure.message


@given(st.integers(400, 599), st.binary(max_size=300))
def test_no_body_is_too_strange(status: int, body: bytes) -> None:
    failures.from_status(SERVER, status, body)


@pytest.mark.parametrize(
    "body",
    [
        error(f"Incorrect API key provided: {KEY}. Find yours at https://example.org"),
        f"Unauthorized: Authorization: Bearer {KEY}".encode(),
        error("upstream refused", metadata={"raw": f"key={KEY}"}),
        b'{"error":"token gsk_ThisIsSomebodyElsesKey12345 is expired"}',
    ],
)
def test_a_key_in_the_servers_words_is_not_repeated(body: bytes) -> None:
    """Ours, wherever they put it, and whatever else is shaped like one."""
    message = failures.from_status(SERVER, 401, body).message
    assert KEY not in message
    assert "gsk_" not in message
    assert "[redacted]" in message


def test_a_server_that_writes_a_book_is_cut_short() -> None:
    failure = failures.from_status(SERVER, 500, error("x" * 100_000))
    assert len(failure.message) < 400


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (WireError(message="Provider disconnected unexpectedly", code="server_error"), FailureKind.SERVER),
        (WireError(message="Rate limit exceeded: free tier", code=429), FailureKind.RATE_LIMITED),
        (WireError(message="litellm.RateLimitError: Rate limit reached", code="429"), FailureKind.RATE_LIMITED),
        (WireError(message="Background loop has errored already.", type="BadRequestError", code=400), FailureKind.SERVER),
        (WireError(message="Invalid parameter", type="invalid_request_error"), FailureKind.BAD_REQUEST),
        (WireError(message="the request exceeds the available context size", code=500), FailureKind.OVERFLOW),
        (WireError(message="unauthorized", code=401.0), FailureKind.AUTH),
        (WireError(), FailureKind.SERVER),
    ],
)  # fmt: skip
def test_an_error_inside_the_stream_has_its_kind(trouble: WireError, kind: FailureKind) -> None:
    """A server that had begun to answer blames itself, unless it clearly blames the request."""
    assert failures.from_stream_error(SERVER, trouble).kind is kind


def caused_by(cause: BaseException, outer: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            caused_by(ConnectionRefusedError(), aiohttp.ClientConnectionError("x")),
            "is the model server running",
        ),
        (
            caused_by(ExceptionGroup("all", [ConnectionRefusedError(), OSError()]), aiohttp.ClientError("x")),
            "is the model server running",
        ),
        (caused_by(socket.gaierror(-2, "unknown"), aiohttp.ClientConnectionError("x")), "host name"),
        (caused_by(ssl.SSLError(1, "wrong version number"), aiohttp.ClientConnectionError("x")), "TLS"),
        (aiohttp.ConnectionTimeoutError("x"), "did not take the connection"),
        (aiohttp.ClientOSError(), "ClientOSError"),
    ],
)
def test_a_broken_line_says_what_to_check(wrong: Exception, words: str) -> None:
    failure = failures.from_exception(SERVER, wrong, started=False)
    assert failure.kind is FailureKind.NETWORK
    assert words in failure.message
    assert "api.example.org" in failure.message


def test_a_line_that_breaks_in_an_answer_is_a_cut() -> None:
    failure = failures.from_exception(SERVER, aiohttp.ClientPayloadError("peer closed"), started=True)
    assert failure.kind is FailureKind.CUT
