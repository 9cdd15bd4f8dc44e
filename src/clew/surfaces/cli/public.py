"""What other programs see of a session: the columns of the view v_session, a promise."""

from __future__ import annotations

from clew.domain.ledger.rows import SessionRow


def public(row: SessionRow) -> dict[str, object]:
    """The columns of v_session by name."""
    return {
        "id": row.id,
        "parent_id": row.parent,
        "origin": row.origin,
        "live": row.ended_at is None and row.archived_at is None,
        "end_reason": row.end_reason,
        "title": row.title,
        "surface": row.surface,
        "owner": row.owner,
        "model": row.model,
        "created_at": row.created_at,
        "last_active_at": row.last_active_at,
    }
