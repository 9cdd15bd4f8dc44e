"""An answer, put together from chunks. Pure: chunks in, deltas out, the whole at the end.

Rule: the deltas of an attempt, joined, are the text, thinking and arguments of its answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from clew.adapters.models.openai_chat.calls import CallAssembly
from clew.adapters.models.openai_chat.chunks import Chunk, ContentPiece, Delta, WireError, WireUsage
from clew.domain.conversation.messages import Thinking
from clew.domain.models.answer import Answer, CallDelta, StopReason, TextDelta, ThinkingDelta, Usage

CHARACTERS_PER_TOKEN: Final = 3
"""For estimates only. Real texts have 3 to 4.5: an estimate is meant to be too high rather than too low."""

ReasoningField = Literal["reasoning_content", "reasoning"]
"""Where servers put thinking: llama.cpp, DeepSeek and older vLLM in the first; Ollama, OpenRouter, LM Studio and
newer vLLM in the second. The field is kept as the thinking's signature, so that it goes back where it came from."""

_STOPS: Final = {
    "length": StopReason.LENGTH,
    "max_tokens": StopReason.LENGTH,
    "content_filter": StopReason.FILTERED,
}

AnswerDelta = TextDelta | ThinkingDelta | CallDelta


class AnswerAssembly:
    """One attempt's answer while it arrives.

    `ended` is whether the server said why it stopped; `trouble` is the error it reported inside the stream.
    """

    def __init__(self, *, model: str, estimate_input: Callable[[], int]) -> None:
        self.ended = False
        self.trouble: WireError | None = None
        self._asked_model = model
        self._answering_model = ""
        self._estimate_input = estimate_input
        self._texts: list[str] = []
        self._thinking: list[str] = []
        self._thinking_field: ReasoningField | None = None
        self._calls = CallAssembly()
        self._finish = ""
        self._usage: WireUsage | None = None

    def take(self, chunk: Chunk) -> list[AnswerDelta]:
        """Adds a chunk and gives what is new to show. Stop taking once `trouble` is set."""
        self.trouble = chunk.trouble
        self._answering_model = self._answering_model or chunk.model or ""
        self._usage = chunk.usage or self._usage
        if not chunk.choices or self.trouble:
            return []
        choice = chunk.choices[0]
        if choice.finish_reason:  # Ollama before 0.1.38 sent "" on every chunk (ollama/ollama issue 4357)
            self._finish, self.ended = choice.finish_reason, True
        if self._finish == "error":
            self.trouble = WireError(message="the model stopped with an error")
        piece = choice.delta or choice.message
        return self._deltas(piece) if piece else []

    @property
    def text(self) -> str:
        """What has been streamed so far, without the thinking."""
        return "".join(self._texts)

    @property
    def is_empty(self) -> bool:
        return not (self._texts or self._thinking or self._calls.characters)

    def usage(self) -> Usage:
        """The server's figures, or an estimate, marked, where it gave none."""
        if self._usage is not None and (self._usage.prompt_tokens or self._usage.completion_tokens):
            return self._usage.counts()
        written = sum(map(len, self._texts)) + sum(map(len, self._thinking)) + self._calls.characters
        return Usage(input=self._estimate_input(), output=estimate_tokens(written), estimated=True)

    def answer(self) -> Answer:
        calls = self._calls.calls()
        stop = _STOPS.get(self._finish, StopReason.CALLS if calls else StopReason.END)
        return Answer(
            text=self.text,
            calls=calls,
            thinking=self._whole_thinking(),
            stop=stop,
            usage=self.usage(),
            model=self._answering_model,
        )

    def _whole_thinking(self) -> tuple[Thinking, ...]:
        if not self._thinking:
            return ()
        text = "".join(self._thinking)
        return (Thinking(text=text, signature=self._thinking_field, model=self._asked_model),)

    def _deltas(self, piece: Delta) -> list[AnswerDelta]:
        text, thought = _content(piece)
        deltas: list[AnswerDelta] = []
        if thought := thought + self._reasoning(piece):
            self._thinking.append(thought)
            deltas.append(ThinkingDelta(thought))
        if text:
            self._texts.append(text)
            deltas.append(TextDelta(text))
        if piece.tool_calls:
            deltas.extend(self._calls.take(piece.tool_calls))
        return deltas

    def _reasoning(self, piece: Delta) -> str:
        """The first field that says something: some servers fill both with the same words."""
        if piece.reasoning_content:
            self._thinking_field = "reasoning_content"
            return piece.reasoning_content
        if piece.reasoning:
            self._thinking_field = "reasoning"
            return piece.reasoning
        return ""


def estimate_tokens(characters: int) -> int:
    """Tokens that many characters may make, rounded up."""
    return -(-characters // CHARACTERS_PER_TOKEN)


def _content(piece: Delta) -> tuple[str, str]:
    """(text, thinking) of the content, which is a string or a list of parts. A refusal is what was said instead."""
    if isinstance(piece.content, list):
        text = "".join(part.text or "" for part in piece.content)
        return text, "".join(_thought(part) for part in piece.content)
    return piece.content or piece.refusal or "", ""


def _thought(part: ContentPiece) -> str:
    if isinstance(part.thinking, list):
        return "".join(inner.text or "" for inner in part.thinking)
    return part.thinking or ""
