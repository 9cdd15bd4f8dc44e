"""Whatever breaks in a write, who asked hears the truth of it, the others lose nothing, and the writer goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import apsw
import pytest

from clew.adapters.stores.sqlite.commit import commit, committed_before
from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.migrate import open_file
from clew.adapters.stores.sqlite.open_session import open_session
from clew.adapters.stores.sqlite.writer import Writer
from clew.domain.conversation.ids import LOCAL
from clew.domain.ledger.commits import Append, Commit, Committed
from clew.domain.ledger.errors import LedgerError, Outdated, Refused, StoreUnusable
from clew.domain.ledger.rows import Handle
from clew.testing.ledgers import ANN, begin, new_session, say, user, work
from tests.unit.sqlite.failing_disk import FailingDisk
from tests.unit.sqlite.homes import database, opened, python

pytestmark = pytest.mark.anyio
FULL_IN_WORDS = "is full; nothing was written. Free some space and try again."


@asynccontextmanager
async def writing(db: apsw.Connection, path: Path) -> AsyncIterator[Writer]:
    writer = Writer(db, path, lambda: None)
    try:
        yield writer
    finally:
        await asyncio.to_thread(writer.close)


async def in_one_group(writer: Writer, *wanted: Callable[[], Awaitable[object]]) -> list[object]:
    """What came of requests that the writer found waiting together."""
    gate = threading.Event()
    busy = asyncio.ensure_future(writer.do(lambda _: gate.wait()))
    tasks = [asyncio.ensure_future(ask()) for ask in wanted]
    await asyncio.sleep(0)
    gate.set()
    await busy
    return list(await asyncio.gather(*tasks, return_exceptions=True))


def insert(key: str, size: int = 1) -> Callable[[apsw.Connection], str]:
    """A prefix row: the simplest thing a ledger stores."""

    def do(db: apsw.Connection) -> str:
        db.execute("INSERT INTO prefix VALUES(?, ?, '[]')", (key, "x" * size))
        return key

    return do


def stored(path: Path) -> list[str]:
    with database(path) as db:
        return [row[0] for row in fetch(db, "SELECT sha256 FROM prefix ORDER BY sha256")]


async def test_a_bug_in_one_request_is_its_callers_to_see_and_nobody_elses(tmp_path: Path) -> None:
    """A request that raises what no ledger raises takes neither its group nor the writer's thread with it."""
    path = tmp_path / "clew.db"

    def bug(db: apsw.Connection) -> None:
        insert("half")(db)
        raise ZeroDivisionError

    async with writing(open_file(path, 1), path) as writer:
        came = await in_one_group(
            writer,
            lambda: writer.do(insert("a")),
            lambda: writer.do(bug),
            lambda: writer.do(insert("b")),
        )
        assert came[0::2] == ["a", "b"]
        assert isinstance(came[1], ZeroDivisionError)
        assert await writer.do(insert("c")) == "c"
    assert stored(path) == ["a", "b", "c"]


async def test_a_text_that_cannot_be_stored_stops_nobody(tmp_path: Path) -> None:
    """A lone surrogate has no UTF-8: its sender is told, and the messages beside it are kept."""
    async with opened(tmp_path) as ledger:
        one, two = await begin(ledger, 1), await begin(ledger, 2)
        came = await asyncio.gather(
            say(ledger, one, "\ud800"), say(ledger, two, "kept"), return_exceptions=True
        )
        assert isinstance(came[0], Refused)
        assert [m.text for m in await ledger.path(ANN, two.session)] == ["kept"]
        await say(ledger, one, "and on")


async def test_a_request_that_ends_the_transaction_breaks_no_other(tmp_path: Path) -> None:
    """After an error that closed the shared transaction each request is tried again alone."""
    path = tmp_path / "clew.db"

    def slam(db: apsw.Connection) -> None:
        db.execute("CREATE TEMP TABLE IF NOT EXISTS one(n UNIQUE)")
        db.execute("INSERT INTO one VALUES(1)")
        db.execute("INSERT OR ROLLBACK INTO one VALUES(1)")

    async with writing(open_file(path, 1), path) as writer:
        came = await in_one_group(
            writer,
            lambda: writer.do(insert("a")),
            lambda: writer.do(slam),
            lambda: writer.do(insert("b")),
        )
        assert came[0::2] == ["a", "b"]
        assert isinstance(came[1], LedgerError)
    assert stored(path) == ["a", "b"]


