"""From what was typed to hits: an FTS5 expression that is always valid, our own ranking, and the check of what lives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import apsw

from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.paths import Segment, segments
from clew.adapters.stores.sqlite.search_file import owner_token, session_token
from clew.domain.conversation.ids import MessageId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head, Role
from clew.domain.ledger.rows import Hit, Order, SearchResult
from clew.domain.ledger.search import Query, Term, parse, snippet

RANKED_MAX: Final = 1000
"""Ranking scores the newest so many hits: bm25() over all of them took 85 ms at 200k messages, 448 at 1M."""
SHARED_MAX: Final = 500


def expression(query: Query, scope: tuple[str, ...]) -> str:
    """An FTS5 expression. Words hold letters and digits only, so nothing in them can be an operator."""
    wanted = " AND ".join(_phrase(term) for term in query.terms)
    text = f"{{text}} : ({wanted})"
    for term in query.without:
        text = f"({text}) NOT ({{text}} : {_phrase(term)})"
    return f"({text}) AND ({{scope}} : ({' OR '.join(scope)}))"


def _phrase(term: Term) -> str:
    return f'"{" ".join(term.words)}"' + ("*" if term.prefix else "")


def _score(api: Any, *_: object) -> float:
    """Term frequency saturated by length, as BM25 without the part that must count every hit (apsw.FTS5ExtensionApi)."""
    length = 0.25 + 0.75 * api.column_size(0) / 170
    total = 0.0
    for phrase in range(api.phrase_count):
        frequency = len(api.phrase_column_offsets(phrase, 0))
        total += frequency * 2.2 / (frequency + 1.2 * length)
    return -total


_MESSAGE: Final = """
SELECT m.branch, m.seq, m.role, m.text, m.created_at, b.session_id FROM message m JOIN branch b ON b.id = m.branch WHERE m.id = ?
"""
_VISIBLE_HEAD: Final = """
SELECT s.title, s.head_branch, s.head_seq FROM session s WHERE s.id = ?2
  AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = s.id)
  AND (s.owner = ?1 OR EXISTS (SELECT 1 FROM share WHERE session_id = s.id AND principal = ?1))
"""


class Place:
    """A session the principal may see: its title and the path of its head."""

    __slots__ = ("segments", "session", "title")

    def __init__(self, session: SessionId, title: str | None, path: list[Segment]) -> None:
        self.session = session
        self.title = title
        self.segments = path

    def holds(self, branch: int, seq: int) -> bool:
        return any(s.branch == branch and s.low < seq <= s.high for s in self.segments)


class Seeker:
    """One search by one principal."""

    def __init__(self, index: apsw.Connection, ledger: apsw.Connection, principal: PrincipalId) -> None:
        self._index = index
        self._ledger = ledger
        self._principal = principal
        self._places: dict[SessionId, Place | None] = {}
        self._heirs: dict[SessionId, list[SessionId]] = {}
        self._cut: int | None = None
        index.register_fts5_function("clew_score", _score)

    def find(self, typed: str, limit: int, order: Order, session: SessionId | None) -> SearchResult:
        """What lives, best or newest first. The ledger is read at one moment."""
        query = parse(typed)
        if not query.terms or limit < 1:
            return SearchResult(hits=())
        self._ledger.execute("BEGIN")
        try:
            match = expression(query, self._scope(session))
            newest = order == Order.NEWEST
            candidates = self._newest(match) if newest else iter(self._ranked(match))
            hits = tuple(self._living(candidates, query, limit, session))
            return SearchResult(hits=hits, ranked_newest=None if newest else self._cut)
        finally:
            self._ledger.execute("ROLLBACK")

    def _scope(self, session: SessionId | None) -> tuple[str, ...]:
        if session is not None and self._place(session) is None:
            return (session_token(SessionId("none")),)
        shared = fetch(
            self._ledger,
            "SELECT session_id FROM share WHERE principal = ? LIMIT ?",
            (self._principal, SHARED_MAX),
        )
        return (owner_token(self._principal), *(session_token(ident) for (ident,) in shared))

    def _newest(self, match: str) -> Iterator[MessageId]:
        for (ident,) in self._index.execute(
            "SELECT rowid FROM fts WHERE fts MATCH ? ORDER BY rowid DESC", (match,)
        ):
            yield ident

    def _ranked(self, match: str) -> list[MessageId]:
        scored = fetch(
            self._index,
            "SELECT rowid, clew_score(fts) FROM fts WHERE fts MATCH ? ORDER BY rowid DESC LIMIT ?",
            (match, RANKED_MAX),
        )
        self._cut = RANKED_MAX if len(scored) == RANKED_MAX else None
        scored.sort(key=lambda row: (row[1], -row[0]))
        return [ident for ident, _ in scored]

    def _living(
        self, candidates: Iterator[MessageId], query: Query, limit: int, session: SessionId | None
    ) -> Iterator[Hit]:
        found = 0
        for ident in candidates:
            hit = self._hit(ident, query, session)
            if hit is not None:
                yield hit
                found += 1
                if found == limit:
                    return

    def _hit(self, ident: MessageId, query: Query, only: SessionId | None) -> Hit | None:
        rows = fetch(self._ledger, _MESSAGE, (ident,))
        if not rows:
            return None
        branch, seq, role, text, created_at, owner = rows[0]
        place = self._place_holding(branch, seq, owner, only)
        if place is None:
            return None
        return Hit(
            session=place.session,
            title=place.title,
            message=ident,
            position=seq,
            role=Role(role),
            snippet=snippet(text, query),
            created_at=created_at,
        )

    def _place_holding(self, branch: int, seq: int, owner: SessionId, only: SessionId | None) -> Place | None:
        """The message's own session if it lives there, else a fork of it that still holds it."""
        for candidate in self._family(owner) if only is None else (only,):
            place = self._place(candidate)
            if place is not None and place.holds(branch, seq):
                return place
        return None

    def _family(self, session: SessionId) -> list[SessionId]:
        """A session and all that were forked from it, nearest first."""
        known = self._heirs.get(session)
        if known is None:
            forks = fetch(
                self._ledger,
                "WITH RECURSIVE heir(id) AS (SELECT ?1 UNION SELECT s.id FROM heir h JOIN session s ON s.parent_session = h.id"
                " WHERE s.parent_branch IS NOT NULL) SELECT id FROM heir",
                (session,),
            )
            known = self._heirs[session] = [ident for (ident,) in forks]
        return known

    def _place(self, session: SessionId) -> Place | None:
        if session not in self._places:
            rows = fetch(self._ledger, _VISIBLE_HEAD, (self._principal, session))
            self._places[session] = (
                Place(session, rows[0][0], segments(self._ledger, Head(rows[0][1], rows[0][2])))
                if rows
                else None
            )
        return self._places[session]
