"""Whoever sits before a process: watches its turns, and answers its questions or does not."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from clew.domain.conversation.ids import SessionId
from clew.runtime.ports.people import (
    AttemptVoid,
    CallOutput,
    Consent,
    Noticed,
    Question,
    TextShown,
    ThinkingShown,
    TurnNews,
)
from clew.runtime.turns.runner import RunningTurn
from clew.testing.simulation.process_life import Life
from clew.testing.simulation.witness import Witness

_UNCOMMITTED: Final = (TextShown, ThinkingShown, AttemptVoid, CallOutput)
"""What is shown before it is on disk. The rest tells of a commit, and is true whoever owns the session by now."""
_TOLD: Final = ("Clew stopped in the middle", "Turn ")


class Told:
    """Which notices people saw, and how many there were to see: each interrupted batch is told once."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._seen: dict[tuple[SessionId, str], int] = {}

    def noticed(self, session: SessionId, text: str) -> None:
        if not text.startswith(_TOLD):
            return
        state = self._witness.disk.state
        if session in state.purged:
            return
        self._seen[session, text] = seen = self._seen.get((session, text), 0) + 1
        written = sum(reply.session == session and reply.row.body == text for reply in state.outbox.values())
        record = self._witness.record
        record.hit("recovery: the person was told")
        record.require(seen <= written, f"told {seen} times, to be told {written} times: {text!r}")


class Watcher:
    """Sees what a turn shows, and notices when it shows something that it must not."""

    def __init__(self, life: Life, witness: Witness, told: Told, session: SessionId) -> None:
        self.turn: RunningTurn | None = None
        self._life = life
        self._witness = witness
        self._told = told
        self._session = session

    def __call__(self, news: TurnNews) -> None:
        record = self._witness.record
        record.require(not self._life.is_over, f"{self._life.name} shows something after its death")
        if isinstance(news, Noticed):
            self._told.noticed(self._session, news.text)
        elif self.turn is not None and isinstance(news, _UNCOMMITTED):
            evicted = self._witness.was_evicted(self._life.name, self.turn.session, self.turn.epoch)
            record.require(
                not evicted, f"{self._life.name} shows {type(news).__name__} of a turn that was taken over"
            )


class Person:
    """An approver with moods: says yes or no, at once or late, is not there, or never makes up their mind."""

    def __init__(self, life: Life, chance: random.Random) -> None:
        self.is_here = True
        self._life = life
        self._chance = chance

    async def ask(self, question: Question) -> Consent | None:
        self._life.meddle("a question is asked")
        mood = self._chance.choice(["at once"] * 10 + ["late"] * 2 + ["never"] * 2 + ["nobody"] * 10)
        if not self.is_here:
            mood = "nobody"
        self._life.record.fault(f"a question is answered {mood}", self._life.name)
        if mood == "nobody":
            self._life.meddle("nobody answers")
            return None
        if mood == "never":
            await asyncio.Event().wait()
        if mood == "late":
            await asyncio.sleep(self._chance.choice([30, 200, 2000]))
        return self._chance.choice([Consent.ONCE, Consent.ONCE, Consent.SESSION, Consent.NO, Consent.NO])
