"""The sessions as a list to pick from: title, when it was last used, how long it is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from clew.domain.ledger.rows import SessionRow
from clew.runtime.talk import Talk
from clew.surfaces.cli.chat.printable import one_line
from clew.surfaces.cli.picker import Choice

SESSIONS_MAX: Final = 500
TITLE_CHARACTERS: Final = 60


async def session_choices(talk: Talk) -> list[Choice]:
    """The newest first. Raises LedgerError."""
    rows = await talk.services.ledger.sessions(talk.principal, limit=SESSIONS_MAX)
    now = talk.services.clock.now_ms()
    return [_choice(row, now, is_current=row.id == talk.session) for row in rows]


def _choice(row: SessionRow, now: int, *, is_current: bool) -> Choice:
    count = row.handle.head.seq
    details = [ago(row.last_active_at, now), f"{count} message{'' if count == 1 else 's'}", row.id]
    if is_current:
        details.append("this one")
    title = one_line(row.title or "untitled", TITLE_CHARACTERS)
    return Choice(key=row.id, label=title, detail=" · ".join(details))


def ago(at: int, now: int) -> str:
    """How long ago a moment was, roughly; both in milliseconds since 1970."""
    minutes = max(now - at, 0) // 60_000
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    if minutes < 24 * 60:
        return f"{minutes // 60} h ago"
    days = minutes // (24 * 60)
    if days < 60:
        return f"{days} day{'' if days == 1 else 's'} ago"
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d")
