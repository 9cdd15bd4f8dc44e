"""`clew doctor`: what works, what does not, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import click

from clew.runtime.ports.models import ModelUnavailable
from clew.surfaces.cli.codes import EXPECTED, Exit
from clew.surfaces.cli.host import Finding, Host

SHOWN_MAX: Final = 5
"""Of jobs and turns, the newest: a model that is gone for a day fails a job for every session."""


@click.command()
@click.pass_obj
def doctor(host: Host) -> int:
    """Check home, settings, ledger and model."""
    return say_all(examined(host))


def say_all(findings: Iterable[tuple[str, str | None]]) -> Exit:
    """One line each: what was looked at, and the problem if there is one. Returns the exit code."""
    healthy = True
    for name, problem in findings:
        click.echo(f"{'ok ' if problem is None else 'NOT'} {name}{'' if problem is None else ': ' + problem}")
        healthy = healthy and problem is None
    return Exit.DONE if healthy else Exit.FAILED


def examined(host: Host) -> Iterator[tuple[str, str | None]]:
    """Home, settings, ledger and model; ends at settings that cannot be read."""
    home = host.home.root
    yield f"home {home}", "is not a directory" if home.exists() and not home.is_dir() else None
    try:
        host.settings()
    except EXPECTED as error:
        yield "settings", str(error)
        return
    yield "settings", None
    try:
        findings = host.keeper().check() if host.home.ledger.exists() else ()
        yield "ledger", findings[0].sentence if findings else None
        given_up = host.keeper().given_up() if host.home.ledger.exists() else ()
        yield "jobs", _newest(given_up)
        left = host.keeper().left_open() if host.home.ledger.exists() else ()
        yield "turns", _newest(left)
    except EXPECTED as error:
        yield "ledger", str(error)
    yield asyncio.run(_model(host))


def _newest(found: Sequence[Finding]) -> str | None:
    """The last few in words, and how many there are before them; None for none."""
    before = len(found) - SHOWN_MAX
    more = [f"and {before} before these"] if before > 0 else []
    return "; ".join((*(each.sentence for each in found[-SHOWN_MAX:]), *more)) or None


async def _model(host: Host) -> tuple[str, str | None]:
    async with host.models() as models:
        try:
            detected = await models.detect()
            if detected is None:
                return "model", "none is configured or found: run `clew setup`"
            choice = await models.choose(None)
            names = await choice.client.models()
        except ModelUnavailable as error:
            return "model", str(error)
    known = "" if detected.name in names else " (not in the provider's list)"
    return f"model {detected.name}{known}: {detected.reason}", None
