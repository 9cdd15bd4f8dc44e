"""`clew serve`: the gateway as a process. SIGTERM and SIGINT let what runs end; a replaced package ends with exit code 75."""

from __future__ import annotations

import asyncio
import gc
import signal
from typing import Final

import click

from clew.runtime.ports.platforms import PlatformError
from clew.surfaces.cli.codes import Exit
from clew.surfaces.cli.doctor import examined, say_all
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.logs import log_to_stderr

NEW_OBJECTS: Final = (10_000, 3, 3)
"""How many more there are than before when the collector looks for rings among them, and how many such looks come to one
at what is older. A turn leaves a ring of some 100 objects, a request without a session one of 170."""


@click.command()
@click.option("--check", is_flag=True, help="Say what is ready and what is not, a line each, and end.")
@click.pass_obj
def serve(host: Host, check: bool) -> int:
    """Talk to people on chat platforms, and to programs over HTTP.

    Telegram, Matrix and WhatsApp, and clients of OpenAI's API; docs/gateway.md and docs/http.md say how. Stop it by Ctrl-C
    or SIGTERM: what runs is given time to end.
    """
    if check:
        return _check(host)
    log_to_stderr(host.settings().gateway.log)
    return asyncio.run(_serve(host))


async def _serve(host: Host) -> int:
    loop = asyncio.get_running_loop()
    async with host.gateway() as gateway:
        await host.import_own_modules()
        _spare_what_stays()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, gateway.stop)
        try:
            await gateway.run()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
    return Exit.DONE


def _spare_what_stays() -> None:
    """What was imported stays as long as the process, so the collector need not walk through it again, nor after every 700
    new objects: with 200 turns under way that took a seventh of the time, a tenth of a second at once."""
    gc.collect()
    gc.freeze()
    gc.collect()  # by what is left it judges from here on how much has come to be
    gc.set_threshold(*NEW_OBJECTS)


def _check(host: Host) -> int:
    """What `clew doctor` looks at, then each platform and the address that is listened on. Raises ConfigError."""
    code = say_all(examined(host))
    host.settings()
    return max(code, say_all(asyncio.run(_platforms(host))))


async def _platforms(host: Host) -> list[tuple[str, str | None]]:
    try:
        async with host.gateway() as gateway:
            return await gateway.check()
    except PlatformError as error:
        return [("platforms", str(error))]
