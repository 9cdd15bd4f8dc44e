"""What people, platforms and operating systems do, each to one process and one session that the seed picked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from clew.domain.conversation.ids import SessionId
from clew.domain.conversation.text import clean
from clew.domain.ledger.commits import Receive
from clew.domain.ledger.errors import Busy, LedgerError
from clew.domain.ledger.rows import ApprovalState
from clew.domain.turn.prefix import Instructions
from clew.runtime.background import Background
from clew.runtime.commands import CommandError
from clew.runtime.turns.openings import Opening
from clew.runtime.turns.waiting import MESSAGE, BusyMode, pack_message, unpack, written
from clew.testing.simulation.models import HOME
from clew.testing.simulation.process import CWD, Process

MODES: Final = (
    BusyMode.QUEUE,
    BusyMode.QUEUE,
    BusyMode.QUEUE,
    BusyMode.STEER,
    BusyMode.STEER,
    BusyMode.INTERRUPT,
)


class Act:
    """One action on its way. `outcome` is what came of it, unless an error says it."""

    def __init__(self, process: Process, other: Process, session: SessionId) -> None:
        self.process = process
        self.other = other
        self.session = session
        self.outcome = "ok"
        self._chance = process.shared.chance
        self._record = process.shared.record
        self._talk = process.talk(session)
        self._owner = self._talk.principal

    # -- saying ------------------------------------------------------------------------------------------------
    async def say(self) -> None:
        """By whatever mode: it begins a turn, waits, joins the running turn or cuts it."""
        words = self._record.new_words(self._chance.randrange(8), self._owner)
        if self._chance.random() < 0.5:
            await self._run(words)
            return
        mode = self._chance.choice(MODES)
        sent = await self._talk.send(words, mode=mode)
        self.outcome = f"kept, to {mode}"
        self._accepted(words)
        if sent.opening is None:
            return
        try:
            await self._turn(sent.opening)
        except Busy:
            self.outcome = "busy, so it waits"
            return
        await self._drain()

    async def _run(self, words: str | bytes) -> None:
        """As `clew run` does: begins at once, or, of a turn that was left open, after it."""
        try:
            await self._turn(self._talk.saying(words), words)
        except Busy:
            self.outcome = "busy"
            if self._talk.kept is not None:
                self._accepted(words)
            return
        await self._drain()

    def _accepted(self, words: str | bytes) -> None:
        """The program took the words: wherever they are, they must be somewhere from now on."""
        state, text = self.process.shared.disk.state, clean(words).text
        rows = [row for row in state.inbox.values() if row.body and unpack(row.body).text == text]
        self._record.accepted(words, rows[0].session if rows else self._talk.session or self.session)

    async def queue(self) -> None:
        words = self._record.new_words(self._chance.randrange(8), self._owner)
        await self._talk.queue(words, mode=self._chance.choice(MODES))
        self._accepted(words)

    async def take(self) -> None:
        """The oldest message that waits begins a turn."""
        waits = await self._talk.next_queued()
        if waits is None:
            self.outcome = "nothing waits"
        else:
            await self._turn(waits)
            await self._drain()

    async def _drain(self) -> None:
        """As surfaces do: what waits comes next."""
        while self._chance.random() < 0.8 and (waits := await self._talk.next_queued()) is not None:
            await self._turn(waits)

    async def deliver(self) -> None:
        """A platform's update: it comes once or more often, late, after others, and to whichever process is up."""
        words = self._record.new_words(self._chance.randrange(8), self._owner)
        key = f"update-{self._record.hits['update: sent']}"
        self._record.hit("update: sent")
        times = self._chance.choice([1, 1, 2, 3])
        if times > 1:
            self._record.fault("an update comes more than once", self.process.name)
        for n in range(times):
            receiver = self._chance.choice([self.process, self.other])
            seconds = self._chance.choice([0, 0.01, 3, 100])
            if seconds == 100:
                self._record.fault("an update comes late, after others", receiver.name)
            if n < times - 1 or receiver is not self.process:
                receiver.life.program.start(self._quietly(receiver, words, key, seconds))
            else:
                await self._receive(receiver, words, key, seconds)

    async def _quietly(self, receiver: Process, words: str | bytes, key: str, seconds: float) -> None:
        try:
            await self._receive(receiver, words, key, seconds)
        except LedgerError as error:
            self._record.hit(f"update: {type(error).__name__}")

    async def _receive(self, receiver: Process, words: str | bytes, key: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        talk = receiver.talk(self.session)
        place = await receiver.services.desk.conversation_of(talk.place, self.session)
        received = await receiver.ledger.receive(
            Receive(
                account=self._talk.place.surface,
                external_key=key,
                conversation=place,
                session=self.session,
                principal=self._owner,
                kind=MESSAGE,
                body=written(pack_message(words, str(CWD), ())),
                at=receiver.clock.now_ms(),
            )
        )
        self._record.hit("update: " + ("a repetition" if received.duplicate else "stored"))
        row = self.process.shared.disk.state.inbox[received.id]
        self._record.accepted(words, row.session)

    async def _turn(self, opening: Opening, words: str | bytes | None = None) -> None:
        watch = self.process.watcher(self.session)
        turn = await self._talk.begin(opening, watch, self.process.person)
        watch.turn = turn
        if words is not None:
            self._accepted(words)
        if self._chance.random() < 0.05:
            turn.stop("stopped")
        outcome = await turn.finish()
        self._record.hit(f"turn came out: {outcome.status}")
        if outcome.waiting_for and self._chance.random() < 0.7:
            await asyncio.sleep(self._chance.choice([0, 5, 50]))
            await self._decide(self._chance.choice(["approve", "approve", "deny"]))

    # -- commands ----------------------------------------------------------------------------------------------
    async def _command(self, line: str) -> None:
        try:
            reply = await self._talk.command(line)
        except CommandError:
            self.outcome = "answered with a sentence"
            return
        if reply.opening is not None:
            self.session = self._talk.session or self.session
            await self._turn(reply.opening)

    async def undo(self) -> None:
        await self._command("/undo")

    async def undo_more(self) -> None:
        await self._command(f"/undo {self._chance.choice([2, 2, 3])}")

    async def redo(self) -> None:
        await self._command("/redo")

    async def retry(self) -> None:
        await self._command("/retry")

    async def stop(self) -> None:
        await self._command("/stop")

    async def branch(self) -> None:
        await self._command("/branch")

    async def new(self) -> None:
        await self._command("/new")

    async def compress(self) -> None:
        await self._command("/compress")
        if self.outcome == "ok" and self._chance.random() < 0.7:
            await self._command("/expand")

    async def expand(self) -> None:
        await self._command("/expand")

    async def mode(self) -> None:
        await self._command(f"/mode {self._chance.choice(['ask', 'all'])}")

    async def title(self) -> None:
        await self._command(f"/title title {self._chance.getrandbits(30)}")

    async def remember(self) -> None:
        """By a command: a fact of this person's own, which contradicts those of the other."""
        await self._command(f"/memory add {HOME}{self._record.new_token('fact', self._owner)}")

    async def forget(self) -> None:
        """A fact of whomever: of another's there is nothing to forget."""
        numbers = list(self.process.shared.disk.state.facts)
        if not numbers:
            self.outcome = "nothing to forget"
            return
        await self._command(f"/memory forget {self._chance.choice(numbers)}")

    async def background(self) -> None:
        words = self._record.new_words(0, self._owner)
        await self._command(f"/background {words!s}")
        if self.outcome == "ok":
            self._accepted(words)

    async def catch_up(self) -> None:
        """As whoever opens a chat: what was begun beside the session is gone on with."""
        if not isinstance(self._talk.background, Background):
            self.outcome = "nothing is done beside"
            return
        await self._talk.background.catch_up(self.session)

    async def resume(self) -> None:
        """Another session, or another tip of this one."""
        state = self.process.shared.disk.state
        tips = [row for row in state.branches.values() if row.session == self.session and row.tip]
        if tips and self._chance.random() < 0.7:
            tip = self._chance.choice(tips)
            await self._command(f"/resume {self.session}@{tip.id}.{tip.tip}")
        else:
            await self._command(f"/resume {self._chance.choice(list(state.sessions))}")

    async def delete(self) -> None:
        state = self.process.shared.disk.state
        if any(row.session == self.session and row.state.is_open for row in state.turns.values()):
            self._record.fault("a purge in mid-turn", self.process.name)
        await self._command(f"/delete {self.session}")

    async def approve(self) -> None:
        await self._decide("approve")

    async def deny(self) -> None:
        await self._decide("deny")

    async def _decide(self, word: str) -> None:
        """Whichever process it was asked in; mostly all that its session waits for."""
        state = self.process.shared.disk.state
        pending = [row for row in state.approvals.values() if row.state == ApprovalState.PENDING]
        if not pending:
            self.outcome = "nothing to decide"
            return
        self.session = state.calls[self._chance.choice(pending).call].session
        self._talk = self.process.talk(self.session)
        asked = [row.id for row in pending if state.calls[row.call].session == self.session]
        for approval in asked if self._chance.random() < 0.8 else asked[:1]:
            await self._command(f"/{word} {approval}")

    async def look_after(self) -> None:
        """What every process does at times: go on with the turns that others left."""
        await self.process.recovery.once()

    async def stop_here(self) -> None:
        """The person stops the turn that runs in this very process."""
        if not self.process.stop_turns():
            self.outcome = "nothing runs here"

    async def change_instructions(self) -> None:
        """The project's instructions are another text: the prompt is frozen anew by the next turn."""
        text = f"Rule {self._chance.randrange(3)}."
        self.process.instructions[:] = [Instructions(source="AGENTS.md", text=text)]

    async def happen(self) -> None:
        """Something that a tool started has ended."""
        notify = self._talk._notify_for(self.session)
        await notify("process", "it ended")


ACTIONS: Final[Mapping[str, Callable[[Act], Awaitable[None]]]] = {
    "say": Act.say,
    "queue": Act.queue,
    "take": Act.take,
    "deliver": Act.deliver,
    "undo": Act.undo,
    "undo several": Act.undo_more,
    "redo": Act.redo,
    "retry": Act.retry,
    "stop": Act.stop,
    "stop here": Act.stop_here,
    "branch": Act.branch,
    "new": Act.new,
    "compress": Act.compress,
    "expand": Act.expand,
    "title": Act.title,
    "mode": Act.mode,
    "resume": Act.resume,
    "delete": Act.delete,
    "approve": Act.approve,
    "deny": Act.deny,
    "recover": Act.look_after,
    "change instructions": Act.change_instructions,
    "happen": Act.happen,
    "remember": Act.remember,
    "forget": Act.forget,
    "background": Act.background,
    "catch up": Act.catch_up,
}
"""By name; how often each is done is the theme's to say."""
