"""Replacing a file's content as a whole or not at all, and only if it is still the one that was read."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from clew.adapters.tools.declared import ToolFailed
from clew.adapters.tools.kinds import SAMPLE_BYTES, binary_kind, is_binary, size_of

TEXT_BYTES_MAX: Final = 10_000_000

Seen = tuple[int, int, int]
"""Inode, size and modification time in nanoseconds: what tells one state of a file from another."""


class TextFile:
    """A text file as it was when it was read. Bytes that are no UTF-8 survive as surrogate escapes."""

    def __init__(self, path: Path, text: str, seen: Seen) -> None:
        self.path = path
        self.text = text
        self._seen = seen

    @classmethod
    def read(cls, path: Path) -> TextFile:
        """Raises ToolFailed for what is no text file of reasonable size, and OSError."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            _refuse_unless_text(path, status)
            data = file.read()
        if is_binary(data[:SAMPLE_BYTES]):
            raise ToolFailed(f"{path} is not text: {binary_kind(data)}, {size_of(len(data))}.")
        return cls(path, data.decode("utf-8", errors="surrogateescape"), _seen(status))

    def replace(self, text: str) -> None:
        """Writes the new content. Raises ToolFailed if somebody else changed the file meanwhile, and OSError."""
        data = text.encode("utf-8", errors="surrogateescape")
        with _beside(self.path) as temporary:
            _write_synced(temporary, data)
            _take_on(temporary, self.path.stat())
            if _seen(self.path.stat()) != self._seen:
                raise ToolFailed(f"{self.path} was changed by somebody else just now: read it again.")
            temporary.replace(self.path)


def write_whole(path: Path, data: bytes) -> None:
    """Creates or replaces a file atomically, with its parents; an existing file keeps its mode and owner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as temporary:
        _write_synced(temporary, data)
        if path.exists():
            _take_on(temporary, path.stat())
        temporary.replace(path)


def _refuse_unless_text(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ToolFailed(f"{path} is not a regular file.")
    if status.st_size > TEXT_BYTES_MAX:
        raise ToolFailed(
            f"{path} is {size_of(status.st_size)}; at most {size_of(TEXT_BYTES_MAX)} can be edited."
        )


def _seen(status: os.stat_result) -> Seen:
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name in the same directory, so that renaming is atomic; nothing is left under it afterwards."""
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _write_synced(path: Path, data: bytes) -> None:
    """On disk before the rename, or a power cut could leave an empty file under the old name."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _take_on(path: Path, like: os.stat_result) -> None:
    """Mode and, where we may, owner of the file that is replaced."""
    mine = path.stat()
    if (mine.st_uid, mine.st_gid) != (like.st_uid, like.st_gid):
        with suppress(PermissionError):  # then it becomes ours, as with any editor that renames
            os.chown(path, like.st_uid, like.st_gid)
    path.chmod(stat.S_IMODE(like.st_mode))
