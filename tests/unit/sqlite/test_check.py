"""`clew db check` sees what no guard let through: each promise is broken by hand, and named."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from pathlib import Path
from typing import Final

import apsw
import pytest

from clew.adapters.stores.sqlite import keeper
from clew.adapters.stores.sqlite.connection import fetch
from tests.unit.sqlite.guarded import CALM, CALM_HEAD, FORK, GONE, TALK, fill, op
from tests.unit.sqlite.homes import opened


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with some of everything, its index complete, and one deletion under way."""
    home = tmp_path_factory.mktemp("home")
    asyncio.run(fill(home))
    return home


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "home"
    shutil.copytree(filled, copy)
    return copy


def break_by_hand(path: Path, *statements: str) -> None:
    """Does to a file what no guard would let pass, and puts the guards back."""
    with closing(apsw.Connection(str(path))) as db:
        guards = fetch(db, "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        for name, _ in guards:
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)
        for _, sql in guards:
            db.execute(sql)


def findings(home: Path) -> list[str]:
    return [f"{wrong.place}: {wrong.sentence}" for wrong in keeper.check(home)]


UNDER_WAY: Final = (
    f"session {GONE}: is deleted and unreadable, but not yet out of the files: start Clew once to finish that"
)


def test_a_deletion_under_way_is_the_only_finding(home: Path) -> None:
    """A ledger that was only ever written by Clew keeps every promise, and says what a crash left of a deletion."""
    assert findings(home) == [UNDER_WAY]


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM message WHERE seq = 2 AND branch = (SELECT min(id) FROM branch)", "lacks a message in the middle"),
        (f"DELETE FROM message WHERE branch = {CALM_HEAD} AND seq = 1", "messages on its path"),
        (op("append", CALM, to_seq="head_seq + 1"), "does not follow from the one before"),
        (f"UPDATE session SET head_seq = head_seq - 1 WHERE id = '{TALK}'", "does not follow from the one before"),
        (f"UPDATE session SET epoch = 1 WHERE id = '{TALK}'", "by an epoch that its session has not reached"),
        (f"DELETE FROM op WHERE session_id = '{TALK}' AND version = 3", "does not follow from the one before"),
        (f"UPDATE op SET epoch = 99 WHERE session_id = '{TALK}' AND version = 3", "does not follow from the one before"),
        (f"UPDATE op SET kind = 'title' WHERE session_id = '{FORK}'", "does not follow from the one before"),
        (f"UPDATE summary SET upto_seq = 6 WHERE session_id = '{TALK}' AND text = 'one'", "summary does not stand on its path"),
        (f"UPDATE turn SET state = 'done' WHERE session_id = '{TALK}'", "is open though its turn has ended"),
        (f"INSERT INTO turn SELECT session_id, 98, conversation, principal, model, 'running', 0, epoch, 1, NULL, NULL, NULL"
         f" FROM turn WHERE session_id = '{TALK}'", "has more than one turn open"),
        ("UPDATE inbox SET state = 'queued' WHERE state = 'consumed'", "is neither waiting nor settled"),
        ("UPDATE blob SET bytes = x'00'", "does not have the content it is named after"),
        ("UPDATE message SET text = CAST(x'ff' AS TEXT) WHERE id = 1", "cannot be read"),
        ("UPDATE message SET body = CAST('{' AS BLOB) WHERE body IS NOT NULL", "cannot be read"),
        ("UPDATE message SET branch = 77 WHERE id = 4", "names a row of branch that is not there"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_found(home: Path, statement: str, told: str) -> None:
    """A lost message, a moved head, a gap in the ops, a summary off the path, an open call, a wrong attachment, garbage."""
    break_by_hand(home / "clew.db", statement)
    assert told in " ".join(findings(home))


def test_a_head_without_its_messages_is_found(home: Path) -> None:
    """What a trigger cannot see at the end of a transaction: an op whose messages never came."""
    with closing(apsw.Connection(str(home / "clew.db"))) as db:
        db.execute(op("append", CALM, to_seq="head_seq + 3"))
    assert "messages on its path" in " ".join(findings(home))


def test_a_guard_that_is_gone_or_changed_is_found(home: Path) -> None:
    """Whoever can write the file can drop a guard; nobody can do it unseen."""
    with closing(apsw.Connection(str(home / "clew.db"))) as db:
        db.execute("DROP TRIGGER message_written_once")
        db.execute("DROP TRIGGER op_stays")
        db.execute("CREATE TRIGGER op_stays BEFORE DELETE ON op BEGIN SELECT 1; END")
        db.execute("CREATE TRIGGER spy AFTER INSERT ON message BEGIN SELECT 1; END")
    assert set(findings(home)) == {
        "trigger op_stays: was changed by another program",
        "trigger message_written_once: is missing: another program removed it",
        "trigger spy: was added by another program",
        UNDER_WAY,
    }


@pytest.mark.parametrize(
    ("in_ledger", "in_index", "told"),
    [
        ("", "DELETE FROM fts_docsize WHERE id = 3", "lacks 1 messages and has 0 that are gone"),
        ("DELETE FROM message WHERE id = 2", "", "lacks 0 messages and has 1 that are gone"),
        ("", "DELETE FROM fts_data WHERE id > 10", "the index is damaged"),
        ("", "DROP TABLE indexed", "makes it anew"),
    ],
)
def test_what_is_wrong_with_the_index_is_found(home: Path, in_ledger: str, in_index: str, told: str) -> None:
    """The index is derived, so whatever is wrong with it has one remedy, which the finding names."""
    break_by_hand(home / "clew.db", in_ledger)
    break_by_hand(home / "clew-search.db", in_index)
    assert told in " ".join(findings(home))
    asyncio.run(rebuild(home))
    assert "search" not in " ".join(findings(home))


async def rebuild(home: Path) -> None:
    async with opened(home) as ledger:
        await ledger.rebuild_search()


def test_a_file_that_is_damaged_is_said_and_nothing_else(home: Path) -> None:
    """Garbage in the middle of the file: SQLite's own words for it, before any question that it would answer wrongly."""
    path = home / "clew.db"
    with closing(apsw.Connection(str(path))) as db:
        (page,) = fetch(db, "SELECT max(pageno) FROM dbstat WHERE name = 'message'")[0]
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = b"garbage!" * 512
    path.write_bytes(content)
    assert {wrong.place for wrong in keeper.check(home)} == {"file"}


async def check_in_use(home: Path) -> list[str]:
    async with opened(home):
        return findings(home)


def test_a_ledger_in_use_can_be_checked(home: Path) -> None:
    """While another process writes; and a deletion that a crash had left was finished when it started."""
    assert asyncio.run(check_in_use(home)) == []
