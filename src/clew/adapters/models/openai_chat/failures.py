"""Why a model could not answer: one of the kinds the runtime acts on, and one sentence for a person.

Rule: a sentence names the host of the base URL, says what to do where that is known, and holds no secret.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final

import aiohttp
import msgspec

from clew.adapters.models.openai_chat.chunks import WireError
from clew.adapters.models.redaction import Redactor
from clew.domain.models.answer import Failure, FailureKind

DETAIL_LENGTH_MAX: Final = 300
"""Of a server's own words in a sentence."""

_OVERFLOW: Final = re.compile(
    r"context[_ ](length|size|window)|maximum context|maximum prompt length|prompt is too long|input is too long"
    r"|too many (input )?tokens|token limit exceeded|exceeded model token limit|reduce the length of the messages"
    r"|input token count.*exceeds|input tokens exceed|request too large for model|exceeds the limit of \d+",
    re.IGNORECASE,
)
"""Words of OpenAI, vLLM, OpenRouter, llama.cpp, LM Studio, Groq, xAI, Google, Anthropic, Bedrock, Kimi and MiniMax;
collected with their messages in badlogic/pi-mono, packages/ai/src/utils/overflow.ts."""

_UNKNOWN_MODEL: Final = re.compile(
    r"model[\w\s:/.'\"`-]{0,120}(not found|does not exist|not exist|not a valid|is not available|not loaded)"
    r"|not a valid model|unknown model|no such model|model_not_found|invalid model",
    re.IGNORECASE,
)
_NO_CREDIT: Final = re.compile(r"insufficient[_ ](quota|credit|balance|funds)", re.IGNORECASE)
_RATE_WORDS: Final = re.compile(r"rate[_ ]limit|too many requests|quota", re.IGNORECASE)
_INVALID: Final = re.compile(r"invalid_request", re.IGNORECASE)


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Whom we speak to, as sentences need it."""

    host: str
    model: str
    redact: Redactor

    def fail(self, kind: FailureKind, message: str) -> Failure:
        return Failure(kind=kind, message=self.redact(message))


def from_status(server: Server, status: int, body: bytes) -> Failure:
    """What an HTTP error status means. `body` may be JSON of several shapes, text or a web page."""
    words = server_words(body)
    kind = kind_of_status(status, f"{words.codes} {words.message}")
    return server.fail(kind, sentence(server, kind, f"HTTP {status}", words.message))


def from_stream_error(server: Server, error: WireError) -> Failure:
    """What an error object inside a 200 answer means; its code is an HTTP status in most dialects, a word in some."""
    detail = one_line(error.message or str(error.code or "no reason given"))
    kind = _kind_of_error(error, detail)
    return server.fail(kind, sentence(server, kind, "in its answer", detail))


def kind_of_status(status: int, words: str) -> FailureKind:
    """The kind of a status and the server's words. Overflow comes first: llama.cpp has said it with 500 too."""
    if status in {400, 413, 422, 500} and _OVERFLOW.search(words):
        return FailureKind.OVERFLOW
    if status in {401, 402, 403} or (status == 429 and _NO_CREDIT.search(words)):
        return FailureKind.AUTH
    if status == 404 or (status == 400 and _UNKNOWN_MODEL.search(words)):
        return FailureKind.UNKNOWN_MODEL
    if status == 413:
        return FailureKind.OVERFLOW
    if status == 429:
        return FailureKind.RATE_LIMITED
    if status >= 500 or status in {408, 425}:
        return FailureKind.SERVER
    return FailureKind.BAD_REQUEST


def from_exception(server: Server, wrong: BaseException, *, started: bool) -> Failure:
    """What a transport error means. `started` is whether the server had begun to answer: then the answer was cut."""
    kind = FailureKind.CUT if started else FailureKind.NETWORK
    if isinstance(wrong.__cause__, aiohttp.http_exceptions.ContentEncodingError):
        kind = FailureKind.GARBAGE
    failure = server.fail(kind, _transport_sentence(server, wrong, started=started))
    return msgspec.structs.replace(failure, was_sent=not never_connected(wrong))


def never_connected(wrong: BaseException) -> bool:
    """Whether the request cannot have reached anybody."""
    unconnected = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
    return any(isinstance(cause, unconnected) for cause in _causes(wrong))


def cut(server: Server) -> Failure:
    """The stream ended before the answer did."""
    return server.fail(
        FailureKind.CUT, f"{server.host} closed the connection before its answer was complete."
    )


def silent(server: Server, seconds: float, *, started: bool) -> Failure:
    """Nothing came for that long."""
    if started:
        said = f"{server.host} went silent for {seconds:g} s in the middle of its answer."
        return server.fail(FailureKind.CUT, said)
    return server.fail(
        FailureKind.NETWORK, f"{server.host} took the request and did not answer within {seconds:g} s."
    )


def garbage(server: Server, what: str) -> Failure:
    """The server answered with something that is no chat completion."""
    said = f"{server.host} answered with something that is no chat completion ({one_line(what)}): check the base URL."
    return server.fail(FailureKind.GARBAGE, said)


