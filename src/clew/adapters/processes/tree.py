"""Ending everything a command started, also what tried to get away.

A process is found by its group, by descent from the first one, and by a mark in its environment: a child that made
its own session leaves the group, and one whose parent died has no descent any more, but it still carries the mark.
Descent and mark are read from /proc; where there is none (macOS) only the group is reached.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

MARK_VARIABLE: Final = "CLEW_STARTED_BY"
"""Holds the marks of every Clew around a process, joined by commas: one agent may run another."""
GRACE_SECONDS: Final = 2.0
"""From SIGTERM to SIGKILL."""
GIVE_UP_SECONDS: Final = 2.0
"""From SIGKILL until what the kernel does not end (a hung disk) is left alone."""
_LOOK_SECONDS: Final = 0.02
_PROC: Final = Path("/proc")
_ENDED: Final = frozenset({b"Z", b"X"})
NO_GROUP: Final[frozenset[int]] = frozenset()


class Running(msgspec.Struct, frozen=True):
    """One living process. `started` tells it from a later one that was given the same number."""

    pid: int
    parent: int
    group: int
    started: int


class Killed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of killing; `left` is what the kernel had not ended in time."""

    ended: int
    left: int


def marked(marks: Iterable[str]) -> str:
    """The value of MARK_VARIABLE for a process started here."""
    return ",".join([*own_marks(), *marks])


def own_marks() -> list[str]:
    """The marks that we carry ourselves, when a tool of another Clew started us."""
    outer = os.environ.get(MARK_VARIABLE)
    return outer.split(",") if outer else []


def has_proc() -> bool:
    return (_PROC / "self" / "stat").exists()


def find(groups: Set[int], marks: Set[str]) -> frozenset[Running]:
    """What belongs to these process groups, descends from their leaders, or has one of these marks."""
    assert "" not in marks, "an empty mark would be everybody's"
    alive = _alive()
    found = {one.pid: one for one in alive if one.group in groups}
    for one in alive:
        if marks and one.pid not in found and not marks.isdisjoint(_marks(one.pid)):
            found[one.pid] = one
    grown = True
    while grown:
        grown = False
        for one in alive:
            if one.pid not in found and (one.parent in found or one.parent in groups):
                found[one.pid] = one
                grown = True
    found.pop(os.getpid(), None)
    return frozenset(found.values())


def started(pid: int) -> str | None:
    """When a process started, in a spelling that only equality is asked of; None if there is no such process.

    Ticks since the boot from /proc, else what `ps` says, to the second. Blocks for some milliseconds there.
    """
    return _started_by_proc(pid) if has_proc() else started_by_ps(pid)


def _started_by_proc(pid: int) -> str | None:
    fields = _fields(pid)
    return None if fields is None else fields[19].decode("ascii")


def started_by_ps(pid: int) -> str | None:
    """The spelling of `started` where there is no /proc."""
    said = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    return "_".join(said.stdout.replace(":", " ").split()) or None


def _alive() -> list[Running]:
    """Every process that is not a zombie; empty where there is no /proc."""
    if not has_proc():
        return []
    found = (_read(int(entry.name)) for entry in os.scandir(_PROC) if entry.name.isdecimal())
    return [one for one in found if one is not None]


def _read(pid: int) -> Running | None:
    fields = _fields(pid)
    if fields is None or fields[0] in _ENDED:
        return None
    return Running(pid, int(fields[1]), int(fields[2]), int(fields[19]))


def _fields(pid: int) -> list[bytes] | None:
    """proc(5): the fields after the command's name, which may itself hold blanks and brackets."""
    try:
        return (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None  # it ended while we looked


def _marks(pid: int) -> list[str]:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return []  # it ended, or is another user's
    prefix = f"{MARK_VARIABLE}=".encode()
    values = [one[len(prefix) :] for one in environment.split(b"\0") if one.startswith(prefix)]
    return values[0].decode("utf-8", "replace").split(",") if values else []


async def end_tree(root: int | None, mark: str | None) -> bool:
    """SIGTERM to all of it, SIGKILL after GRACE_SECONDS to what is left; True when nothing is.

    Bounded: returns after GRACE_SECONDS + GIVE_UP_SECONDS at most. Not to be interrupted: see `to_the_end`.
    """
    groups = NO_GROUP if root is None else frozenset({root})
    marks = frozenset() if mark is None else frozenset({mark})
    found = find(groups, marks)
    _signal(groups, found, signal.SIGTERM)
    if await _gone(groups, found, marks, GRACE_SECONDS):
        return True
    _signal(groups, find(groups, marks) | _living(found), signal.SIGKILL)
    return await _gone(groups, found, marks, GIVE_UP_SECONDS)


async def kill_all(groups: Set[int], marks: Set[str]) -> Killed:
    """SIGKILL to all of it, and again to what it started meanwhile, until nothing is found.

    Bounded: returns after GIVE_UP_SECONDS at most. `groups` are known to be ours.
    """
    deadline = time.monotonic() + GIVE_UP_SECONDS
    seen: frozenset[Running] = frozenset()
    while True:
        found = find(groups, marks)
        seen |= found
        living = {group for group in groups if group_lives(group)}
        if not found and not living:
            return Killed(ended=len(seen), left=0)
        if time.monotonic() >= deadline:
            return Killed(ended=len(seen - found), left=len(found) or len(living))
        _signal(living | ({one.group for one in found} & groups), found, signal.SIGKILL)
        await asyncio.sleep(_LOOK_SECONDS)


def _signal(groups: Set[int], processes: Iterable[Running], number: signal.Signals) -> None:
    for group in groups:
        _send(os.killpg, group, number)
    for process in _living(processes):
        _send(os.kill, process.pid, number)


def _send(how: Callable[[int, int], None], target: int, number: signal.Signals) -> None:
    # It ended meanwhile, or became another user's: whoever waits for its end will say so.
    with suppress(ProcessLookupError, PermissionError):
        how(target, number)


def _living(processes: Iterable[Running]) -> frozenset[Running]:
    """Those of them that still run; parent and group may have changed."""
    now = {one.pid: one.started for one in map(_read, [one.pid for one in processes]) if one is not None}
    return frozenset(one for one in processes if now.get(one.pid) == one.started)


async def _gone(groups: Set[int], found: frozenset[Running], marks: Set[str], seconds: float) -> bool:
    """Whether all of it ended in that time. A process started in the meantime is looked for at the end."""
    deadline = time.monotonic() + seconds
    while True:
        if not _living(found) and not any(map(group_lives, groups)) and not (found := find(groups, marks)):
            return True
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(_LOOK_SECONDS)


def group_lives(group: int) -> bool:
    """For systems without /proc; elsewhere `find` knows, and does not mistake a zombie for the living."""
    return False if has_proc() else group_exists(group)


def group_exists(group: int) -> bool:
    """Whether anything is in this process group, be it a zombie: while it is, no process is given its number."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
