"""hermes-agent beside us, where it is installed: PEER_PY names the Python it is installed for.

It runs in a process of its own, on the same disk, in the same run; its figures are medians.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[1]
_SECONDS_MAX: Final = 900.0


class Peer:
    """Answers nothing when it is not installed."""

    def __init__(self, python: str | None, scratch: Path) -> None:
        self._python = python
        self._scratch = scratch

    async def median(self, job: str, *arguments: str) -> float | None:
        """The one figure of a job, in seconds."""
        return (await self.figures(job, *arguments)).get(job)

    async def figures(self, job: str, *arguments: str) -> dict[str, float]:
        """Medians in seconds by what was measured. Raises RuntimeError when the peer fails."""
        if self._python is None:
            return {}
        home = self._scratch / f"peer-{job}-{'-'.join(arguments)}"
        home.mkdir()
        process = await asyncio.create_subprocess_exec(
            *(self._python, "-m", "benchmarks.peer_hermes", job, *arguments),
            cwd=_ROOT,
            env={**os.environ, "HERMES_HOME": str(home), "HOME": str(home)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), _SECONDS_MAX)
        except TimeoutError:
            process.kill()
            await process.wait()
            return {}
        if process.returncode:
            raise RuntimeError(f"hermes-agent failed at {job}: {errors.decode()[-2000:]}")
        figures: dict[str, float] = json.loads(output.splitlines()[-1])
        return figures
