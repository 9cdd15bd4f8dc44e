"""From what was typed to hits: an FTS5 expression that is always valid, our own ranking, and the check of what lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, Final

import apsw
import msgspec

from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.paths import Segment, segments
from clew.adapters.stores.sqlite.search_file import owner_token, session_token
from clew.domain.conversation.ids import MessageId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head, Role
from clew.domain.ledger.errors import NotFound
from clew.domain.ledger.rows import BACKGROUND, Hit, Order, SearchResult
from clew.domain.ledger.search import Query, Term, parse, snippet

RANKED_MAX: Final = 1000
"""Ranking scores the newest so many hits: bm25() over all of them took 85 ms at 200k messages, 448 at 1M."""
SHARED_MAX: Final = 500
_encode: Final = msgspec.json.Encoder().encode


def expression(query: Query, scope: tuple[str, ...]) -> str:
    """An FTS5 expression. Words hold letters and digits only, so nothing in them can be an operator."""
    wanted = " AND ".join(_phrase(term) for term in query.terms)
    text = f"{{text}} : ({wanted})"
    for term in query.without:
        text = f"({text}) NOT ({{text}} : {_phrase(term)})"
    return f"({text}) AND ({{scope}} : ({' OR '.join(scope)}))"


def _phrase(term: Term) -> str:
    return f'"{" ".join(term.words)}"' + ("*" if term.prefix else "")


def _scorer(terms: int) -> Callable[..., float]:
    """Term frequency saturated by length: BM25 without the part that must count every hit.

    Called once for each of RANKED_MAX hits, it is most of what ranking costs. The terms are the expression's first
    phrases; what is excluded and the scope come after them and say nothing about how well a text fits.
    """
    phrases = range(terms)

    def score(api: Any, *_: object) -> float:  # apsw.FTS5ExtensionApi
        length = 0.3 + api.column_size(0) * _LENGTH_WEIGHT
        total = 0.0
        for phrase in phrases:
            frequency = len(api.phrase_column_offsets(phrase, 0))
            total += frequency / (frequency + length)
        return total

    return score


_LENGTH_WEIGHT: Final = 1.2 * 0.75 / 170
"""BM25's k1 = 1.2 and b = 0.75, for texts of 170 words in the mean; k1 * (1 - b) is the 0.3 beside it."""

_SEARCHED: Final = f"(s.origin <> 'side' OR s.surface = '{BACKGROUND}')"
"""As `SessionRow.is_searched`."""
_HIT: Final = f"""
-- a message, and whether it stands where everything newer was written: on the last branch of its own session's path
SELECT m.branch, m.seq, m.role, m.text, m.created_at, s.id, s.title,
  s.head_branch = m.branch AND m.seq <= s.head_seq AND {_SEARCHED} AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = s.id)
  AND (s.owner = ?1 OR EXISTS (SELECT 1 FROM share WHERE session_id = s.id AND principal = ?1))
FROM message m JOIN branch b ON b.id = m.branch JOIN session s ON s.id = b.session_id WHERE m.id = ?2
"""
_VISIBLE_HEAD: Final = """
SELECT s.title, s.head_branch, s.head_seq FROM session s WHERE s.id = ?2
  AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = s.id)
  AND (s.owner = ?1 OR EXISTS (SELECT 1 FROM share WHERE session_id = s.id AND principal = ?1))
"""


_SHARED: Final = """
-- the sessions shared with a principal, and those whose branches these go on from
WITH RECURSIVE readable(id) AS (
  SELECT session_id FROM share WHERE principal = ?1
  UNION SELECT s.parent_session FROM readable r JOIN session s ON s.id = r.id WHERE s.parent_branch IS NOT NULL
)
SELECT id FROM readable LIMIT ?2
"""


_OWNERS: Final = "SELECT DISTINCT session_id FROM branch WHERE id IN (SELECT value FROM json_each(?))"


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

    def find(self, typed: str, limit: int, order: Order, session: SessionId | None) -> SearchResult:
        """What lives, best or newest first. The ledger is read at one moment. Raises NotFound for a foreign session."""
        query = parse(typed)
        self._ledger.execute("BEGIN")
        try:
            scope = self._scope(session)
            if not query.terms or limit < 1:
                return SearchResult(hits=())
            match = expression(query, scope)
            newest = order == Order.NEWEST
            candidates = self._newest(match) if newest else self._ranked(match, len(query.terms))
            hits = tuple(self._living(candidates, query, limit, session))
            return SearchResult(hits=hits, ranked_newest=None if newest else self._cut)
        finally:
            self._ledger.execute("ROLLBACK")

    def _scope(self, session: SessionId | None) -> tuple[str, ...]:
        """Where hits may be: in one session, those on whose branches its path runs; else everything of one's own, and
        the sessions whose messages a shared one stands on."""
        if session is not None:
            place = self._place(session, True)
            if place is None:
                raise NotFound(f"There is no session {session}.")
            branches = _encode([stretch.branch for stretch in place.segments]).decode()
            within = fetch(self._ledger, _OWNERS, (branches,)) or [(session,)]
            return tuple(session_token(ident) for (ident,) in within)
        shared = fetch(self._ledger, _SHARED, (self._principal, SHARED_MAX))
        return (owner_token(self._principal), *(session_token(ident) for (ident,) in shared))

    def _newest(self, match: str) -> Iterator[MessageId]:
        for (ident,) in self._index.execute(
            "SELECT rowid FROM fts WHERE fts MATCH ? ORDER BY rowid DESC", (match,)
        ):
            yield ident

    def _ranked(self, match: str, terms: int) -> Iterator[MessageId]:
        self._index.register_fts5_function("clew_score", _scorer(terms))
        scored = fetch(
            self._index,
            "SELECT rowid, clew_score(fts) FROM fts WHERE fts MATCH ? ORDER BY rowid DESC LIMIT ?",
            (match, RANKED_MAX),
        )
        self._cut = RANKED_MAX if len(scored) == RANKED_MAX else None
        scored.sort(key=itemgetter(1), reverse=True)  # stable: of equals, the newer one first
        return (ident for ident, _ in scored)

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
        rows = fetch(self._ledger, _HIT, (self._principal, ident))
        if not rows:
            return None
        branch, seq, role, text, created_at, session, title, stands = rows[0]
        if not stands or (only is not None and only != session):
            place = self._place_holding(branch, seq, session, only)
            if place is None:
                return None
            session, title = place.session, place.title
        return Hit(
            session=session,
            title=title,
            message=ident,
            position=seq,
            role=Role(role),
            snippet=snippet(text, query),
            created_at=created_at,
        )

    def _place_holding(self, branch: int, seq: int, owner: SessionId, only: SessionId | None) -> Place | None:
        """The message's own session if it lives there, else a fork of it that still holds it."""
        for candidate in self._family(owner) if only is None else (only,):
            place = self._place(candidate, only is not None)
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

    def _place(self, session: SessionId, is_asked_for: bool) -> Place | None:
        if session not in self._places:
            query = _VISIBLE_HEAD if is_asked_for else f"{_VISIBLE_HEAD} AND {_SEARCHED}"
            rows = fetch(self._ledger, query, (self._principal, session))
            self._places[session] = (
                Place(session, rows[0][0], segments(self._ledger, Head(rows[0][1], rows[0][2])))
                if rows
                else None
            )
        return self._places[session]
