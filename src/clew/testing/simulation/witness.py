"""Looks at every write as it takes effect: counts each transition, and says what must not have happened.

It reads the tables themselves, and believes neither the store's fences nor the runtime's: who may write is told here by who
claimed the session last.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Final, TypeVar

import msgspec

from clew.adapters.stores.memory.state import Disk, State
from clew.domain.conversation.ids import SessionId
from clew.domain.conversation.messages import Message, Role, ToolBody
from clew.domain.ledger.commits import AsHolder, Commit
from clew.domain.ledger.rows import InboxState, TurnState
from clew.runtime.turns.waiting import MESSAGE, unpack
from clew.testing.simulation.beside import Beside
from clew.testing.simulation.record import Record
from clew.testing.simulation.remembered import Remembered

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
HINT: Final = "<recovery "


class Claim(msgspec.Struct, frozen=True):
    """Who took a session's turn, at which epoch, and from whom."""

    owner: str
    epoch: int
    evicted: str | None


class Witness:
    """One for all processes of a run."""

    def __init__(self, disk: Disk, record: Record) -> None:
        self.disk = disk
        self.record = record
        self.remembered = Remembered(record)
        self.beside = Beside(record)
        self.hinted: dict[SessionId, str] = {}
        """Sessions whose model was told of an interrupted tool batch, by the batch's key, until its answer is stored."""
        self._answered: set[SessionId] = set()
        """Sessions whose hint was answered: it stays in that turn's requests, and is not answered again."""
        self._holder: dict[SessionId, str] = {}
        self._claims: dict[SessionId, list[Claim]] = {}
        self._sent_again: set[str] = set()
        """What had joined a turn that was tried again: it is sent again with it, and stored once more, on another branch."""

    # -- asked by others -----------------------------------------------------------------------------------------
    def holds(self, process: str, session: SessionId) -> bool:
        """Whether the process was the last to claim the session, and nobody cut it off since."""
        return self._holder.get(session) == process

    def was_evicted(self, process: str, session: SessionId, epoch: int) -> bool:
        """Whether somebody took the session from a turn of this process that began at the epoch."""
        return any(
            claim.evicted == process and claim.epoch > epoch for claim in self._claims.get(session, ())
        )

    def told_model(self, session: SessionId, batch: str) -> None:
        """A request held the hint of an interrupted batch."""
        if session not in self._answered:
            self.record.hit("recovery: the model was told")
            self.hinted.setdefault(session, batch)

    # -- told of each write --------------------------------------------------------------------------------------
    def wrote(self, process: str, work: Commit | None, before: State, after: State) -> None:
        if work is not None:
            self._check_holder(process, work, after)
            self._check_answer(work, before, after)
        self._count_states("turn", before.turns, after.turns)
        self._count_states("call", before.calls, after.calls)
        self._count_states("inbox", before.inbox, after.inbox)
        self._count_states("approval", before.approvals, after.approvals)
        self._count_states("reply", before.outbox, after.outbox)
        self._count_states("job", before.jobs, after.jobs)
        self.remembered.wrote(before, after)
        self.beside.wrote(before, after)
        for was, turn in _changed(before.turns, after.turns):
            if was is not None and was.state == TurnState.RUNNING and turn.crashes > was.crashes:
                self.record.hit("turn: running → running, after a crash")
            if turn.state.is_open:
                self._check_alone(after, turn.session)
            if turn.end_reason in ("stale", "set_aside", "step_limit", "time_limit", "repeat_limit"):
                self.record.hit(f"turn: ended, {turn.end_reason}")
        for _, message in _changed(before.messages, after.messages):
            self._check_message(message, before)
        for was_row, row in _changed(before.inbox, after.inbox):
            if was_row is None and row.kind == MESSAGE and unpack(row.body).not_before > 0:
                self._check_again(unpack(row.body).text, before)
        for session in after.purged.keys() - before.purged.keys():
            self._holder.pop(session, None)
        for session, now in after.sessions.items():
            then = before.sessions.get(session)
            if (
                then is not None
                and then.handle.epoch < now.handle.epoch
                and (work is None or session != work.session)
            ):
                self._holder.pop(session, None)  # cut off with the session that it works for
            moved_back = then is not None and then.handle.epoch > now.handle.epoch
            self.record.require(not moved_back, f"the epoch of {session} went back")

    def _count_states(self, what: str, before: Mapping[K, V], after: Mapping[K, V]) -> None:
        for was, row in _changed(before, after):
            then = "none" if was is None else str(was.state)  # type: ignore[attr-defined]
            now = str(row.state)  # type: ignore[attr-defined]
            if then != now:
                self.record.hit(f"{what}: {then} → {now}")

    def _check_holder(self, process: str, work: Commit, after: State) -> None:
        """At any moment at most one process can commit to a turn."""
        if isinstance(work.fence, AsHolder):
            self.record.require(
                self.holds(process, work.session),
                f"{process} committed to session {work.session}, which {self._holder.get(work.session)} holds",
            )
        if work.cut:
            self._holder.pop(work.session, None)
        if work.claim is not None:
            self.record.require(work.claim == process, f"{process} claimed a session for {work.claim}")
            epoch = after.sessions[work.session].handle.epoch
            self._claims.setdefault(work.session, []).append(Claim(process, epoch, work.evicts))
            self._holder[work.session] = process
            self.hinted.pop(work.session, None)
            self._answered.discard(work.session)

    def _check_answer(self, work: Commit, before: State, after: State) -> None:
        """The answer to a hint, and the op that says so, are one commit, and there is one such answer."""
        answers = bool(work.plan) or (work.set_turn is not None and work.set_turn.state == TurnState.DONE)
        key = self.hinted.get(work.session)
        if key is None or not answers:
            return
        self.hinted.pop(work.session)
        self._answered.add(work.session)
        self.record.require((work.session, key) in after.keys, f"the answer to {key} does not acknowledge it")
        self.record.require((work.session, key) not in before.keys, f"{key} was acknowledged twice")

    def _check_alone(self, state: State, session: SessionId) -> None:
        turns = [row.turn for row in state.turns.values() if row.session == session and row.state.is_open]
        self.record.require(len(turns) <= 1, f"session {session} has the open turns {turns}")

    def _check_again(self, words: str, before: State) -> None:
        joined = any(m.text == words and m.step > 0 for m in before.messages.values() if m.role == Role.USER)
        self.record.require(joined, f"sent again, and never in a turn: {words!r}")
        self.record.hit("steering message: sent again with a retry")
        self._sent_again.add(words)

    def _check_message(self, message: Message, before: State) -> None:
        self.record.require(HINT not in message.text, f"a hint was stored: {message.text!r}")
        if message.role == Role.USER:
            self.record.require(message.text in self.record.sent, f"nobody said {message.text!r}")
            twice = any(m.text == message.text for m in before.messages.values() if m.role == Role.USER)
            once = not twice or message.text in self._sent_again
            self.record.require(once, f"said once and stored twice: {message.text!r}")
        if isinstance(message.body, ToolBody):
            call = message.body.call
            answered = any(
                isinstance(m.body, ToolBody) and m.body.call == call for m in before.messages.values()
            )
            self.record.require(not answered, f"call {call} has two results")

    # -- the state as a whole ------------------------------------------------------------------------------------
    def check_words(self) -> None:
        """Every accepted message is in exactly one place: in one turn, waiting, or taken back."""
        state = self.disk.state
        stored = {m.text for m in state.messages.values() if m.role == Role.USER}
        rows = {
            unpack(row.body).text: row.state
            for row in state.inbox.values()
            if row.kind == MESSAGE and row.session not in state.purged
        }
        for words, session in self.record.sent.items():
            place = rows.get(words)
            if session in state.purged:
                continue
            if place == InboxState.CONSUMED:
                self.record.require(words in stored, f"taken and lost: {words!r}")
            elif place is not None and words not in self._sent_again:
                self.record.require(words not in stored, f"{place} and stored as well: {words!r}")
            elif session is not None:
                self.record.require(words in stored, f"accepted and lost: {words!r}")


def _changed(before: Mapping[K, V], after: Mapping[K, V]) -> Iterator[tuple[V | None, V]]:
    """Rows are never changed, only replaced: each new or replaced one, with what stood there before."""
    for key, row in after.items():
        was = before.get(key)
        if was is not row:
            yield was, row
