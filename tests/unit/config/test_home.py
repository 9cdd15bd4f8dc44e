"""The home directory: private from its first moment, and said in words when it cannot be used."""

import os
import stat
import threading
from pathlib import Path

import pytest

from clew.config.errors import HomeError
from clew.config.home import Home, ensure_home, exclusive, find_home, write_atomically


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_clew_home_names_the_directory(tmp_path: Path) -> None:
    """CLEW_HOME is taken as it is, and every promised file stands in it."""
    home = find_home({"CLEW_HOME": str(tmp_path / "h")})
    names = {
        p.name
        for p in (home.config, home.secrets, home.ledger, home.search, home.models, home.logs, home.run)
    }
    assert names == {"config.toml", "secrets.toml", "clew.db", "clew-search.db", "models", "logs", "run"}
    assert home.root == tmp_path / "h"


@pytest.mark.parametrize("environ", [{}, {"CLEW_HOME": ""}])
def test_without_clew_home_it_is_the_users(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An unset or empty CLEW_HOME means ~/.clew."""
    monkeypatch.setenv("HOME", "/home/ariadne")
    assert find_home(environ).root == Path("/home/ariadne/.clew")


def test_a_relative_home_does_not_move_with_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative CLEW_HOME is made absolute once."""
    monkeypatch.chdir(tmp_path)
    assert find_home({"CLEW_HOME": "here/../there"}).root == tmp_path / "there"


def test_a_new_home_is_private(tmp_path: Path) -> None:
    """Every directory made on first use is 0700, also with missing parents and a careless umask."""
    home = Home(tmp_path / "a" / "b")
    before = os.umask(0)
    try:
        ensure_home(home)
    finally:
        os.umask(before)
    assert {mode(p) for p in (home.root, home.models, home.logs, home.run)} == {0o700}


def test_an_existing_home_keeps_its_mode(tmp_path: Path) -> None:
    """A home somebody made is used as it is, any number of times."""
    tmp_path.chmod(0o750)
    ensure_home(Home(tmp_path))
    ensure_home(Home(tmp_path))
    assert mode(tmp_path) == 0o750


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    """A file where a directory should be is named, with what to do."""
    (tmp_path / "run").write_text("")
    with pytest.raises(HomeError, match=r"/run is not a directory: move it away, or set CLEW_HOME"):
        ensure_home(Home(tmp_path))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place where not even root can write")
def test_a_place_that_cannot_be_written_is_said() -> None:
    """The sentence names the place and the way out."""
    with pytest.raises(HomeError, match=r"^/proc/clew cannot be written \(.+\): set CLEW_HOME"):
        ensure_home(Home(Path("/proc/clew")))


def test_a_write_keeps_the_mode_and_follows_a_link(tmp_path: Path) -> None:
    """A configuration that is a link to another directory stays one, with its mode."""
    kept = tmp_path / "dotfiles" / "config.toml"
    kept.parent.mkdir()
    kept.write_text("old")
    kept.chmod(0o644)
    link = tmp_path / "config.toml"
    link.symlink_to(kept)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert kept.read_text() == "new"
    assert mode(kept) == 0o644


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """What cannot be replaced stays, and no draft stays beside it."""
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(HomeError, match="cannot be written"):
        write_atomically(tmp_path / "config.toml", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["config.toml"]


def test_a_new_file_is_private_before_it_holds_a_byte(tmp_path: Path) -> None:
    """No umask makes a new file readable by others."""
    before = os.umask(0)
    try:
        write_atomically(tmp_path / "secrets.toml", b"x")
    finally:
        os.umask(before)
    assert mode(tmp_path / "secrets.toml") == 0o600


def test_only_one_at_a_time_may_change_a_home(tmp_path: Path) -> None:
    """Whoever comes second waits until the first is done."""
    home, order, entered = Home(tmp_path), list[str](), threading.Event()

    def second() -> None:
        entered.set()
        with exclusive(home):
            order.append("second")

    with exclusive(home):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        thread.join(timeout=0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