async def test_a_full_disk_refuses_what_does_not_fit_and_keeps_what_does(tmp_path: Path) -> None:
    """In the middle of a group the disk is full: the big request hears it, nothing of it stays, the small ones are kept."""
    path = tmp_path / "clew.db"
    db = open_file(path, 1)
    pages = fetch(db, "PRAGMA page_count")[0][0]
    fetch(db, f"PRAGMA max_page_count={pages + 5}")
    async with writing(db, path) as writer:
        came = await in_one_group(
            writer,
            lambda: writer.do(insert("a")),
            lambda: writer.do(insert("big", 100_000)),
            lambda: writer.do(insert("b")),
        )
        assert came[0::2] == ["a", "b"]
        assert isinstance(came[1], StoreUnusable)
        assert str(came[1]).endswith(FULL_IN_WORDS)
    assert stored(path) == ["a", "b"]


async def test_a_disk_that_stays_full_is_said_to_each(tmp_path: Path) -> None:
    """Nothing can be written at all: everybody in the group hears one sentence, and when there is room again it works."""
    path = tmp_path / "clew.db"
    open_file(path, 1).close()
    disk = FailingDisk("full")
    async with writing(disk.connect(path), path) as writer:
        with disk.failing("write", "-wal", apsw.FullError("disk full")):
            came = await in_one_group(writer, lambda: writer.do(insert("a")), lambda: writer.do(insert("b")))
        assert [str(error)[-len(FULL_IN_WORDS) :] for error in came] == [FULL_IN_WORDS] * 2
        assert await writer.do(insert("c")) == "c"
    assert stored(path) == ["c"]


async def test_a_write_said_to_have_failed_does_not_come_back_to_life(tmp_path: Path) -> None:
    """The log could not be synced: what it holds of the transaction is not there after a crash either."""
    path = tmp_path / "clew.db"
    open_file(path, 1).close()
    disk = FailingDisk("unsynced")
    async with writing(disk.connect(path), path) as writer:
        await writer.do(insert("before"))
        with disk.failing("sync", "-wal", apsw.IOError("sync failed"), times=1):
            with pytest.raises(StoreUnusable, match="nothing was written"):
                await writer.do(insert("failed"), lambda _: None)
        crashed = copy_of(path, tmp_path / "crashed")
    assert stored(crashed) == ["before"]
    assert disk.failed == 1


async def test_a_failed_commit_that_nothing_can_follow_is_called_unknown(tmp_path: Path) -> None:
    """When even the check after a failed COMMIT fails, nobody claims to know what became of it."""
    path = tmp_path / "clew.db"
    open_file(path, 1).close()
    disk = FailingDisk("dead")
    async with writing(disk.connect(path), path) as writer:
        with disk.failing("sync", "-wal", apsw.IOError("sync failed")):
            with pytest.raises(StoreUnusable, match="Whether it was written is not known"):
                await writer.do(insert("lost"))
        assert await writer.do(insert("found")) == "found"


def copy_of(path: Path, folder: Path) -> Path:
    """The file and its log as a crash would leave them, copied by another program: locks stay as they are."""
    folder.mkdir()
    for suffix in ("", "-wal", "-journal"):
        if (source := Path(f"{path}{suffix}")).exists():
            done = python("import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])", source, folder)
            assert done.returncode == 0, done.stderr
    return folder / path.name


async def test_a_commit_that_failed_after_it_was_written_is_found_by_its_key(tmp_path: Path) -> None:
    """A COMMIT reports an error though the file has it (here: the journal is deleted, then the disk fails): the outcome is
    read back by the idempotency key, so the caller hears of success and nothing is written twice."""
    path = tmp_path / "clew.db"
    db = open_file(path, 1)
    fetch(db, "PRAGMA journal_mode=DELETE")
    handle = first_session(db)
    db.close()
    disk = FailingDisk("late")
    db = disk.connect(path)
    fetch(db, "PRAGMA journal_mode=DELETE")
    async with writing(db, path) as writer:
        keyed = append(handle, "with a key", key="k")
        with disk.failing("after delete", "-journal", apsw.IOError("not synced"), times=1):
            came: Committed = await writer.do(
                partial(commit, work=keyed), partial(committed_before, work=keyed)
            )
        assert came.repeated
        assert came.handle.version == handle.version + 1
        blind = append(came.handle, "without one", key=None)
        with disk.failing("after delete", "-journal", apsw.IOError("not synced"), times=1):
            with pytest.raises(StoreUnusable, match="look again"):
                await writer.do(partial(commit, work=blind))
    assert disk.failed == 2
    with database(path) as found:
        texts = [row[0] for row in fetch(found, "SELECT text FROM message ORDER BY id")]
    assert texts.count("with a key") == 1


