"""The rules of the ledger hold against every program that can open the file, not only against ours.

Out of reach, and so not attacked: whoever may write the file can drop a trigger, edit `sqlite_master` with
`PRAGMA writable_schema`, switch checks off with `PRAGMA ignore_check_constraints`, or write over the bytes. Guards keep
other programs, and our own mistakes, from breaking the chain; `clew db check` says when somebody removed one.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import apsw
import pytest

from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.migrate import migrations
from tests.unit.sqlite.guarded import ATTACKS, CALM, CALM_HEAD, HEAD, TIP, Attack, fill, message, op
from tests.unit.sqlite.homes import database

Program = Callable[[Path, str], str]
"""Runs SQL on a file and says what came of it: an error, or nothing."""


def by_apsw(path: Path, sql: str) -> str:
    """As somebody would who knows nothing of pragmas: foreign keys are off."""
    with closing(apsw.Connection(str(path))) as db:
        return outcome(db, sql)


def by_apsw_with_recursive_triggers(path: Path, sql: str) -> str:
    with closing(apsw.Connection(str(path))) as db:
        fetch(db, "PRAGMA recursive_triggers=ON")
        return outcome(db, sql)


def by_apsw_with_foreign_keys(path: Path, sql: str) -> str:
    with closing(apsw.Connection(str(path))) as db:
        fetch(db, "PRAGMA foreign_keys=ON")
        return outcome(db, sql)


def by_apsw_from_another_file(path: Path, sql: str) -> str:
    """The ledger is attached to a database of one's own, which has no such tables."""
    with closing(apsw.Connection("")) as db:
        db.execute("ATTACH ? AS ledger", (str(path),))
        return outcome(db, sql)


def outcome(db: apsw.Connection, sql: str) -> str:
    try:
        db.execute(f"BEGIN; {sql}; COMMIT")
    except apsw.Error as error:
        return str(error)
    return ""


def by_the_standard_library(path: Path, sql: str) -> str:
    with closing(sqlite3.connect(path)) as db:
        try:
            db.executescript(f"BEGIN; {sql}; COMMIT")
        except sqlite3.Error as error:
            return str(error)
        return ""


def by_the_sqlite3_program(path: Path, sql: str) -> str:
    if not shutil.which("sqlite3"):
        pytest.skip("the sqlite3 program is not installed")
    done = subprocess.run(
        ["sqlite3", "-bail", path, f"BEGIN; {sql}; COMMIT"], capture_output=True, text=True, check=False
    )
    return done.stderr


PROGRAMS: Final = (
    by_apsw,
    by_apsw_with_recursive_triggers,
    by_apsw_with_foreign_keys,
    by_apsw_from_another_file,
    by_the_standard_library,
    by_the_sqlite3_program,
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with some of everything, and nobody who has it open."""
    home = tmp_path_factory.mktemp("home")
    asyncio.run(fill(home))
    return home / "clew.db"


def contents(path: Path) -> str:
    """A fingerprint of every row of every table."""
    seen = hashlib.sha256()
    with closing(apsw.Connection(str(path))) as db:
        for (table,) in fetch(db, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"):
            for row in db.execute(f"SELECT * FROM {table} ORDER BY 1, 2"):
                seen.update(repr(row).encode())
    return seen.hexdigest()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_from_outside_changes_nothing(filled: Path, program: Program, attack: Attack) -> None:
    """Whatever program runs it, however its connection is set: it is refused, and every row is as it was."""
    before = contents(filled)
    error = program(filled, attack.sql)
    assert contents(filled) == before
    assert "clew: " in error or "constraint failed" in error, error


def test_the_right_next_op_is_taken(filled: Path, tmp_path: Path) -> None:
    """The wrong ops are wrong only in the columns that they name: without those the statement passes."""
    copy = tmp_path / "clew.db"
    shutil.copy(filled, copy)
    assert by_the_standard_library(copy, f"{op('append', to_seq='head_seq + 1')}; {message(HEAD, TIP)}") == ""
    assert by_the_standard_library(copy, op("title")) == ""
    with closing(apsw.Connection(str(copy))) as db:
        assert fetch(db, "SELECT count(*) FROM message WHERE text = 'never said'") == [(1,)]


def test_an_op_whose_messages_never_come_stops_what_would_follow(filled: Path, tmp_path: Path) -> None:
    """Out of a trigger's reach: at the end of a transaction nobody asks. But nothing can be added after it, and a head
    that stands on nothing can only be moved back to a message."""
    copy = tmp_path / "clew.db"
    shutil.copy(filled, copy)
    assert by_the_standard_library(copy, op("append", CALM, to_seq="head_seq + 3")) == ""
    assert "continues the head" in by_the_standard_library(copy, op("append", CALM, to_seq="head_seq + 1"))
    back = op("resume", CALM, to_seq=f"(SELECT max(seq) FROM message WHERE branch = {CALM_HEAD})")
    assert by_the_standard_library(copy, back) == ""


NOT_ALONE: Final = {"op_moves"}
"""Without it no op does anything, so there is nothing to attack."""


def guards() -> Iterator[str]:
    """The names of all triggers."""
    with closing(apsw.Connection(":memory:")) as db:
        for step in migrations():
            db.execute(step.sql)
        yield from (row[0] for row in fetch(db, "SELECT name FROM sqlite_master WHERE type = 'trigger'"))


@pytest.mark.parametrize("guard", sorted(set(guards()) - NOT_ALONE))
def test_no_guard_is_idle(filled: Path, tmp_path: Path, guard: str) -> None:
    """With any one guard dropped an attack gets through: each is needed, and each attack can fail."""
    copy = tmp_path / "clew.db"
    shutil.copy(filled, copy)
    with closing(apsw.Connection(str(copy))) as db:
        db.execute(f"DROP TRIGGER {guard}")
        through = [attack.name for attack in ATTACKS if gets_through(db, attack)]
    assert through


def gets_through(db: apsw.Connection, attack: Attack) -> bool:
    db.execute("BEGIN")
    try:
        db.execute(attack.sql)
    except apsw.Error:
        return False
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    return True


def test_no_row_has_a_hidden_name(tmp_path: Path) -> None:
    """A table has no rowid, or its rowid is its id: no REPLACE reaches a row by a name that the guards do not see."""
    with database(tmp_path / "clew.db") as db:
        for (table,) in fetch(db, "SELECT name FROM pragma_table_list WHERE type = 'table' AND wr = 0"):
            if table.startswith("sqlite_"):
                continue
            keys = fetch(db, f"SELECT name, type FROM pragma_table_info('{table}') WHERE pk")
            assert keys in ([("id", "INTEGER")], [("number", "INTEGER")]), table
        (strict,) = fetch(
            db, "SELECT min(strict) FROM pragma_table_list WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        )
        assert strict == (1,)


def test_every_table_says_what_may_be_deleted(tmp_path: Path) -> None:
    """No table is without a guard on DELETE, but those whose rows may go at any time."""
    free = {"alias", "fact", "identity", "migration", "share"}
    with database(tmp_path / "clew.db") as db:
        tables = {row[0] for row in fetch(db, "SELECT name FROM sqlite_master WHERE type = 'table'")}
        guarded = {
            row[0]
            for row in fetch(
                db,
                "SELECT tbl_name FROM sqlite_master WHERE type = 'trigger' AND sql LIKE '% BEFORE DELETE %'",
            )
        }
    assert {table for table in tables - guarded if not table.startswith("sqlite_")} == free
