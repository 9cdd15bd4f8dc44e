"""Repeating an attempt at a model, the same way for every provider.

Rule: what was streamed of a failed attempt is declared void before the next begins, and the last event is an answer
or a failure.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from itertools import count
from typing import Final

import msgspec

from clew.adapters.models.retries import RetryPolicy
from clew.domain.models.answer import Failure, FailureKind, ModelEvent, Retrying, Usage

RETRIES: Final = RetryPolicy()


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a provider may take, in seconds. A model on a slow machine reads a long prompt for minutes."""

    connect: float = 10.0
    first_byte: float = 300.0
    between_bytes: float = 120.0
    catalogue: float = 20.0


PATIENCE: Final = Patience()


class AttemptFailed(Exception):
    """This attempt came to nothing. `asked` is the pause in seconds the provider asks for, if any."""

    def __init__(self, failure: Failure, asked: float | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.asked = asked

    def after_showing(self, text: str, usage: Usage | None) -> AttemptFailed:
        """The same, with what had been streamed and what that cost."""
        return AttemptFailed(msgspec.structs.replace(self.failure, partial=text, usage=usage), self.asked)


class Attempts:
    """Makes attempts until one succeeds or the policy gives up. Time and chance may be given, for tests."""

    def __init__(
        self,
        policy: RetryPolicy = RETRIES,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._sleep = sleep
        self._chance = chance
        self._monotonic = monotonic

    async def run(
        self, attempt: Callable[[], AsyncGenerator[ModelEvent, None]]
    ) -> AsyncGenerator[ModelEvent, None]:
        """Yields what `attempt` yields (deltas, then an Answer), `Retrying` between two, or a Failure at last.

        `attempt` is called anew each time and raises AttemptFailed.
        """
        begun = self._monotonic()
        for number in count(1):
            try:
                async with aclosing(attempt()) as events:
                    async for event in events:
                        yield event
                return
            except AttemptFailed as failed:
                failure, asked = failed.failure, failed.asked
            wait = self._policy.wait(
                failure.kind,
                attempt=number,
                asked=asked,
                elapsed=self._monotonic() - begun,
                chance=self._chance(),
            )
            if wait is None:
                yield _final(failure, number, asked)
                return
            yield Retrying(attempt=number, after_seconds=wait, reason=failure.message, failure=failure)
            await self._sleep(wait)


def _final(failure: Failure, attempts: int, asked: float | None) -> Failure:
    """The failure as it is told: with the pause that was asked for, and how often it was tried."""
    message = failure.message
    if failure.kind is FailureKind.RATE_LIMITED and asked:
        message += f" It asks to wait {asked:.0f} s."
    if attempts > 1:
        message += f" Tried {attempts} times."
    return msgspec.structs.replace(failure, message=message)
