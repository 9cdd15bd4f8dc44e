"""Compactions in every interleaving: by seed, in virtual time, beside turns, side sessions, undo, kills and pauses."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Final

import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.adapters.stores.memory.state import Disk
from clew.domain.compaction.cut import standing
from clew.domain.compaction.estimate import prefix_tokens
from clew.domain.compaction.policy import request_tokens
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.conversation.messages import Role
from clew.domain.ledger.commits import NewSession
from clew.domain.ledger.errors import LedgerError
from clew.domain.ledger.rows import Origin
from clew.domain.models.answer import Usage
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.runtime.commands import CommandError
from clew.runtime.compaction import CompactionAsk, CompactionSettings, NotCompacted, Trigger
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.people import NobodyToAsk, nobody_watches
from clew.runtime.turns import TurnStatus
from clew.testing.invariants import check
from clew.testing.scripted_model import Step
from clew.testing.virtual_time import simulate
from clew.testing.world import World, command, exchange

WINDOW: Final = 2_000
PROFILE: Final = ModelProfile(name="scripted-model", provider="scripted", context_window=WINDOW)
TOLD: Final = "word " * 60
SEEDS: Final = range(60)


def is_summary(request: ModelRequest) -> bool:
    return request.system.startswith("You write the notes")


def answer(request: ModelRequest) -> Step:
    return Step(text="The notes." if is_summary(request) else "fine", usage=Usage())


def world(disk: Disk, owner: str, seed: int) -> World:
    settings = CompactionSettings(lease_seconds=30, cooldown_seconds=1)
    return World(MemoryLedger(disk), answer, profile=PROFILE, compaction=settings, owner=owner, seed=seed)


async def assert_whole(reader: MemoryLedger, session: SessionId) -> None:
    """The invariants hold, and a request of the session shows the newest thing a person said. (Undone to just where a
    summary ends, there is no request before a person says something new.)"""
    await check(reader, LOCAL, session)
    row = await reader.session(LOCAL, session)
    path = await reader.path(LOCAL, session)
    summary = next((s for s in await reader.summaries(LOCAL, session) if s.id == row.handle.summary), None)
    said = [m for m in path if m.role == Role.USER]
    is_at_its_end = summary is not None and path[-1].head == summary.upto
    assert not said or is_at_its_end or said[-1] in standing(path, summary)


@pytest.mark.parametrize("seed", range(100))
def test_a_turn_a_side_session_and_an_event_at_once(seed: int) -> None:
    """The incident of two children: both at 95 % of the window, and a background process ends. One head each, nothing
    orphaned."""

    async def scenario() -> None:
        disk = Disk()
        one, other = world(disk, "one", seed), world(disk, "other", seed + 1)
        talk = one.talk()
        await exchange(talk, TOLD)
        assert talk.session is not None
        while await _load(one.ledger, talk.session) < 0.65:
            await exchange(talk, TOLD)
        missing = (0.95 - await _load(one.ledger, talk.session)) * WINDOW
        filling = "word " * int(missing * 0.6)  # five thirds of a token each
        parent = await one.ledger.session(LOCAL, talk.session)
        side = SessionId("s" * len(talk.session))
        new = NewSession(
            id=side, owner=LOCAL, surface="side", origin=Origin.SIDE, parent=parent.id, at=parent.handle.head,
            summary=parent.handle.summary,
        )  # fmt: skip
        await other.ledger.open(new, actor=LOCAL, at=1)
        beside = other.talk(side)
        before = len(await one.ledger.path(LOCAL, talk.session))

        async def event() -> None:
            await asyncio.sleep(random.Random(seed).choice([0, 0.01]))
            await talk._notify_for(parent.id)("process_ended", "Background process 1 ended.")

        outcomes = await asyncio.gather(exchange(talk, filling), exchange(beside, filling), event())
        assert [o.status for o in outcomes if o is not None] == [TurnStatus.DONE] * 2
        await exchange(talk, "and now?")
        path = await one.ledger.path(LOCAL, talk.session)
        for session in (parent.id, side):
            assert 0.95 <= await _load(one.ledger, session, filling) <= 1
        assert [m.text for m in path].count("Background process 1 ended.") == 1
        assert len(path) == before + 2 + 1 + 2
        assert [row.id for row in await one.ledger.sessions(LOCAL)].count(parent.id) == 1
        assert {row.id for row in await one.ledger.sessions(LOCAL)} <= {parent.id, side}
        for session in (parent.id, side):
            assert await one.ledger.summaries(LOCAL, session)
            await assert_whole(MemoryLedger(disk), session)
        for here in (one, other):
            await here.compactor.close()

    simulate(seed, scenario())


async def _load(ledger: Ledger, session: SessionId, upto: str = "") -> float:
    """The share of the window that the messages up to that text would take, were there no summary."""
    path = await ledger.path(LOCAL, session)
    end = next((m.seq for m in path if m.text == upto), None)
    return request_tokens(path[:end], None, prefix_tokens(await ledger.prefix(LOCAL, session))) / WINDOW


def test_whatever_comes_together_nothing_forks_and_nothing_is_lost() -> None:
    """Three processes say, undo, redo, fork, compress, expand and compact by every trigger; some give up half way."""
    hits: Counter[str] = Counter()
    for seed in SEEDS:
        hits += simulate(seed, _Crowd(seed).run())
    assert hits.keys() >= {
        "made",
        "adopted",
        "cancelled",
        "changed",
        "elsewhere",
        "/undo",
        "/redo",
        "/expand",
    }, hits


class _Crowd:
    def __init__(self, seed: int) -> None:
        self.hits: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._disk = Disk()
        self._worlds = [world(self._disk, f"p{n}", seed + n) for n in range(3)]
        self._sessions: list[SessionId] = []
        self._accepted: list[str] = []

    async def run(self) -> Counter[str]:
        talk = self._worlds[0].talk()
        self._sessions.append(await talk.ensure_session())
        for n in range(6):
            self._accepted.append(f"first {n} {TOLD}")
            await exchange(talk, self._accepted[-1])
        for _ in range(8):
            await asyncio.gather(*(self._act(here) for here in self._worlds))
            for session in self._sessions:
                await assert_whole(MemoryLedger(self._disk), session)
        await self._check_words(self._worlds[0].ledger)
        for here in self._worlds:
            await here.compactor.close()
        return self.hits

    async def _act(self, here: World) -> None:
        actions = ["say"] * 3 + ["compact"] * 4 + ["/undo", "/redo", "/compress", "/expand", "/branch"]
        session, action = self._chance.choice(self._sessions), self._chance.choice(actions)
        await asyncio.sleep(self._chance.choice([0, 0, 0.01, 50]))
        try:
            await self._do(here, session, action)
        except (LedgerError, CommandError):
            self.hits["refused"] += 1
        else:
            self.hits[action] += 1

    async def _do(self, here: World, session: SessionId, action: str) -> None:
        beside = here.talk(session)
        if action == "say":
            words = f"said {len(self._accepted)} {TOLD}"
            turn = await beside.say(words, nobody_watches, NobodyToAsk())
            self._accepted.append(words)
            await turn.finish()
        elif action == "compact":
            await self._compact(here, session)
        else:
            await command(beside, action)
            if beside.session is not None and beside.session not in self._sessions:
                self._sessions.append(beside.session)

    async def _compact(self, here: World, session: SessionId) -> None:
        saw = (await here.ledger.session(LOCAL, session)).handle.summary
        trigger = self._chance.choice(list(Trigger))
        ask = CompactionAsk(principal=LOCAL, session=session, trigger=trigger, model=PROFILE, saw=saw)
        making = asyncio.create_task(here.compactor.compact(ask))
        for _ in range(self._chance.choice([0, 0, 0, 5, 20])):
            await asyncio.sleep(0)
        if self._chance.random() < 0.2:
            making.cancel()
        await asyncio.wait([making])
        if making.cancelled():
            self.hits["cancelled"] += 1
            return
        outcome = making.result()
        if isinstance(outcome, NotCompacted):
            self.hits[outcome.why] += 1
        else:
            self.hits["adopted" if outcome.adopted else "made"] += 1

    async def _check_words(self, ledger: Ledger) -> None:
        everything = {
            message.text
            for session in self._sessions
            for branch in await ledger.branches(LOCAL, session)
            for message in await ledger.segment(LOCAL, session, branch.id)
        }
        assert set(self._accepted) <= everything
        assert [await ledger.compaction(LOCAL, session) for session in self._sessions] == [None] * len(
            self._sessions
        )
