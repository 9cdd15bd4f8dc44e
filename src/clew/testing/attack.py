"""Several processes write one session at once and are killed at random: `python -m clew.testing.attack --seconds 60`.

A worker appends, undoes, redoes, retries, forks and cuts from several tasks, and acknowledges what succeeded in a file
that only grows, after the ledger said so. Now and then its writer, with a transaction open and its rows written, says
so on a pipe and waits for ever: the coordinator kills it there. Others die wherever they happen to be. At the end the
ledger must hold everything that was acknowledged, once, and every invariant of the contract.

With `--careless` the workers write raw SQL from a head that they read a moment ago, and with `--unguarded` the guards
are dropped first: that is how a test sees that the questions asked at the end find what they are there to find.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import selectors
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import apsw
import msgspec

from clew.adapters.stores.sqlite import open_ledger
from clew.adapters.stores.sqlite.connection import connect, fetch
from clew.adapters.stores.sqlite.ledger import LEDGER_FILE, SqliteLedger
from clew.adapters.stores.sqlite.writer import ReadBack, Work, Writer
from clew.adapters.system import SystemChance, SystemClock
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.conversation.messages import NewMessage, Role
from clew.domain.ledger.commits import Append, AsObserver, Commit, Note
from clew.domain.ledger.errors import LedgerError
from clew.domain.ledger.rows import Handle, OpKind
from clew.runtime.sessions import Place, SessionDesk
from clew.testing.invariants import check, require

T = TypeVar("T")
KINDS: Final = ("append", "undo", "redo", "retry", "fork", "cut")
WEIGHTS: Final = (3.0, 2.0, 3.0, 2.0, 1.5, 0.7)
TASKS: Final = 5
PAUSE_SECONDS_MAX: Final = 0.04
"""Between two actions of a task: a longer history says nothing more, and takes longer to check."""
STALE_SHARE: Final = 0.15
AGAIN_SHARE: Final = 0.2
ON_A_FORK_SHARE: Final = 0.15
STALL_AFTER_SECONDS: Final = (0.1, 0.6)
KILL_AFTER_SECONDS: Final = (1.0, 4.0)
CARELESS_ROUNDS: Final = 40
ACKNOWLEDGED: Final = "acknowledged"
REFUSED: Final = "refused"
REASONS_SHOWN: Final = 20


class Acknowledged(NamedTuple):
    """One success, as its worker wrote it down: for an append its text, for a fork its id."""

    kind: str
    session: str
    what: str


class Report(msgspec.Struct, kw_only=True):
    """What an attack did, and what is wrong with the ledger it left."""

    done: Counter[str]
    refused: Counter[str]
    kills_inside: int
    kills_elsewhere: int
    sessions: int = 0
    wrong: list[str] = msgspec.field(default_factory=list)

    def table(self) -> str:
        rows = [f"{self.done[kind]:8} {kind}" for kind in KINDS]
        said = ", ".join(f"{name} {count}" for name, count in sorted(self.refused.items()))
        rows += [
            f"{self.kills_inside:8} kills inside a transaction",
            f"{self.kills_elsewhere:8} kills elsewhere",
            f"{self.sessions:8} sessions checked",
            f"{self.refused.total():8} refused ({said or 'none'})",
        ]
        rows += [f"   WRONG {reason}" for reason in self.wrong[:REASONS_SHOWN]] or ["all invariants hold"]
        if len(self.wrong) > REASONS_SHOWN:
            rows.append(f"   WRONG and {len(self.wrong) - REASONS_SHOWN} more")
        return "\n".join(rows)


# -- a worker ------------------------------------------------------------------------------------------------------
class StallingWriter(Writer):
    """A writer that, from a moment on, stops for ever with its rows written and its transaction open."""

    def __init__(self, inner: Writer, stall_at: float, told: int, never: int) -> None:
        self._inner = inner
        self._stall_at = stall_at
        self._told = told
        self._never = never

    async def do(self, work: Work[T], read_back: ReadBack[T] | None = None) -> T:
        def stalling(db: apsw.Connection) -> T:
            outcome = work(db)
            if time.monotonic() >= self._stall_at:
                os.write(self._told, b"t")
                os.read(self._never, 1)
                os._exit(1)  # nobody writes there: the coordinator is gone
            return outcome

        return await self._inner.do(stalling, read_back)

    async def checkpoint(self) -> bool:
        return await self._inner.checkpoint()

    def close(self) -> None:
        self._inner.close()


class Worker:
    """The tasks of one process."""

    def __init__(self, ledger: SqliteLedger, session: SessionId, acknowledgements: int) -> None:
        self._ledger = ledger
        self._session = session
        self._file = acknowledgements
        self._desk = SessionDesk(ledger, SystemClock(), SystemChance())
        self._place = Place(route_key=f"attack:{os.getpid()}", surface="attack")
        self._random = random.Random()
        self._fork: SessionId | None = None
        self._old: dict[SessionId, Handle] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(self._act_for_ever())

    async def _act_for_ever(self) -> None:
        actions: dict[str, Callable[[SessionId], Awaitable[str]]] = {
            "append": self._append,
            "undo": self._undo,
            "redo": self._redo,
            "retry": self._retry,
            "fork": self._branch,
            "cut": self._cut,
        }
        while True:
            await asyncio.sleep(self._random.uniform(0, PAUSE_SECONDS_MAX))
            kind = self._random.choices(KINDS, WEIGHTS)[0]
            session = self._session
            if self._fork is not None and self._random.random() < ON_A_FORK_SHARE:
                session = self._fork
            try:
                what = await actions[kind](session)
            except LedgerError as error:
                acknowledge(self._file, REFUSED, session, type(error).__name__)
            else:
                acknowledge(self._file, kind, session, what)

    async def _append(self, session: SessionId) -> str:
        handle = (await self._ledger.session(LOCAL, session)).handle
        old = self._old.get(session, handle)
        self._old[session] = handle
        if self._random.random() < STALE_SHARE:
            handle = old
        text = f"said {uuid.uuid4().hex}"
        said = NewMessage(role=Role.USER, text=text, step=0, actor=LOCAL)
        answer = NewMessage(role=Role.ASSISTANT, text=f"re {text}", step=1, actor="model")
        op = Append(messages=(said, answer), turn=handle.version)
        work = msgspec.structs.replace(as_seen(handle), op=op, idempotency_key=text)
        first = await self._ledger.commit(work)
        if self._random.random() < AGAIN_SHARE:
            again = await self._ledger.commit(work)
            require(again.repeated and again.handle == first.handle, f"{text} was written twice")
        return text

    async def _undo(self, session: SessionId) -> str:
        rewound = await self._desk.undo(LOCAL, session, self._random.choice((1, 1, 2, 3)))
        return str(len(rewound.openings))

    async def _redo(self, session: SessionId) -> str:
        return str((await self._desk.redo(LOCAL, session)).messages)

    async def _retry(self, session: SessionId) -> str:
        return (await self._desk.rewind_for_retry(LOCAL, session)).text

    async def _branch(self, session: SessionId) -> str:
        self._fork = (await self._desk.branch(LOCAL, session, self._place)).id
        return self._fork

    async def _cut(self, session: SessionId) -> str:
        handle = (await self._ledger.session(LOCAL, session)).handle
        work = msgspec.structs.replace(as_seen(handle), op=Note(kind=OpKind.STOP), cut=True, cut_reason="cut")
        return str((await self._ledger.commit(work)).handle.epoch)


def as_seen(handle: Handle) -> Commit:
    """A commit of somebody who saw this handle."""
    fence = AsObserver(version=handle.version, head=handle.head)
    return Commit(session=handle.session, actor=LOCAL, at=SystemClock().now_ms(), fence=fence)


def acknowledge(file: int, kind: str, session: str, what: str) -> None:
    """One write at the end of a file that several processes share: whole, or not there."""
    os.write(file, f"{kind}\t{session}\t{what}\n".encode())


async def work_until_killed(home: Path, session: SessionId, told: int, never: int) -> None:
    asyncio.get_running_loop().add_reader(never, os._exit, 1)  # readable only when the coordinator is gone
    ledger = await open_ledger(home, SystemClock())
    stall_at = time.monotonic() + random.uniform(*STALL_AFTER_SECONDS)
    ledger._writer = StallingWriter(ledger._writer, stall_at, told, never)
    with acknowledgements(home) as file:
        await Worker(ledger, session, file).run()


@contextmanager
def acknowledgements(home: Path) -> Iterator[int]:
    file = os.open(home / ACKNOWLEDGED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield file
    finally:
        os.close(file)


# -- a worker that does not look -----------------------------------------------------------------------------------
async def work_carelessly(home: Path, session: SessionId) -> None:
    """Two writers in step: each reads the head, lets the other read it too, and writes what it had in mind."""
    with acknowledgements(home) as file:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(_write_carelessly(home / LEDGER_FILE, session, file))


async def _write_carelessly(path: Path, session: SessionId, file: int) -> None:
    with closing(connect(path, synchronous="NORMAL")) as db:
        for _ in range(CARELESS_ROUNDS):
            seen = fetch(db, "SELECT head_branch, head_seq, epoch FROM session WHERE id = ?", (session,))[0]
            await asyncio.sleep(0)
            text = f"said {uuid.uuid4().hex}"
            try:
                with db:
                    _put(db, session, seen, text)
            except apsw.ConstraintError as error:
                acknowledge(file, REFUSED, session, str(error).removeprefix("clew: "))
            else:
                acknowledge(file, "append", session, text)
            await asyncio.sleep(0)


def _put(db: apsw.Connection, session: SessionId, seen: tuple[int, int, int], text: str) -> None:
    branch, seq, epoch = seen
    db.execute(
        "INSERT INTO op(session_id, version, kind, from_branch, from_seq, to_branch, to_seq, epoch, idempotency_key, actor, at)"
        " SELECT ?1, max(version) + 1, 'append', ?2, ?3, ?2, ?3 + 1, ?4, ?5, 'local', 1 FROM op WHERE session_id = ?1",
        (session, branch, seq, epoch, text),
    )
    db.execute(
        "INSERT OR REPLACE INTO message(branch, seq, turn, step, role, actor, status, text, created_at)"
        " VALUES(?, ?, 1, 0, 'user', 'local', 'ok', ?, 1)",
        (branch, seq + 1, text),
    )


def drop_guards(home: Path) -> None:
    """Drops every trigger but the one that moves the head, which is no guard."""
    with closing(connect(home / LEDGER_FILE)) as db:
        for (name,) in fetch(
            db, "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name <> 'op_moves'"
        ):
            db.execute(f'DROP TRIGGER "{name}"')


# -- the coordinator -----------------------------------------------------------------------------------------------
class Running:
    """A worker process in a group of its own, and the pipes to it."""

    def __init__(self, home: Path, session: SessionId, careless: bool) -> None:
        self.home = home
        self.told, told = os.pipe()
        never, self._never = os.pipe()
        command = [sys.executable, "-m", "clew.testing.attack", "--worker", session, "--home", str(home)]
        command += ["--pipes", str(told), str(never)] + (["--careless"] if careless else [])
        try:
            with (home / "complaints").open("ab") as complaints:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=complaints,
                    stderr=complaints,
                    pass_fds=(told, never),
                    start_new_session=True,
                )
        finally:
            os.close(told)
            os.close(never)

    def kill(self) -> None:
        """Leaves nothing of it behind."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self.told)
        os.close(self._never)

    def exit_code(self) -> int:
        """Of a worker that closed its pipe by itself."""
        return self._process.wait()


