"""What all parts of the ledger's suite share: the fixtures, and how a failure to write is looked at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from clew.domain.conversation.ids import PrincipalId
from clew.domain.ledger.commits import Commit
from clew.domain.ledger.errors import LedgerError
from clew.runtime.ports.ledger import Ledger
from clew.testing.invariants import reads_of
from clew.testing.ledgers import ANN, PEOPLE

Reopen = Callable[[], Awaitable[Ledger]]
"""Opens the test's storage once more. Without closing first, it is what a second process would do."""


class LedgerCase:
    """A test on a ledger that knows four people and nothing else."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def reopen(self) -> Reopen:
        """To be given by the subclass: opens one storage, anew for each test, and closes all at its end."""
        raise NotImplementedError

    @pytest.fixture
    async def ledger(self, reopen: Reopen) -> Ledger:
        ledger = await reopen()
        for person in PEOPLE:
            await ledger.add_principal(person, person.title(), "user")
        return ledger


_NOT_COMPARED = frozenset({"path at", "before", "segment", "blob", "search"})
"""Reads that need a position; and search, which may say that its index is not there yet."""


async def everything(ledger: Ledger, who: PrincipalId = ANN) -> list[tuple[str, object]]:
    """All that a principal can read, for telling whether anything changed."""
    found: list[tuple[str, object]] = [("usage", await ledger.usage(who))]
    rows = await ledger.sessions(who, limit=1000, sides=True)
    rows += await ledger.sessions(who, limit=1000, archived=True, sides=True)
    for row in rows:
        for name, read in reads_of(ledger, who, row.id).items():
            if name not in _NOT_COMPARED:
                found.append((f"{row.id} {name}", await read()))
        branches = [branch.id for branch in await ledger.branches(who, row.id)]
        found += [(f"branch {ident}", await ledger.segment(who, row.id, ident)) for ident in branches]
    return found


async def refused(ledger: Ledger, work: Commit, error: type[LedgerError], who: PrincipalId = ANN) -> None:
    """The commit raises exactly this error and leaves no trace."""
    before = await everything(ledger, who)
    with pytest.raises(error) as caught:
        await ledger.commit(work)
    assert type(caught.value) is error
    assert await everything(ledger, who) == before
