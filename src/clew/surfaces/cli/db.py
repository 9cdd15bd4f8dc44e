"""`clew db`: check, back up, restore and look after the ledger's files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from clew.surfaces.cli.codes import Exit
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.output import json_line


@click.group()
def db() -> None:
    """Look after the ledger."""


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of findings.")
@click.pass_obj
def check(host: Host, as_json: bool) -> int:
    """Verify every promise of the ledger. Exit code 1 when something is wrong."""
    findings = host.keeper().check()
    if as_json:
        click.echo(json_line(findings))
    else:
        for finding in findings:
            click.echo(f"{finding.place}: {finding.sentence}")
        if not findings:
            click.echo("The ledger is sound.")
    return Exit.FAILED if findings else Exit.DONE


@db.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.pass_obj
def backup(host: Host, target: Path) -> None:
    """Copy the ledger to TARGET, also while Clew is running. Never overwrites."""
    size = host.keeper().backup(target)
    click.echo(f"Wrote {size} bytes to {target}.")


@db.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.pass_obj
def restore(host: Host, source: Path) -> None:
    """Put the backup SOURCE in the ledger's place.

    The replaced one is kept aside.
    """
    aside = host.keeper().restore(source)
    click.echo(f"Restored from {source}." + (f" The ledger that was here is now {aside}." if aside else ""))


@db.command("rebuild-search")
@click.pass_obj
def rebuild_search(host: Host) -> None:
    """Drop the search index and build it anew."""
    count = asyncio.run(host.keeper().rebuild_search())
    click.echo(f"Indexed {count} messages.")


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def stats(host: Host, as_json: bool) -> None:
    """Rows and bytes."""
    found = host.keeper().stats()
    if as_json:
        click.echo(json_line(dict(found)))
        return
    for name, value in found.items():
        click.echo(f"{name:28} {value}")
