"""One piece of work on opened services, for commands that do one thing and end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from clew.runtime.talk import Services
from clew.surfaces.cli.host import Host

T = TypeVar("T")


def with_services(host: Host, work: Callable[[Services], Awaitable[T]]) -> T:
    """Opens everything, does the work, closes everything."""

    async def opened() -> T:
        async with host.services() as services:
            return await work(services)

    return asyncio.run(opened())