def first_session(db: apsw.Connection) -> Handle:
    return open_session(db, new_session(1, owner=LOCAL), LOCAL, 1)


def append(handle: Handle, text: str, key: str | None) -> Commit:
    op = Append(messages=(user(text),), turn=1)
    return work(handle, actor=LOCAL, op=op, idempotency_key=key)


async def test_a_file_migrated_under_a_running_program_is_written_no_more(tmp_path: Path) -> None:
    """The next write after another program's migration is refused in words; what was read before can still be read."""
    async with opened(tmp_path) as ledger:
        handle = await say(ledger, await begin(ledger), "before")
        with database(tmp_path / "clew.db") as other:
            other.execute("PRAGMA user_version=9999")
        came = await asyncio.gather(
            *(say(ledger, handle, text) for text in ("one", "two")), return_exceptions=True
        )
        assert [type(error) for error in came] == [Outdated, Outdated]
        assert "schema 9999" in str(came[0])
        with pytest.raises(Outdated):
            await ledger.beat(handle.session, "me", handle.epoch)
        assert [m.text for m in await ledger.path(ANN, handle.session)] == ["before"]


async def test_a_migrated_file_that_cannot_be_read_any_more_says_why(tmp_path: Path) -> None:
    """A newer program renamed a column: that is no bug of ours and no damage."""
    async with opened(tmp_path) as ledger:
        handle = await say(ledger, await begin(ledger), "before")
        with database(tmp_path / "clew.db") as other:
            other.execute("ALTER TABLE inbox RENAME COLUMN body TO said")
            other.execute("PRAGMA user_version=9999")
        with pytest.raises(Outdated, match="start it again"):
            await ledger.queued(ANN, handle.session)


async def test_a_locked_file_is_waited_for_once_and_said(tmp_path: Path) -> None:
    """Another program keeps the file locked: a whole group hears it after one wait, not after one wait each."""
    path = tmp_path / "clew.db"
    db = open_file(path, 1)
    waits: list[int] = []
    waiting, gate = threading.Event(), threading.Event()

    def wait_in_vain(attempt: int) -> bool:
        waits.append(attempt)
        waiting.set()
        gate.wait()
        return False

    db.set_busy_handler(wait_in_vain)
    async with writing(db, path) as writer:
        with database(path) as other:
            other.execute("BEGIN IMMEDIATE")
            tasks = [asyncio.ensure_future(writer.do(insert("first")))]
            await asyncio.to_thread(waiting.wait)
            tasks += [asyncio.ensure_future(writer.do(insert(key))) for key in "ab"]
            await asyncio.sleep(0)
            gate.set()
            came = await asyncio.gather(*tasks, return_exceptions=True)
            other.execute("ROLLBACK")
        assert ["locked by another program" in str(error) for error in came] == [True] * 3
        assert len(waits) == 2  # the first one's, and one for the two that waited behind it
        assert await writer.do(insert("c")) == "c"


async def test_a_long_group_is_committed_in_parts(tmp_path: Path) -> None:
    """One slow request keeps those behind it, and every other process, waiting for no more than itself."""
    path = tmp_path / "clew.db"
    commits: list[int] = []
    slow = threading.Event()
    db = open_file(path, 1)

    def count() -> bool:
        commits.append(1)
        return False

    db.set_commit_hook(count)
    async with writing(db, path) as writer:
        await in_one_group(
            writer,
            lambda: writer.do(lambda db: (insert("slow")(db), slow.wait(0.02))),
            lambda: writer.do(insert("a")),
            lambda: writer.do(insert("b")),
        )
    assert len(commits) == 2  # the slow one, then the two behind it; the gate wrote nothing
    assert stored(path) == ["a", "b", "slow"]


async def test_a_closed_writer_says_so_and_leaves_nobody_waiting(tmp_path: Path) -> None:
    """Closing finishes what was accepted; what comes after is refused at once."""
    path = tmp_path / "clew.db"
    writer = Writer(open_file(path, 1), path, lambda: None)
    accepted = [asyncio.ensure_future(writer.do(insert(str(n)))) for n in range(9)]
    await asyncio.sleep(0)
    await asyncio.to_thread(writer.close)
    assert await asyncio.gather(*accepted) == [str(n) for n in range(9)]
    with pytest.raises(StoreUnusable, match="closed"):
        await writer.do(insert("late"))
    with pytest.raises(StoreUnusable, match="closed"):
        await writer.checkpoint()
