"""A model that takes its time, fails in every way that models fail, and asks for every kind of tool."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping

from clew.domain.conversation.ids import SessionId
from clew.domain.models.answer import (
    Answer,
    AskedCall,
    Failure,
    FailureKind,
    ModelEvent,
    Retrying,
    TextDelta,
    Usage,
)
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.runtime.ports.models import Cost, ModelChoice
from clew.testing.simulation.process_life import Life
from clew.testing.simulation.requests import Requests
from clew.testing.simulation.themes import Theme

USED = Usage(input=1, output=1)
WINDOW = 2_200
"""Tokens: small, so that sessions come to need summaries."""


class ErraticModel:
    """One process's. A calm one answers at once."""

    def __init__(self, chance: random.Random, life: Life, requests: Requests, theme: Theme) -> None:
        self.is_calm = False
        self._chance = chance
        self._life = life
        self._requests = requests
        self._theme = theme

    async def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncGenerator[ModelEvent, None]:
        session, _, purpose = key.partition("-")
        if purpose.startswith("summary-"):
            self._requests.summarising(SessionId(session), request)
            if self._chance.random() < 0.7:
                yield Answer(text=f"summary {self._chance.getrandbits(30)}", usage=USED)
                return
        else:
            self._requests.sent(self._life.name, SessionId(session), request)
        if self.is_calm:
            yield Answer(text="yes", usage=USED)
            return
        await self._wait()
        yield TextDelta("some ")
        await self._wait()
        if self._chance.random() < 0.02:
            self._life.end("killed while the model streams")
        async for event in self._outcome():
            if isinstance(event, Answer | Failure):
                self._life.meddle(f"the model ends, {type(event).__name__}")
            yield event

    async def _wait(self) -> None:
        await asyncio.sleep(self._chance.choice([0, 0, 0.2, 5, 20]))

    async def _outcome(self) -> AsyncGenerator[ModelEvent, None]:
        roll = self._chance.random()
        if roll < 0.04:
            self._hit("the model fails")
            yield Failure(
                kind=self._chance.choice(list(FailureKind)), message="down", partial="some ", usage=USED
            )
        elif roll < 0.07:
            self._hit("the model's stream is cut")
        elif roll < 0.09:
            self._hit("the model never answers")
            await asyncio.Event().wait()
        elif roll < 0.12:
            self._hit("the model tries again")
            yield Retrying(attempt=2, after_seconds=1, reason="busy")
            yield TextDelta("other ")
            yield Answer(text=f"other words {self._chance.getrandbits(30)}", usage=USED)
        elif roll < self._theme.calls:
            yield Answer(text="some ", calls=self._calls(), usage=USED)
        else:
            yield TextDelta("words")
            yield Answer(text=f"some words {self._chance.getrandbits(30)}", usage=USED)

    def _calls(self) -> tuple[AskedCall, ...]:
        return tuple(self._call(n) for n in range(self._chance.choice([1, 1, 2, 3])))

    def _call(self, n: int) -> AskedCall:
        name = self._chance.choice(self._theme.tools)
        arguments = f'{{"n": {n}}}'
        if self._chance.random() < 0.04:
            self._hit("the model asks for a tool that is not there")
            name = "nothing"
        if self._chance.random() < 0.04:
            self._hit("the model writes arguments that are no JSON")
            arguments = '{"n": \ud800'
        if self._chance.random() < 0.5:
            self._hit("the model says one call id twice")
            return AskedCall(provider_id="same", name=name, arguments=arguments)
        return AskedCall(provider_id="", name=name, arguments=arguments)

    def _hit(self, fault: str) -> None:
        self._life.record.fault(fault, self._life.name)

    async def profile(self, model: str) -> ModelProfile:
        return ModelProfile(name=model, provider="scripted", context_window=WINDOW)

    async def models(self) -> tuple[str, ...]:
        return ("erratic",)

    async def close(self) -> None:
        """Holds nothing."""


class OneErraticModel:
    """`ModelSource` with this client behind every name."""

    def __init__(self, model: ErraticModel) -> None:
        self._model = model

    async def choose(self, name: str | None) -> ModelChoice:
        return ModelChoice(self._model, await self._model.profile(name or "erratic"), _price)


def _price(usage: Usage) -> Cost:
    return Cost((usage.input + usage.output) * 1e-6, "the simulation")
