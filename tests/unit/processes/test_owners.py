"""Owners that are killed, and what their tools leave behind: real processes, real locks."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from clew.adapters.processes.groups import StartedGroups, birth, read_records, realm, records_of
from clew.adapters.processes.owners import OwnerLocks
from clew.adapters.processes.tree import started, started_by_ps
from clew.adapters.tools.commands import Command, Origin
from clew.domain.conversation.ids import OwnerId
from clew.runtime.ports.owners import Burial, OwnerLives, Owners
from clew.testing.simulation.process_life import OwnersByLock
from clew.testing.world import NamedOwners
from tests.unit.tools.bench import lives

pytestmark = pytest.mark.anyio

DEAD = OwnerId(f"dead{os.getpid()}")
"""Of these tests alone: a burial ends whatever carries the name on this machine, also what another run of them started."""
OWNER = """
import asyncio, sys
from pathlib import Path
from clew.adapters.processes.owners import OwnerLocks
from clew.adapters.tools.commands import Command, Origin

async def main(run_dir, *scripts):
    owners = OwnerLocks(Path(run_dir), "owner")
    origin = Origin(mark="session", groups=owners.groups)
    pids = []
    for script in scripts:
        command = await Command.start(script, Path("/"), origin)
        said = asyncio.Queue()
        copying = asyncio.create_task(command.copy_output(said.put_nowait))
        if script.endswith("exit"):
            await command.wait()
        pids.append((await said.get()).decode().strip().replace("\\n", " "))
    print(owners.me, *pids, flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(*sys.argv[1:]))
"""


class Dying:
    """An owner in a process of its own, with what it started."""

    def __init__(self, run_dir: Path, process: asyncio.subprocess.Process, said: str) -> None:
        name, *pids = said.split()
        self.owner = OwnerId(name)
        self.pids = [int(pid) for pid in pids]
        self.run_dir = run_dir
        self._process = process

    @property
    def left(self) -> list[int]:
        return [pid for pid in self.pids if lives(pid)]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()

    async def end(self) -> None:
        """Whatever a test left."""
        if self._process.returncode is None:
            await self.kill()
        for pid in self.left:
            os.kill(pid, signal.SIGKILL)


def names(directory: Path) -> set[str]:
    return set(os.listdir(directory))


def ran(line: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, capture_output=True, text=True, check=False, start_new_session=True)


def popen(
    line: list[str], environ: Mapping[str, str] | None = None, pipes: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """In a group of its own."""
    return subprocess.Popen(
        line, stdin=pipes, stdout=pipes, stderr=subprocess.DEVNULL, start_new_session=True, env=environ
    )


Start = Callable[..., Awaitable[Dying]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts an owner whose commands print the pids of what they started."""
    all_of_them: list[Dying] = []

    async def start(*scripts: str) -> Dying:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OWNER, str(tmp_path), *scripts,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        dying = Dying(tmp_path, process, (await process.stdout.readline()).decode())
        all_of_them.append(dying)
        return dying

    yield start
    for dying in all_of_them:
        await dying.end()


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[OwnerLocks]:
    locks = OwnerLocks(tmp_path, "me")
    yield locks
    locks.close()


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("echo $$; exec sleep 1000", 1),
        ("sleep 1000 & echo $$ $!; wait", 2),
        ("setsid sleep 1000 & echo $$ $!; wait", 2),
        ("orphan=$(setsid sleep 1000 >/dev/null & echo $!); echo $orphan; exec sleep 1000", 2),
        ("trap '' TERM HUP INT; sleep 1000 & echo $$ $!; wait; while :; do sleep 1000; done", 2),
        ("echo $$; exec env -i sleep 1000", 1),
        ("env -i sleep 1000 & echo $$ $!; wait", 2),
    ],
)
async def test_what_a_killed_owner_left_is_ended(
    start: Start, owners: OwnerLocks, script: str, ended: int
) -> None:
    """Whole groups and whoever left them, also those that dropped their environment; a second time there is nothing."""
    dying = await start(script)
    assert not owners.is_dead(dying.owner)
    await dying.kill()
    assert owners.is_dead(dying.owner)
    assert dying.left == dying.pids
    assert await owners.bury(dying.owner) == Burial(ended=ended)
    assert dying.left == []
    assert names(dying.run_dir) == {f"{owners.me}.lock"}
    assert owners.is_dead(dying.owner)
    assert await owners.bury(dying.owner) == Burial()


