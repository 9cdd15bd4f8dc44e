"""Overwrites what SQLite leaves behind in the unused bytes of its pages.

`secure_delete` zeroes what is deleted, but not the copies that a page keeps in its gap when its cells are moved to
another page: in 13 of 20 random ledgers a word of a deleted session was still in the file. VACUUM would rewrite the
whole file while everybody waits; this zeroes only the gaps, in place. (File format: sqlite.org/fileformat2.html, 1.6.)

Why that is safe: a page is changed only while this process holds the write lock and the log is empty, so that nobody
else writes to the file; only bytes that no cell, header or free block owns are changed, so that a torn write tears
nothing; and the transaction that ends it makes every connection forget its copies of the pages.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from struct import unpack_from
from typing import Final, NamedTuple

import apsw

from clew.adapters.stores.sqlite.connection import connect, empty_log, fetch, wal_size

SECONDS_MAX: Final = 2.0
"""How long to wait for a moment in which nobody reads from the log."""
_PAGES_A_LOCK: Final = 512
_PAGES_A_READ: Final = 256
_PAGES_MAX: Final = 0x02000000
"""From this page number on, the first byte of an overflow page can look like that of a tree page."""
_LOCK_BYTE: Final = 0x40000000
_TREE_PAGES: Final = {2: 12, 5: 12, 10: 8, 13: 8}
"""First byte to length of header: interior index, interior table, leaf index, leaf table."""


class _Layout(NamedTuple):
    page_size: int
    usable: int
    maps: bool
    """Whether the file has pages of back pointers (it gives empty pages back): what they hold may look like a tree page."""

    def is_map(self, number: int) -> bool:
        """They stand at fixed distances, each before the pages it tells of."""
        stride = self.usable // 5 + 1
        position = (number - 2) // stride * stride + 2
        locked = _LOCK_BYTE // self.page_size + 1  # a page that no file uses
        return self.maps and number == (position if position != locked else position + 1)


def scrub(path: Path) -> bool:
    """Empties the log and zeroes the gaps. False when somebody kept reading from the log, and so kept it alive.

    Raises apsw errors and StoreUnusable as any write does.
    """
    db = connect(path)
    try:
        if not _emptied(db, path) or not _zero_gaps(db, path):
            return False
        return _emptied(db, path)
    finally:
        db.close()


def _emptied(db: apsw.Connection, path: Path) -> bool:
    deadline = time.monotonic() + SECONDS_MAX
    while not empty_log(db):
        if time.monotonic() > deadline:
            return False
    return True


def _zero_gaps(db: apsw.Connection, path: Path) -> bool:
    # Through SQLite's own file layer: closing a plain descriptor would drop the locks of this process.
    file = apsw.VFSFile("", str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0])
    try:
        layout = _layout(file)
        suspects = list(_pages_with_gaps(file, layout))
        for first in range(0, len(suspects), _PAGES_A_LOCK):
            if not _begin_with_empty_log(db, path):
                return False
            for number in suspects[first : first + _PAGES_A_LOCK]:
                _zero_page(file, layout, number)
            file.xSync(apsw.SQLITE_SYNC_FULL)
            # Any write will do: by it all others see that pages changed, and drop their copies.
            db.execute(f"PRAGMA user_version={fetch(db, 'PRAGMA user_version')[0][0]:d}")
            db.execute("COMMIT")
        return True
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
        file.xClose()


def _begin_with_empty_log(db: apsw.Connection, path: Path) -> bool:
    """Takes the write lock at a moment when the file is all there is. False when there was none in time."""
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        if empty_log(db):
            db.execute("BEGIN IMMEDIATE")
            if not wal_size(path):
                return True
            db.execute("ROLLBACK")
    return False


def _layout(file: apsw.VFSFile) -> _Layout:
    header = file.xRead(100, 0)
    size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if size == 1 else size
    return _Layout(page_size, page_size - header[20], maps=any(header[52:56]))


def _pages_with_gaps(file: apsw.VFSFile, layout: _Layout) -> Iterator[int]:
    """Numbers of pages that have something in their gaps. Read without a lock: each is looked at again under one.

    The first page is left alone: it holds the schema, and the transaction that ends a batch writes it from memory.
    """
    size = layout.page_size
    pages = min(file.xFileSize() // size, _PAGES_MAX - 1)
    for first in range(0, pages, _PAGES_A_READ):
        count = min(_PAGES_A_READ, pages - first)
        block = file.xRead(size * count, first * size)
        for i in range(count):
            number = first + i + 1
            if number == 1 or layout.is_map(number):
                continue
            if any(_gaps(block[i * size : (i + 1) * size], layout)):
                yield number


def _zero_page(file: apsw.VFSFile, layout: _Layout, number: int) -> None:
    start = (number - 1) * layout.page_size
    page = file.xRead(layout.page_size, start)
    for low, high in list(_gaps(page, layout)):
        file.xWrite(bytes(high - low), start + low)


def _gaps(page: bytes, layout: _Layout) -> Iterator[tuple[int, int]]:
    """Ranges of a tree page that belong to nothing and are not zero; none for a page that is not one."""
    header = _TREE_PAGES.get(page[0])
    if header is None:
        return
    block, cells, content = unpack_from(">HHH", page, 1)
    content = content or 65536
    low = header + 2 * cells
    if not low <= content <= layout.usable:
        return
    if any(page[low:content]):
        yield low, content
    while content <= block <= layout.usable - 4:
        following, size = unpack_from(">HH", page, block)
        end = block + size
        if size < 4 or end > layout.usable or 0 < following < end:
            return
        if any(page[block + 4 : end]):
            yield block + 4, end
        block = following
