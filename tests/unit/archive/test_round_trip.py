"""What is exported and imported again is the same history, whatever the course and whatever the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from typing import TypeVar

import pytest
from hypothesis import example, given, settings

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.ids import SessionId
from clew.domain.conversation.messages import Status
from clew.domain.ledger.rows import OpKind, Origin
from clew.runtime.ports.ledger import Ledger
from clew.testing.histories import history_of
from clew.testing.invariants import check
from clew.testing.ledgers import ANN
from tests.unit.archive.courses import Course, Life, Move, Say, Step, Summarise, courses
from tests.unit.archive.streams import exported, imported, known_to_all, new_ids
from tests.unit.sqlite.homes import opened

T = TypeVar("T")
SESSIONS_PER_LIFE = 20

NEXT = Say("next", "yes", None, False, Status.OK, False)
WITH_FILE = Say("look", "seen", b"\x89PNG", True, Status.OK, True)
SUMMARIES_OUT_OF_ORDER: Course = [
    NEXT, NEXT, NEXT, Summarise("of six", 5), Move(OpKind.UNDO, 0), Summarise("of four", 3), Move(OpKind.REDO, 0),
    Summarise("on top of six", 0),
]  # fmt: skip
"""The third summary follows from the first, though the second was made between them."""
SUMMARY_TAKEN_BACK: Course = [
    NEXT, NEXT, Summarise("a", 1), Summarise("b", 2), Step("expand"), Summarise("c", 0), Step("expand"), NEXT,
]  # fmt: skip
FORKS_OF_FORKS: Course = [
    WITH_FILE, NEXT, Step("fork"), NEXT, Move(OpKind.UNDO, 0), NEXT, Move(OpKind.UNDO, 1), Step("fork"), NEXT,
    Summarise("in the fork", 2), Step("fork"), WITH_FILE,
]  # fmt: skip
BACK_AND_FORTH: Course = [
    NEXT, NEXT, Move(OpKind.UNDO, 1), NEXT, Move(OpKind.RESUME, 0), NEXT, Move(OpKind.RESUME, 1), NEXT,
]  # fmt: skip
"""Two branches that grow in turns."""


class Copier:
    """Lives courses in one ledger and copies every session of them to another."""

    def __init__(self, source: Ledger, target: Ledger) -> None:
        self._source = source
        self._target = target
        self._lives = count(0, SESSIONS_PER_LIFE)
        self._new_id = new_ids()

    async def check(self, course: Course) -> None:
        life = Life(self._source, next(self._lives))
        await life.live(course)
        for session in life.sessions:
            await self._check_session(session)

    async def _check_session(self, session: SessionId) -> None:
        lines = await exported(self._source, session)
        copy = await imported(self._target, lines, self._new_id)
        await check(self._target, ANN, copy.id)
        original = await history_of(self._source, ANN, session)
        assert await history_of(self._target, ANN, copy.id) == original
        assert (copy.origin, copy.owner, copy.archived_at, copy.end_reason) == (
            Origin.IMPORT,
            ANN,
            None,
            None,
        )


class Laboratory:
    """Two open stores of a kind and the loop they live in, from course to course."""

    def __init__(self, loop: asyncio.Runner, copier: Copier) -> None:
        self._loop = loop
        self._copier = copier

    def check(self, course: Course) -> None:
        self._loop.run(self._copier.check(course))


@pytest.fixture(scope="module")
def memory() -> Iterator[Laboratory]:
    with asyncio.Runner() as loop:
        ledgers = [loop.run(known_to_all(MemoryLedger())) for _ in range(2)]
        yield Laboratory(loop, Copier(*ledgers))


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    with asyncio.Runner() as loop:
        homes = [opened(tmp_path_factory.mktemp(name)) for name in ("source", "target")]
        ledgers = [loop.run(home.__aenter__()) for home in homes]
        yield Laboratory(loop, Copier(*ledgers))
        for home in homes:
            loop.run(home.__aexit__(None, None, None))


def remarkable(test: Callable[..., T]) -> Callable[..., T]:
    """Runs a test on the courses that are always looked at."""
    for course in ([], SUMMARIES_OUT_OF_ORDER, SUMMARY_TAKEN_BACK, FORKS_OF_FORKS, BACK_AND_FORTH):
        test = example(course=course)(test)
    return test


@remarkable
@settings(max_examples=60, deadline=None)
@given(course=courses)
def test_a_copy_in_memory_is_equal(memory: Laboratory, course: Course) -> None:
    """Export and import give an equal tree: messages, order, turnings, summaries, head; and a sound session."""
    memory.check(course)


@remarkable
@settings(max_examples=15, deadline=None)
@given(course=courses)
def test_a_copy_in_sqlite_is_equal(sqlite: Laboratory, course: Course) -> None:
    """The same in files."""
    sqlite.check(course)
