"""The big ledger: every message a commit of its own, flat out, over many sessions at once.

The floor gets a stretch of the same messages after each stretch of ours, too short for the index to catch up in.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.floor import Floor
from benchmarks.measure import Disk, Samples, now
from benchmarks.talk import Talk, session_id, start
from benchmarks.workload import PER_SESSION, Message, Workload
from clew.adapters.stores.sqlite.ledger import SqliteLedger, open_ledger
from clew.adapters.system import SystemClock
from clew.domain.conversation.ids import PrincipalId, SessionId

HALF: Final = PrincipalId("half")
"""Owns half of the sessions."""
OTHER: Final = PrincipalId("other")
TINY: Final = PrincipalId("tiny")
"""Owns one session in a thousand."""
WAVE_SESSIONS: Final = 2000
_STRETCH: Final = 1000
_FLOOR_STRETCH: Final = 100


def owner_of(session: int) -> PrincipalId:
    """Half and half, without a pattern that a marker's stride could meet."""
    if session % 1000 == 77:
        return TINY
    return HALF if session.bit_count() % 2 else OTHER


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A message of the corpus and where it went."""

    session: SessionId
    owner: PrincipalId
    position: int
    message: Message


@dataclass(kw_only=True)
class Corpus:
    """What was written, how long each commit took, and what the newest messages are."""

    home: Path
    ledger: SqliteLedger
    floor_path: Path
    sessions: int
    samples: Samples = field(default_factory=Samples)
    floor: Samples = field(default_factory=Samples)
    text_bytes: int = 0
    seconds: float = 0.0
    index_seconds: float = 0.0
    """How long the index needed after the last commit."""
    newest: list[Written] = field(default_factory=list)
    """The last wave, in the order it was committed."""

    @property
    def messages(self) -> int:
        return self.sessions * PER_SESSION

    async def close(self) -> None:
        await self.ledger.close()


async def write_corpus(home: Path, workload: Workload, sessions: int, disk: Disk) -> Corpus:
    """Writes it all, and waits for the index."""
    ledger = await open_ledger(home, SystemClock())
    for principal in (HALF, OTHER, TINY):
        await ledger.add_principal(principal, principal, "user")
    floor = Floor(home).create(sessions)
    corpus = Corpus(home=home, ledger=ledger, floor_path=floor.path, sessions=sessions)
    for first in range(0, sessions, WAVE_SESSIONS):
        await _write_wave(corpus, workload, range(first, min(sessions, first + WAVE_SESSIONS)), floor, disk)
    floor.close()
    started = now()
    while (await ledger.search(OTHER, "zyxgraphite")).incomplete_since is not None:
        pass
    corpus.index_seconds = now() - started
    return corpus


async def _write_wave(corpus: Corpus, workload: Workload, sessions: range, floor: Floor, disk: Disk) -> None:
    opened = (start(corpus.ledger, number, owner_of(number)) for number in sessions)
    talks = dict(zip(sessions, await asyncio.gather(*opened), strict=True))
    stream = list(workload.stream(len(sessions), sessions.start))
    gc.collect()
    gc.freeze()  # see bench.settle
    corpus.newest.clear()
    for stretch in _stretches(stream):
        started = now()
        for number, message in stretch:
            await _commit(corpus, number, talks[number], message)
        corpus.seconds += now() - started
        for number, message in stretch[:_FLOOR_STRETCH]:
            with corpus.floor:
                floor.append(number, (message,))
        disk.probe(5)


def _stretches(stream: list[tuple[int, Message]]) -> Iterator[list[tuple[int, Message]]]:
    for at in range(0, len(stream), _STRETCH):
        yield stream[at : at + _STRETCH]


async def _commit(corpus: Corpus, number: int, talk: Talk, message: Message) -> None:
    ours = talk.scribe.write(message)
    with corpus.samples:
        await talk.append(ours)
    corpus.text_bytes += len(message["content"].encode())
    corpus.newest.append(
        Written(session=session_id(number), owner=talk.actor, position=talk.handle.head.seq, message=message)
    )
