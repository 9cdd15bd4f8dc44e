"""The tools of a session: the local ones, and those of its MCP servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from clew.adapters.mcp.servers import McpServers
from clew.adapters.mcp.settings import McpLimits, McpServer
from clew.adapters.processes.groups import StartedGroups
from clew.adapters.tools.declared import ToolFailed
from clew.adapters.tools.processes import BackgroundProcesses
from clew.adapters.tools.toolbox import OUR_KEYS, LocalToolbox, ToolboxOptions
from clew.adapters.tools.web_search import Provider, WebSearch
from clew.bootstrap.ingredients import Ingredients
from clew.config.secrets import load_secrets
from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.runtime.commands.values import BackgroundProcess
from clew.runtime.ports.tools import Surroundings, Tool
from clew.runtime.talk import Notify


class ListedProcesses:
    """`Processes` for /ps and /kill over the toolbox's own."""

    def __init__(self, processes: BackgroundProcesses) -> None:
        self._processes = processes

    def listed(self) -> Sequence[BackgroundProcess]:
        return [
            BackgroundProcess(
                number=row.n, command=row.command, state=row.ended or f"running {row.seconds:.0f} s"
            )
            for row in self._processes.rows()
        ]

    async def kill(self, number: int) -> bool:
        try:
            await self._processes.kill(number)
        except ToolFailed:
            return False
        return True


class OpenedTools:
    """`SessionTools`: what one session can use, until it is closed."""

    def __init__(self, options: ToolboxOptions, groups: StartedGroups, servers: McpServers | None) -> None:
        self._made_of = (options, groups)
        self._toolbox = LocalToolbox(options, groups)
        self._servers = servers
        self.processes = ListedProcesses(self._toolbox.processes)
        self.problems: Sequence[str] = servers.problems if servers is not None else ()

    def tools(self) -> Sequence[Tool]:
        return (*self._toolbox.tools(), *(self._servers.tools() if self._servers is not None else ()))

    def beside(self) -> OpenedTools:
        return OpenedTools(*self._made_of, self._servers.beside() if self._servers is not None else None)

    async def close(self) -> None:
        try:
            await self._toolbox.close()
        finally:
            if self._servers is not None:
                await self._servers.close()


class SettingsToolmaker:
    """Makes tools by the configuration: every session gets its own processes and servers."""

    def __init__(self, parts: Ingredients, surroundings: Surroundings) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._surroundings = surroundings

    async def open(
        self, session: SessionId, principal: PrincipalId, cwd: Path, notify: Notify
    ) -> OpenedTools:
        options = ToolboxOptions(
            cwd=cwd,
            tool_output_bytes=self._settings.limits.tool_output_bytes,
            allow_private_addresses=self._settings.tools.allow_private_addresses,
            web_search=self._web_search(),
            ledger=self._parts.ledger,
            scheduler=self._parts.remind() if self._parts.remind is not None else None,
            memory=self._parts.memory,
            files=self._surroundings.files,
            terminals=self._surroundings.terminals,
            sends_bytes_max=self._surroundings.sends_bytes_max,
            hidden_variables=self._hidden(),
        )
        return OpenedTools(options, self._parts.groups, await self._servers(cwd))

    async def _servers(self, cwd: Path) -> McpServers | None:
        """The session's own MCP servers, connected; those that do not start are said and left out. An editor's come
        first: where a tool of theirs has the name of one of the settings', theirs is the one that is offered."""
        if not self._settings.mcp and not self._surroundings.servers:
            return None
        servers = [McpServer(**msgspec.structs.asdict(s), cwd=cwd) for s in self._surroundings.servers] + [
            McpServer(**msgspec.structs.asdict(s), name=name, cwd=cwd)
            for name, s in self._settings.mcp.items()
        ]
        limits = McpLimits(output_bytes=self._settings.limits.tool_output_bytes)
        return await McpServers(servers, self._parts.groups, limits).__aenter__()

    def _web_search(self) -> WebSearch | None:
        wanted = self._settings.tools.web_search_provider
        if not wanted:
            return None
        key = load_secrets(self._parts.home, self._parts.environ).get(
            self._settings.tools.web_search_api_key_env
        )
        base_url = self._settings.tools.web_search_base_url
        return WebSearch(provider=Provider(wanted), base_url=base_url, api_key=key.reveal() if key else "")

    def _hidden(self) -> frozenset[str]:
        """Variables that hold keys: commands of the model do not get to see them."""
        own = {
            self._settings.model.api_key_env,
            self._settings.tools.web_search_api_key_env,
            self._settings.gateway.telegram.token_env,
            self._settings.gateway.telegram.webhook_secret_env,
            self._settings.gateway.matrix.token_env,
            self._settings.gateway.whatsapp.token_env,
            self._settings.gateway.whatsapp.app_secret_env,
            self._settings.gateway.whatsapp.verify_token_env,
        }
        own |= {other.token_env for other in self._settings.gateway.platforms.values()}
        return OUR_KEYS | {name for name in own if name}
