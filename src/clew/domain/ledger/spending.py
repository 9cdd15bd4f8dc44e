"""Caps of spending: the one rule both stores keep inside the transaction that reserves."""

from __future__ import annotations

from collections.abc import Iterator

from clew.domain.ledger.commits import Caps, Reserve
from clew.domain.ledger.errors import CapReached
from clew.domain.ledger.rows import Spent


def refuse_over_cap(reserve: Reserve, spent: Spent) -> None:
    """Raises CapReached when what is spent or reserved already, and this on top, could pass a cap."""
    more = reserve.usage.cost_usd or 0.0
    for name, cap, so_far, of_what in capped(reserve.caps, spent):
        if so_far + more > cap:
            raise CapReached(
                f"The next call of the model could cost {dollars(more)}, and {dollars(so_far)} of the ${cap:g} allowed "
                f"{of_what} ({setting(name)}) are spent or set aside.",
                name,
            )


def capped(caps: Caps, spent: Spent) -> Iterator[tuple[str, float, float, str]]:
    """Each cap that is set: (its name, the cap, what counts against it, of what it is)."""
    for name, cap, so_far, of_what in (
        ("usd_per_session", caps.usd_per_session, spent.in_session, "for a session"),
        ("delegate.usd", caps.usd_beside, spent.alone, "for one subagent"),
        ("usd_per_user_day", caps.usd_per_user_day, spent.by_owner, "a day for a user"),
        ("usd_per_day", caps.usd_per_day, spent.by_all, "a day"),
    ):
        if cap is not None:
            yield name, cap, so_far, of_what


def setting(cap: str) -> str:
    """Where a cap is set."""
    return cap if "." in cap else f"limits.{cap}"


def dollars(usd: float) -> str:
    """An amount for people: cents and their hundredths, more digits where it is less than that."""
    return f"${usd:.4f}" if usd >= 0.0001 or usd == 0 else f"${usd:.2g}"
