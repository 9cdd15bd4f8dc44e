"""What a chat-completions server sends, as lenient as real servers need it.

Only the fields we use are declared, everything may be null or absent, and a non-streaming answer (`message` in place
of `delta`) has the same shape, because some servers give one to a streaming request. Samples of six servers are in
tests/contract/recorded.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from clew.domain.conversation.text import clean
from clew.domain.models.answer import Usage


class FunctionPiece(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    """A fragment of JSON text; an object where a proxy parsed it already (litellm before Ollama)."""

    @property
    def text(self) -> str:
        if isinstance(self.arguments, dict):
            return msgspec.json.encode(self.arguments).decode()
        return self.arguments or ""


class CallPiece(msgspec.Struct):
    index: int | None = None
    id: str | int | None = None
    function: FunctionPiece | None = None


class ContentPiece(msgspec.Struct):
    """Content in list form, as Mistral sends it when the model thinks."""

    text: str | None = None
    thinking: str | list[ContentPiece] | None = None


class Delta(msgspec.Struct):
    content: str | list[ContentPiece] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CallPiece] | None = None


class Choice(msgspec.Struct):
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None


class _TokenDetails(msgspec.Struct):
    cached_tokens: int | float | None = None
    cache_write_tokens: int | float | None = None


class WireUsage(msgspec.Struct):
    prompt_tokens: int | float | None = None
    completion_tokens: int | float | None = None
    prompt_tokens_details: _TokenDetails | None = None
    prompt_cache_hit_tokens: int | float | None = None
    """DeepSeek's word for cached tokens."""

    def counts(self) -> Usage:
        """`input` includes what was read from and written to the cache, as the servers count it."""
        details = self.prompt_tokens_details or _TokenDetails()
        return Usage(
            input=int(self.prompt_tokens or 0),
            output=int(self.completion_tokens or 0),
            cache_read=int(details.cached_tokens or self.prompt_cache_hit_tokens or 0),
            cache_write=int(details.cache_write_tokens or 0),
        )


class WireError(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | float | None = None


class Chunk(msgspec.Struct):
    model: str | None = None
    choices: list[Choice] | None = None
    usage: WireUsage | None = None
    error: str | WireError | None = None
    object: str | None = None
    message: str | None = None
    code: str | int | float | None = None

    @property
    def trouble(self) -> WireError | None:
        """The error this chunk reports, in whichever of the three shapes in use."""
        if isinstance(self.error, str):
            return WireError(message=self.error, code=self.code)
        if self.error is None and self.object == "error":  # vLLM before 0.10 put it at the top
            return WireError(message=self.message, code=self.code)
        return self.error


class NotAChunk(ValueError):
    """The server sent something that is no chat-completion chunk."""


_decoder = msgspec.json.Decoder(Chunk)


def decode_chunk(data: str | bytes) -> Chunk:
    """Reads one chunk or one whole non-streaming answer. Lone surrogates in it become U+FFFD.

    Raises:
        NotAChunk: it is no JSON, or no object of this shape.
    """
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError as wrong:
        raise NotAChunk(str(wrong)) from wrong
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_leniently(data)


def _decode_leniently(data: str | bytes) -> Chunk:
    """A pair of surrogates cut between two tokens is refused by msgspec but passes the standard library."""
    try:
        return msgspec.convert(
            json.loads(clean(json.dumps(json.loads(data), ensure_ascii=False)).text), Chunk
        )
    except (ValueError, RecursionError) as wrong:
        raise NotAChunk(str(wrong)) from wrong
