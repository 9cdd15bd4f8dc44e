"""Asks the summary model, part by part: each call carries the notes so far on, and each is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final

from clew.domain.compaction.template import UNUSABLE_LENGTH, part_tokens, summary_request, unusable
from clew.domain.compaction.transcript import abridged_to
from clew.domain.conversation.text import clean
from clew.domain.ledger.commits import Caps
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
from clew.runtime.ports.models import ModelChoice
from clew.runtime.spending import PaidCalls, SetAside

TASK: Final = "summary"
CHARACTERS_PER_TOKEN: Final = 8
"""More than any language has: a stream that is longer than this is no summary, and is not read to its end."""
NO_END: Final = Failure(kind=FailureKind.CUT, message="The model's answer broke off.")
TOO_SLOW: Final = Failure(kind=FailureKind.NETWORK, message="The model took too long.")


class NoSummary(Exception):
    """The summary model gave none; the sentence says why."""


class Summariser:
    """One pass over one model. `paid` has the rows for what it was asked so far, whatever came of it."""

    def __init__(
        self,
        choice: ModelChoice,
        set_aside: SetAside,
        *,
        caps: Caps,
        turn: int,
        key: str,
        summary_tokens: int,
        call_seconds: float,
    ) -> None:
        self.asked = 0
        """How often the model was asked."""
        self.paid = PaidCalls(choice, set_aside, caps=caps, turn=turn, step=0, task=TASK)
        self._choice = choice
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
        self.asked += 1
        tokens = UNUSABLE_LENGTH * self._summary_tokens
        return await answer_to(self.paid, request, key, tokens=tokens, seconds=self._call_seconds)


async def answer_to(
    paid: PaidCalls, request: ModelRequest, key: str, *, tokens: int, seconds: float
) -> Answer | Failure:
    """One call, of at most so many seconds and about so many tokens; counted also when it is cancelled in the middle."""
    try:
        async with (
            asyncio.timeout(seconds),
            aclosing(paid.stream(request, blobs={}, key=key)) as stream,
        ):
            return await _heard(stream, tokens * CHARACTERS_PER_TOKEN)
    except TimeoutError:
        return TOO_SLOW


async def _heard(stream: AsyncIterator[ModelEvent], left: int) -> Answer | Failure:
    heard: list[str] = []
    async for event in stream:
        match event:
            case TextDelta(text):
                heard.append(text)
                left -= len(text)
                if left < 0:
                    return Answer(text="".join(heard), stop=StopReason.LENGTH, usage=Usage(estimated=True))
            case Retrying():
                heard.clear()
            case Answer() | Failure():
                return event
            case _:
                pass  # thinking and calls count when the answer is whole
    return NO_END
