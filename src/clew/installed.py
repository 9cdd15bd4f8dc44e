"""Whether the package on disk is still the one that this process runs.

An update replaces the files under a running process. What it has imported stays as it was; what it would import next
is of another version, and the two were never tested together. So a process imports all of its own modules before it
takes a message, and begins no turn once the package was replaced.

One file stands for the package: installers write all of its files anew, also for a build of the same version.
Modules of other packages, which an update may replace as well, are not watched.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class _Stamp(NamedTuple):
    """What tells a file from another one that took its place."""

    device: int
    inode: int
    size: int
    modified_ns: int


class Installed:
    """The package as it was when this was made: make it before anything else of the package is imported."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._at_start = _stamp(file)

    def is_replaced(self) -> bool:
        """One `stat`. False for ever where the package is not in files of its own."""
        return self._at_start is not None and _stamp(self._file) != self._at_start


def _stamp(file: str) -> _Stamp | None:
    """None when there is no such file: the package is being replaced, or was never a file."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return _Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
