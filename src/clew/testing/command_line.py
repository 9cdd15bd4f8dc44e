"""The real command in real processes, against a scripted model server."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return msgspec.json.decode(self.out)


class CommandLine:
    """Runs `clew` in a home of its own, with nothing of the surrounding environment that could choose a model."""

    def __init__(
        self,
        home: Path,
        base_url: str = "",
        *,
        model: str = "scripted-model",
        key: str = "sk-test-key",
        module: str = "clew",
    ) -> None:
        """`module` is what is run: `clew.testing.crashing` can do more to itself."""
        self._module = module
        self.home = home
        self.cwd = home.parent
        self.environ = _clean_environment()
        self.environ["CLEW_HOME"] = str(home)
        self.environ["CLEW__TITLES__ENABLED"] = "false"  # a script of a model's answers has none for them
        if base_url:
            self.environ |= {"CLEW_BASE_URL": base_url, "CLEW_MODEL": model, "CLEW_API_KEY": key}

    async def start(
        self, *arguments: str, environ: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """A running process with pipes; the caller ends it."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", self._module, *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            cwd=self.cwd, env={**self.environ, **(environ or {})}, start_new_session=True,
        )  # fmt: skip

    async def run(self, *arguments: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None) -> Ran:
        """Runs to the end; killed with its whole group after 50 seconds."""
        process = await self.start(*arguments, environ=environ)
        try:
            async with asyncio.timeout(50):
                out, err = await process.communicate(stdin)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
        return Ran(code=process.returncode or 0, out=out.decode(), err=err.decode())


def _clean_environment() -> dict[str, str]:
    kept = {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "COVERAGE_PROCESS_START", "PYTHONPATH"}
    return {name: value for name, value in os.environ.items() if name in kept}
