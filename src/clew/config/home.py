"""The directory that holds everything of one Clew, and the names of the files in it.

Rule: what Clew creates there only its owner can read, from the first moment, and a write is either whole or
did not happen.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from clew.config.errors import HomeError

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


class Home(msgspec.Struct, frozen=True):
    """CLEW_HOME: an absolute path, which need not exist yet."""

    root: Path

    @property
    def config(self) -> Path:
        """What people set."""
        return self.root / "config.toml"

    @property
    def secrets(self) -> Path:
        """Keys and tokens, readable by the owner alone."""
        return self.root / "secrets.toml"

    @property
    def ledger(self) -> Path:
        """The one truth."""
        return self.root / "clew.db"

    @property
    def search(self) -> Path:
        """Derived from the ledger; may be deleted."""
        return self.root / "clew-search.db"

    @property
    def models(self) -> Path:
        """Weights of embedded models."""
        return self.root / "models"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Locks and sockets of living processes."""
        return self.root / "run"


def find_home(environ: Mapping[str, str]) -> Home:
    """`CLEW_HOME`, or `~/.clew` where it is unset or empty. Touches no disk. Raises HomeError."""
    named = environ.get("CLEW_HOME") or "~/.clew"
    try:
        return Home(Path(os.path.abspath(Path(named).expanduser())))
    except RuntimeError as error:
        raise HomeError(
            f"{named} cannot be found, because no home directory is known: set CLEW_HOME"
        ) from error


def ensure_home(home: Home) -> None:
    """Creates the home and its directories where they are missing. Raises HomeError.

    The permissions of a home that is there already are its owner's business and stay as they are.
    """
    try:
        home.root.parent.mkdir(parents=True, exist_ok=True)
        for directory in (home.root, home.models, home.logs, home.run):
            directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    except FileExistsError as error:
        raise HomeError(f"{error.filename} is not a directory: move it away, or set CLEW_HOME") from error
    except OSError as error:
        raise _unwritable(home.root, error.strerror or str(error)) from error
    if not os.access(home.root, os.W_OK | os.X_OK):
        raise _unwritable(home.root, "no permission to write there")


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file, or leaves it as it was; on disk when this returns. Raises HomeError.

    A new file can be read by its owner only, from its first byte; an existing one keeps its mode. A link is
    followed, so that a configuration kept elsewhere stays there.
    """
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        try:
            _write_new(draft, content, _mode_of(target))
            draft.replace(target)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        _sync_directory(target.parent)
    except OSError as error:
        raise HomeError(f"{path} cannot be written ({error.strerror or error})") from error


@contextmanager
def exclusive(home: Home) -> Iterator[None]:
    """Held between reading a file of the home and replacing it, or one of two processes' changes is lost."""
    directory = os.open(home.root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _unwritable(root: Path, why: str) -> HomeError:
    return HomeError(f"{root} cannot be written ({why}): set CLEW_HOME to a directory of your own")


def _mode_of(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return FILE_MODE


def _write_new(path: Path, content: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
