"""Proof of death: a living process holds an operating system lock on `run/<owner>.lock`, and the system frees it.

A free lock proves that its owner ended, however it ended. A file that is gone was removed by its owner at its end, or
by somebody who held its lock; a file that cannot be opened proves nothing.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from clew.domain.conversation.ids import OwnerId


class OwnerLocks:
    """`Owners` over lock files. Keep it for the life of the process: closing it is dying."""

    def __init__(self, run_dir: Path, token: str) -> None:
        """`token` tells this process from others that had its number."""
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._dir = run_dir
        self._me = OwnerId(f"{os.getpid()}-{token}")
        self._file = os.open(self._path(self._me), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    @property
    def me(self) -> OwnerId:
        return self._me

    def is_dead(self, owner: OwnerId) -> bool:
        if owner == self._me:
            return False
        try:
            file = os.open(self._path(owner), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True  # only its owner, or whoever held its lock, removes a lock file
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(file)
        return True

    def close(self) -> None:
        """Gives up every claim this process could have. Idempotent."""
        if self._file >= 0:
            self._path(self._me).unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def sweep(self) -> int:
        """Removes the lock files of dead processes. Returns how many."""
        gone = [p for p in self._dir.glob("*.lock") if p.stem != self._me and self.is_dead(OwnerId(p.stem))]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)

    def _path(self, owner: OwnerId) -> Path:
        return self._dir / f"{owner}.lock"