class Coordinator:
    """Starts workers, kills them, starts them again, and counts."""

    def __init__(self, home: Path, session: SessionId, *, careless: bool) -> None:
        self._home = home
        self._session = session
        self._careless = careless
        self._events = selectors.DefaultSelector()
        self.kills_inside = 0
        self.kills_elsewhere = 0
        self.wrong: list[str] = []

    def run(self, seconds: float, processes: int) -> None:
        deadline = time.monotonic() + seconds
        next_kill = self._next_kill()
        try:
            for _ in range(processes):
                self._start()
            while (now := time.monotonic()) < deadline and self._events.get_map():
                if now >= next_kill:
                    self._kill_any()
                    next_kill = self._next_kill()
                for key, _ in self._events.select(min(next_kill, deadline) - now):
                    self._heard(key.data)
        finally:
            for key in list(self._events.get_map().values()):
                self._forget(key.data)
            self._events.close()

    def _next_kill(self) -> float:
        return float("inf") if self._careless else time.monotonic() + random.uniform(*KILL_AFTER_SECONDS)

    def _start(self) -> None:
        worker = Running(self._home, self._session, self._careless)
        self._events.register(worker.told, selectors.EVENT_READ, worker)

    def _forget(self, worker: Running) -> None:
        self._events.unregister(worker.told)
        worker.kill()

    def _heard(self, worker: Running) -> None:
        if os.read(worker.told, 1):
            self._forget(worker)
            self.kills_inside += 1
            self._start()
            return
        code = worker.exit_code()
        self._forget(worker)
        if code:
            complaint = (self._home / "complaints").read_text("utf-8", "replace").strip()[-2000:]
            self.wrong.append(f"a worker ended by itself with {code}: {complaint}")

    def _kill_any(self) -> None:
        self._forget(random.choice(list(self._events.get_map().values())).data)
        self.kills_elsewhere += 1
        self._start()


