"""`clew config`: read and write settings."""

from __future__ import annotations

import click

from clew.config.commands import get_setting, list_settings, set_setting, unset_setting
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.output import json_line


@click.group(invoke_without_command=True)
@click.pass_context
def config(ctx: click.Context) -> None:
    """Show and change settings.

    Alone it shows the ones that are not defaults. docs/settings.md says what each one does.

    \b
    clew config set turn.busy steer
    clew config unset turn.busy
    """
    if ctx.invoked_subcommand is None:
        _show(ctx.obj, everything=False, as_json=False)


@config.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def list_(host: Host, as_json: bool) -> None:
    """Every setting, its value and where it comes from."""
    _show(host, everything=True, as_json=as_json)


def _show(host: Host, *, everything: bool, as_json: bool) -> None:
    rows = [row for row in list_settings(host.home, host.environ) if everything or row.source != "default"]
    if as_json:
        click.echo(json_line(rows))
        return
    for row in rows:
        origin = "" if row.source == "default" else f"   ({row.source})"
        click.echo(f"{row.key} = {json_line(row.value)}{origin}")
    if not rows:
        click.echo(f"Everything is at its default; {host.home.config} holds no settings.", err=True)


@config.command()
@click.argument("key")
@click.pass_obj
def get(host: Host, key: str) -> None:
    """The value of KEY."""
    value = get_setting(host.home, host.environ, key).value
    click.echo(value if isinstance(value, str) else json_line(value))


@config.command("set")
@click.argument("key")
@click.argument("value")
@click.pass_obj
def set_(host: Host, key: str, value: str) -> None:
    """Write KEY = VALUE to config.toml."""
    change = set_setting(host.home, host.environ, key, value)
    click.echo(f"{change.key} = {get_setting(host.home, host.environ, key).value}")
    if change.overridden_by:
        click.echo(f"{change.overridden_by} is set in the environment and wins over it.", err=True)


@config.command()
@click.argument("key")
@click.pass_obj
def unset(host: Host, key: str) -> None:
    """Take KEY out of config.toml."""
    change = unset_setting(host.home, host.environ, key)
    click.echo(f"{change.key} is at its default again." if change.changed else f"{change.key} was not set.")


@config.command()
@click.pass_obj
def path(host: Host) -> None:
    """Where config.toml is."""
    click.echo(str(host.home.config))
