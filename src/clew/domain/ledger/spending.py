"""Caps of spending: the one rule both stores keep inside the transaction that reserves."""

from __future__ import annotations

from clew.domain.ledger.commits import Reserve
from clew.domain.ledger.errors import CapReached


def refuse_over_cap(reserve: Reserve, *, in_session: float, by_owner: float, by_all: float) -> None:
    """Raises CapReached when what is spent or reserved already, and this on top, could pass a cap."""
    caps, more = reserve.caps, reserve.usage.cost_usd or 0.0
    for name, cap, spent, of_what in (
        ("usd_per_session", caps.usd_per_session, in_session, "for a session"),
        ("usd_per_user_day", caps.usd_per_user_day, by_owner, "a day for a user"),
        ("usd_per_day", caps.usd_per_day, by_all, "a day"),
    ):
        if cap is not None and spent + more > cap:
            raise CapReached(
                f"The next call of the model could cost ${more:.4f}, and ${spent:.4f} of the ${cap:g} allowed {of_what} "
                f"(limits.{name}) are spent or set aside.",
                name,
            )
