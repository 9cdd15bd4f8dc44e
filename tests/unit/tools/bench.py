"""A session's toolbox on a workbench: run a tool by name, see what it showed and what it told the session."""

from __future__ import annotations

import asyncio
from pathlib import Path

from clew.adapters.processes.groups import StartedGroups
from clew.adapters.tools.toolbox import LocalToolbox, ToolboxOptions
from clew.domain.conversation.ids import LOCAL, OwnerId, SessionId, call_id
from clew.domain.tools.spec import JsonObject, ToolResult
from clew.runtime.ports.tools import Tool, ToolContext

SESSION = SessionId("0123456789ab")


def started_groups(directory: Path) -> StartedGroups:
    """Beside the directory, which tests look into."""
    return StartedGroups(directory.parent, OwnerId(directory.name))


class Bench:
    """`shown` holds what came as progress, `told` the events; `heard` is set at each of them."""

    def __init__(self, options: ToolboxOptions) -> None:
        self.options = options
        self.box = LocalToolbox(options, started_groups(options.cwd))
        self.shown = ""
        self.told: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.heard = asyncio.Event()
        self._calls = 0

    def tool(self, name: str) -> Tool:
        return next(tool for tool in self.box.tools() if tool.spec.name == name)

    def context(self, cwd: Path | None = None) -> ToolContext:
        self._calls += 1
        return ToolContext(
            session=SESSION,
            principal=LOCAL,
            call=call_id(SESSION, 1, 1, self._calls),
            cwd=cwd or self.options.cwd,
            progress=self._show,
            notify=self._tell,
        )

    async def run(self, name: str, **arguments: object) -> ToolResult:
        return await self.run_with(name, arguments)

    async def run_with(self, name: str, arguments: JsonObject, cwd: Path | None = None) -> ToolResult:
        return await self.tool(name).run(arguments, self.context(cwd))

    def _show(self, text: str) -> None:
        self.shown += text
        self.heard.set()

    async def _tell(self, kind: str, text: str) -> None:
        await self.told.put((kind, text))

    async def hear(self, words: str) -> None:
        """Waits until these words were shown."""
        while words not in self.shown:
            self.heard.clear()
            await self.heard.wait()


def lives(pid: int) -> bool:
    """Whether a process runs; one that ended and was not collected yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
