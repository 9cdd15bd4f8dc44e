"""What several tests of the runtime run on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clew.adapters.stores.sqlite import SqliteLedger, open_ledger
from clew.testing.world import HandClock


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    """The real one, in files."""
    opened = await open_ledger(tmp_path, HandClock())
    yield opened
    await opened.close()
