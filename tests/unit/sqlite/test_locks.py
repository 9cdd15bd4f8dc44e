"""Other programs beside a running Clew: nothing they do in good faith costs a word that was acknowledged."""

from __future__ import annotations

from pathlib import Path

import pytest

from clew.testing.ledgers import ANN, session_id
from tests.unit.sqlite.homes import opened, python

pytestmark = pytest.mark.anyio

ACKNOWLEDGE_AND_DIE = """
import asyncio, os, sys
from pathlib import Path
from clew.testing.ledgers import ANN, begin, say
from tests.unit.sqlite.homes import opened, python
from tests.unit.sqlite.test_locks import READ_AND_WRITE

async def main(home):
    async with opened(home) as ledger:
        handle = await say(ledger, await begin(ledger), "one")
        await asyncio.gather(*(ledger.path(ANN, handle.session) for _ in range(9)))
        await ledger.search(ANN, "one")
        other = python(READ_AND_WRITE, home / "clew.db")
        assert other.returncode == 0, other.stderr
        await say(ledger, handle, "two")
        os.write(1, b"acknowledged")
        os.kill(os.getpid(), 9)

asyncio.run(main(Path(sys.argv[1])))
"""
READ_AND_WRITE = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1])
print(other.execute("SELECT count(*) FROM message").fetchone())
other.execute("UPDATE session SET title = 'from outside'")
other.commit()
other.close()
"""


async def test_another_program_that_reads_the_file_takes_no_acknowledged_message_with_it(
    tmp_path: Path,
) -> None:
    """Whoever closes the file last removes its log: a running Clew holds its locks whatever else it opens, so it is never
    somebody else."""
    died = python(ACKNOWLEDGE_AND_DIE, tmp_path)
    assert (died.stdout, died.returncode) == ("acknowledged", -9), died.stderr
    async with opened(tmp_path) as ledger:
        assert [m.text for m in await ledger.path(ANN, session_id(1))] == ["one", "two"]
