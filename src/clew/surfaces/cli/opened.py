"""One piece of work on opened services, for commands that do one thing and end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import click

from clew.runtime.talk import Services
from clew.surfaces.cli.host import Host

P = ParamSpec("P")
T = TypeVar("T")


def with_services(host: Host, work: Callable[[Services], Awaitable[T]]) -> T:
    """Opens everything, does the work, closes everything."""

    async def opened() -> T:
        async with host.services() as services:
            return await work(services)

    return asyncio.run(opened())


def opened(work: Callable[Concatenate[Services, P], Awaitable[T]]) -> Callable[P, T]:
    """A command of work that is done on opened services."""

    @wraps(work)
    def command(host: Host, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return with_services(host, lambda services: work(services, *args, **kwargs))

    return click.pass_obj(command)
