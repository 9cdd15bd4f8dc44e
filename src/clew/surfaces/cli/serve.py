"""`clew serve`: the gateway as a process. SIGTERM and SIGINT let what runs end; a replaced package ends with exit code 75."""

from __future__ import annotations

import asyncio
import signal
import sys

import click
import structlog

from clew.surfaces.cli.codes import Exit
from clew.surfaces.cli.host import Host


@click.command()
@click.option("--check", is_flag=True, help="Ask every platform whether it takes us, and end.")
@click.pass_obj
def serve(host: Host, check: bool) -> int:
    """Talk to people on chat platforms (Telegram, Matrix)."""
    _log_to_stderr()
    return asyncio.run(_check(host) if check else _serve(host))


async def _serve(host: Host) -> int:
    loop = asyncio.get_running_loop()
    async with host.gateway() as gateway:
        await host.import_own_modules()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, gateway.stop)
        try:
            await gateway.run()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
    return Exit.DONE


async def _check(host: Host) -> int:
    async with host.gateway() as gateway:
        wrong = await gateway.check()
    for sentence in wrong:
        click.echo(sentence, err=True)
    if not wrong:
        click.echo("Every platform takes us.")
    return Exit.FAILED if wrong else Exit.DONE


def _log_to_stderr() -> None:
    """One line an event: ids and reasons, no word of what anybody said."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