async def test_a_group_is_known_by_a_member_when_its_leader_is_gone(start: Start, owners: OwnerLocks) -> None:
    """The number of a group is nobody else's while it has a member, and one of them carries the mark."""
    dying = await start("env -i sleep 1000 & echo $!; sleep 1000 & echo $!; exit")
    await dying.kill()
    assert await owners.bury(dying.owner) == Burial(ended=2)
    assert dying.left == []


@pytest.mark.parametrize("wrong", ["started", "realm"])
async def test_a_process_that_was_given_a_reused_number_is_not_touched(
    tmp_path: Path, owners: OwnerLocks, wrong: str
) -> None:
    """It started at another time, or in another container or boot where the numbers mean others."""
    stranger = popen(["sleep", "1000"])
    try:
        when = started(stranger.pid)
        right = {"started": str(when), "realm": realm()}
        right[wrong] = "1"
        directory = records_of(tmp_path, DEAD)
        directory.mkdir()
        (directory / f"{stranger.pid}.{right['started']}.{right['realm']}").touch()
        assert await owners.bury(DEAD) == Burial()
        assert stranger.poll() is None
        assert not directory.exists()
    finally:
        stranger.kill()
        stranger.wait()


async def test_an_owner_that_is_stopped_is_not_dead(start: Start, owners: OwnerLocks) -> None:
    """Nothing of it is touched: it may be continued."""
    dying = await start("echo $$; exec sleep 1000")
    dying.signal(signal.SIGSTOP)
    assert not owners.is_dead(dying.owner)
    with pytest.raises(OwnerLives):
        await owners.bury(dying.owner)
    await owners.sweep()
    assert dying.left == dying.pids
    dying.signal(signal.SIGCONT)
    await dying.kill()
    assert await owners.bury(dying.owner) == Burial(ended=1)


async def test_buriers_race(start: Start, owners: OwnerLocks, tmp_path: Path) -> None:
    """All return when nothing is left, whoever did the work."""
    dying = await start("sleep 1000 & echo $$ $!; wait", "echo $$; exec setsid sleep 1000")
    others = [OwnerLocks(tmp_path, f"other{n}") for n in range(4)]
    await dying.kill()
    burials = await asyncio.gather(*(one.bury(dying.owner) for one in (owners, *others)), owners.sweep())
    assert dying.left == []
    assert not any(burial.left for burial in burials[:-1] if isinstance(burial, Burial))
    for other in others:
        other.close()
    assert names(tmp_path) == {f"{owners.me}.lock"}


def test_observers_do_not_take_each_other_for_the_living(tmp_path: Path, owners: OwnerLocks) -> None:
    """A look at a dead owner's lock beside somebody else's look finds him dead all the same."""
    path = tmp_path / "dead.lock"
    with path.open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert owners.is_dead(DEAD)


async def test_a_grave_that_cannot_be_closed_is_said(tmp_path: Path, owners: OwnerLocks) -> None:
    """As long as its directory stands, something may yet put itself on record there."""
    directory = records_of(tmp_path, DEAD)
    directory.mkdir()
    (directory / "keeps it").touch()
    assert await owners.bury(DEAD) == Burial(left=1)
    (directory / "keeps it").unlink()
    assert await owners.bury(DEAD) == Burial()


