"""Searching as a principal who owns half of the sessions, over text of which the other half must never be seen.

Every answer is checked against what was written: planted words must be found where they were planted and nowhere
else, the newest hit must be the newest message that holds the word, and a ranked hit must hold it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from benchmarks.bench import Bench, settle
from benchmarks.corpus import HALF, TINY, Corpus, Written, owner_of
from benchmarks.floor import WordFloor
from benchmarks.measure import Samples
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_most
from benchmarks.talk import session_id, start
from benchmarks.workload import MARKERS, PER_SESSION, Message
from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.words import words
from clew.domain.ledger.rows import Hit, Order
from clew.domain.ledger.search import matches, parse

LIMIT: Final = 20
Place = tuple[SessionId, int]


class Kind(NamedTuple):
    """A row of the table: what is typed, and how long the slowest twentieth may take."""

    label: str
    typed: tuple[str, ...]
    budget_ms: float = 10.0
    order: Order = Order.RANKED
    marker: str = ""
    principal: PrincipalId = HALF
    bare: str = ""
    """The same for a bare FTS5 table, which knows neither pairs of characters nor owners."""


KINDS: Final = (
    Kind("ranked", ("deploy",), bare="deploy"),
    Kind("ranked, three common words", ("deploy server restart",), bare="deploy server restart"),
    Kind("newest", ("deploy",), budget_ms=2.0, order=Order.NEWEST, bare="deploy"),
    Kind("rare", ("zyxgraphite",), marker="rare", bare="zyxgraphite"),
    Kind("phrase", ('"rolling restart window"',), marker="phrase", bare='"rolling restart window"'),
    Kind("CJK, 2 characters", ("鳄梨",), marker="cjk2"),
    Kind("CJK, 7 characters", ("蓝鲸数据湖迁移",), marker="cjk"),
    Kind(
        "special characters",
        ("don't", "src/app.py", "50%", "exit_code=0", '"server db" -not', "depl*", "a AND ("),
    ),
    Kind("ranked, an owner of 0.1 %", ("deploy",), principal=TINY),
)
AT_A_MILLION_MS: Final = 20.0


@benchmark("search")
async def search(bench: Bench) -> AsyncIterator[Row]:
    corpus = await bench.corpus()
    oracle = Oracle(corpus)
    floor = WordFloor(bench.folder("words"))
    floor.add(_searchable(written.message) for written in corpus.newest)
    settle()
    ours, bare = [Samples() for _ in KINDS], [Samples() for _ in KINDS]
    for number in range(bench.rounds(200)):
        for at, kind in enumerate(KINDS):
            typed = kind.typed[number % len(kind.typed)]
            with ours[at]:
                found = await corpus.ledger.search(kind.principal, typed, limit=LIMIT, order=kind.order)
            if number < len(kind.typed):
                oracle.check(kind, typed, found.hits)
            if kind.bare:
                with bare[at]:
                    (floor.newest if kind.order is Order.NEWEST else floor.ranked)(kind.bare, LIMIT)
        bench.disk.probe()
    floor.close()
    peer = await bench.peer.figures("search", str(corpus.messages))
    for kind, samples, theirs in zip(KINDS, ours, bare, strict=True):
        yield _row(kind, corpus.messages, samples, theirs, peer.get(kind.label))
    yield await _at_once(bench, corpus)


def _row(kind: Kind, messages: int, samples: Samples, bare: Samples, peer: float | None) -> Row:
    budget = max(kind.budget_ms, AT_A_MILLION_MS) if messages >= 1_000_000 else kind.budget_ms
    return Row(
        work=f"search {messages:,}: {kind.label}",
        samples=samples,
        floor=bare if len(bare) else None,
        peer=peer,
        claims=(at_most("p95", samples.at(95) * 1e3, budget, "ms"),),
        remark="floor: bare FTS5, rowids only" if len(bare) else "",
    )


async def _at_once(bench: Bench, corpus: Corpus) -> Row:
    """A message is found as soon as it is committed: the search pays for catching up."""
    samples = Samples()
    talk = await start(corpus.ledger, 10**11, HALF)
    for number in range(bench.rounds(100)):
        word = f"fresh{number}word"
        await talk.write(({"role": "user", "content": f"just said: {word}"},))
        with samples:
            found = await corpus.ledger.search(HALF, word)
        if [hit.session for hit in found.hits] != [talk.handle.session]:
            raise AssertionError(f"{word} was committed and not found")
    return Row(work="search for what was just committed", samples=samples)


class Oracle:
    """Knows what must be found, from what was written."""

    def __init__(self, corpus: Corpus) -> None:
        self._sessions = corpus.sessions
        self._newest = corpus.newest
        self._at: dict[Place, Written] = {(w.session, w.position): w for w in corpus.newest}

    def check(self, kind: Kind, typed: str, hits: tuple[Hit, ...]) -> None:
        """Raises AssertionError when the answer is not the right one."""
        found = [(hit.session, hit.position) for hit in hits]
        foreign = [place for place in found if owner_of(int(place[0])) != kind.principal]
        if foreign:
            raise AssertionError(f"{typed}: {foreign[0]} is somebody else's")
        if kind.marker:
            self._check_marker(kind, set(found))
        elif kind.order is Order.NEWEST:
            self._check_newest(kind.principal, typed, found)
        else:
            self._check_words(typed, found)

    def _check_marker(self, kind: Kind, found: set[Place]) -> None:
        planted = _planted(kind.marker, self._sessions, kind.principal)
        if len(found) != min(LIMIT, len(planted)) or not found <= planted:
            raise AssertionError(f"{kind.label}: {len(found)} found, {len(planted)} planted")

    def _check_newest(self, principal: PrincipalId, typed: str, found: list[Place]) -> None:
        query = parse(typed)
        for written in reversed(self._newest):
            if written.owner == principal and matches(query, words(_searchable(written.message))):
                if not found or found[0] != (written.session, written.position):
                    raise AssertionError(f"{typed}: the first hit is not the newest message that holds it")
                return

    def _check_words(self, typed: str, found: list[Place]) -> None:
        query = parse(typed)
        for place in found:
            written = self._at.get(place)
            if written is not None and not matches(query, words(_searchable(written.message))):
                raise AssertionError(f"{typed}: {place} does not hold it")


def _planted(marker: str, sessions: int, owner: PrincipalId) -> set[Place]:
    stride, offset, _ = MARKERS[marker]
    places = (divmod(number, PER_SESSION) for number in range(offset, sessions * PER_SESSION, stride))
    return {(session_id(session), at + 1) for session, at in places if owner_of(session) == owner}


def _searchable(message: Message) -> str:
    """What a message is found by: its text, and the names and arguments of its calls."""
    calls = (call["function"] for call in message.get("tool_calls", ()))
    said = (f"{call['name']} {call['arguments']}" for call in calls)
    return " ".join((message["content"], *said, message.get("tool_name", "")))
