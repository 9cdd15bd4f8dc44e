"""Asks the summary model, part by part: each call carries the notes so far on, and each is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final

from clew.domain.compaction.estimate import text_tokens
from clew.domain.compaction.template import UNUSABLE_LENGTH, part_tokens, summary_request, unusable
from clew.domain.compaction.transcript import abridged_to
from clew.domain.conversation.text import clean
from clew.domain.ledger.commits import AddUsage, UsageState
from clew.domain.models.answer import (
    Answer,
    Failure,
    FailureKind,
    ModelEvent,
    Retrying,
    StopReason,
    TextDelta,
    Usage,
)
from clew.domain.models.request import ModelRequest
from clew.domain.turn.prompt import canonical
from clew.runtime.ports.models import ModelChoice

TASK: Final = "summary"
CHARACTERS_PER_TOKEN: Final = 8
"""More than any language has: a stream that is longer than this is no summary, and is not read to its end."""
NO_END: Final = Failure(kind=FailureKind.CUT, message="The summary model's answer broke off.")
TOO_SLOW: Final = Failure(kind=FailureKind.NETWORK, message="The summary model took too long.")


class NoSummary(Exception):
    """The summary model gave none; the sentence says why."""


class Summariser:
    """One pass over one model. `spent` are the rows for the calls made so far, whatever came of them."""

    def __init__(
        self, choice: ModelChoice, *, turn: int, key: str, summary_tokens: int, call_seconds: float
    ) -> None:
        self.spent: list[AddUsage] = []
        self._choice = choice
        self._turn = turn
        self._key = key
        self._summary_tokens = summary_tokens
        self._call_seconds = call_seconds

    @property
    def model(self) -> str:
        return self._choice.profile.name

    @property
    def part_tokens(self) -> int:
        """How much of the conversation one call takes."""
        return part_tokens(self._choice.profile, self._summary_tokens)

    async def write(self, parts: Sequence[str], so_far: str, focus: str | None) -> str:
        """The notes of all parts. Raises NoSummary after the first call that brings none."""
        notes = abridged_to(so_far, UNUSABLE_LENGTH * self._summary_tokens)
        for number, part in enumerate(parts, 1):
            request = summary_request(
                self._choice.profile.name,
                part,
                so_far=notes,
                part=number,
                parts=len(parts),
                summary_tokens=self._summary_tokens,
                focus=focus,
            )
            answer = await self._ask(request, f"{self._key}-{number}")
            refusal = unusable(answer, self._summary_tokens)
            if refusal is not None or isinstance(answer, Failure):
                raise NoSummary(refusal or "")
            notes = clean(answer.text).text.strip()
        return notes

    async def _ask(self, request: ModelRequest, key: str) -> Answer | Failure:
        """One call, counted also when it is cancelled in the middle."""
        answer: Answer | Failure = NO_END
        heard: list[str] = []
        try:
            async with asyncio.timeout(self._call_seconds):
                stream = self._choice.client.stream(request, blobs={}, key=key)
                if isinstance(stream, AsyncGenerator):
                    async with aclosing(stream):
                        answer = await self._heard(stream, heard)
                else:
                    answer = await self._heard(stream, heard)
        except TimeoutError:
            answer = TOO_SLOW
        finally:
            self._count(request, answer, "".join(heard))
        return answer

    async def _heard(self, stream: AsyncIterator[ModelEvent], heard: list[str]) -> Answer | Failure:
        left = UNUSABLE_LENGTH * self._summary_tokens * CHARACTERS_PER_TOKEN
        async for event in stream:
            match event:
                case TextDelta(text):
                    heard.append(text)
                    left -= len(text)
                    if left < 0:
                        return Answer(
                            text="".join(heard), stop=StopReason.LENGTH, usage=Usage(estimated=True)
                        )
                case Retrying():
                    heard.clear()
                case Answer() | Failure():
                    return event
                case _:
                    pass  # thinking and calls count when the answer is whole
        return NO_END

    def _count(self, request: ModelRequest, answer: Answer | Failure, heard: str) -> None:
        was_refused = isinstance(answer, Failure) and answer not in (NO_END, TOO_SLOW) and not heard
        usage = answer.usage or (Usage() if was_refused else None)
        if usage is None or (usage.estimated and not usage.input):
            sent = text_tokens(canonical(request.messages).decode()) + text_tokens(request.system)
            usage = Usage(input=sent, output=text_tokens(heard), estimated=True)
        cost = self._choice.price(usage)
        state = UsageState.FAILED if isinstance(answer, Failure) else UsageState.SETTLED
        self.spent.append(
            AddUsage(
                turn=self._turn,
                step=0,
                attempt=len(self.spent) + 1,
                task=TASK,
                model=self._choice.profile.name,
                state=UsageState.ESTIMATED if usage.estimated else state,
                input=usage.input,
                output=usage.output,
                cache_read=usage.cache_read,
                cache_write=usage.cache_write,
                cost_usd=None if cost is None else cost.usd,
                price_source=None if cost is None else cost.source,
            )
        )
