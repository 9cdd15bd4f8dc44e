"""A ledger on disk for a test, and other programs beside it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import apsw

from clew.adapters.stores.sqlite import SqliteLedger, open_ledger
from clew.adapters.stores.sqlite.connection import connect
from clew.adapters.stores.sqlite.migrate import open_file
from clew.adapters.system import SystemClock
from clew.testing.ledgers import PEOPLE

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def opened(home: Path) -> AsyncIterator[SqliteLedger]:
    """The ledger of a home, with everybody known to it."""
    ledger = await open_ledger(home, SystemClock())
    try:
        for person in PEOPLE:
            await ledger.add_principal(person, str(person), "user")
        yield ledger
    finally:
        await ledger.close()


@contextmanager
def database(path: Path) -> Iterator[apsw.Connection]:
    """A connection as the program has it, to a file that need not be there yet."""
    db = connect(path) if path.exists() else open_file(path, 1)
    try:
        yield db
    finally:
        db.close()


def python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a program of its own, in this checkout."""
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=50)
