"""Each request of a turn fits the model's window: a summary is made first where it would not, once more where the
provider says it did not, and what cannot fit ends the turn in one sentence. No message is ever left out instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from clew.domain.compaction.policy import CERTAIN_EXCESS
from clew.domain.models.answer import Failure, FailureKind
from clew.domain.turn.machine import Answered, Failed
from clew.runtime.compaction import Compacted, CompactionAsk, Trigger
from clew.runtime.ports.people import Noticed, Watch
from clew.runtime.turns.context import Ready, TurnContext
from clew.runtime.turns.job import Means, TurnJob
from clew.runtime.turns.model_step import ModelStep
from clew.runtime.turns.recording import Recorder

TRIES_MAX = 2
"""A summary that was made elsewhere, and one of its own where that is not enough."""


class Fitting:
    """Asks the model for one turn. A stop cancels what it does, and cannot come between asking and beginning: a turn
    that was stopped before its first step never gets here."""

    def __init__(  # noqa: PLR0917
        self,
        means: Means,
        job: TurnJob,
        turn: int,
        context: TurnContext,
        model: ModelStep,
        recorder: Recorder,
        watch: Watch,
        forget: Callable[[], Awaitable[None]],
    ) -> None:
        """`forget` takes out of the context what the person had forgotten: before each request, for a summary takes time."""
        self._compactor = means.compactor
        self._job = job
        self._turn = turn
        self._context = context
        self._model = model
        self._recorder = recorder
        self._watch = watch
        self._forget = forget
        self._trigger = Trigger.PREFLIGHT
        """Why the next request might need a summary: of a turn the first is preflight, each later one mid-turn."""

    async def ask(self, key: str) -> Answered | Failed:
        """The model's answer to the conversation as it stands now."""
        ready = await self._fitting_request()
        if ready is None:
            return self._too_long()
        heard = await self._model.ask(ready, key)
        if _overflowed(heard):
            if not await self._compacted(Trigger.OVERFLOW):
                return self._too_long()
            heard = await self._model.ask(await self._request(), key)
        if isinstance(heard, Answered) and not heard.answer.usage.estimated:
            self._compactor.memory.counted(self._job.session, self._context.tokens, heard.answer.usage.input)
        return self._too_long() if _overflowed(heard) else heard

    def turn_ended(self) -> None:
        """In the quiet after it a summary may be made that the next turn would have to wait for."""
        self._compactor.turn_ended(self._asking(Trigger.IDLE), self._context.tokens)

    async def _fitting_request(self) -> Ready | None:
        """None where not even a provider need be asked whether it fits."""
        ready = await self._request()
        budget = self._compactor.budget(self._job.session, self._job.model.profile)
        for _ in range(TRIES_MAX):
            if self._context.tokens <= budget.trigger:
                break
            was_compacted = await self._compacted(self._trigger)
            ready = await self._request()
            if not was_compacted:
                break
        self._trigger = Trigger.MID_TURN
        certainly = self._job.model.profile.is_window_known
        return None if certainly and self._context.tokens > CERTAIN_EXCESS * budget.window else ready

    async def _request(self) -> Ready:
        await self._forget()
        return await self._context.request(self._recorder.handle)

    async def _compacted(self, trigger: Trigger) -> bool:
        """Whether another summary is in force now."""
        outcome = await self._compactor.compact(self._asking(trigger))
        if isinstance(outcome, Compacted):
            self._recorder.summarised(outcome.summary.id)
            self._watch(Noticed(outcome.sentence, outcome.summary.id))
            return True
        if outcome.is_news:
            self._watch(Noticed(outcome.sentence))
        return False

    def _asking(self, trigger: Trigger) -> CompactionAsk:
        return CompactionAsk(
            principal=self._job.principal,
            session=self._job.session,
            trigger=trigger,
            model=self._job.model.profile,
            saw=self._recorder.handle.summary,
            turn=0 if trigger == Trigger.IDLE else self._turn,
        )

    def _too_long(self) -> Failed:
        window = self._job.model.profile.context_window
        sentence = (
            f"This conversation does not fit the model's window of {window:,} tokens, and could not be made to fit. "
            "Nothing of it is lost: say something shorter, /undo, or choose a model with a larger window."
        )
        return Failed(Failure(kind=FailureKind.OVERFLOW, message=sentence))


def _overflowed(heard: Answered | Failed) -> bool:
    return isinstance(heard, Failed) and heard.failure.kind == FailureKind.OVERFLOW
