"""Turns of the chat, run beside the input line: one at a time, then those whose messages wait in the ledger.

Rule: a message is in the line, in the inbox or in the history, never nowhere. One that could not be sent comes back
into the line; one that waits stays in the ledger until a turn takes it; what fails is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from clew.domain.conversation.ids import InboxId, SessionId
from clew.domain.ledger.errors import Busy, NotFound, Outdated, Refused
from clew.domain.ledger.rows import InboxRow
from clew.domain.models.answer import FailureKind
from clew.runtime.ports.people import Consent, Question, StepRecorded, TextShown, TurnNews
from clew.runtime.sending import POLL_SECONDS
from clew.runtime.talk import MESSAGE, QueuedMessage, Talk
from clew.runtime.turns import TurnOutcome, TurnStatus
from clew.runtime.turns.openings import Hear, Opening, Recover, Say
from clew.runtime.turns.runner import RunningTurn
from clew.runtime.turns.waiting import BusyMode, NewFile
from clew.surfaces.cli.chat.approving import Asker
from clew.surfaces.cli.chat.screen import Screen
from clew.surfaces.cli.chat.status import StatusLine
from clew.surfaces.cli.codes import EXPECTED

STOPPED: Final = "interrupted"
MENDED_BY_SETUP: Final = frozenset({FailureKind.AUTH, FailureKind.UNKNOWN_MODEL})
_decode: Final = msgspec.json.Decoder(QueuedMessage).decode


class _Taken(Exception):
    """Another process has taken the message, or somebody took it back."""


class TurnView:
    """What one turn says and asks; once it is detached nobody hears it, and its questions wait in the ledger."""

    def __init__(self, screen: Screen, status: StatusLine, asker: Asker) -> None:
        self._screen = screen
        self._status = status
        self._asker = asker
        self._detached = asyncio.Event()

    @property
    def is_attached(self) -> bool:
        return not self._detached.is_set()

    def detach(self) -> None:
        self._detached.set()

    def watch(self, news: TurnNews) -> None:
        if self.is_attached:
            if isinstance(news, StepRecorded):
                self._status.took(news.usage)
            self._screen.watch(news)

    async def ask(self, question: Question) -> Consent | None:
        """`Approver`: the person's answer, or None when the turn was left meanwhile."""
        asking = asyncio.ensure_future(self._asker.ask(question))
        leaving = asyncio.ensure_future(self._detached.wait())
        try:
            await asyncio.wait((asking, leaving), return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else None
        finally:
            asking.cancel()
            leaving.cancel()
            await asyncio.gather(asking, leaving, return_exceptions=True)


class TurnDriver:
    """Runs the turns of one chat.

    `give_back` takes a text that could not be sent; `settled` is called after each turn; `outdated` when no turn can
    begin or end here any more.
    """

    def __init__(
        self,
        talk: Talk,
        screen: Screen,
        status: StatusLine,
        asker: Asker,
        *,
        give_back: Callable[[str], None],
        settled: Callable[[], None],
        outdated: Callable[[Outdated], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self.waiting: tuple[str, ...] = ()
        """The messages that wait for this session's turn to end."""
        self.waiting_shown: tuple[str, ...] = ()
        """The same for people: what each is going to do."""
        self.current: int | None = None
        """A number for the turn that is being prepared or run, of this chat alone; None between turns."""
        self.began_at = 0.0
        self._talk = talk
        self._screen = screen
        self._status = status
        self._asker = asker
        self._give_back = give_back
        self._settled = settled
        self._outdated = outdated
        self._broken = broken
        self._task: asyncio.Task[None] | None = None
        self._left: set[asyncio.Task[None]] = set()
        """Turns of sessions that were left, which end by themselves."""
        self._view: TurnView | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._running: RunningTurn | None = None
        self._stop_asked = False
        self._more = False
        self._turns = 0
        self._sent: list[InboxId] = []
        """What was sent from here and has begun no turn here yet."""
        self._told_problems_of: SessionId | None = None

    @property
    def is_busy(self) -> bool:
        return self._task is not None

    @property
    def anything_runs(self) -> bool:
        """Whether a turn runs, here or in a session that was left."""
        return self.is_busy or bool(self._left)

    # -- beginning and ending ------------------------------------------------------------------------------------
    def start(self, opening: Opening) -> None:
        """Begins a turn; it is followed to its end, and so are those that wait."""
        assert self._task is None, "one turn at a time"
        self._stop_asked = self._more = False
        self.began_at = asyncio.get_running_loop().time()
        self._talk.is_occupied = True
        self.current = self._turns + 1
        view = self._view = TurnView(self._screen, self._status, self._asker)
        self._task = asyncio.create_task(self._follow(opening, view))

    async def send(self, text: str, files: Sequence[NewFile] = ()) -> Opening | None:
        """Sends a message by the mode that is set; the opening to `start` with when nothing is under way.

        Raises Refused when too many wait.
        """
        met = self.current
        sent = await self._talk.send(text, files)
        self._sent.append(sent.received)
        await self.refresh_waiting()
        if sent.opening is not None:
            return sent.opening
        if sent.mode == BusyMode.INTERRUPT:
            self._cut(met)
        own = Say(text=text, inbox=(sent.received,))
        if await self.send_waiting() or self.is_busy or await self._talk.still_waits(sent.received):
            return None
        return own  # another process has it already: its answer is shown here too

    async def send_waiting(self) -> bool:
        """Begins with the oldest message that waits; False when none does."""
        if self.is_busy:
            self._more = True
            return False
        waiting = await self._next_waiting()
        if waiting is None or self.is_busy:
            return False
        self.start(waiting)
        return True

    async def refresh_waiting(self) -> None:
        """Reads again which messages wait."""
        talk = self._talk
        rows: Sequence[InboxRow] = ()
        with suppress(NotFound):  # nothing waits in a session that was deleted
            rows = await talk.services.ledger.queued(talk.principal, talk.session) if talk.session else ()
        bodies = [_decode(row.body) for row in rows if row.kind == MESSAGE]
        self.waiting = tuple(body.text for body in bodies)
        self.waiting_shown = tuple(f"{_WHAT[body.mode]}: {body.text}" for body in bodies)

    def interrupt(self) -> bool:
        """Stops the turn, and lets it record its end; False when none runs. One that a process had left, and that is
        finished before ours begins, is stopped alone."""
        if not self.is_busy:
            return False
        before = self._talk.running if self._running is None else None
        if before is not None and before.session == self._talk.session and not before.has_ended:
            before.stop(STOPPED)
            return True
        self._stop_asked = True
        if self._running is not None and not self._running.has_ended:
            self._running.stop(STOPPED)
        elif self._preparing is not None:
            self._preparing.cancel()
        return True

    async def waits_for_another(self) -> bool:
        """Whether the turn under way is another process's, and what was sent from here waits for it."""
        return self._running is None and self._preparing is not None and await self._talk.is_busy()

    def _cut(self, number: int | None) -> None:
        """Stops this turn, if it is still the current one; one that has not begun is recorded and goes no further."""
        if number is not None and number == self.current:
            self._stop_asked = True
            if self._running is not None:
                self._running.stop(STOPPED)

    async def end_unheard(self) -> None:
        """Ends a turn that a command has cut off, whose end is recorded already."""
        if self._view is not None:
            self._view.detach()
        await self.stop()
        self._screen.end()

    async def stop(self) -> None:
        """Stops the turn, and what would come behind it; its end is on disk when this returns."""
        task = self._task
        if self.interrupt() and task is not None:
            self._stop_asked = True
            await task

    def leave(self) -> bool:
        """Lets the turn go on unheard, because the chat goes on in another session; False when none runs."""
        if self._task is None or self._view is None:
            return False
        self._view.detach()
        self._left.add(self._task)
        self._task.add_done_callback(self._left_ended)
        self._task = self._running = self._view = None
        self._talk.is_occupied = False
        self._sent = []
        self._screen.end()
        return True

    def _left_ended(self, turn: asyncio.Task[None]) -> None:
        self._left.discard(turn)
        self._settled()

    async def close(self) -> None:
        """Ends everything that runs, and waits until its end is on disk."""
        await self.stop()
        for task in tuple(self._left):
            task.cancel()
        await asyncio.gather(*self._left, return_exceptions=True)

    # -- a turn --------------------------------------------------------------------------------------------------
    async def _follow(self, opening: Opening, view: TurnView) -> None:
        """The supervisor of the chat's turns: whatever goes wrong in one is said, and the line stays usable."""
        following: Opening | None = opening
        try:
            while following is not None:
                following = await self._next(await self._one(following, view), view)
        except Outdated as error:
            self._outdated(error)
        except EXPECTED as error:
            self._screen.problem(str(error))
        except Exception as error:  # noqa: BLE001 - the supervisor: said on the screen, in full with --debug
            self._broken(error)
        finally:
            if self._task is asyncio.current_task():
                self._task = self._running = self._view = None
                self._talk.is_occupied = False
                self._screen.end()
                self._settled()

    async def _recovered(self, view: TurnView) -> TurnOutcome | None:
        """Goes on with a turn that a process left in the middle; None when there is none to go on with."""
        try:
            outcome = await self._talk.recover(view.watch, view)
        except Outdated:
            raise
        except EXPECTED as error:
            self._screen.problem(str(error))
            return None
        if outcome is not None and isinstance(outcome.cause, Outdated):
            raise outcome.cause
        if outcome is not None and view.is_attached:
            self._screen.end()
            self._tell(outcome)
        return outcome

    async def _one(self, opening: Opening, view: TurnView) -> TurnOutcome | None:
        """Runs one turn; None when it could not begin."""
        if isinstance(opening, Recover):
            return await self._recovered(view)
        self._turns += 1
        number = self.current = self._turns
        try:
            return await self._begun_and_ended(opening, view)
        except _Taken:
            await self._show_elsewhere(0)
            if await self._talk.is_left_open() and not await self._talk.is_busy():
                return await self._recovered(view)  # its process ended before the answer came
            following = await self._next_waiting()
        finally:
            if self.current == number:
                self.current = None
        return None if following is None else await self._one(following, view)

    async def _show_elsewhere(self, own: int) -> None:
        """What another process answers belongs to whoever asked, too, unless they stop it. `own` is a turn that was run
        here."""
        if self._sent:
            try:
                await self._prepare(self._show_answers(own))
            except asyncio.CancelledError:
                if not self._stop_asked:
                    raise
                self._sent, self._stop_asked = [], False

    async def _show_answers(self, own: int) -> None:
        for received in tuple(self._sent):
            if await self._talk.still_waits(received):
                continue
            self._sent.remove(received)
            outcome = await self._talk.answered_elsewhere(received)
            if outcome is None or outcome.turn == own:
                continue  # it was taken back, or joined what was shown
            self._screen.notice(
                f"Another process took this into turn {outcome.turn}; /history shows all of it."
            )
            self._screen.watch(TextShown(outcome.text))
            self._screen.end()
            self._tell(outcome)

    async def _begun_and_ended(self, opening: Opening, view: TurnView) -> TurnOutcome | None:
        try:
            running = await self._begun(opening, view)
        except Outdated:
            raise  # what waits goes on waiting, for the program that is started next
        except EXPECTED as error:
            self._screen.problem(str(error))
            await self._return(opening)
            return None
        except asyncio.CancelledError:
            if not self._stop_asked:
                raise
            self._screen.notice("Stopped before it was sent.")
            await self._return(opening)
            return None
        if isinstance(opening, Say):
            self._sent = [received for received in self._sent if received not in opening.inbox]
        await self._tell_problems()
        self._settled()
        self._running = running if view.is_attached else self._running
        if self._stop_asked:
            running.stop(STOPPED)
        outcome = await running.finish()
        if isinstance(outcome.cause, Outdated):
            raise outcome.cause
        if view.is_attached:
            self._running = None
            self._screen.end()
            self._tell(outcome)
        return outcome

    async def _begun(self, opening: Opening, view: TurnView) -> RunningTurn:
        """Begins the turn once no other process is in the middle of one. Raises _Taken."""
        said_so = ""
        while True:
            await self._prepare(self._find_model(opening))
            try:
                return await self._talk.begin(opening, view.watch, view)
            except (Busy, Refused) as error:
                if not isinstance(opening, Say | Hear) or not opening.inbox:
                    raise
                if not await self._talk.still_waits(*opening.inbox):
                    continue  # another process was quicker
                if isinstance(error, Refused):
                    raise
                if str(error) != said_so:
                    self._screen.notice(f"{error} This waits for its end.")
                said_so = str(error)
                await self._prepare(asyncio.sleep(POLL_SECONDS))

    async def _prepare(self, work: Coroutine[Any, Any, None]) -> None:
        """What may take long and commits nothing, so that it can be stopped: the end of another process's turn, and the
        model's facts, from its server."""
        self._preparing = asyncio.create_task(work)
        try:
            await self._preparing
        finally:
            self._preparing = None

    async def _find_model(self, opening: Opening) -> None:
        talk = self._talk
        if await talk.is_busy():
            self._screen.notice("Another process is in the middle of a turn here; this waits for its end.")
            await talk.until_idle()
        if isinstance(opening, Say | Hear) and opening.inbox and not await talk.still_waits(*opening.inbox):
            raise _Taken
        row = await talk.services.ledger.session(talk.principal, await talk.ensure_session())
        await talk.services.models.choose(row.model)

    async def _tell_problems(self) -> None:
        """Says once which tools are missing."""
        if self._told_problems_of != self._talk.session:
            self._told_problems_of = self._talk.session
            for problem in await self._talk.problems():
                self._screen.problem(problem)

    async def _return(self, opening: Opening) -> None:
        """A message that was just typed and began no turn goes back to the person; what waited before goes on waiting."""
        if isinstance(opening, Say) and self._sent[-1:] == [*opening.inbox]:
            if await self._talk.taken_back(opening):
                self._give_back(str(opening.text))
            self._sent.pop()

    def _tell(self, outcome: TurnOutcome) -> None:
        if outcome.waiting_for:
            ids = ", ".join(outcome.waiting_for)
            self._screen.notice(f"A call waits for your decision: /approve or /deny ({ids}).")
        elif outcome.error is not None:
            hint = " /setup changes it." if outcome.error[0] in MENDED_BY_SETUP else ""
            self._screen.problem(outcome.error[1] + hint)
        elif outcome.status == TurnStatus.INTERRUPTED:
            self._screen.notice("Stopped. /retry asks again, /undo takes the message back.")
        elif not outcome.text.strip():
            self._screen.notice("(The model answered with nothing.)")

    # -- what waits ----------------------------------------------------------------------------------------------
    async def _next(self, outcome: TurnOutcome | None, view: TurnView) -> Opening | None:
        """The next message that waits. After a failure they go on waiting: the next turn would fail as well."""
        if not view.is_attached:
            return None
        self._stop_asked = False
        await self._show_elsewhere(outcome.turn if outcome is not None else 0)
        await self.refresh_waiting()
        if (
            outcome is None
            or outcome.status in (TurnStatus.FAILED, TurnStatus.REFUSED)
            or _was_taken(outcome)
        ):
            if self.waiting:
                count = len(self.waiting)
                self._screen.notice(f"{count} message{'s wait' if count > 1 else ' waits'}; Enter sends.")
            return None
        while True:
            self._more = False
            waiting = await self._next_waiting()
            if waiting is not None:
                self.began_at = asyncio.get_running_loop().time()
                self._settled()
                return waiting
            if not self._more:
                return None

    async def _next_waiting(self) -> Say | Hear | None:
        if self._talk.session is None:
            return None
        if (outdated := self._talk.outdated) is not None:
            self._outdated(outdated)  # it goes on waiting, for the program that is started next
            return None
        waiting = await self._talk.next_opening()
        if isinstance(waiting, Say):
            names = tuple(file.name or file.media_type for file in waiting.files)
            self._screen.person(str(waiting.text), names)
        return waiting


_WHAT: Final = {BusyMode.QUEUE: "then", BusyMode.STEER: "joins", BusyMode.INTERRUPT: "next"}


def _was_taken(outcome: TurnOutcome) -> bool:
    return outcome.error is not None and outcome.error[0] == "fenced"