# -- births ----------------------------------------------------------------------------------------------------------
async def test_a_command_is_on_record_while_it_runs_and_no_longer(tmp_path: Path, owners: OwnerLocks) -> None:
    """But what it left in its group keeps it there."""
    directory = records_of(tmp_path, owners.me)
    for script, kept in ((f"ls {directory}", 0), (f"sleep 1000 >/dev/null 2>&1 & ls {directory}", 1)):
        command = await Command.start(script, Path("/"), Origin(mark="session", groups=owners.groups))
        said: list[bytes] = []
        await command.copy_output(said.append)
        await command.wait()
        (record,) = read_records(directory)
        assert b"".join(said).decode().strip() == f"{record.leader}.{record.started}.{record.realm}"
        assert (record.leader, record.realm) == (command.pid, realm())
        command.close()
        assert len(read_records(directory)) == kept
        await command.end()


async def test_an_owner_that_ends_in_peace_leaves_no_file(tmp_path: Path, owners: OwnerLocks) -> None:
    """There is nothing to bury then."""
    command = await Command.start("true", Path("/"), Origin(mark="session", groups=owners.groups))
    await command.wait()
    command.close()
    assert records_of(tmp_path, owners.me).is_dir()
    owners.close()
    assert names(tmp_path) == set()


async def test_nothing_is_born_after_the_burial(tmp_path: Path, owners: OwnerLocks) -> None:
    """A newborn that comes to put itself on record when its owner has been buried ends without having run."""
    groups = StartedGroups(tmp_path, DEAD)
    line = groups.recorded(["touch", str(tmp_path / "harm")])
    assert await owners.bury(DEAD) == Burial()
    born = ran(line)
    assert born.returncode != 0
    assert not (tmp_path / "harm").exists()


async def test_what_is_born_during_the_burial_is_ended_too(tmp_path: Path, owners: OwnerLocks) -> None:
    """A newborn is on record or does not run; one that is on record keeps the burial from ending."""
    groups = StartedGroups(tmp_path, DEAD)
    line = groups.recorded(["sleep", "1000"])
    environ = {**os.environ, **groups.variables("session")}
    born: list[subprocess.Popen[bytes]] = []

    async def give_birth() -> None:
        while records_of(tmp_path, DEAD).is_dir() and len(born) < 40:
            born.append(popen(line, environ))
            await asyncio.sleep(0)

    births = asyncio.create_task(give_birth())
    await asyncio.sleep(0)
    burial = await owners.bury(DEAD)
    await births
    codes = [one.wait(10) for one in born]
    assert burial.left == 0
    assert -signal.SIGKILL in codes
    assert all(code == -signal.SIGKILL or code > 0 for code in codes), codes


async def test_where_there_is_no_proc_ps_says_when_a_process_started(tmp_path: Path) -> None:
    """The newborn and the burier spell it alike."""
    program = birth(by_ps=True)
    directory = tmp_path / "records"
    directory.mkdir()
    line = ["/bin/sh", "-c", program, str(directory), "here", "cat"]
    with popen(line, pipes=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"ready\n")
        process.stdin.flush()
        assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
        (record,) = read_records(directory)
        assert (record.leader, record.realm) == (process.pid, "here")
        assert record.started == started_by_ps(process.pid)
    assert started_by_ps(process.pid) is None


async def test_a_command_that_cannot_be_put_on_record_does_not_run(tmp_path: Path) -> None:
    """And is an error that is seen."""
    groups = StartedGroups(tmp_path, OwnerId("me"))
    line = groups.recorded(["echo", "ran"])
    records_of(tmp_path, OwnerId("me")).rmdir()
    done = ran(line)
    assert (done.stdout, done.returncode != 0) == ("", True)
    assert os.strerror(errno.ENOENT).lower() in done.stderr.lower() or "nonexistent" in done.stderr


# -- locks -----------------------------------------------------------------------------------------------------------
async def test_an_owner_who_is_swept_while_being_born_is_born_again(
    tmp_path: Path, owners: OwnerLocks
) -> None:
    """Its file was there and not locked yet: for the sweep a dead one. It must not live on with a lock nobody sees."""
    unnamed = tmp_path / f"{os.getpid()}-new.unnamed"
    with unnamed.open("w") as sweeping:
        fcntl.flock(sweeping, fcntl.LOCK_SH)
        birth = asyncio.create_task(asyncio.to_thread(OwnerLocks, tmp_path, "new"))
        inode = os.fstat(sweeping.fileno()).st_ino
        while not waits_for_lock(inode):  # noqa: ASYNC110 - nobody tells when somebody waits
            await asyncio.sleep(0)
        unnamed.unlink()
    new = await birth
    assert not owners.is_dead(new.me)
    assert (await owners.sweep()).owners == 0
    assert not owners.is_dead(new.me)
    new.close()
    assert owners.is_dead(new.me)


