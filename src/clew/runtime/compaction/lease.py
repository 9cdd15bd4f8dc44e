"""One compactor at a time in a session, across processes: to save the second call, not to be safe.

No two clocks are compared. A lease is taken over from an owner that is certainly dead, or after its beat stood still for
`lease_seconds` of this process's own loop. Where the lease cannot be had at all, the summary is made without it, and the
ledger's fence still lets one of two win.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from clew.domain.conversation.ids import SessionId
from clew.domain.ledger.errors import LedgerError, NotFound
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.owners import Owners

LOOKS_PER_LEASE: Final = 240
"""How often somebody who waits looks again: every half second of a two minutes' lease."""


class ElsewhereNow(Exception):
    """Another process holds the lease."""


@asynccontextmanager
async def leased(
    ledger: Ledger, owners: Owners, session: SessionId, *, lease_seconds: float, waits: bool
) -> AsyncIterator[LedgerError | None]:
    """Holds the lease inside. Yields what made it unavailable, if anything did.

    Raises ElsewhereNow where another holds it and `waits` is false, NotFound when the session is gone.
    """
    try:
        await _take(ledger, owners, session, lease_seconds, waits)
    except NotFound:
        raise
    except LedgerError as error:
        yield error
        return
    beating = asyncio.create_task(_beat(ledger, owners, session, lease_seconds / 3))
    try:
        yield None
    finally:
        beating.cancel()
        await asyncio.wait([beating])
        with suppress(LedgerError):  # a lease that stays behind is taken over: it costs time, nothing else
            await ledger.end_compaction(session, owners.me)


async def _take(
    ledger: Ledger, owners: Owners, session: SessionId, lease_seconds: float, waits: bool
) -> None:
    now = asyncio.get_running_loop().time
    seen, since = None, now()
    lease = await ledger.lease_compaction(session, owners.me)
    while lease.holder != owners.me:
        if lease != seen:
            seen, since = lease, now()
        if owners.is_dead(lease.holder) or now() - since >= lease_seconds:
            lease = await ledger.lease_compaction(session, owners.me, over=lease)
            continue
        if not waits:
            raise ElsewhereNow
        await asyncio.sleep(lease_seconds / LOOKS_PER_LEASE)
        lease = await ledger.lease_compaction(session, owners.me)


async def _beat(ledger: Ledger, owners: Owners, session: SessionId, every_seconds: float) -> None:
    """Until the lease is somebody else's, or the session is gone: then there is nothing to keep."""
    holder = owners.me
    while holder == owners.me:
        await asyncio.sleep(every_seconds)
        try:
            holder = (await ledger.lease_compaction(session, owners.me)).holder
        except NotFound:
            return
        except LedgerError:
            continue  # a missed beat proves nothing
