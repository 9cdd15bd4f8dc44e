"""Which sessions are old enough to be archived or deleted. Only a plan: whoever carries it out asks first.

Never planned: a session with an open turn or messages that wait, one that is shared, one that others were forked from.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final, Literal

import apsw
import msgspec

from clew.adapters.stores.sqlite.connection import connect, fetch
from clew.domain.conversation.ids import SessionId

DAY_MS: Final = 86_400_000
MB: Final = 1_000_000


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One session and what would become of it."""

    session: SessionId
    title: str | None
    last_active_at: int
    action: Literal["archive", "delete"]
    reason: str


_FREE: Final = """
-- sessions nobody is in the middle of, nobody else can see, and nothing was forked from, the oldest first
SELECT s.id, s.title, s.last_active_at, s.archived_at FROM session s
WHERE s.lease_owner IS NULL AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = s.id)
  AND NOT EXISTS (SELECT 1 FROM turn t WHERE t.session_id = s.id AND t.state IN ('running','waiting'))
  AND NOT EXISTS (SELECT 1 FROM inbox i WHERE i.session_id = s.id AND i.state = 'queued')
  AND NOT EXISTS (SELECT 1 FROM share h WHERE h.session_id = s.id)
  AND NOT EXISTS (SELECT 1 FROM session c WHERE c.parent_session = s.id AND c.parent_branch IS NOT NULL AND c.origin <> 'side'
                  AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = c.id))
ORDER BY s.last_active_at, s.id
"""
_SIZE: Final = """
SELECT coalesce(sum(octet_length(m.text) + coalesce(octet_length(m.body), 0)), 0) + coalesce((
  SELECT sum(octet_length(x.bytes)) FROM blob x WHERE x.sha256 IN (
    SELECT a.sha256 FROM attachment a JOIN message n ON n.id = a.message JOIN branch c ON c.id = n.branch
    WHERE c.session_id = ?1)), 0)
FROM message m JOIN branch b ON b.id = m.branch WHERE b.session_id = ?1
"""


def plan(path: Path, *, now_ms: int, archive_days: int, delete_days: int, max_mb: int) -> tuple[Planned, ...]:
    """What the rules ask for, oldest first; 0 switches a rule off. Raises StoreUnusable."""
    with closing(connect(path, read_only=True)) as db:
        planned: list[Planned] = []
        used = _used_bytes(db) if max_mb else 0
        for ident, title, last_active_at, archived_at in fetch(db, _FREE):
            days = (now_ms - last_active_at) // DAY_MS
            verdict = _verdict(days, archived_at is not None, archive_days, delete_days)
            if verdict is None and max_mb and used > max_mb * MB:
                verdict = ("delete", f"the ledger holds more than {max_mb} MB")
            if verdict is None:
                continue
            if verdict[0] == "delete" and max_mb:
                used -= fetch(db, _SIZE, (ident,))[0][0]
            planned.append(
                Planned(
                    session=ident,
                    title=title,
                    last_active_at=last_active_at,
                    action=verdict[0],
                    reason=verdict[1],
                )
            )
        return tuple(planned)


def _verdict(
    days: int, archived: bool, archive_days: int, delete_days: int
) -> tuple[Literal["archive", "delete"], str] | None:
    if delete_days and days >= delete_days:
        return ("delete", f"not used for {days} days")
    if archive_days and days >= archive_days and not archived:
        return ("archive", f"not used for {days} days")
    return None


def _used_bytes(db: apsw.Connection) -> int:
    """Bytes in use: pages that a deletion freed are filled again, not given back."""
    pages, free, size = (
        fetch(db, f"PRAGMA {name}")[0][0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
