"""What works beside a session: it spends what that may spend, is found where it is asked for, and goes with it."""

from __future__ import annotations

import pytest

from clew.domain.ledger.errors import CapReached, NotFound
from clew.domain.ledger.rows import BACKGROUND, Handle, Origin
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase, refused
from clew.testing.contracts.ledger_recovery import reserve, spent
from clew.testing.ledgers import ANN, BOB, START_MS, begin, do, exchange, fork, found, texts, work


async def beside(ledger: Ledger, parent: Handle, number: int, surface: str = "delegate") -> Handle:
    """A side session that starts with nothing, in which one thing was said."""
    side = await begin(ledger, number, parent=parent.session, origin=Origin.SIDE, surface=surface)
    return await exchange(ledger, side, f"kiwi {number}")


class SideContract(LedgerCase):
    """Side sessions."""

    async def test_lists_and_search_leave_it_out_unless_it_is_asked_for(self, ledger: Ledger) -> None:
        """But for what a person had done in the background, whose words stand in it."""
        parent = await exchange(ledger, await begin(ledger, 1), "mango")
        side = await beside(ledger, parent, 2)
        own = await beside(ledger, parent, 3, BACKGROUND)
        assert [row.id for row in await ledger.sessions(ANN)] == [parent.session]
        everything = {row.id for row in await ledger.sessions(ANN, sides=True)}
        assert everything == {parent.session, side.session, own.session}
        assert {hit.session for hit in (await ledger.search(ANN, "kiwi")).hits} == {own.session}
        assert {hit.session for hit in (await ledger.search(ANN, "kiwi", session=side.session)).hits} == {
            side.session
        }

    async def test_it_spends_what_its_session_may_spend(self, ledger: Ledger) -> None:
        """Whoever of them asks, whatever is nested in what; a fork is another session. Alone it has a cap of its own."""
        parent = await exchange(ledger, await begin(ledger, 1), "mango")
        side = await beside(ledger, parent, 2)
        nested = await beside(ledger, side, 3)
        branch = await fork(ledger, parent, 4)
        for handle, usd in ((parent, 1.0), (side, 2.0), (nested, 4.0), (branch, 8.0)):
            await do(ledger, handle, usage=(spent(usd),))
        for handle, alone in ((parent, 1.0), (side, 2.0), (nested, 4.0)):
            counted = await ledger.spent(ANN, handle.session, START_MS)
            assert (counted.in_session, counted.alone) == (7.0, alone)
            row = reserve(0.5, step=2, session=7.0)
            await refused(ledger, work(await self._now(ledger, handle), reserve=row), CapReached)
        assert (await ledger.spent(ANN, branch.session, START_MS)).in_session == 8.0
        await do(ledger, await self._now(ledger, nested), reserve=reserve(0.5, step=2, session=7.5))

    async def test_it_is_forgotten_with_its_session(self, ledger: Ledger) -> None:
        """With all that works beside it; a person's branch stays, and so does what another person has."""
        parent = await exchange(ledger, await begin(ledger, 1), "mango")
        side = await beside(ledger, parent, 2)
        nested = await beside(ledger, side, 3)
        branch = await exchange(ledger, await fork(ledger, parent, 4), "plum")
        await ledger.share(ANN, parent.session, BOB, "write")
        other = await begin(ledger, 5, owner=BOB, parent=parent.session, origin=Origin.SIDE)
        gone = await ledger.forget(ANN, parent.session, START_MS)
        assert gone.kept_for == (branch.session,)
        for handle in (parent, side, nested):
            with pytest.raises(NotFound):
                await ledger.session(ANN, handle.session)
        assert await found(ledger, "kiwi") == []
        assert await texts(ledger, branch.session) == ["mango", "re mango", "plum", "re plum"]
        assert (await ledger.session(BOB, other.session)).parent == parent.session

    async def _now(self, ledger: Ledger, handle: Handle) -> Handle:
        return (await ledger.session(ANN, handle.session)).handle
