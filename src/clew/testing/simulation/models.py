"""A model that takes its time, fails in every way that models fail, and asks for every kind of tool."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Mapping

import msgspec

from clew.domain.conversation.ids import PrincipalId, SessionId
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
from clew.testing.simulation.remembered import fact_in
from clew.testing.simulation.requests import Requests
from clew.testing.simulation.themes import Theme

USED = Usage(input=1, output=1)
HOME = "Home is "
"""How every fact begins: those of one person contradict those of the other."""
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
        name, _, purpose = key.partition("-")
        session = SessionId(name.partition(":")[0])
        if self._theme.caps.first is not None and not self.is_calm:
            self._requests.paid(session)
        if purpose.startswith("summary-"):
            self._requests.beside(self._life, session, request, "a summary")
            if self._chance.random() < 0.7:
                yield Answer(text=f"summary {self._chance.getrandbits(30)}", usage=USED)
                return
        elif ":" in name:
            self._requests.beside(self._life, session, request, "facts")
            if not self.is_calm:
                await asyncio.sleep(self._chance.choice([0, 5, 20, 60]))
            if self.is_calm or self._chance.random() < 0.7:
                yield Answer(text=self._facts(session, request, key.rpartition("-")[0]), usage=USED)
                return
        elif purpose.startswith("title"):
            self._requests.beside(self._life, session, request, "a title")
        else:
            self._requests.sent(self._life, session, request)
        if self.is_calm:
            yield Answer(text="yes", usage=USED)
            return
        await self._wait()
        yield TextDelta("some ")
        await self._wait()
        if self._chance.random() < 0.02:
            self._life.end("killed while the model streams")
        async for event in self._outcome(session):
            if isinstance(event, Answer | Failure):
                self._life.meddle(f"the model ends, {type(event).__name__}")
            yield event

    async def _wait(self) -> None:
        await asyncio.sleep(self._chance.choice([0, 0, 0.2, 5, 20]))

    async def _outcome(self, session: SessionId) -> AsyncGenerator[ModelEvent, None]:
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
            yield Answer(text="some ", calls=self._calls(session), usage=USED)
        else:
            yield TextDelta("words")
            yield Answer(text=f"some words {self._chance.getrandbits(30)}", usage=USED)

    def _calls(self, session: SessionId) -> tuple[AskedCall, ...]:
        return tuple(self._call(n, session) for n in range(self._chance.choice([1, 1, 2, 3])))

    def _call(self, n: int, session: SessionId) -> AskedCall:
        name = self._chance.choice(self._theme.tools)
        arguments = f'{{"n": {n}}}'
        if name in ("memory", "delegate"):
            owner = self._requests.owner(session)
            arguments = self._note(owner) if name == "memory" else self._tasks(owner)
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

    def _note(self, owner: PrincipalId) -> str:
        """Something new, something that this person knows or had forgotten; or an end to what anybody knows."""
        record, numbers = self._life.record, self._requests.fact_numbers()
        number = self._chance.choice(numbers) if numbers and self._chance.random() < 0.4 else 0
        if number and self._chance.random() < 0.5:
            return f'{{"action": "forget", "number": {number}}}'
        old = [token for token, whose in record.owners.items() if whose == owner and token.startswith("fact")]
        is_old = bool(old) and self._chance.random() < 0.5
        token = self._chance.choice(old) if is_old else record.new_token("fact", owner)
        return f'{{"action": "add", "text": "{HOME}{token}", "number": {number}}}'

    def _tasks(self, owner: PrincipalId) -> str:
        tasks = [self._life.record.new_token("task", owner) for _ in range(self._chance.choice([1, 2, 3, 8]))]
        return msgspec.json.encode({"tasks": tasks}).decode()

    def _facts(self, session: SessionId, request: ModelRequest, attempt: str) -> str:
        """What a model notes that was asked for facts: one in each message of the person."""
        known, _, said = str(request.messages[0]).replace("\\n", "\n").partition("</known>")
        numbers = [0, 0, 0, *map(int, re.findall(r"^(\d+): ", known, re.M))]
        notes = []
        for seq, words in re.findall(r"^\[(\d+)\] user:\n(words-\d+-end)", said, re.M):
            token = self._life.record.owns(fact_in(words), self._requests.owner(session))
            replaces = self._chance.choice(numbers)
            notes.append({"text": HOME + token, "message": int(seq), "confidence": 0.8, "replaces": replaces})
        self._requests.found(
            attempt, [str(note["text"])[len(HOME) :] for note in notes if not note["replaces"]]
        )
        return msgspec.json.encode(notes).decode()

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
