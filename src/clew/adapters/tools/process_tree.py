"""Ending everything a command started, also what tried to get away.

A process is found by its group, by descent from the first one, and by a mark in its environment: a child that made
its own session leaves the group, and one whose parent died has no descent any more, but it still carries the mark.
Descent and mark are read from /proc; where there is none (macOS) only the group is reached.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable
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


class Running(msgspec.Struct, frozen=True):
    """One living process. `started` tells it from a later one that was given the same number."""

    pid: int
    parent: int
    group: int
    started: int


def marked(marks: Iterable[str]) -> str:
    """The value of MARK_VARIABLE for a process started here."""
    outer = os.environ.get(MARK_VARIABLE)
    return ",".join([outer, *marks] if outer else marks)


def find(root: int | None, mark: str | None) -> frozenset[Running]:
    """What belongs to the process group `root` leads, descends from it, or has `mark` among its marks."""
    assert mark != "", "an empty mark would be everybody's"
    alive = _alive()
    found = {one.pid: one for one in alive if one.group == root}
    for one in alive:
        if mark is not None and one.pid not in found and mark in _marks(one.pid):
            found[one.pid] = one
    grown = True
    while grown:
        grown = False
        for one in alive:
            if one.pid not in found and (one.parent in found or one.parent == root):
                found[one.pid] = one
                grown = True
    found.pop(os.getpid(), None)
    return frozenset(found.values())


def _alive() -> list[Running]:
    """Every process that is not a zombie; empty where there is no /proc."""
    if not (_PROC / "self" / "stat").exists():
        return []
    found = (_read(int(entry.name)) for entry in os.scandir(_PROC) if entry.name.isdecimal())
    return [one for one in found if one is not None]


def _read(pid: int) -> Running | None:
    """proc(5): the fields after the command's name, which may itself hold blanks and brackets."""
    try:
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None  # it ended while we looked
    if fields[0] in {b"Z", b"X"}:
        return None
    return Running(pid, int(fields[1]), int(fields[2]), int(fields[19]))


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
    found = find(root, mark)
    _signal(root, found, signal.SIGTERM)
    if await _gone(root, found, mark, GRACE_SECONDS):
        return True
    _signal(root, find(root, mark) | _living(found), signal.SIGKILL)
    return await _gone(root, found, mark, GIVE_UP_SECONDS)


def _signal(root: int | None, processes: Iterable[Running], number: signal.Signals) -> None:
    if root is not None:
        _send(os.killpg, root, number)
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


async def _gone(root: int | None, found: frozenset[Running], mark: str | None, seconds: float) -> bool:
    """Whether all of it ended in that time. A process started in the meantime is looked for at the end."""
    deadline = time.monotonic() + seconds
    while True:
        if not _living(found) and not _group_lives(root) and not (found := find(root, mark)):
            return True
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(_LOOK_SECONDS)


def _group_lives(root: int | None) -> bool:
    """For systems without /proc; elsewhere `find` knows, and does not mistake a zombie for the living."""
    if root is None or (_PROC / "self" / "stat").exists():
        return False
    try:
        os.killpg(root, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
