"""Every client of a model, held to the same promises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import pytest

from clew.adapters.models.http import HttpClient
from clew.adapters.models.openai_chat.client import OpenAIChatClient
from clew.adapters.models.pydantic_ai.client import PydanticAIClient
from clew.adapters.models.retries import RETRIED, RetryPolicy
from clew.domain.models.answer import FailureKind, StopReason
from clew.domain.models.request import ModelProfile
from clew.testing.contracts.models import MODEL, ModelClientContract, Provider, Subject
from clew.testing.model_server import ModelServer, Served, ServedCall, ServedUsage
from clew.testing.scripted_model import Hold, ScriptedModel, Step

ATTEMPTS: Final = 2


class TestScriptedModel(ModelClientContract):
    @pytest.fixture
    def provider(self) -> Provider:
        @asynccontextmanager
        async def provide(script: Sequence[Step]) -> AsyncIterator[Subject]:
            model = ScriptedModel(script, profile=ModelProfile(name=MODEL, provider="scripted"))

            async def left() -> None:
                assert model.open_streams == 0

            yield Subject(model, lambda: model.sent, left)

        return provide


class TestOpenAIChat(ModelClientContract):
    @pytest.fixture
    def provider(self) -> Provider:
        @asynccontextmanager
        async def provide(script: Sequence[Step]) -> AsyncIterator[Subject]:
            served = [answer for step in script for answer in as_served(step)]
            async with (
                ModelServer(served, models=(MODEL,)) as server,
                HttpClient() as http,
            ):
                client = OpenAIChatClient(
                    http, server.base_url, retries=RetryPolicy(attempts_max=ATTEMPTS), sleep=at_once
                )
                yield Subject(client, lambda: server.requests, server.was_abandoned)

        return provide


class TestPydanticAI(ModelClientContract):
    """Over HTTP, with the OpenAI package in between: what every provider's package can do wrong, it can."""

    @pytest.fixture
    def provider(self) -> Provider:
        @asynccontextmanager
        async def provide(script: Sequence[Step]) -> AsyncIterator[Subject]:
            served = [answer for step in script for answer in as_served(step)]
            async with ModelServer(served, models=(MODEL,)) as server:
                client = PydanticAIClient(
                    "openai-chat",
                    base_url=server.base_url,
                    api_key="none-needed",
                    retries=RetryPolicy(attempts_max=ATTEMPTS),
                    sleep=at_once,
                )
                yield Subject(client, lambda: server.requests, server.was_abandoned)
                await client.close()

        return provide


async def at_once(seconds: float) -> None:
    """The pause between two attempts, in tests."""


def as_served(step: Step) -> list[Served]:
    """What a server does for a step: an attempt that is taken back is one that broke."""
    answers = [] if step.void is None else [Served(deltas=step.void, breaks=True)]
    words = tuple(delta for delta in step.deltas if not isinstance(delta, Hold))
    if step.failure is not None:
        failing = _failing(step.failure.kind, words)
        return answers + [failing] * (ATTEMPTS if step.failure.kind in RETRIED else 1)
    calls = tuple(ServedCall(name=c.name, arguments=c.arguments, id=c.provider_id) for c in step.calls)
    finishes = {StopReason.LENGTH: "length", StopReason.FILTERED: "content_filter", None: None}
    answer = Served(
        text=step.text,
        deltas=words,
        thinking=step.thinking,
        calls=calls,
        finish=finishes[step.stop],
        usage=ServedUsage(step.usage.input, step.usage.output),
        stalls=any(isinstance(delta, Hold) for delta in step.deltas),
    )
    return [*answers, answer]


def _failing(kind: FailureKind, words: tuple[str, ...]) -> Served:
    match kind:
        case FailureKind.AUTH:
            return Served(status=401, message="Incorrect API key provided")
        case FailureKind.UNKNOWN_MODEL:
            return Served(status=404, message="The model `scripted-model` does not exist")
        case FailureKind.BAD_REQUEST:
            return Served(status=400, message="temperature must be below 2")
        case FailureKind.OVERFLOW:
            return Served(status=400, message="This model's maximum context length is 8192 tokens.")
        case FailureKind.RATE_LIMITED:
            return Served(status=429, message="Slow down", headers={"retry-after": "1"})
        case FailureKind.SERVER:
            return Served(status=503)
        case FailureKind.GARBAGE:
            return Served(deltas=words, garbage=True)
        case FailureKind.CUT | FailureKind.NETWORK:
            return Served(deltas=words, breaks=True)
        case FailureKind.CAP | FailureKind.UNPRICED:
            raise AssertionError("no server says that: it is ours, before one is asked")