def moved(server: Server, status: int, location: str) -> Failure:
    """Redirects are not followed: they would carry the key to a host nobody named."""
    said = f"{server.host} redirects to {location or 'another address'} (HTTP {status}): set that as the base URL."
    return server.fail(FailureKind.BAD_REQUEST, said)


class Words(msgspec.Struct, frozen=True):
    """What a server said: a line for a person, and its own codes for deciding. Never what we had sent it."""

    message: str
    codes: str = ""


def server_words(body: bytes) -> Words:
    """The words of an error body; of a web page, only that it is one."""
    text = body.decode("utf-8", "replace").strip()
    try:
        answer = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return Words("a web page, not an API" if text.startswith("<") else one_line(text))
    return Words(one_line(_message_in(answer) or text), _codes_in(answer))


def words_in(answer: Any) -> str:
    """The message inside a decoded error body, in one line; empty when there is none."""
    return one_line(_message_in(answer))


def _message_in(answer: Any) -> str:
    """Looks where servers put it: error.message, error, message, detail; Google wraps all in a list."""
    match answer:
        case {"error": inner} if inner:
            return _message_in(inner)
        case {"message": str(text), "metadata": {"raw": str(raw)}}:  # OpenRouter, for the provider behind it
            return f"{text}: {raw}"
        case {"message": str(text)} | {"msg": str(text)} if text:
            return text
        case {"detail": inner} if inner:
            return _message_in(inner)
        case [dict(first), *_]:
            return _message_in(first)
        case str(text):
            return text
        case _:
            return ""


def _codes_in(answer: Any) -> str:
    match answer:
        case {"error": dict(inner)}:
            return _codes_in(inner)
        case [dict(first), *_]:
            return _codes_in(first)
        case dict(fields):
            return " ".join(str(fields[name]) for name in ("type", "code", "status") if name in fields)
        case _:
            return ""


def one_line(text: str) -> str:
    """The beginning of a text, in one printable line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * DETAIL_LENGTH_MAX]).split())
    return line if len(line) <= DETAIL_LENGTH_MAX else line[: DETAIL_LENGTH_MAX - 1] + "…"


def _kind_of_error(error: WireError, detail: str) -> FailureKind:
    """A server that had begun to answer found the request good: what it then calls a bad request is its own fault
    (vLLM before 0.12 gave every such error the code 400), unless it says overflow or names the request invalid."""
    code = str(int(error.code) if isinstance(error.code, float) else error.code or "")
    words = f"{error.type or ''} {code} {detail}"
    status = int(code) if code.isdigit() else 0
    if 400 <= status < 600:
        kind = kind_of_status(status, words)
    elif _OVERFLOW.search(words):
        kind = FailureKind.OVERFLOW
    else:
        kind = FailureKind.RATE_LIMITED if _RATE_WORDS.search(words) else FailureKind.BAD_REQUEST
    if kind is FailureKind.BAD_REQUEST and not _INVALID.search(words):
        return FailureKind.SERVER
    return kind


def sentence(server: Server, kind: FailureKind, how: str, detail: str) -> str:
    """What a refusal of this kind means, with the server's own words in brackets."""
    said = f" ({': '.join(filter(None, (how, detail)))})" if how or detail else ""
    match kind:
        case FailureKind.AUTH:
            return f"{server.host} refused the API key or its account{said}."
        case FailureKind.UNKNOWN_MODEL:
            return f"{server.host} does not offer the model {server.model!r} at this base URL{said}."
        case FailureKind.OVERFLOW:
            return f"The conversation is longer than {server.model!r} at {server.host} can take{said}."
        case FailureKind.RATE_LIMITED:
            return f"{server.host} asks for fewer requests{said}."
        case FailureKind.SERVER:
            return f"{server.host} failed{said}."
        case _:
            return f"{server.host} refused the request{said}."


def _transport_sentence(server: Server, wrong: BaseException, *, started: bool) -> str:
    for cause in _causes(wrong):
        match cause:
            case aiohttp.ClientError():
                pass  # some of its wrappers pass for what they wrap, but do not say what that says
            case socket.gaierror():
                return f"The host name of {server.host} is not known: check the base URL and the network."
            case ssl.SSLCertVerificationError(verify_message=why):
                return f"The certificate of {server.host} is not trusted: {why}."
            case ssl.SSLError():
                return f"{server.host} does not speak TLS as expected: is the base URL's http or https right?"
            case ConnectionRefusedError():
                return f"Nothing answers at {server.host}: is the model server running?"
            case _:
                pass
    if isinstance(wrong, aiohttp.ConnectionTimeoutError):
        return f"{server.host} did not take the connection in time: check the base URL and the network."
    if started:
        return f"The connection to {server.host} broke before its answer was complete."
    return f"The connection to {server.host} failed: {one_line(str(wrong)) or type(wrong).__name__}."


def _causes(wrong: BaseException) -> Iterator[BaseException]:
    """The error and everything it came of, also inside groups (a host with two addresses fails twice)."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [wrong]
    while waiting:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            waiting.extend(cause.exceptions)
        waiting.extend((cause.__cause__, cause.__context__))
