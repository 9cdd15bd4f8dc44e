"""What the tests of the chat share: a model server beside them, and chats in one home."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from clew.testing.command_line import CommandLine
from clew.testing.model_server import Served
from clew.testing.terminal import Person

READY = "Say something"
LINE = "\u276f"
"""What stands before the input line, and before what was sent."""
KEY = "sk-right-key"
CLEW = (sys.executable, "-m", "clew")


class Server:
    """The model server as a process of its own, because a test of the terminal has no event loop."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        port = msgspec.json.decode(process.stdout.readline())["port"]
        self.root = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.root}/v1"

    def answers(self, *steps: Served) -> None:
        """From now on these, in order; what was asked before is forgotten."""
        httpx.post(f"{self.root}/script", content=msgspec.json.encode(steps)).raise_for_status()

    def go_on(self) -> None:
        """An answer that paused comes to its end."""
        httpx.post(f"{self.root}/go_on").raise_for_status()

    @property
    def said(self) -> list[list[str]]:
        """What people said in each request."""
        bodies: list[Any] = httpx.get(f"{self.root}/requests").json()
        return [[_text(m) for m in body["messages"] if m["role"] == "user"] for body in bodies]


def _text(message: Any) -> str:
    content = message["content"]
    return str(content if isinstance(content, str) else content[0]["text"])


def served(*arguments: str) -> Iterator[Server]:
    """A server until the end of what it is yielded to."""
    command = [sys.executable, "-m", "clew.testing.model_server", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield Server(process)
        finally:
            process.terminate()


class Chat:
    """Opens chats in one home."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.cwd = folder / "project"
        self.cwd.mkdir()

    def opened(
        self,
        server: Server | None,
        *arguments: str,
        columns: int = 80,
        rows: int = 24,
        term: str = "linux",
        environ: Mapping[str, str] | None = None,
    ) -> Person:
        own = CommandLine(self.home, server.base_url if server else "", key=KEY).environ
        return Person(
            [*CLEW, *arguments],
            environ={**own, "TERM": term, **(environ or {})},
            cwd=self.cwd,
            columns=columns,
            rows=rows,
        )
