"""Putting a backup in the ledger's place: whole or not at all, wherever it is cut short, and whatever stood there."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from clew.adapters.stores.sqlite import keeper
from clew.adapters.stores.sqlite.connection import fetch
from clew.domain.ledger.errors import StoreUnusable
from clew.testing.ledgers import ANN, begin, say, session_id, texts
from tests.unit.sqlite.homes import database, opened, python

BACKED_UP = ["one", "two"]
LATER = [*BACKED_UP, "three"]


async def write_and_back_up(home: Path, backup: Path) -> None:
    """Two messages, a backup while the ledger is open, and one more."""
    async with opened(home) as ledger:
        handle = await say(ledger, await begin(ledger), *BACKED_UP)
        assert keeper.backup(home, backup) > 0
        await say(ledger, handle, "three")
        await ledger.search(ANN, "three")


async def read_all(home: Path) -> list[str]:
    async with opened(home) as ledger:
        said = await texts(ledger, session_id(1))
        for text in said:
            assert len((await ledger.search(ANN, text)).hits) == 1
        return said


@pytest.fixture
def home(tmp_path: Path) -> Path:
    asyncio.run(write_and_back_up(tmp_path / "home", tmp_path / "backup.db"))
    return tmp_path / "home"


def test_a_backup_is_one_private_file_that_is_whole(home: Path, tmp_path: Path) -> None:
    """A snapshot of one moment, checked, readable by its owner only, without a log beside it."""
    backup = tmp_path / "backup.db"
    assert backup.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.db", "home"]
    with closing(sqlite3.connect(backup)) as db:
        assert [row[0] for row in db.execute("SELECT text FROM message")] == BACKED_UP
    assert asyncio.run(read_all(home)) == LATER


def test_a_restored_ledger_is_the_backup_and_the_replaced_one_is_kept(home: Path, tmp_path: Path) -> None:
    """With everything it held; and the index finds what is there now, and nothing of what was."""
    aside = keeper.restore(home, tmp_path / "backup.db")
    assert aside is not None
    assert asyncio.run(read_all(home)) == BACKED_UP
    with closing(sqlite3.connect(aside)) as db:
        assert [row[0] for row in db.execute("SELECT text FROM message")] == LATER
    assert keeper.check(home) == ()


def test_two_restores_in_one_second_lose_nothing(home: Path, tmp_path: Path) -> None:
    """Each replaced ledger has a name of its own."""
    first = keeper.restore(home, tmp_path / "backup.db")
    second = keeper.restore(home, tmp_path / "backup.db")
    assert first is not None
    assert second is not None
    assert first != second
    assert first.exists()


def test_a_damaged_ledger_can_be_replaced(home: Path, tmp_path: Path) -> None:
    """That is what backups are for: what is there need not be readable, and is kept as it was, its log too."""
    (home / "clew.db").write_bytes(b"no database at all" * 1000)
    (home / "clew.db-wal").write_bytes(b"no log")
    aside = keeper.restore(home, tmp_path / "backup.db")
    assert aside is not None
    assert aside.read_bytes().startswith(b"no database")
    assert Path(f"{aside}-wal").read_bytes() == b"no log"
    assert asyncio.run(read_all(home)) == BACKED_UP


def test_a_home_without_a_ledger_takes_a_backup(tmp_path: Path, home: Path) -> None:
    """A new machine: there is nothing to put aside."""
    assert keeper.restore(tmp_path / "new", tmp_path / "backup.db") is None
    assert asyncio.run(read_all(tmp_path / "new")) == BACKED_UP


def test_nobody_opens_a_ledger_while_it_is_restored_and_nobody_restores_one_in_use(
    home: Path, tmp_path: Path
) -> None:
    """Each is told of the other in a sentence, and nothing is changed."""

    async def while_open() -> None:
        async with opened(home):
            with pytest.raises(
                StoreUnusable, match=r"has the ledger .* open; nothing was written\. Stop it first"
            ):
                keeper.restore(home, tmp_path / "backup.db")

    asyncio.run(while_open())
    assert asyncio.run(read_all(home)) == LATER


RESTORE_AND_DIE = """
import os, sys
from pathlib import Path
from clew.adapters.stores.sqlite import keeper

fatal, steps = int(sys.argv[3]), []

def die_at_the_fatal_one(event, arguments):
    if event in ("os.rename", "os.remove", "os.chmod") and str(arguments[0]).startswith(sys.argv[1]):
        steps.append(event)
        if len(steps) == fatal:
            os.kill(os.getpid(), 9)

sys.addaudithook(die_at_the_fatal_one)
keeper.restore(Path(sys.argv[1]), Path(sys.argv[2]))
print("done")
"""


def test_a_restore_killed_at_any_step_leaves_the_old_ledger_or_says_what_to_do(
    home: Path, tmp_path: Path
) -> None:
    """Never an empty one: either nothing happened yet, or the next start names the command that finishes it."""
    refused = 0
    for fatal in range(1, 30):
        copy = tmp_path / str(fatal)
        shutil.copytree(home, copy)
        died = python(RESTORE_AND_DIE, copy, tmp_path / "backup.db", fatal)
        assert died.returncode == (0 if died.stdout else -9), died.stderr
        if died.stdout:
            break
        waiting = copy / "clew.db.restored"
        if waiting.exists():
            refused += 1
            with pytest.raises(StoreUnusable) as error:
                asyncio.run(read_all(copy))
            assert str(error.value).endswith(f"Finish it with `clew db restore {waiting}`.")
            keeper.restore(copy, waiting)
            assert not waiting.exists()
        put_aside = [path for path in copy.iterdir() if "replaced" in path.name]
        assert asyncio.run(read_all(copy)) == (BACKED_UP if put_aside else LATER)
    assert refused >= 3


def test_a_backup_of_another_schema_is_migrated_like_any_old_ledger_or_refused(
    home: Path, tmp_path: Path
) -> None:
    """One from a newer Clew is refused before anything is touched."""
    newer = tmp_path / "backup.db"
    with closing(sqlite3.connect(newer)) as db:
        db.execute("PRAGMA user_version = 9999")
    before = sorted(os.listdir(home))
    with pytest.raises(StoreUnusable, match="newer Clew"):
        keeper.restore(home, newer)
    assert sorted(os.listdir(home)) == before


def test_a_ledger_of_lesser_age_put_there_by_hand_gets_an_index_of_its_own(
    home: Path, tmp_path: Path
) -> None:
    """Somebody copies a backup over the ledger without a word: what is said next is found all the same."""
    shutil.copy(tmp_path / "backup.db", home / "clew.db")

    async def go_on() -> None:
        async with opened(home) as ledger:
            row = await ledger.session(ANN, session_id(1))
            await say(ledger, row.handle, "otherwise")
            assert len((await ledger.search(ANN, "otherwise")).hits) == 1
            assert (await ledger.search(ANN, "three")).hits == ()

    asyncio.run(go_on())
    with database(home / "clew.db") as db:
        assert fetch(db, "SELECT count(*) FROM message") == [(3,)]
