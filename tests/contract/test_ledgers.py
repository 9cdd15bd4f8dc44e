"""Every store passes the one suite of the ledger's port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clew.adapters.stores.memory import Disk, MemoryLedger
from clew.adapters.stores.sqlite import open_ledger
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger import LedgerContract, Reopen
from clew.testing.ledgers import StillClock


class TestMemoryLedger(LedgerContract):
    """The one in plain Python."""

    @pytest.fixture
    async def reopen(self) -> Reopen:
        disk = Disk()

        async def open_again() -> Ledger:
            return MemoryLedger(disk)

        return open_again


class TestSqliteLedger(LedgerContract):
    """The one in a file."""

    @pytest.fixture
    async def reopen(self, tmp_path: Path) -> AsyncIterator[Reopen]:
        opened: list[Ledger] = []

        async def open_again() -> Ledger:
            opened.append(await open_ledger(tmp_path, StillClock()))
            return opened[-1]

        yield open_again
        for ledger in opened:
            await ledger.close()
