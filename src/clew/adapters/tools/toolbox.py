"""The tools of one session on this machine, and everything they started."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any, Final

import msgspec

from clew.adapters.processes.groups import StartedGroups
from clew.adapters.processes.tree import end_tree
from clew.adapters.processes.uninterrupted import to_the_end
from clew.adapters.tools.commands import Origin
from clew.adapters.tools.declared import DeclaredTool
from clew.adapters.tools.files import edit_tool, write_tool
from clew.adapters.tools.finding import glob_tool, grep_tool
from clew.adapters.tools.limits import TimeLimits
from clew.adapters.tools.memory import memory_tool
from clew.adapters.tools.plan import plan_tool
from clew.adapters.tools.processes import BackgroundProcesses, process_output_tool
from clew.adapters.tools.reading import read_tool
from clew.adapters.tools.schedule import schedule_tool
from clew.adapters.tools.search import session_search_tool
from clew.adapters.tools.sending import send_file_tool
from clew.adapters.tools.shell import Shell, ShellState, shell_tool
from clew.adapters.tools.web import WebReader, web_fetch_tool
from clew.adapters.tools.web_search import WebSearch, web_search_tool
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.memory import Remembers
from clew.runtime.ports.reminders import Scheduler
from clew.runtime.ports.tools import Terminals, TextFiles, Tool

OUR_KEYS: Final = frozenset({"CLEW_API_KEY", "CLEW_DATABASE_URL"})


class ToolboxOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a session's tools are made for. Without `ledger`, `scheduler`, `memory` or `web_search` their tools are not offered."""

    cwd: Path
    """The session's directory: the one its contexts name."""
    tool_output_bytes: int = 50_000
    limits: TimeLimits = TimeLimits()
    allow_private_addresses: bool = False
    web_search: WebSearch | None = None
    ledger: Ledger | None = None
    scheduler: Scheduler | None = None
    memory: Remembers | None = None
    files: TextFiles | None = None
    """Where text files are read and written, if not on the disk: in an editor."""
    terminals: Terminals | None = None
    """Where commands are run, if not by ourselves: in an editor. Those in the background are ours all the same."""
    sends_bytes_max: int = 0
    """The largest file that can be sent to the person; 0 for none."""
    hidden_variables: frozenset[str] = OUR_KEYS
    """Variables of our environment that hold keys, which commands do not get to see."""


class LocalToolbox:
    """Satisfies the `Toolbox` port. `processes` is what `/ps` and `/kill` act on."""

    def __init__(self, options: ToolboxOptions, groups: StartedGroups) -> None:
        self._origin = Origin(
            mark=secrets.token_hex(8), groups=groups, hidden_variables=options.hidden_variables
        )
        self._state = ShellState(groups.notes)
        self.processes = BackgroundProcesses(self._origin, options.tool_output_bytes)
        self._tools = tuple(sorted(self._built(options), key=lambda tool: tool.spec.name))

    def _built(self, options: ToolboxOptions) -> list[DeclaredTool[Any]]:
        base, size, writing = options.cwd, options.tool_output_bytes, asyncio.Lock()
        shell = Shell(
            state=self._state,
            processes=self.processes,
            origin=self._origin,
            output_bytes=size,
            terminals=options.terminals,
        )
        tools: list[DeclaredTool[Any]] = [
            read_tool(base, size, options.files),
            write_tool(base, writing, options.files),
            edit_tool(base, writing, options.files),
            glob_tool(base, size, options.limits.search_seconds),
            grep_tool(base, size, options.limits.search_seconds),
            shell_tool(base, shell),
            process_output_tool(self.processes),
            plan_tool(),
            web_fetch_tool(
                WebReader(allow_private=options.allow_private_addresses, limits=options.limits), size
            ),
        ]
        if options.sends_bytes_max:
            tools.append(send_file_tool(base, options.sends_bytes_max))
        if options.web_search is not None:
            tools.append(web_search_tool(options.web_search, size))
        if options.ledger is not None:
            tools.append(session_search_tool(options.ledger, size))
        if options.scheduler is not None:
            tools.append(schedule_tool(options.scheduler))
        if options.memory is not None:
            tools.append(memory_tool(options.memory))
        return tools

    def tools(self) -> tuple[Tool, ...]:
        """By name, so that the list a session is frozen with never depends on anything else."""
        return self._tools

    async def close(self) -> None:
        """Ends every process the tools started, daemons included. Idempotent; finishes even when cancelled."""
        await to_the_end(self._close())

    async def _close(self) -> None:
        await self.processes.close()
        await end_tree(None, self._origin.mark)
        self._state.close()
