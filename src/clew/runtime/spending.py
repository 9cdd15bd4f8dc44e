"""A call of a model as something that is paid for: set aside before each attempt, counted after it.

With a cap set, the dearest case of every attempt is reserved in the transaction that looks at the caps, before the
attempt begins; without one nothing is written before the answer. What became of an attempt is a row for whatever commit
comes next:

    the provider's figures      as they are: settled, or failed
    refused, or never sent      nothing was used: what was set aside is free again
    cut, broken, never ended    an estimate: the dearest case where one was set aside, else what was sent and shown

The dearest case is an upper bound in practice, not by proof: tokenizers differ, and a provider may count what it likes.
What it then reports is what counts, also where that is more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, nullcontext
from typing import Final

import msgspec

from clew.domain.compaction.estimate import IMAGE_TOKENS, MESSAGE_TOKENS, text_tokens
from clew.domain.ledger.commits import AddUsage, Caps, Reserve, UsageState
from clew.domain.ledger.errors import CapReached
from clew.domain.ledger.spending import setting
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
from clew.domain.models.request import AssistantTurn, ImagePart, ModelRequest, TextPart, ToolTurn, UserTurn
from clew.runtime.ports.models import Cost, ModelChoice

OUTPUT_TOKENS_MAX: Final = 4_096
"""Of an answer under a cap, where nothing else bounds it: no model in use today takes less."""
OUTPUT_SHARE_MAX: Final = 4
"""And at most a quarter of the window, which is what compaction keeps free."""
INPUT_MARGIN: Final = 1.5
"""On top of the estimate by which summaries are planned: measured, that is 0.9 to 1.6 of the truth."""
IMAGE_TOKENS_MAX: Final = 5_000
"""Of one image: Claude's largest are 4,784 tokens, GPT-4o's 1,445, Gemini's less. (GPT-4o mini counts up to 48,169.)"""

SetAside = Callable[[Reserve, tuple[AddUsage, ...]], Awaitable[None]]
"""Commits a reservation, and with it the rows of attempts before. Raises CapReached, and whatever a commit raises."""


def input_tokens(request: ModelRequest) -> tuple[int, int]:
    """(tokens, images) the request may come to: the estimate of its texts, each for itself, and its images."""
    texts = [request.system]
    texts += (
        f"{tool.name} {tool.description} {msgspec.json.encode(tool.parameters).decode()}"
        for tool in request.tools
    )
    images = 0
    for message in request.messages:
        match message:
            case UserTurn(parts=parts):
                texts += (part.text for part in parts if isinstance(part, TextPart))
                images += sum(isinstance(part, ImagePart) for part in parts)
            case AssistantTurn():
                texts += (message.text, *(part.text for part in message.thinking))
                texts += (f"{call.id} {call.name} {call.arguments}" for call in message.calls)
            case ToolTurn():
                texts.append(f"{message.call} {message.name} {message.text}")
                images += len(message.images)
    return sum(text_tokens(text) + MESSAGE_TOKENS for text in texts), images


def input_tokens_max(request: ModelRequest) -> int:
    """The most that a provider is expected to count for the request."""
    tokens, images = input_tokens(request)
    return int(tokens * INPUT_MARGIN) + 1 + images * IMAGE_TOKENS_MAX


