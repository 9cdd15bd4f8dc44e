"""A disk that fails when told to: SQLite's own file layer, with an error put in at one call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from clew.adapters.stores.sqlite.connection import connect


@dataclass(eq=False)
class _Failure:
    call: str
    suffix: str
    error: apsw.Error
    times: int


class FailingDisk(apsw.VFS):
    """Every file of it works, but for the calls that `failing` names."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._failures: list[_Failure] = []
        self.failed = 0
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        self.perhaps_fail("after delete", filename)

    @contextmanager
    def failing(self, call: str, suffix: str, error: apsw.Error, *, times: int = 1 << 62) -> Iterator[None]:
        """`call` (write, sync, after delete) raises so often for files whose name ends so."""
        failure = _Failure(call, suffix, error, times)
        self._failures.append(failure)
        try:
            yield
        finally:
            self._failures.remove(failure)

    def perhaps_fail(self, call: str, name: str) -> None:
        for failure in self._failures:
            if failure.call == call and name.endswith(failure.suffix) and failure.times:
                failure.times -= 1
                self.failed += 1
                raise failure.error

    def connect(self, path: Path) -> apsw.Connection:
        return connect(path, vfs=self.name)


class _File(apsw.VFSFile):
    def __init__(self, disk: FailingDisk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._name = "" if name is None else name.filename() if hasattr(name, "filename") else str(name)
        super().__init__("", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        self._disk.perhaps_fail("write", self._name)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.perhaps_fail("sync", self._name)
        super().xSync(flags)
