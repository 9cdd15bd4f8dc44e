"""The process groups that the tools of one owner started, on record in `run/<owner>.groups/` before they run.

A record is an empty file whose name says everything, made by the newborn process itself before it becomes the command:
so there is no moment at which a command runs and nobody could know. A record cannot be made once the directory is gone,
and a process that cannot make it ends: removing the directory is what ends the births of a dead owner.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from clew.adapters.processes.tree import MARK_VARIABLE, group_exists, has_proc, marked
from clew.domain.conversation.ids import OwnerId

_STARTED_BY_PROC: Final = (
    "clew_nth() { shift 19; clew_started=$1; }; read -r clew_stat </proc/$$/stat; clew_nth ${clew_stat##*) }"
)
_STARTED_BY_PS: Final = 'clew_started=$(echo $(LC_ALL=C ps -o lstart= -p $$) | tr " :" "__")'
_BIRTH: Final = '{started}; printf "" >"$0/$$.$clew_started.$1" || exit 126; shift; exec "$@"'
"""For sh: `$0` is the directory of records, `$1` the realm, the rest the command. 126: it was not run."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A process group, by its leader: `started` tells it from a later process of that number, `realm` from another's."""

    leader: int
    started: str
    realm: str


class StartedGroups:
    """What this process's tools start. Nothing is on disk before the first."""

    def __init__(self, run_dir: Path, owner: OwnerId) -> None:
        self._owner = owner
        self.notes = notes_of(run_dir, owner)
        """A directory for files that are gone with this owner; whoever needs one makes it."""
        self._directory = records_of(run_dir, owner)
        self._realm = realm()

    def variables(self, *marks: str) -> dict[str, str]:
        """What goes into the environment of a process, by which it is found again wherever it went: also of one that is
        on no record, because an editor starts it."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        return {MARK_VARIABLE: marked((self._owner, *marks))}

    def recorded(self, command: Sequence[str]) -> list[str]:
        """The command, made to put itself on record before it runs; it must lead a process group of its own.

        It exits with 126 where it cannot: an unrecorded command is not run. A program that does not exist is
        sh's to say (127), not an OSError.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        return ["/bin/sh", "-c", birth(by_ps=not has_proc()), str(self._directory), self._realm, *command]

    def forget(self, leader: int) -> None:
        """Takes a group off the record, unless something of it still runs. Idempotent."""
        if self._directory.is_dir() and not group_exists(leader):
            for path in self._directory.glob(f"{leader}.*"):
                path.unlink(missing_ok=True)

    def forget_ended(self) -> None:
        """Takes off the record whatever has ended."""
        for record in read_records(self._directory):
            self.forget(record.leader)

    def close(self) -> None:
        """Forgets what has ended. Idempotent."""
        self.forget_ended()
        remove_records(self._directory, ())
        remove_notes(self.notes)


def birth(*, by_ps: bool) -> str:
    """The program of a newborn."""
    return _BIRTH.format(started=_STARTED_BY_PS if by_ps else _STARTED_BY_PROC)


def records_of(run_dir: Path, owner: OwnerId) -> Path:
    return run_dir / f"{owner}.groups"


def notes_of(run_dir: Path, owner: OwnerId) -> Path:
    return run_dir / f"{owner}.notes"


def remove_notes(directory: Path) -> None:
    """Idempotent, also beside somebody else who does the same."""
    if directory.is_dir():
        shutil.rmtree(directory, ignore_errors=True)  # what stays is swept by the next


def read_records(directory: Path) -> list[Record]:
    """Empty where there is no such directory. A file of another kind of name is not ours."""
    try:
        names = [name.split(".") for name in os.listdir(directory)]
    except FileNotFoundError:
        return []
    return [
        Record(leader=int(name[0]), started=name[1], realm=name[2])
        for name in names
        if len(name) == 3 and name[0].isdecimal()
    ]


def remove_records(directory: Path, records: Sequence[Record]) -> bool:
    """Removes these; True when no other is left and none can be made: a newborn may have made one meanwhile."""
    for record in records:
        (directory / f"{record.leader}.{record.started}.{record.realm}").unlink(missing_ok=True)
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        return False
    return True


def realm() -> str:
    """Where a process number means something: one boot of one machine, and one PID namespace (container) of it.

    Where there is no /proc the start is a date, which no other boot repeats.
    """
    if not has_proc():
        return "here"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    namespace = os.readlink("/proc/self/ns/pid").removeprefix("pid:[").removesuffix("]")
    return f"{boot}-{namespace}"
