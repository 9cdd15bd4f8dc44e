"""What calls of models used, and what is set aside for those under way."""

from __future__ import annotations

from typing import Final

import apsw
from msgspec.structs import asdict

from clew.adapters.stores.sqlite.connection import fetch
from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.commits import AddUsage, Commit, Reserve
from clew.domain.ledger.rows import Spent
from clew.domain.ledger.spending import refuse_over_cap

_ADD: Final = """
INSERT INTO usage(owner, session_id, model, state, input, output, cache_read, cache_write, cost_usd, price_source, at,
  turn, step, attempt, task) SELECT owner, id, :model, :state, :input, :output, :cache_read, :cache_write, :cost_usd,
  :price_source, :at, :turn, :step, :attempt, :task FROM session WHERE id = :session
"""
_SETTLE: Final = """
UPDATE usage SET model = :model, state = :state, input = :input, output = :output, cache_read = :cache_read,
  cache_write = :cache_write, cost_usd = :cost_usd, price_source = :price_source, at = :at
WHERE turn = :turn AND step = :step AND attempt = :attempt AND task = :task AND session_id = :session AND state = 'reserved'
"""
_LEFT_BEHIND: Final = """
UPDATE usage SET state = 'estimated' WHERE session_id = ? AND turn = ? AND step = ? AND attempt = ? AND task = ? AND state = 'reserved'
"""
_SPENT: Final = """
-- a side session spends what its session may: both look at all that hang together so
WITH RECURSIVE up(id, parent) AS (
  SELECT id, iif(origin = 'side', parent_session, NULL) FROM session WHERE id = ?1
  UNION SELECT s.id, iif(s.origin = 'side', s.parent_session, NULL) FROM up JOIN session s ON s.id = up.parent
), family(id) AS (
  SELECT id FROM up WHERE parent IS NULL
  UNION SELECT s.id FROM family f CROSS JOIN session s ON s.parent_session = f.id WHERE s.origin = 'side'
)
SELECT (SELECT coalesce(sum(cost_usd), 0) FROM family f CROSS JOIN usage u ON u.session_id = f.id),
  (SELECT coalesce(sum(cost_usd), 0) FROM usage WHERE session_id = ?1),
  (SELECT coalesce(sum(cost_usd), 0) FROM usage WHERE owner = ?3 AND at >= ?2),
  -- one by one, by the index of owners: an index of times alone would be written with every call of a model
  (SELECT coalesce(sum(cost_usd), 0) FROM principal p CROSS JOIN usage u ON u.owner = p.id AND u.at >= ?2)
"""


def write_usage(db: apsw.Connection, work: Commit) -> None:
    """Adds what was used, each in the place of its reservation, and reserves what may be."""
    for usage in work.usage:
        _write(db, work, usage)
    if work.reserve is not None:
        _reserve(db, work, work.reserve)


def estimate_reserved(db: apsw.Connection, session: SessionId, turn: int) -> None:
    """The turn was cut off: what its call would have cost at most stands for what it did."""
    db.execute(
        "UPDATE usage SET state = 'estimated' WHERE session_id = ? AND turn = ? AND state = 'reserved'",
        (session, turn),
    )


def spent(db: apsw.Connection, session: SessionId | None, owner: PrincipalId, day_began: int) -> Spent:
    """What counts against the caps."""
    in_session, alone, by_owner, by_all = fetch(db, _SPENT, (session, day_began, owner))[0]
    return Spent(in_session=in_session, alone=alone, by_owner=by_owner, by_all=by_all)


def _reserve(db: apsw.Connection, work: Commit, reserve: Reserve) -> None:
    [(owner,)] = fetch(db, "SELECT owner FROM session WHERE id = ?", (work.session,))
    refuse_over_cap(reserve, spent(db, work.session, owner, reserve.caps.day_began))
    usage = reserve.usage  # whoever had set aside under this name before is dead: nobody settles it any more
    db.execute(_LEFT_BEHIND, (work.session, usage.turn, usage.step, usage.attempt, usage.task))
    _write(db, work, reserve.usage)


def _write(db: apsw.Connection, work: Commit, usage: AddUsage) -> None:
    row = {**asdict(usage), "at": work.at, "session": work.session}
    db.execute(_SETTLE, row)
    if db.changes() == 0:
        db.execute(_ADD, row)
