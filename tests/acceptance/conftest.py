"""What most of the acceptance tests begin with: a model server that says everything back, and a Clew that asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, echo
from tests.acceptance.chatting import KEY, Chat, Server, served


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(echo) as opened:
        yield opened


@pytest.fixture
def clew(tmp_path: Path, server: ModelServer) -> CommandLine:
    """Its commands, in a home of its own."""
    return CommandLine(tmp_path / "home", server.base_url)


@pytest.fixture
def scripted() -> Iterator[Server]:
    """A server in a process of its own, for chats: it says what a test gives it."""
    yield from served("--echo", "--key", KEY)


@pytest.fixture
def chat(tmp_path: Path) -> Chat:
    """Its chat, at a terminal."""
    return Chat(tmp_path)
