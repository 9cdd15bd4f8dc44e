"""`clew setup` with flags, as a script uses it."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, Served, echo

pytestmark = pytest.mark.anyio
KEY = "sk-right-key"


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(echo, models=("small", "large"), api_key=KEY) as running:
        yield running


@pytest.fixture
def clew(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "home")


async def test_a_server_is_set_up_and_answers(clew: CommandLine, server: ModelServer) -> None:
    """The key comes from standard input, is kept for its owner only, and is printed nowhere."""
    ran = await clew.run(
        "setup", "--base-url", server.base_url, "--model", "large", "--key-stdin", stdin=f"{KEY}\n".encode()
    )
    assert ran.code == 0, ran
    assert KEY not in ran.out + ran.err
    assert stat.S_IMODE((clew.home / "secrets.toml").stat().st_mode) == 0o600
    assert KEY not in (clew.home / "config.toml").read_text()
    answer = await clew.run("run", "--json", "hello")
    assert answer.json["text"] == "echo: hello"
    assert answer.json["usage"]["model"] == "large"


@pytest.mark.parametrize(
    ("arguments", "key", "code", "sentence"),
    [
        (("--base-url", "{url}", "--model", "small", "--key-stdin"), "sk-wrong", 1, "refused the API key"),
        (("--base-url", "{url}", "--key-stdin"), KEY, 1, "--model: large, small"),
        (("--base-url", "http://127.0.0.1:9/v1", "--model", "x"), "", 1, "Nothing answers"),
        (("--provider", "nobody"), "", 2, "no provider"),
        (("--provider", "openai", "--demo"), "", 2, "Use one of"),
        (("--model", "small"), "", 2, "Say where"),
        (("--base-url", "{url}", "--model", "small", "--key-stdin"), "", 2, "no key"),
        ((), "", 2, "at a terminal"),
    ],
)
async def test_what_does_not_work_changes_nothing(  # noqa: PLR0917
    clew: CommandLine, server: ModelServer, arguments: tuple[str, ...], key: str, code: int, sentence: str
) -> None:
    """One sentence, an exit code, and the files as they were."""
    filled = [argument.format(url=server.base_url) for argument in arguments]
    ran = await clew.run("setup", *filled, stdin=key.encode())
    assert (ran.code, ran.out) == (code, ""), ran
    assert sentence in ran.err
    assert "sk-wrong" not in ran.err
    assert not (clew.home / "config.toml").exists()
    assert not (clew.home / "secrets.toml").exists()


async def test_another_model_takes_the_place_of_the_first(clew: CommandLine, server: ModelServer) -> None:
    """Nothing of the first stays but its key; the rest of the configuration is left alone."""
    async with ModelServer([Served(text="hi")], models=("other",)) as second:
        key = KEY.encode()
        await clew.run("setup", "--base-url", server.base_url, "--model", "small", "--key-stdin", stdin=key)
        await clew.run("config", "set", "turn.max_steps", "7")
        ran = await clew.run("setup", "--base-url", second.base_url)
        assert ran.code == 0, ran
        written = (clew.home / "config.toml").read_text()
        assert 'name = "other"' in written
        assert "api_key_env" not in written
        assert "max_steps = 7" in written


async def test_the_environment_wins_and_that_is_said(clew: CommandLine, server: ModelServer) -> None:
    """Or somebody would wonder why nothing changed."""
    ran = await clew.run(
        "setup", "--base-url", server.base_url, "--model", "small", "--key-stdin",
        stdin=KEY.encode(), environ={"CLEW_MODEL": "mine"},
    )  # fmt: skip
    assert "CLEW_MODEL is set in the environment" in ran.err
