"""One session as an editor has it open: its prompts, one turn at a time, each answered under its own request.

The id that an editor knows names a place (`acp:ID`), which begins with the session of that id and is moved by /new,
/branch and /resume like any other place. A prompt that comes while another runs is on disk before it waits. Cancelling
ends every prompt of the session; a turn that began keeps what it had shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

from clew.domain.conversation.ids import LOCAL, InboxId, SessionId
from clew.domain.ledger.errors import Busy, NotFound, Outdated
from clew.domain.ledger.rows import InboxState, SessionRow
from clew.domain.tools.policy import ApprovalMode
from clew.domain.tools.session_settings import read_settings
from clew.runtime.commands import CommandError, is_command
from clew.runtime.ports.models import ModelUnavailable
from clew.runtime.ports.people import Consent, Noticed, Question
from clew.runtime.sessions import Place
from clew.runtime.talk import Services, Talk
from clew.runtime.turns import TurnOutcome, TurnStatus
from clew.runtime.turns.openings import Opening
from clew.runtime.turns.outcome import STOPPED
from clew.runtime.turns.runner import RunningTurn
from clew.surfaces.acp.calls import ShownCall
from clew.surfaces.acp.content import Said
from clew.surfaces.acp.editor import Dismissed, Editor
from clew.surfaces.acp.options import mode_of, options
from clew.surfaces.acp.updates import LiveTurn, Update, replayed
from clew.wire.acp_types import (
    AgentMessageChunkSent,
    BooleanOption,
    CompactionUpdateSent,
    ConfigOptionUpdateSent,
    Cost,
    CurrentModeUpdateSent,
    SelectOption,
    SessionInfoUpdateSent,
    TextBlock,
    UsageUpdateSent,
)
from clew.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, RpcError

T = TypeVar("T")
StopReason = Literal["end_turn", "max_tokens", "max_turn_requests", "refusal", "cancelled"]
SURFACE: Final = "acp"
REPLAYED_AT_ONCE: Final = 50
"""Updates of a replay that are written before the editor has to have read some."""


def place_of(session: str) -> Place:
    return Place(route_key=f"acp:{session}", surface=SURFACE)


class _Facts(NamedTuple):
    """What an editor is told of a session beside what is said in it."""

    title: str | None
    mode: str
    model: str | None
    effort: str | None
    summary: int

    @property
    def options(self) -> tuple[str | None, ...]:
        return self.mode, self.model, self.effort


class _Cancelled(Exception):
    """The prompt ends before its turn began: it was cancelled, taken back, or waits where the thread is no more."""


class Prompt:
    """A prompt that has no answer yet. `Approver` for its turn."""

    def __init__(self, session: EditorSession) -> None:
        self.is_cancelled = False
        self.is_cut = False
        """Whether a command of the same editor ended its turn: nobody has to be told who did."""
        self.running: RunningTurn | None = None
        self._session = session
        self._step: asyncio.Task[Any] | None = None
        self._is_current = False

    async def leavable(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits what may take long and commits nothing. Raises _Cancelled, at once, when the prompt is cancelled."""
        if self.is_cancelled:
            work.close()
            raise _Cancelled
        step = self._step = asyncio.create_task(work)
        try:
            await asyncio.wait([step])
            if step.cancelled():
                raise _Cancelled
            done: T = step.result()
            return done
        finally:
            step.cancel()
            self._step = None

    def cancel(self) -> None:
        """At any time, any number of times."""
        self.is_cancelled = True
        if self._step is not None:
            self._step.cancel()
        elif self.running is not None:
            self.running.stop(STOPPED)
        elif self._is_current and (before := self._session.talk.running) is not None:
            before.stop(STOPPED)  # a turn that was left open, and is finished before this one's

    async def run(self, opening: Opening, live: LiveTurn) -> TurnOutcome:
        """A turn, from its beginning to its end on disk."""
        talk = self._session.talk
        self._is_current = True
        try:
            running = self.running = await talk.begin(opening, live, self)
            if self.is_cancelled:
                running.stop(STOPPED)
            return await running.finish()
        finally:
            self._is_current, self.running = False, None

    async def recover(self, live: LiveTurn) -> TurnOutcome | None:
        self._is_current = True
        try:
            return await self._session.talk.recover(live, self)
        finally:
            self._is_current = False

    async def ask(self, question: Question) -> Consent | None:
        call = ShownCall(question.call, question.name, question.arguments, self._session.talk.cwd)
        seconds = self._session.talk.services.runner.settings.approval_expires_seconds
        try:
            return await self._session.editor.permission(self._session.id, call, seconds)
        except Dismissed:
            self.cancel()
            return None


