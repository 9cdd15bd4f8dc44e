"""Checking, backing up and restoring the ledger's files."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from clew.adapters.stores.sqlite import SqliteLedger, keeper, open_ledger
from clew.domain.conversation.ids import LOCAL
from clew.domain.ledger.errors import StoreUnusable
from clew.testing.scripted_model import say
from clew.testing.world import HandClock, World, exchange

pytestmark = pytest.mark.anyio


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    """A home with two exchanges, its ledger closed."""
    place = tmp_path / "home"
    ledger = await open_ledger(place, HandClock())
    talk = World(ledger, [say("one"), say("two")]).talk()
    await exchange(talk, "first")
    await exchange(talk, "second")
    await ledger.close()
    return place


def broken(home: Path, *statements: str) -> None:
    """Does to the file what no guard would let pass."""
    with closing(sqlite3.connect(home / "clew.db")) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)
        db.commit()


async def words(ledger: SqliteLedger) -> list[str]:
    row = (await ledger.sessions(LOCAL))[0]
    return [message.text for message in await ledger.path(LOCAL, row.id)]


async def test_a_sound_ledger_has_no_findings(home: Path) -> None:
    """After ordinary use."""
    assert keeper.check(home) == ()


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM message WHERE seq = 2", "messages on its path"),
        ("UPDATE session SET head_seq = head_seq - 1", "does not follow"),
        ("DELETE FROM op WHERE version = 2", "does not follow"),
        ("UPDATE message SET branch = 77 WHERE seq = 4", "not there"),
    ],
)
async def test_what_is_broken_is_found(home: Path, statement: str, told: str) -> None:
    """A lost message, a moved head, a gap in the op log, a row that names nothing."""
    broken(home, "PRAGMA foreign_keys = OFF", statement)
    assert told in " ".join(wrong.sentence for wrong in keeper.check(home))


async def test_a_backup_is_made_while_the_ledger_is_used_and_restored_when_it_is_not(
    home: Path, tmp_path: Path
) -> None:
    """What was replaced is put aside; the search file is made anew."""
    ledger = await open_ledger(home, HandClock())
    copy = tmp_path / "copy.db"
    keeper.backup(home, copy)
    await exchange(World(ledger, [say("later")], seed=1).talk(), "after the backup")
    with pytest.raises(StoreUnusable):
        keeper.restore(home, copy)
    await ledger.close()
    aside = keeper.restore(home, copy)
    assert aside is not None
    assert aside.exists()
    again = await open_ledger(home, HandClock())
    assert await words(again) == ["first", "one", "second", "two"]
    assert len((await again.search(LOCAL, "second")).hits) == 1
    assert (await again.search(LOCAL, "backup")).hits == ()
    await again.close()


async def test_a_backup_overwrites_nothing_and_a_bad_one_is_not_restored(home: Path, tmp_path: Path) -> None:
    """One sentence each, and everything as it was."""
    copy = tmp_path / "copy.db"
    keeper.backup(home, copy)
    with pytest.raises(StoreUnusable, match="there already"):
        keeper.backup(home, copy)
    half = tmp_path / "half.db"
    half.write_bytes(copy.read_bytes()[: copy.stat().st_size // 2])
    foreign = tmp_path / "foreign.db"
    with closing(sqlite3.connect(foreign)) as db:
        db.execute("CREATE TABLE message(a)")
        db.commit()
    before = (home / "clew.db").read_bytes()
    for bad in (half, foreign, tmp_path / "missing.db"):
        with pytest.raises(StoreUnusable):
            keeper.restore(home, bad)
    assert (home / "clew.db").read_bytes() == before
    assert "replaced" not in " ".join(os.listdir(home))


@pytest.mark.parametrize("kind", ["half", "text", "foreign", "newer", "directory"])
async def test_a_file_that_is_no_ledger_is_refused_and_not_touched(home: Path, kind: str) -> None:
    """Whatever it is."""
    path = home / "clew.db"
    match kind:
        case "half":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        case "text":
            path.write_text("this is no database, and longer than a header")
        case "foreign":
            path.unlink()
            with closing(sqlite3.connect(path)) as db:
                db.execute("CREATE TABLE other(a)")
                db.commit()
        case "newer":
            with closing(sqlite3.connect(path)) as db:
                db.execute("PRAGMA user_version = 99")
        case _:
            path.unlink()
            path.mkdir()
    kept = None if path.is_dir() else path.read_bytes()
    with pytest.raises(StoreUnusable):
        await open_ledger(home, HandClock())
    assert kept is None or path.read_bytes() == kept
    shutil.rmtree(home)


async def test_what_was_given_up_is_named_for_a_week(home: Path) -> None:
    """A job that failed for good, whose it was and why; later, and those that wait, are no news."""
    with sqlite3.connect(home / "clew.db") as db:
        for key, state in (("a", "failed"), ("b", "queued")):
            db.execute(
                "INSERT INTO job(kind, key, owner, payload, state, next_at, error) VALUES('reminder', ?, 'ann', '', ?, 1000, 'why')",
                (key, state),
            )
    (found,) = keeper.given_up(home, 2000)
    assert found.sentence == "reminder 1 of ann was given up: why"
    assert keeper.given_up(home, 2000 + keeper.WEEK_MS) == ()