class PaidCalls:
    """The calls of a model for one step of a task, one after the other. Their attempts are numbered on."""

    def __init__(
        self,
        choice: ModelChoice,
        set_aside: SetAside,
        *,
        caps: Caps,
        turn: int,
        step: int,
        task: str,
    ) -> None:
        """A row is named by turn, step, attempt and `task`."""
        self._choice = choice
        self._set_aside = set_aside
        self._caps = caps
        self._row = AddUsage(
            turn=turn,
            step=step,
            attempt=0,
            task=task,
            model=choice.profile.name,
            state=UsageState.RESERVED,
        )
        self._rows: list[AddUsage] = []
        self._request: ModelRequest | None = None
        """What the attempt under way was sent; None when none is."""
        self._reserved: tuple[Usage, Cost] | None = None
        """What was set aside for it."""
        self._shown: list[str] = []
        """What came of its answer."""

    async def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncGenerator[ModelEvent, None]:
        """As the client's, but ends in a Failure of kind CAP or UNPRICED where an attempt may not be made.

        Raises whatever `set_aside` raises, but CapReached.
        """
        request = self._bounded(request)
        refusal = await self._may_begin(request)
        if refusal is not None:
            yield refusal
            return
        stream = self._choice.client.stream(request, blobs=blobs, key=key)
        async with aclosing(stream) if isinstance(stream, AsyncGenerator) else nullcontext():
            async for event in stream:
                if isinstance(event, TextDelta):  # nearly all are: a long answer has thousands
                    self._shown.append(event.text)
                    yield event
                    continue
                self._heard(event)
                yield event
                if isinstance(event, Retrying):
                    refusal = await self._may_begin(request)
                    if refusal is not None:
                        yield refusal
                        return

    def rows(self) -> tuple[AddUsage, ...]:
        """What became of every attempt that is not written yet, for the next commit; an attempt under way counts as cut."""
        if self._request is not None:
            self._ended(self._guess(self._request), UsageState.ESTIMATED)
        return tuple(self._rows)

    def written(self) -> None:
        """The rows are on disk."""
        self._rows.clear()

    def _heard(self, event: ModelEvent) -> None:
        match event:
            case TextDelta(text) | ThinkingDelta(text) | CallDelta(arguments=text):
                self._shown.append(text)
            case Retrying():
                self._failed(event.failure)
            case Answer():
                self._ended(event.usage, UsageState.SETTLED)
            case Failure():
                self._failed(event)

    def _bounded(self, request: ModelRequest) -> ModelRequest:
        """Under a cap an answer has a bound, so that what is set aside is the most it can cost."""
        if self._caps.first is None or request.max_output is not None:
            return request
        window = self._choice.profile.context_window
        tokens = max(1, min(OUTPUT_TOKENS_MAX, window // OUTPUT_SHARE_MAX))
        return msgspec.structs.replace(request, max_output=tokens)

    async def _may_begin(self, request: ModelRequest) -> Failure | None:
        """Sets an attempt's dearest case aside; the failure says why it may not be made."""
        pending = self.rows()
        self._row = msgspec.structs.replace(self._row, attempt=self._row.attempt + 1)
        if self._caps.first is not None:
            usage, cost = self._dearest(request)
            if cost is None:
                return _unpriced(self._row.model, self._caps.first)
            row = self._priced(usage, UsageState.RESERVED, cost)
            aside = asyncio.ensure_future(self._set_aside(Reserve(usage=row, caps=self._caps), pending))
            try:
                await asyncio.shield(aside)
            except CapReached as error:
                return Failure(kind=FailureKind.CAP, message=str(error), was_sent=False)
            except asyncio.CancelledError:
                await asyncio.wait([aside])
                if not aside.cancelled() and aside.exception() is None:
                    self.written()
                    self._rows.append(self._priced(Usage(), UsageState.FAILED, None))
                raise
            self.written()
            self._reserved = (usage, cost)
        self._request, self._shown = request, []
        return None

    def _dearest(self, request: ModelRequest) -> tuple[Usage, Cost | None]:
        """Whichever is dearer: all of the input as it comes, read from the provider's cache, or written to it."""
        tokens, written = input_tokens_max(request), request.max_output or 0
        plain = Usage(input=tokens, output=written, estimated=True)
        cases = (
            plain,
            msgspec.structs.replace(plain, cache_read=tokens),
            msgspec.structs.replace(plain, cache_write=tokens),
        )
        costs = [cost for cost in map(self._choice.price, cases) if cost is not None]
        return plain, max(costs, key=lambda cost: cost.usd, default=None)

    def _failed(self, failure: Failure | None) -> None:
        """An attempt came to nothing. None is one of which nothing is known."""
        if self._request is None:
            return
        may_have_cost = failure is None or failure.may_have_cost
        if failure is not None and failure.usage is not None:
            self._ended(failure.usage, UsageState.FAILED)
        elif self._shown or (self._reserved is not None and may_have_cost):
            self._ended(self._guess(self._request), UsageState.ESTIMATED)
        else:
            self._ended(Usage(), UsageState.FAILED)

    def _ended(self, usage: Usage, state: UsageState) -> None:
        """The attempt under way is over. Where nothing was set aside, a failure that used nothing leaves no row."""
        reserved = self._reserved
        self._request = self._reserved = None
        cost: Cost | None
        if usage.estimated and reserved is not None:
            usage, cost = reserved
        else:
            cost = self._choice.price(usage)
        if reserved is not None or state == UsageState.SETTLED or usage != Usage():
            self._rows.append(self._priced(usage, UsageState.ESTIMATED if usage.estimated else state, cost))

    def _guess(self, request: ModelRequest) -> Usage:
        """What an attempt used that ended without a word of it."""
        tokens, images = input_tokens(request)
        return Usage(
            input=tokens + images * IMAGE_TOKENS, output=text_tokens("".join(self._shown)), estimated=True
        )

    def _priced(self, usage: Usage, state: UsageState, cost: Cost | None) -> AddUsage:
        return msgspec.structs.replace(
            self._row,
            state=state,
            input=usage.input,
            output=usage.output,
            cache_read=usage.cache_read,
            cache_write=usage.cache_write,
            cost_usd=None if cost is None else cost.usd,
            price_source=None if cost is None else cost.source,
        )


def _unpriced(model: str, cap: str) -> Failure:
    said = (
        f"No price is known for {model!r}, and {setting(cap)} is set: set model.input_usd_per_mtok and "
        "model.output_usd_per_mtok (0 and 0 for a model that costs nothing), or take the cap away."
    )
    return Failure(kind=FailureKind.UNPRICED, message=said, was_sent=False)