class EditorSession:
    """`directories` are further ones of the workspace."""

    def __init__(self, number: str, services: Services, row: SessionRow, cwd: Path, editor: Editor) -> None:
        self.id = number
        self.editor = editor
        self.talk = Talk(services, LOCAL, place_of(number), cwd, row.id)
        self.models: Sequence[str] = ()
        """The names that can be chosen, as far as they are known."""
        self._told = self._facts(row)
        self._one_turn = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._prompts: set[Prompt] = set()
        self._told_problems = False
        self.talk.titled = self._titled
        self._telling = set[asyncio.Task[None]]()

    @property
    def is_busy(self) -> bool:
        return bool(self._prompts)

    async def row(self) -> SessionRow:
        return await self.talk.services.ledger.session(LOCAL, await self.talk.ensure_session())

    @property
    def default_mode(self) -> ApprovalMode:
        return ApprovalMode(self.talk.services.runner.settings.approval_mode)

    # -- prompts -------------------------------------------------------------------------------------------------
    async def prompt(self, said: Said, ready: Callable[[], Coroutine[Any, Any, None]]) -> StopReason:
        """`ready` comes first. Raises what keeps a turn from beginning, and RpcError for one that failed.

        Cancelling this cancels the prompt: then too it returns when the turn's end is on disk.
        """
        prompt = Prompt(self)
        return await self._followed(prompt, self._said(prompt, said, ready))

    async def recover(self) -> None:
        """Goes on with a turn that a process left in the middle, if there is one."""
        if not self.is_busy and await self.talk.is_left_open():
            prompt = Prompt(self)
            await self._followed(prompt, self._recovered(prompt))

    def cancel(self) -> None:
        """Ends every prompt of this session."""
        for prompt in self._prompts:
            prompt.cancel()

    async def close(self) -> None:
        """Ends what runs, and what the tools started."""
        while self._prompts:
            self.cancel()
            async with self._one_turn:
                pass
            await asyncio.sleep(0)
        await asyncio.gather(*self._telling, return_exceptions=True)  # nobody is told any more
        await self.talk.close()

    async def _followed(self, prompt: Prompt, work: Coroutine[Any, Any, StopReason]) -> StopReason:
        self._prompts.add(prompt)
        task = asyncio.ensure_future(self._answered(work))
        task.add_done_callback(lambda _: self._prompts.discard(prompt))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            prompt.cancel()
            return await task

    async def _answered(self, work: Awaitable[StopReason]) -> StopReason:
        try:
            return await work
        except _Cancelled:
            return "cancelled"
        finally:
            await self._tell_changes()

    async def _said(
        self, prompt: Prompt, said: Said, ready: Callable[[], Coroutine[Any, Any, None]]
    ) -> StopReason:
        await prompt.leavable(ready())
        if (outdated := self.talk.outdated) is not None:
            raise outdated  # not taken: it would run a second time when it is sent again to our successor
        if not said.files and is_command(said.text):
            return await self._command(prompt, said.text)
        if any(file.media_type.startswith("audio/") for file in said.files):
            await prompt.leavable(self._refuse_deaf())
        async with self._sending:
            session = (
                await self.talk.ensure_session()
            )  # where it waits, wherever a command moves the thread meanwhile
            sent = await self.talk.send(said.text, said.files)
        try:
            return await self._when_its_turn_comes(prompt, sent.received)
        except BaseException:  # nobody is going to answer it, and it may be sent again
            await self.talk.services.desk.withdraw(LOCAL, session, (sent.received,), "cancel")
            raise

    async def _command(self, prompt: Prompt, text: str) -> StopReason:
        running = [other for other in self._prompts if other.running is not None]
        try:
            reply = await self.talk.command(text)
        except CommandError as error:
            self._say(str(error))
            return "end_turn"
        for other in running:
            other.is_cut |= reply.ends_turn
        if reply.text:
            self._say(reply.text)
        if reply.opening is not None:
            self.talk.is_occupied = True
            return await self._own_turn(prompt, reply.opening)
        return await self._when_its_turn_comes(prompt, None) if reply.waits else "end_turn"

    async def _own_turn(self, prompt: Prompt, opening: Opening) -> StopReason:
        """A turn whose opening is nowhere but here."""
        try:
            await prompt.leavable(self._one_turn.acquire())
            try:
                return await self._turn(prompt, opening)
            finally:
                self._one_turn.release()
        finally:
            self.talk.is_occupied = False

    async def _when_its_turn_comes(self, prompt: Prompt, number: InboxId | None) -> StopReason:
        """Takes what waits, in order, until this message was taken, by whomever; None: until nothing waits."""
        await prompt.leavable(self._one_turn.acquire())
        try:
            return await self._take_waiting(prompt, number)
        finally:
            self._one_turn.release()

    async def _take_waiting(self, prompt: Prompt, number: InboxId | None) -> StopReason:
        reason: StopReason = "end_turn"
        while True:
            await prompt.leavable(self.talk.until_idle())
            following = await self.talk.next_queued()
            if following is None or (number is not None and not await self._waits(number)):
                return reason if number is None else await self._fate(prompt, number)
            self.talk.is_occupied = True
            try:
                reason = await self._turn(prompt, following)
            except Busy:
                continue  # another process was quicker
            finally:
                self.talk.is_occupied = False
            if number in following.inbox:
                return reason

    async def _turn(self, prompt: Prompt, opening: Opening) -> StopReason:
        await prompt.leavable(self._prepared())
        live = self._live()
        return await self._reason(prompt, live, await prompt.run(opening, live))

    async def _recovered(self, prompt: Prompt) -> StopReason:
        self.talk.is_occupied = True
        try:
            async with self._one_turn:
                live = self._live()
                outcome = await prompt.recover(live)
            return "end_turn" if outcome is None else await self._reason(prompt, live, outcome)
        except Busy:
            return "end_turn"  # whoever began it lives: it is not ours
        finally:
            self.talk.is_occupied = False

    async def _prepared(self) -> None:
        """What may take long before a turn: the model's facts from its server, and tool servers."""
        talk = self.talk
        choice = await talk.services.models.choose((await self.row()).model)
        if choice.profile.takes_tools:
            for problem in await talk.problems():
                if not self._told_problems:
                    self.editor.notice(self.id, problem)
            self._told_problems = True

    async def _refuse_deaf(self) -> None:
        """Sound was sent: raises RpcError where the session's model takes none."""
        profile = (await self.talk.services.models.choose((await self.row()).model)).profile
        if not profile.takes_audio:
            raise RpcError(
                INVALID_PARAMS, f"{profile.name} takes no sound, as far as is known: nothing was sent."
            )

    async def _waits(self, number: InboxId) -> bool:
        return number in {row.id for row in await self._inbox() if row.state == InboxState.QUEUED}

    async def _fate(self, prompt: Prompt, number: InboxId) -> StopReason:
        """What became of a message that waits no more: a turn took it, here or elsewhere, or it was taken back."""
        taken = await prompt.leavable(self.talk.answered_elsewhere(number))
        if taken is None:
            raise _Cancelled
        if self.talk.running is None or self.talk.running.turn != taken.turn:
            self._say(
                taken.text or f"Another process has taken this into turn {taken.turn}; /history shows it."
            )
        return "end_turn"

    async def _inbox(self) -> Sequence[Any]:
        return await self.talk.services.ledger.received(LOCAL, await self.talk.ensure_session(), limit=200)

    # -- how a turn came out -------------------------------------------------------------------------------------
    async def _reason(self, prompt: Prompt, live: LiveTurn, outcome: TurnOutcome) -> StopReason:
        """Raises RpcError for a turn that failed, Outdated."""
        await self._tell_usage(live, outcome)
        if isinstance(outcome.cause, Outdated):
            raise outcome.cause
        if outcome.status == TurnStatus.DONE:
            return "end_turn"
        if outcome.waiting_for:
            ids = ", ".join(outcome.waiting_for)
            self._say(f"A call waits for a decision: /approve or /deny ({ids}).")
            return "cancelled" if prompt.is_cancelled else "end_turn"
        if outcome.status == TurnStatus.INTERRUPTED or prompt.is_cancelled:
            if outcome.error is not None and not (prompt.is_cancelled or prompt.is_cut):
                self._say(outcome.error[1])
            return "cancelled"
        code, sentence = outcome.error or (outcome.status, "The turn failed.")
        if code == "step_limit":
            self._say(sentence)
            return "max_turn_requests"
        raise RpcError(INTERNAL_ERROR, sentence, {"code": code, "turn": outcome.turn})

    async def _tell_usage(self, live: LiveTurn, outcome: TurnOutcome) -> None:
        if not live.used:
            return
        choice = await self.talk.services.models.choose((await self.row()).model)
        used = await self.talk.services.ledger.usage(LOCAL, await self.talk.ensure_session())
        cost = None if used.cost_usd is None else Cost(amount=used.cost_usd, currency="USD")
        self._update(UsageUpdateSent(used=live.used, size=choice.profile.context_window, cost=cost))

    # -- what is shown -------------------------------------------------------------------------------------------
    def _live(self) -> LiveTurn:
        return LiveTurn(self.talk.cwd, self._update, self._noticed, self.editor.shown_in)

    def _noticed(self, news: Noticed) -> None:
        if news.summary is not None and self.editor.takes_compactions:
            self._update(CompactionUpdateSent(compaction_id=str(news.summary), status="completed"))
        else:
            self.editor.notice(self.id, news.text)

    def _update(self, update: Update) -> None:
        self.editor.update(self.id, update)

    def _say(self, text: str) -> None:
        self._update(AgentMessageChunkSent(content=TextBlock(text=text)))

    async def replay(self) -> None:
        """Everything that was said, as updates. Writes nothing."""
        row, count = await self.row(), 0
        async for update in replayed(self.talk.services.ledger, LOCAL, row.id, self.talk.cwd):
            self._update(update)
            count += 1
            if count % REPLAYED_AT_ONCE == 0:
                await self.editor.sent()
        self._told = self._facts(row)

    def _facts(self, row: SessionRow) -> _Facts:
        settings = read_settings(row.settings)
        return _Facts(
            row.title, mode_of(row, self.default_mode), row.model, settings.effort, row.handle.summary or 0
        )

    def _titled(self) -> None:
        telling = asyncio.create_task(self._tell_changes())
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell_changes(self) -> None:
        """What was changed since it was last told: by a command, by an option, by a turn."""
        try:
            row = await self.row()
        except NotFound:
            return  # it was deleted: there is nothing to tell of it
        before, self._told = self._told, self._facts(row)
        if row.title != before.title and row.title:
            self._update(SessionInfoUpdateSent(title=row.title))
        if self._told.mode != before.mode:
            self._update(CurrentModeUpdateSent(current_mode_id=self._told.mode))
        if self._told.options != before.options:
            await self.tell_options()
        if self._told.summary > before.summary and self.editor.takes_compactions:
            await self._tell_summary(row.id, self._told.summary)

    async def _tell_summary(self, session: SessionId, number: int) -> None:
        """What stands for the older part now; /expand, which goes back to an older one, is no compaction."""
        for summary in await self.talk.services.ledger.summaries(LOCAL, session):
            if summary.id == number:
                said = [TextBlock(text=summary.text)]
                self._update(
                    CompactionUpdateSent(compaction_id=str(number), status="completed", summary=[*said])
                )

    async def options(self) -> list[SelectOption | BooleanOption]:
        row = await self.row()
        return options(row, self.default_mode, self.models, takes_effort=await self._takes_effort(row))

    async def _takes_effort(self, row: SessionRow) -> bool:
        """Whether the model can be told how long to think; nobody waits for its server to find that out."""
        if not self.models:
            return False
        try:
            return (await self.talk.services.models.choose(row.model)).profile.takes_effort
        except ModelUnavailable:
            return False

    async def tell_options(self) -> None:
        found = await self.options()
        self._update(ConfigOptionUpdateSent(config_options=found))

    async def set(self, command: str) -> None:
        """Sets something by a command, and tells what that changed. Raises CommandError."""
        await self.talk.command(command)
        await self._tell_changes()