def waits_for_lock(inode: int) -> bool:
    """proc_locks(5): a waiting one is an indented arrow."""
    return any("->" in line and f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines())


async def test_a_thousand_dead_owners_are_swept_and_the_living_stay(
    tmp_path: Path, owners: OwnerLocks, start: Start
) -> None:
    """In well under a second, whether or not they left something."""
    other = OwnerLocks(tmp_path, "other")
    for n in range(1000):
        (tmp_path / f"{n}-dead.lock").touch()
    for n in range(0, 1000, 10):
        (tmp_path / f"{n}-dead.groups").mkdir()
    (tmp_path / "7-half.unnamed").touch()
    (tmp_path / "8-lost.groups").mkdir()
    dying = await start("echo $$; exec sleep 1000")
    await dying.kill()
    began = time.monotonic()
    swept = await owners.sweep()
    took = time.monotonic() - began
    assert (swept.owners, swept.burial) == (1002, Burial(ended=1))
    assert took < 5.0  # a third of a second where nothing else runs
    assert dying.left == []
    assert names(tmp_path) == {f"{owners.me}.lock", f"{other.me}.lock"}
    other.close()


async def test_a_sweep_of_nothing_takes_no_time(owners: OwnerLocks) -> None:
    """Nor does an owner's birth: both belong to every start of the program."""
    times: list[float] = []
    for _ in range(50):
        began = time.perf_counter()
        assert (await owners.sweep()).owners == 0
        times.append(time.perf_counter() - began)
    assert sorted(times)[25] < 0.001


async def test_an_owner_that_ends_with_something_running_is_left_to_be_buried(
    tmp_path: Path, owners: OwnerLocks
) -> None:
    """Its lock is free, and what it started is on record."""
    other = OwnerLocks(tmp_path, "other")
    command = await Command.start("exec sleep 1000", Path("/"), Origin(mark="session", groups=other.groups))
    while not read_records(records_of(tmp_path, other.me)):  # noqa: ASYNC110 - nobody tells of a file
        await asyncio.sleep(0)
    other.close()
    other.close()
    assert owners.is_dead(other.me)
    assert await owners.bury(other.me) == Burial(ended=1)
    assert await command.wait() == -signal.SIGKILL
    command.close()


async def test_what_a_dead_owner_wrote_down_goes_with_it(tmp_path: Path) -> None:
    """And what an owner wrote that ends in peace."""
    one, two = OwnerLocks(tmp_path, "one"), OwnerLocks(tmp_path, "two")
    for owner in (one, two):
        owner.groups.notes.mkdir()
        (owner.groups.notes / "a note").write_text("here")
    os.close(one._file)  # what its death does to its lock
    await two.sweep()
    two.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["locks", "named", "shared"])
async def test_every_kind_of_owners_keeps_the_ports_promise(tmp_path: Path, kind: str) -> None:
    """The living are not buried, oneself included; the dead may be buried twice."""
    named = NamedOwners("me")
    named.dead.add(DEAD)
    locks = OwnerLocks(tmp_path, "me")
    living = OwnerLocks(tmp_path, "living")
    kinds: dict[str, Owners] = {"locks": locks, "named": named, "shared": OwnersByLock("me", {DEAD})}
    some = kinds[kind]
    for owner in (some.me, living.me):
        assert not some.is_dead(owner)
        with pytest.raises(OwnerLives):
            await some.bury(owner)
    for _ in range(2):
        assert some.is_dead(DEAD)
        assert await some.bury(DEAD) == Burial()
    living.close()
    locks.close()
