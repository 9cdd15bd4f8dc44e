"""Where reads run: a glance on the spot, everything longer on a thread, always the same answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import pytest

from clew.adapters.stores.sqlite.connection import connect, fetch
from clew.adapters.stores.sqlite.readers import GLANCE_SECONDS_MAX, Readers
from clew.domain.ledger.errors import StoreUnusable

pytestmark = pytest.mark.anyio

_ENDLESS = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000000) SELECT count(*) FROM n"
)
_COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT count(*) FROM n"


@pytest.fixture
async def readers(tmp_path: Path) -> AsyncIterator[Readers]:
    path = tmp_path / "clew.db"
    connect(path).close()
    readers = Readers(path)
    yield readers
    readers.close()


async def test_a_glance_is_done_on_the_spot(readers: Readers) -> None:
    """What looks at a few rows does not wait for a thread."""

    def work(db: apsw.Connection) -> tuple[int, threading.Thread]:
        return fetch(db, "SELECT 7")[0][0], threading.current_thread()

    assert await readers.glance(work) == (7, threading.current_thread())


async def test_a_glance_that_takes_long_goes_to_a_thread(readers: Readers) -> None:
    """The event loop is kept for a moment, then the read starts anew elsewhere and has its time."""
    threads: list[threading.Thread] = []

    def work(db: apsw.Connection) -> int:
        threads.append(threading.current_thread())
        return int(fetch(db, _ENDLESS)[0][0])

    assert await readers.glance(work) == 3000000
    assert threads[0] is threading.current_thread()
    assert threads[1] is not threading.current_thread()
    assert len(threads) == 2


async def test_what_a_glance_raises_is_heard_once(readers: Readers) -> None:
    """An error of the work is the caller's; it is not tried again on a thread."""
    tries = 0

    def work(_: apsw.Connection) -> None:
        nonlocal tries
        tries += 1
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        await readers.glance(work)
    assert tries == 1


async def test_a_closed_store_says_so(readers: Readers) -> None:
    """Both ways of reading refuse in words."""
    readers.close()
    with pytest.raises(StoreUnusable, match="closed"):
        await readers.glance(lambda db: fetch(db, "SELECT 1"))
    with pytest.raises(StoreUnusable, match="closed"):
        await readers.read(lambda db: fetch(db, "SELECT 1"))


async def test_a_glance_that_is_late_at_its_very_end_leaves_the_connection_free(readers: Readers) -> None:
    """The deadline once cut off the ROLLBACK itself, and every later glance found a transaction open."""

    def late(steps: int) -> Callable[[apsw.Connection], int]:
        """Some work of SQLite's machine, then longer than a glance may take."""

        def work(db: apsw.Connection) -> int:
            counted: int = fetch(db, _COUNT, (steps,))[0][0]
            end = time.perf_counter() + GLANCE_SECONDS_MAX * 1.1
            while time.perf_counter() < end:
                pass
            return counted

        return work

    for number in range(400):
        assert await readers.glance(late(number % 150 + 1)) == number % 150 + 1


async def test_glances_of_one_round_share_a_transaction(readers: Readers) -> None:
    """Beginning and ending one costs more than looking: it is done once, however many look before the next round."""
    begun: list[str] = []

    def work(db: apsw.Connection) -> int:
        db.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: begun.append(event["sql"]))
        return int(fetch(db, "SELECT 7")[0][0])

    async def look() -> int:
        return await readers.glance(work) + await readers.glance(work)

    await readers.glance(work)
    await asyncio.sleep(0)
    begun.clear()
    assert await asyncio.gather(*(look() for _ in range(30))) == [14] * 30
    assert begun.count("BEGIN") <= 10, "one, and one more for each moment that took too long"
    await asyncio.sleep(0)
    assert begun[-1] == "ROLLBACK"


async def test_who_heard_of_a_write_finds_it(readers: Readers, tmp_path: Path) -> None:
    """However busy the loop is with looking: what is announced was written before, and is there."""
    loop, announced = asyncio.get_running_loop(), asyncio.Queue[int]()

    def write() -> None:
        db = connect(tmp_path / "clew.db")
        db.execute("CREATE TABLE said(n)")
        for n in range(300):
            db.execute("INSERT INTO said VALUES(?)", (n,))
            loop.call_soon_threadsafe(announced.put_nowait, n)
        db.close()

    async def look_all_the_time() -> None:
        while True:
            await readers.glance(lambda db: fetch(db, "SELECT count(*) FROM sqlite_schema"))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look_all_the_time())
    writing = asyncio.create_task(asyncio.to_thread(write))
    for n in range(300):
        heard = await announced.get()
        assert heard == n
        found = await readers.glance(lambda db: fetch(db, "SELECT max(n) FROM said")[0][0])
        assert found >= heard
    looking.cancel()
    await asyncio.gather(looking, writing, return_exceptions=True)