def attack(
    home: Path, seconds: float, *, processes: int = 2, careless: bool = False, guarded: bool = True
) -> Report:
    """Attacks a new ledger in a folder for so long, then looks at what is left of it."""
    session = asyncio.run(_prepare(home))
    if not guarded:
        drop_guards(home)
    coordinator = Coordinator(home, session, careless=careless)
    coordinator.run(seconds, processes)
    acknowledged = _acknowledged(home)
    report = Report(
        done=Counter(entry.kind for entry in acknowledged if entry.kind != REFUSED),
        refused=Counter(entry.what for entry in acknowledged if entry.kind == REFUSED),
        kills_inside=coordinator.kills_inside,
        kills_elsewhere=coordinator.kills_elsewhere,
        wrong=coordinator.wrong,
    )
    verify(home, acknowledged, report)
    return report


async def _prepare(home: Path) -> SessionId:
    ledger = await open_ledger(home, SystemClock())
    try:
        desk = SessionDesk(ledger, SystemClock(), SystemChance())
        opened = await desk.open(LOCAL, Place(route_key="attack", surface="attack"))
        return opened.row.id
    finally:
        await ledger.close()


def _acknowledged(home: Path) -> list[Acknowledged]:
    path = home / ACKNOWLEDGED
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [Acknowledged(*line.split("\t")) for line in lines]


