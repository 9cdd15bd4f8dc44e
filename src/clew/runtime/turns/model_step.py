"""One call of the model: what it says is shown as it comes, and becomes exactly one event."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

from clew.domain.models.answer import (
    Answer,
    CallDelta,
    Failure,
    FailureKind,
    ModelEvent,
    Retrying,
    TextDelta,
    ThinkingDelta,
    Usage,
)
from clew.domain.models.request import ModelRequest
from clew.domain.turn.machine import Answered, Failed
from clew.domain.turn.prompt import canonical
from clew.runtime.ports.models import ModelClient
from clew.runtime.ports.people import AttemptVoid, TextShown, ThinkingShown, Watch
from clew.runtime.turns.context import Ready

BYTES_PER_TOKEN: Final = 4
"""For an estimate where the provider told no figure because the call was cut."""
NO_END: Final = Failure(
    kind=FailureKind.GARBAGE, message="The model's answer ended in the middle, without a word why."
)


class ModelStep:
    """Asks the model, step by step. `partial` is what was shown of an answer that is not recorded yet."""

    def __init__(self, client: ModelClient, watch: Watch, still_ours: Callable[[], Awaitable[None]]) -> None:
        """`still_ours` raises Fenced before words are shown of a session that is somebody else's."""
        self._client = client
        self._watch = watch
        self._still_ours = still_ours
        self._asked: ModelRequest | None = None
        self._failed: Usage | None = None
        self.partial = ""

    async def ask(self, ready: Ready, key: str) -> Answered | Failed:
        self.partial, self._asked, self._failed = "", ready.request, None
        stream = self._client.stream(ready.request, blobs=ready.blobs, key=key)
        if not isinstance(stream, AsyncGenerator):
            return await self._heard(stream.__aiter__())
        async with aclosing(stream):
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
                    self._failed = event.usage
                    if not self.partial:
                        self._asked = None  # nothing came: there is nothing to estimate
                    return Failed(event)
        return Failed(NO_END)

    def recorded(self) -> None:
        """The answer is on disk, and its usage with it."""
        self.partial, self._asked = "", None

    def unrecorded_usage(self) -> Usage | None:
        """What a call used that brought no answer: the provider's figures, or an estimate; None when none was made."""
        if self._asked is None or self._failed is not None:
            return self._failed
        sent = len(self._asked.system.encode()) + len(canonical(self._asked.messages))
        shown = len(self.partial.encode())
        return Usage(input=sent // BYTES_PER_TOKEN, output=shown // BYTES_PER_TOKEN, estimated=True)
