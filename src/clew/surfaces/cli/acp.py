"""`clew acp`: an agent for editors, over standard input and output."""

from __future__ import annotations

import asyncio
import sys

import click

from clew.surfaces.cli.codes import Exit, UsageError
from clew.surfaces.cli.host import Host


@click.command()
@click.option("--setup", is_flag=True, help="Choose a model in this terminal instead; editors offer this.")
@click.option(
    "--check", is_flag=True, help="Talk to itself as an editor would, and print what that would see."
)
@click.pass_obj
def acp(host: Host, setup: bool, check: bool) -> int:
    """Be an agent in an editor (Agent Client Protocol).

    Editors start this, and speak to it over standard input and output; docs/editors.md says how.
    """
    if setup:
        from clew.surfaces.cli.setup import run_setup  # noqa: PLC0415  prompt_toolkit: 0.08 s that no editor waits for

        return Exit.DONE if run_setup(host) else Exit.INTERRUPTED
    if check:
        return Exit.DONE if asyncio.run(host.check_editor(click.echo)) else Exit.FAILED
    if sys.stdin.isatty():
        raise UsageError("`clew acp` is started by an editor, which speaks to it; docs/editors.md says how.")
    outdated = asyncio.run(host.serve_editor())
    if outdated is None:
        return Exit.DONE
    click.echo(f"clew: {outdated}", err=True)
    return Exit.RESTART
