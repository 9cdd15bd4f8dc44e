"""`clew sessions prune`: archive or delete old sessions. It shows what it would do, and does it when told so."""

from __future__ import annotations

import click

from clew.domain.conversation.ids import LOCAL
from clew.domain.ledger.commits import SessionPatch
from clew.domain.ledger.errors import NotFound
from clew.domain.ledger.rows import OpKind
from clew.runtime.commands.looking import when
from clew.runtime.talk import Services
from clew.surfaces.cli.host import Host, Old
from clew.surfaces.cli.opened import with_services
from clew.surfaces.cli.output import json_line

_DAYS = click.IntRange(0, 36_500)


@click.command()
@click.option(
    "--archive-days",
    type=_DAYS,
    help="Archive what was not used for so long (default: retention.archive_days).",
)
@click.option(
    "--delete-days", type=_DAYS, help="Delete what was not used for so long (default: retention.delete_days)."
)
@click.option(
    "--max-mb", type=click.IntRange(0), help="Delete the oldest beyond this size (default: retention.max_mb)."
)
@click.option("--yes", "-y", is_flag=True, help="Do it. Without this, only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def prune(  # noqa: PLR0917 - options of a command
    host: Host,
    archive_days: int | None,
    delete_days: int | None,
    max_mb: int | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Archive or delete old sessions.

    Never one in use, shared, or forked from. Shows the plan unless --yes.
    """
    rules = host.settings().retention
    planned = host.keeper().old_sessions(
        archive_days=rules.archive_days if archive_days is None else archive_days,
        delete_days=rules.delete_days if delete_days is None else delete_days,
        max_mb=rules.max_mb if max_mb is None else max_mb,
    )
    if as_json:
        click.echo(json_line(list(planned)))
    else:
        for old in planned:
            click.echo(
                f"{old.action:8} {old.session}  {when(old.last_active_at)}  {old.title or 'untitled'}  ({old.reason})"
            )
    if not planned:
        click.echo("Nothing is old enough.", err=True)
    elif not yes:
        click.echo("Nothing was changed; --yes does it.", err=True)
    else:
        done = with_services(host, lambda services: _carry_out(services, planned))
        click.echo(f"{done} of {len(planned)} done.", err=True)


async def _carry_out(services: Services, planned: tuple[Old, ...]) -> int:
    """One session at a time: what was cut short goes on the next time."""
    done = 0
    for old in planned:
        now = services.clock.now_ms()
        try:
            if old.action == "delete":
                await services.ledger.forget(LOCAL, old.session, now)
            else:
                await services.desk.change(LOCAL, old.session, SessionPatch(archived_at=now), OpKind.ARCHIVE)
        except NotFound:
            continue  # somebody else deleted it meanwhile
        done += 1
    return done
