"""`clew reminders`: what is to be said later to whoever sits here."""

from __future__ import annotations

import click

from clew.domain.conversation.ids import LOCAL
from clew.domain.ledger.rows import JobRow
from clew.domain.reminders.schedule import Reminder, in_words
from clew.runtime.reminders import Reminders
from clew.runtime.talk import Services
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.opened import with_services
from clew.surfaces.cli.output import json_line, shown


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_context
def reminders(ctx: click.Context, as_json: bool) -> None:
    """List your reminders, the next first.

    `/remind in 20m tea` keeps one: in a chat, or by `clew run`.
    """
    if ctx.invoked_subcommand is not None:
        return
    host: Host = ctx.obj
    if as_json:
        rows = with_services(host, lambda services: _of(services).waiting(LOCAL))
        click.echo(json_line([_public(row, reminder) for row, reminder in rows]))
    else:
        click.echo(shown(with_services(host, lambda services: _of(services).listed(LOCAL))))


@reminders.command()
@click.argument("number", type=int)
@click.pass_obj
def cancel(host: Host, number: int) -> None:
    """Take back the reminder NUMBER."""
    click.echo(shown(with_services(host, lambda services: _of(services).cancel(LOCAL, number))))


def _of(services: Services) -> Reminders:
    assert services.reminders is not None, "the ledger of a home keeps them"
    return services.reminders()


def _public(row: JobRow, reminder: Reminder) -> dict[str, object]:
    """Times are milliseconds since 1970."""
    return {
        "number": row.id,
        "text": reminder.text,
        "due_at": reminder.due_ms,
        "timezone": reminder.zone,
        "every": in_words(reminder.schedule) or None,
        "session": row.session,
    }