# -- what must hold ------------------------------------------------------------------------------------------------
def verify(home: Path, acknowledged: list[Acknowledged], report: Report) -> None:
    """Adds to the report whatever does not hold."""
    sessions, wrong = asyncio.run(_broken_sessions(home))
    report.sessions = sessions
    report.wrong += wrong
    with closing(sqlite3.connect(home / LEDGER_FILE)) as db:
        report.wrong += _damage(db) + _unchained(db) + _lost(db, acknowledged) + _twice(db)


async def _broken_sessions(home: Path) -> tuple[int, list[str]]:
    """How many sessions there are, and the first invariant that each breaks."""
    wrong: list[str] = []
    with closing(sqlite3.connect(home / LEDGER_FILE)) as db:
        sessions = [SessionId(row[0]) for row in db.execute("SELECT id FROM session")]
    ledger = await open_ledger(home, SystemClock())
    try:
        for session in sessions:
            try:
                await check(ledger, LOCAL, session)
            except (AssertionError, LedgerError, LookupError) as error:
                wrong.append(f"{session}: {error}")
    finally:
        await ledger.close()
    return len(sessions), wrong


def _damage(db: sqlite3.Connection) -> list[str]:
    said = [str(row[0]) for row in db.execute("PRAGMA integrity_check")]
    orphans = db.execute("PRAGMA foreign_key_check").fetchall()
    wrong = [] if said == ["ok"] else [f"integrity_check: {'; '.join(said)[:500]}"]
    return wrong + [f"foreign_key_check: {orphan}" for orphan in orphans[:10]]


