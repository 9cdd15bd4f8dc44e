"""One call of the model: what it says is shown as it comes, and becomes exactly one event."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

from clew.domain.ledger.commits import AddUsage
from clew.domain.models.answer import (
    Answer,
    CallDelta,
    Failure,
    FailureKind,
    ModelEvent,
    Retrying,
    TextDelta,
    ThinkingDelta,
)
from clew.domain.turn.machine import Answered, Failed
from clew.runtime.ports.people import AttemptVoid, TextShown, ThinkingShown, Watch
from clew.runtime.spending import PaidCalls
from clew.runtime.turns.context import Ready

NO_END: Final = Failure(
    kind=FailureKind.GARBAGE, message="The model's answer ended in the middle, without a word why."
)


class ModelStep:
    """Asks the model, step by step. `partial` is what was shown of an answer that is not recorded yet."""

    def __init__(self, watch: Watch, still_ours: Callable[[], Awaitable[None]]) -> None:
        """`still_ours` raises Fenced before words are shown of a session that is somebody else's."""
        self._watch = watch
        self._still_ours = still_ours
        self._calls: PaidCalls | None = None
        self.partial = ""

    def begin_step(self, calls: PaidCalls) -> None:
        self._calls = calls

    async def ask(self, ready: Ready, key: str) -> Answered | Failed:
        assert self._calls is not None, "a step begins first"
        self.partial = ""
        async with aclosing(self._calls.stream(ready.request, blobs=ready.blobs, key=key)) as stream:
            return await self._heard(stream)

    async def _heard(self, stream: AsyncIterator[ModelEvent]) -> Answered | Failed:
        async for event in stream:
            await self._still_ours()
            match event:
                case TextDelta(text):
                    self.partial += text
                    self._watch(TextShown(text))
                case ThinkingDelta(text):
                    self._watch(ThinkingShown(text))
                case CallDelta():
                    pass  # shown when it is whole and recorded
                case Retrying():
                    self.partial = ""
                    self._watch(AttemptVoid(reason=event.reason, after_seconds=event.after_seconds))
                case Answer():
                    return Answered(event)
                case Failure():
                    return Failed(event)
        return Failed(NO_END)

    def recorded(self) -> None:
        """The answer is on disk, and its usage with it."""
        self.partial = ""
        if self._calls is not None:
            self._calls.written()

    def used(self) -> tuple[AddUsage, ...]:
        """The rows of what this step used that are not on disk."""
        return () if self._calls is None else self._calls.rows()
