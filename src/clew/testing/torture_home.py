"""One home under torture: processes use it, are killed at points and at random, and somebody comes after them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from clew.testing.crash_points import POINTS, Way
from clew.testing.torture_checks import HOME, Expected, unsettled, wrong_in
from clew.testing.torture_processes import Process, Processes
from clew.testing.torture_report import Report

READY_SECONDS_MAX: Final = 2.0
FLOORS_MAX: Final = 4
"""On a machine so busy that bare imports take a while, a process may take so many times that."""
FLOOR_TRIES: Final = 3
FIRST_LINES: Final = ("{} hello", "{} shell+read", "{} hello")
"""What is said first, in a session each."""
END_SECONDS_MAX: Final = 25.0
ORPHAN_SECONDS_MAX: Final = 5.0
SETTLES_MAX: Final = 5
"""How often somebody comes back: a chat that ends cuts what it does beside, and the next one delivers what that brought."""
RANDOM_EVERY: Final = 7
"""In each so-manieth round kills come at random instants only."""
POINTS_PER_ROUND: Final = 6
COMPANY_SHARE: Final = 0.2
"""Of the crashes at a point, after the first: with others who use the sessions meanwhile."""
COLD_SHARE: Final = 0.04
KILL_WITHIN_SECONDS: Final = 0.15
STAND_WITHIN_SECONDS: Final = 0.4
STAND_SECONDS: Final = (0.1, 3.0)
"""Below what a writer waits for another; above what a lease lasts here."""
LEASED: Final = {"CLEW__TURN__LEASE_SECONDS": "1"}
LINES: Final = (
    "{} hello",
    "{} shell",
    "{} shell+read shell",
    "{} read shell",
    "/undo",
    "/redo",
    "/retry",
    "/stop",
    "/new",
)
NO_WAY: Final = Way("")
NEW: Final = Way("", is_new=True)


class Lot(NamedTuple):
    """What the homes of a lane share."""

    chance: random.Random
    points: Sequence[str]
    """In the order in which they are tried first."""
    report: Report


class TorturedHome:
    """A home, what was said in it, and the rounds that it goes through."""

    def __init__(self, folder: Path, environ: Mapping[str, str], lot: Lot) -> None:
        self._folder = folder
        (folder / "notes").write_text("Nothing of note.\n", "utf-8")
        self._processes = Processes(folder, {**environ, "CLEW_HOME": str(folder / HOME)})
        self._random, self._points, self._report = lot
        self._expected = Expected()
        self._sessions: list[str] = []
        self._words: dict[Process, list[str]] = {}
        """Of each process, the first words of the messages that it was given."""
        self._usable: set[str] = set()
        """Sessions that nobody was told to use since somebody came after."""
        self._of_round: list[Process] = []
        self._gone: set[str] = set()
        """Sessions that were deleted."""

    def close(self) -> None:
        """Leaves no process behind, whatever was wrong."""
        self._processes.close()
        for pid, _ in left_of(self._folder / HOME):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def what(self) -> str:
        """The processes of the round and how they ended, in words."""
        return "; ".join(f"{process.what} → {process.status}" for process in self._of_round)

    def prepare(self) -> None:
        for line in FIRST_LINES:
            told = self._to_the_end(self._clew(line, "", NEW))
            self._sessions.append(told.json["session"])

    def round(self) -> list[str]:
        """One round; what is wrong after it."""
        self._of_round.clear()
        if self._report.rounds % RANDOM_EVERY == 0:
            started = [*self._random_wave(), *self._standing_wave()]
        else:
            started = [
                process for _ in range(POINTS_PER_ROUND) for process in self._wave_at(self._next_point())
            ]
        used = {_session_of(process) for process in started}
        sessions = {self._sessions[0] if session in self._gone else session for session in used}
        wrong = [said for session in sorted(sessions) for said in self._come_after(session)]
        return wrong + self._look(frozenset(sessions - {""}))

    def look_at_all(self) -> list[str]:
        """At the end: every session is usable, and the whole file is sound."""
        self._of_round.clear()
        listed = self._to_the_end(self._clew_plain("sessions", "list", "--json", "--limit", "1000"))
        sessions = {row["id"] for row in msgspec.json.decode(listed.printed)}
        wrong = [said for session in sorted(sessions - self._usable) for said in self._come_after(session)]
        wrong += self._settle()
        checked = self._to_the_end(self._clew_plain("db", "check"))
        if checked.status != 0:
            wrong.append(f"clew db check: {checked.printed.strip()}")
        return wrong + self._look(frozenset()) + self._orphans()

    def _settle(self) -> list[str]:
        """Chats go on with what was begun beside their session, and do the jobs that wait."""
        left: list[str] = []
        for _ in range(SETTLES_MAX):
            left = self._asked(lambda: unsettled(self._folder))
            for session in left:
                self._to_the_end(self._clew("{} wait | {} hello", session or self._sessions[0]))
            if not left:
                break
        return [f"nobody ends what was begun beside {session}" for session in left]

    # -- one round -------------------------------------------------------------------------------------------------
    def _next_point(self) -> str:
        """One of those that were tried least; a miss counts half, so that no point is tried for ever."""
        kills, missed = self._report.kills, self._report.missed
        return min(self._points, key=lambda point: kills.get(point, 0) + missed.get(point, 0) // 2)

    def _wave_at(self, point: str) -> list[Process]:
        """A process ends at a point, perhaps in company."""
        way = POINTS[point]
        session = "" if way.is_new else self._session_for(point, way)
        for line in way.first:
            self._to_the_end(self._clew(line, session, way))
        for n, crash in enumerate(way.crashes):
            self._to_the_end(self._clew("{} hello" if n else "{} shell", session, way, crash=crash))
        crash = f"{point.partition(' ')[0]} {way.at}" if way.at else point
        started = [self._clew(way.last, session, way, crash=crash)]
        if self._report.kills.get(point) and self._random.random() < COMPANY_SHARE:
            started += self._company(1)
        self._wait(started)
        reached = self._report.kills if started[0].was_killed else self._report.missed
        reached[point] = reached.get(point, 0) + 1
        if "{session}" in way.last and point != "before delete":
            self._gone.add(session)
            words = {word for one in self._words if _opened(one) == session for word in self._words[one]}
            self._expected.forgotten |= words
            self._expected.accepted |= dict.fromkeys(words, False)
        return started

    def _session_for(self, point: str, way: Way) -> str:
        """Any; but the first time one of its own, for ways on which what others left in a session could be met."""
        is_alone = "{session}" in way.last
        if not is_alone and (self._report.kills.get(point) or not ("/" in way.last or "|" in way.last)):
            return self._random.choice(self._sessions)
        opened: str = self._to_the_end(self._clew("{} hello", "", NEW)).json["session"]
        return opened

    def _random_wave(self) -> list[Process]:
        started = self._company(self._random.choice((2, 3)))
        self._wait(started)
        return started

    def _standing_wave(self) -> list[Process]:
        """Several use one session; some stand still, longer than their lease lasts or not, and wake behind the others."""
        session = self._random.choice(self._sessions)
        started = [self._clew(self._random.choice(LINES), session, Way("", environ=LEASED)) for _ in range(3)]
        now, standing = time.monotonic(), started[1:]
        # The one that was started last at once, so that it has not ended before.
        for process, within in zip(standing, (STAND_WITHIN_SECONDS, 0.0), strict=True):
            stops = now + self._random.uniform(0.0, within)
            goes_on = stops + self._random.uniform(*STAND_SECONDS)
            process.stands = [(goes_on, signal.SIGCONT), (stops, signal.SIGSTOP)]
        self._wait(started)
        self._report.stands += sum(not process.stands for process in standing)
        return started

    def _company(self, count: int) -> list[Process]:
        """Others who use the sessions, most of them not for long."""
        started: list[Process] = []
        for _ in range(count):
            session = self._random.choice(self._sessions)
            process = self._clew(self._random.choice(LINES), session)
            if self._random.random() < 0.7:
                process.kill_at = time.monotonic() + self._random.uniform(0.0, KILL_WITHIN_SECONDS)
            started.append(process)
        return started

    def _come_after(self, session: str) -> list[str]:
        """Somebody says something in the session (empty: the current one) and is answered, soon."""
        is_cold = not self._report.ready_cold or self._random.random() < COLD_SHARE
        process = self._to_the_end(self._clew("{} hello", session, cold=is_cold))
        (self._report.ready_cold if is_cold else self._report.ready).append(
            process.ready_seconds or END_SECONDS_MAX
        )
        (word,) = self._words[process]
        self._usable.add(process.json.get("session", ""))
        wrong = []
        joined = [said for one in process.told if one.what == "steer" for said in one.said]
        answers = [f"done {one}" for one in (word, *joined)]  # to what joined its turn, if something did
        if process.status != 0 or process.json.get("text") not in answers:
            wrong.append(f"{process.what} ended with {process.status}: {process.printed.strip()[-500:]}")
        took = process.ready_seconds or END_SECONDS_MAX
        if took > READY_SECONDS_MAX and took > FLOORS_MAX * (floor := _floor_seconds()):
            wrong.append(f"{process.what} was ready after {took:.2f} s; bare imports take {floor:.2f} s now")
        return wrong

    # -- processes ---------------------------------------------------------------------------------------------------
    def _clew(
        self, line: str, session: str, way: Way = NO_WAY, *, crash: str = "", cold: bool = False
    ) -> Process:
        """`clew run` with a line of words that were never said before; several lines are typed into a chat."""
        words: list[str] = []
        said: list[str] = []
        for part in line.split(" | "):
            word = f"w{self._report.messages + 1}-{os.getpid()}"
            said.append(part.format(word, session=session))
            if word in said[-1] and not part.startswith("/title"):
                words.append(word)
                self._report.messages += 1
                self._expected.accepted[word] = False
        if len(said) > 1:
            where: tuple[str, ...] = ("--session", session) if session else ()
            process = self._processes.chat(
                said, *where, leave_when=f"done {words[-1]}", crash=crash, environ=way.environ
            )
        else:
            where = ("-s", session) if session else () if way.is_new else ("--continue",)
            process = self._processes.clew(
                "run", "--json", *where, *said, crash=crash, environ=way.environ, cold=cold
            )
        self._words[process] = words
        self._usable.discard(session)
        self._of_round.append(process)
        return process

    def _clew_plain(self, *arguments: str) -> Process:
        return self._processes.clew(*arguments)

    def _to_the_end(self, process: Process) -> Process:
        self._wait([process])
        return process

    def _wait(self, processes: Sequence[Process]) -> None:
        killing = [process for process in processes if process.kill_at < float("inf")]
        self._processes.wait(processes, END_SECONDS_MAX)
        self._report.random_kills += sum(process.was_killed for process in killing)
        for process in processes:
            told = process.told
            runs = [(one.call, one.at_ms) for one in told if one.what == "run"]
            self._expected.runs += runs
            self._report.runs += len(runs)
            writes = Counter(one.what for one in told if one.what != "run")
            self._report.writes = dict(Counter(self._report.writes) + writes)
            taken = [word for one in told for word in one.said]
            if process.status == 0:
                taken += self._words.get(process, [])
            self._expected.accepted |= dict.fromkeys(taken, True)

    # -- what must hold ----------------------------------------------------------------------------------------------
    def _look(self, sessions: frozenset[str]) -> list[str]:
        return self._asked(lambda: asyncio.run(wrong_in(self._folder, self._expected, sessions)))

    def _asked(self, ask: Callable[[], list[str]]) -> list[str]:
        """In a process of its own: this one never opens a ledger."""

        def look(told: int) -> int:
            os.write(told, msgspec.json.encode(ask()) + b"\n")
            return 0

        process = self._processes.fork("the checks", look)
        self._processes.wait([process], END_SECONDS_MAX)
        if process.status != 0 or not process.lines:
            return [f"the checks ended with {process.status}: {process.printed[-2000:]}"]
        answer: list[str] = msgspec.json.decode(process.lines[0])
        return answer

    def _orphans(self) -> list[str]:
        """What the tools of killed processes started has ended, too: all of it is short."""
        deadline = time.monotonic() + ORPHAN_SECONDS_MAX
        while (left := left_of(self._folder / HOME)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [f"process {pid} is left: {line}" for pid, line in left]


def _floor_seconds() -> float:
    """How long this machine takes now to start Python and import what everybody imports: the slowest of a few tries, as
    it was slower still a moment ago."""
    took: list[float] = []
    for _ in range(FLOOR_TRIES):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import apsw, click, httpx, msgspec"], check=True)
        took.append(time.monotonic() - began)
    return max(took)


def _opened(process: Process) -> str:
    """The session that it was told to open, or to use."""
    return _session_of(process) or str(process.json.get("session", ""))


def _session_of(process: Process) -> str:
    """The session it was told to use; empty for a new one, or the current one."""
    arguments = process.what.replace("--session", "-s").split()
    return arguments[arguments.index("-s") + 1] if "-s" in arguments else ""


def left_of(home: Path) -> list[tuple[int, str]]:
    """Processes whose environment names this home (where there is a /proc)."""
    wanted = f"CLEW_HOME={home}\0".encode()
    found: list[tuple[int, str]] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (entry / "environ").read_bytes() + b"\0":
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                found.append((int(entry.name), line))
        except OSError:
            continue  # it ended while we looked, or is another user's
    return found