def _unchained(db: sqlite3.Connection) -> list[str]:
    """The first op of each session that does not go on from the one before, and heads that no op led to."""
    wrong: dict[str, str] = {}
    here: dict[str, tuple[object, ...]] = {}
    ops = "SELECT session_id, version, from_branch, from_seq, to_branch, to_seq FROM op ORDER BY session_id, version"
    for session, version, *places in db.execute(ops):
        if here.get(session, (0, None, 0)) != (version - 1, *places[:2]):
            wrong.setdefault(session, f"{session}: op {version} does not go on from the one before")
        here[session] = (version, *places[2:])
    for session, *head in db.execute("SELECT id, version, head_branch, head_seq FROM session"):
        if here.get(session) != tuple(head):
            wrong.setdefault(session, f"{session}: its head is not where its last op led")
    return list(wrong.values())


def _lost(db: sqlite3.Connection, acknowledged: list[Acknowledged]) -> list[str]:
    """What was acknowledged and is not there."""
    texts = {row[0] for row in db.execute("SELECT text FROM message")}
    ids = {row[0] for row in db.execute("SELECT id FROM session")}
    ops: dict[tuple[str, str], int] = {
        (row[0], row[1]): row[2]
        for row in db.execute("SELECT session_id, kind, count(*) FROM op GROUP BY session_id, kind")
    }
    appends = [entry.what for entry in acknowledged if entry.kind == "append"]
    wrong = [f"acknowledged and lost: {text}" for text in appends if text not in texts]
    wrong += [f"fork lost: {e.what}" for e in acknowledged if e.kind == "fork" and e.what not in ids]
    kinds = {"append": "append", "undo": "undo", "redo": "redo", "retry": "retry", "cut": "stop"}
    counted = Counter((entry.session, kinds[entry.kind]) for entry in acknowledged if entry.kind in kinds)
    for key, count in counted.items():
        if ops.get(key, 0) < count:
            wrong.append(f"{count} times {key[1]} acknowledged in {key[0]}, the log has {ops.get(key, 0)}")
    return wrong


def _twice(db: sqlite3.Connection) -> list[str]:
    """One text, one key: each belongs to one message and one op."""
    said = "SELECT text, count(*) FROM message WHERE role = 'user' GROUP BY text HAVING count(*) > 1"
    keys = "SELECT idempotency_key, count(*) FROM op WHERE idempotency_key IS NOT NULL GROUP BY 1 HAVING count(*) > 1"
    wrong = [f"{count} messages say {text}" for text, count in db.execute(said)]
    return wrong + [f"{count} ops have the key {key}" for key, count in db.execute(keys)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Several processes write one session and are killed.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--careless", action="store_true", help="write raw SQL without looking")
    parser.add_argument("--unguarded", action="store_true", help="drop the guards first")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--pipes", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Exit code 1 when something does not hold."""
    chosen = _arguments()
    if chosen.worker:
        session = SessionId(chosen.worker)
        if chosen.careless:
            asyncio.run(work_carelessly(chosen.home, session))
        else:
            asyncio.run(work_until_killed(chosen.home, session, *chosen.pipes))
        return 0
    with tempfile.TemporaryDirectory(prefix="clew-attack-") as folder:
        report = attack(
            chosen.home or Path(folder),
            chosen.seconds,
            processes=chosen.processes,
            careless=chosen.careless,
            guarded=not chosen.unguarded,
        )
    sys.stdout.write(report.table() + "\n")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
