"""Who has the ledger open: a lock on `run/ledger.in-use`, shared by all that use it, exclusive for a restore.

The system frees it however a process ends. It is a file of its own, because locks on the database file belong to SQLite.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from clew.domain.ledger.errors import StoreUnusable

_NAME: Final = "ledger.in-use"


class InUse:
    """Held as long as a process has the ledger open."""

    def __init__(self, home: Path) -> None:
        """Raises StoreUnusable while a restore replaces the file."""
        self._file = _lock(home, fcntl.LOCK_SH)

    def release(self) -> None:
        """Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Nobody has the ledger open, and nobody can open it meanwhile. Raises StoreUnusable otherwise."""
    file = _lock(home, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(file)


def _lock(home: Path, kind: int) -> int:
    run = home / "run"
    try:
        run.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(run / _NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnusable(
            f"{run} cannot be written ({error.strerror}); nothing was written. Make it writable or set CLEW_HOME elsewhere."
        ) from error
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise StoreUnusable(_why(home, kind, error)) from error
    return file


def _why(home: Path, kind: int, error: OSError) -> str:
    if not isinstance(error, BlockingIOError):
        return f"{home / 'run' / _NAME} cannot be locked ({error.strerror}); nothing was written."
    if kind == fcntl.LOCK_SH:
        return f"The ledger in {home} is being restored; nothing was written. Try again when that is done."
    return f"A Clew has the ledger in {home} open; nothing was written. Stop it first."
