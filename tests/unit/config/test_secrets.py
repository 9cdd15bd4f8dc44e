"""Secrets: private on disk, invisible in texts, and refused when somebody else could read them."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from clew.config.errors import SecretsError
from clew.config.home import Home
from clew.config.secrets import Secret, load_secrets, set_secret


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def kept(home: Home, name: str, **environ: str) -> str | None:
    secret = load_secrets(home, environ).get(name)
    return secret.reveal() if secret else None


def test_what_is_set_is_found_again(home: Home) -> None:
    """A secret survives byte for byte, whatever is in it."""
    for text in ("sk-1234", 'quote " and \\ and\nline', "κλωστή", "''' \"\"\" #"):
        set_secret(home, "KEY", text)
        assert kept(home, "KEY") == text
    assert kept(home, "OTHER") is None


def test_the_environment_comes_first(home: Home) -> None:
    """A container's key wins over the file, and an empty variable is none."""
    set_secret(home, "KEY", "file")
    assert kept(home, "KEY", KEY="environment") == "environment"
    assert kept(home, "KEY", KEY="") == "file"


def test_setting_one_keeps_the_others_and_the_comments(home: Home) -> None:
    """The file stays as its owner wrote it, but for the one secret."""
    set_secret(home, "A", "1")
    home.secrets.write_text("# work\nA = '1' # mine\nB = '2'\n")
    set_secret(home, "A", "9")
    assert home.secrets.read_text() == "# work\nA = \"9\" # mine\nB = '2'\n"


def test_the_file_is_private_from_the_first_byte(home: Home) -> None:
    """Whatever the umask, nobody else could ever read it."""
    before = os.umask(0)
    try:
        set_secret(home, "KEY", "sk-1234")
        set_secret(home, "KEY", "sk-5678")
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.secrets.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_file_others_may_use_is_refused(home: Home, mode: int) -> None:
    """No secret is used that others could have read or put there, nor is one added beside it."""
    set_secret(home, "KEY", "sk-1234")
    home.secrets.chmod(mode)
    with pytest.raises(SecretsError, match=r"may be used by others \(mode …\d\d\): run `chmod 600 "):
        load_secrets(home, {})
    with pytest.raises(SecretsError):
        set_secret(home, "OTHER", "sk-5678")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(home: Home) -> None:
    """A file somebody else owns is not ours to trust."""
    set_secret(home, "KEY", "sk-1234")
    os.chown(home.secrets, 12345, -1)
    with pytest.raises(SecretsError, match="belongs to another user"):
        load_secrets(home, {})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("KEY = sk-planted", "line 1, column 7: this is not TOML"),
        ("[KEY]\na = 'sk-planted'", "KEY has to be a text in quotes"),
        ("KEY = 'sk-planted\n", "this is not TOML"),
        ("KEY = '\udcff sk-planted'", "is not UTF-8 text"),
    ],
)
def test_a_broken_file_is_said_without_what_is_in_it(home: Home, text: str, sentence: str) -> None:
    """One sentence with the place, and no word of the file."""
    set_secret(home, "KEY", "x")
    home.secrets.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SecretsError) as caught:
        load_secrets(home, {})
    assert sentence in str(caught.value)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a-b", "a b", "a.b", "1A", "κ"])
def test_a_name_no_variable_could_have_is_refused(home: Home, name: str) -> None:
    """Every secret can be given by the environment too, so its name has to fit there."""
    with pytest.raises(SecretsError, match="the name of a secret has to be like the name of a variable"):
        set_secret(home, name, "x")
    assert not home.secrets.exists()


def test_a_secret_does_not_show_itself() -> None:
    """No repr, no str, no format and no codec gives a secret away."""
    secret = Secret("planted")
    assert "planted" not in f"{secret} {secret!r} {[secret]} {({secret: secret},)}"
    with pytest.raises(TypeError):
        msgspec.json.encode(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_two_processes_lose_none_of_each_others_secrets(home: Home) -> None:
    """A change is read, made and written under a lock, so both of two changes are there."""
    program = """
import sys
from pathlib import Path
from clew.config.home import Home
from clew.config.secrets import set_secret
for n in range(25):
    set_secret(Home(Path(sys.argv[1])), f"{sys.argv[2]}{n}", "x")
"""
    command = [sys.executable, "-c", program, str(home.root)]
    running = [subprocess.Popen([*command, name]) for name in "AB"]
    assert [process.wait() for process in running] == [0, 0]
    assert len(load_secrets(home, {}).names()) == 50
