"""The one composition root: every object is made here and passed on; nothing is looked up anywhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path

from clew.config.home import Home, find_home
from clew.config.load import load
from clew.config.settings import ModelSettings, Settings
from clew.domain.ledger.errors import Outdated
from clew.installed import Installed
from clew.runtime.model_choice import DetectedModels
from clew.runtime.talk import UPDATED, Services
from clew.surfaces.cli.host import Keeper, Serving, Weights
from clew.surfaces.cli.main import main as run_command_line


class Program:
    """`Host` for the command line. What is slow to import is imported when a command opens it, here and nowhere else."""

    def __init__(self, environ: Mapping[str, str], installed: Installed) -> None:
        self.environ = environ
        self._installed = installed
        self._prewarm: Callable[[Path], None] | None = None

    @cached_property
    def home(self) -> Home:
        return find_home(self.environ)

    def settings(self) -> Settings:
        return load(self.home, self.environ).settings

    @asynccontextmanager
    async def services(self) -> AsyncIterator[Services]:
        from clew.bootstrap.services import opened_services  # noqa: PLC0415  SQLite and HTTP: 0.1 s

        async with opened_services(
            self.settings(), self.home, self.environ, self._installed.is_replaced
        ) as services:
            if self._installed.is_replaced():
                raise Outdated(
                    UPDATED
                )  # the ledger may have been opened by the migrations of another version
            self._prewarm = services.prewarm
            yield services

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[Serving]:
        from clew.bootstrap.gateway import open_gateway  # noqa: PLC0415  only for `clew serve`

        async with self.services() as services:
            yield await open_gateway(services, self.settings(), self.home, self.environ)

    async def import_own_modules(self) -> None:
        from clew.bootstrap.own_modules import import_own_modules  # noqa: PLC0415  for what runs long

        await import_own_modules()
        if self._prewarm is not None:
            self._prewarm(Path.cwd())

    async def serve_editor(self) -> Outdated | None:
        from clew.surfaces.acp.serving import serve  # noqa: PLC0415  the protocol's types

        return await serve(self)

    async def check_editor(self, tell: Callable[[str], None]) -> bool:
        from clew.surfaces.acp.check import check  # noqa: PLC0415  only for `clew acp --check`

        return await check(self.environ, Path.cwd(), tell)

    def keeper(self) -> Keeper:
        from clew.bootstrap.keeping import LedgerKeeper  # noqa: PLC0415  SQLite

        return LedgerKeeper(self.home)

    def weights(self) -> Weights:
        from clew.bootstrap.models import EmbeddedWeights  # noqa: PLC0415  HTTP client

        return EmbeddedWeights(self.home.models)

    @asynccontextmanager
    async def models(
        self, settings: ModelSettings | None = None, *, keys: Mapping[str, str] | None = None
    ) -> AsyncIterator[DetectedModels]:
        from clew.bootstrap.models import opened_models  # noqa: PLC0415  HTTP client

        # What setup tries stands by itself: it has to work also where the file is what is wrong.
        chosen = Settings(model=settings) if settings is not None else self.settings()
        async with opened_models(chosen, self.home, {**self.environ, **(keys or {})}) as models:
            yield models


def main(installed: Installed, arguments: list[str] | None = None) -> int:
    """The command `clew`. Returns the exit code."""
    return run_command_line(Program(os.environ, installed), sys.argv[1:] if arguments is None else arguments)
