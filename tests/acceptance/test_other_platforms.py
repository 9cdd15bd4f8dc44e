"""Chat platforms of other packages, as they are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from clew.testing.command_line import CommandLine, Ran

pytestmark = pytest.mark.anyio
PROGRAM = """
from pathlib import Path
from clew.testing.fake_platform import FakeChats, FakePlatform
Path(__file__).with_name("imported").touch()
def make(token, options):
    assert (token, options) == ("t0ken", {"server": "chat.example.org"})
    return FakePlatform(FakeChats())
"""
NAMED = """
[gateway.platforms.{name}]
token_env = "FAKE_TOKEN"
options = {{ server = "chat.example.org" }}
"""


def installed(site: Path) -> None:
    """A distribution as an installer leaves it."""
    info = site / "clew_fake-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clew-fake\nVersion: 1.0\n")
    points = "[clew.platforms]\nfake = clew_fake_platform:make\nbroken = no_such_module:make\nother = clew_fake_platform:make\n"
    (info / "entry_points.txt").write_text(points)
    (site / "clew_fake_platform.py").write_text(PROGRAM)


async def test_a_platform_is_loaded_when_the_settings_name_it(tmp_path: Path) -> None:
    """Imported only then; one that is missing, broken, without its token or under another's name is one sentence."""
    site, home = tmp_path / "site", tmp_path / "home"
    installed(site)
    home.mkdir()
    clew = CommandLine(home, "http://127.0.0.1:9/v1")

    async def check(name: str = "", token: str = "t0ken") -> Ran:
        (home / "config.toml").write_text(NAMED.format(name=name) if name else "")
        environ = {"PYTHONPATH": str(site), "FAKE_TOKEN": token, "CLEW__HTTP__ENABLED": "false"}
        return await clew.run("serve", "--check", environ=environ)

    assert (await check()).code == 2
    assert not (site / "imported").exists()
    for name, token, sentence in (
        ("none", "t0ken", "no installed package offers the chat platform none; there is broken, fake, other"),
        ("broken", "t0ken", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ("other", "t0ken", "the chat platform other calls itself fake"),
        ("fake", "", "there is no token in FAKE_TOKEN"),
        ("fake", "wrong", "the chat platform fake cannot be loaded: AssertionError"),
    ):
        ended = await check(name, token)
        assert (ended.code, sentence in ended.err, ended.err.count("\n")) == (2, True, 1), ended.err
    ended = await check("fake")
    assert "ok  fake as bot" in ended.out, ended
