"""`clew model`: which models there are, which one answers, and the embedded one's weights."""

from __future__ import annotations

import asyncio

import click

from clew.config.commands import set_setting
from clew.runtime.ports.models import ModelUnavailable
from clew.surfaces.cli.codes import Exit, UsageError
from clew.surfaces.cli.host import Host, PullRefused
from clew.surfaces.cli.output import json_line


@click.group()
def model() -> None:
    """List, choose and pull models."""


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def list_(host: Host, as_json: bool) -> None:
    """What the configured provider offers, and the embedded models."""
    current, names = asyncio.run(_offered(host))
    weights = host.weights()
    embedded = {name: weights.is_pulled(name) for name in weights.names()}
    if as_json:
        click.echo(json_line({"current": current, "models": names, "embedded": embedded}))
        return
    for name in names:
        click.echo(f"{'*' if name == current else ' '} {name}")
    for name, pulled in embedded.items():
        click.echo(f"  embedded:{name} ({'pulled' if pulled else 'clew model pull ' + name})")


async def _offered(host: Host) -> tuple[str | None, list[str]]:
    async with host.models() as models:
        detected = await models.detect()
        if detected is None:
            return None, []
        choice = await models.choose(None)
        try:
            return detected.name, sorted(await choice.client.models())
        except ModelUnavailable as error:
            click.echo(f"clew: {error}", err=True)
            return detected.name, [detected.name]


@model.command()
@click.argument("name")
@click.pass_obj
def use(host: Host, name: str) -> None:
    """Make NAME the model of new turns (written to config.toml)."""
    change = set_setting(host.home, host.environ, "model.name", name)
    click.echo(f"model.name = {name}")
    if change.overridden_by:
        click.echo(f"{change.overridden_by} is set in the environment and wins over it.", err=True)


@model.command()
@click.argument("name", default="smollm2")
@click.pass_obj
def pull(host: Host, name: str) -> None:
    """Fetch the weights of an embedded model."""
    weights = host.weights()
    if name not in weights.names():
        raise UsageError(f"There is no embedded model {name}; there is {', '.join(weights.names())}.")
    if weights.is_pulled(name):
        click.echo(f"{name} is here already.", err=True)
        return
    pull_weights(host, name)


def pull_weights(host: Host, name: str) -> None:
    """Fetches them with a progress bar; nothing where they are here. Raises PullRefused."""
    if name in host.weights().names() and host.weights().is_pulled(name):
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn  # noqa: PLC0415  0.1 s

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {
            phase: bar.add_task(phase, total=None, visible=False)
            for phase in ("download", "unpack", "verify")
        }

        def show(phase: str, done: int, total: int | None) -> None:
            if phase in tasks:
                bar.update(tasks[phase], completed=done, total=total, visible=True)

        path = host.weights().pull(name, show)
    click.echo(f"Pulled {name} to {path}.", err=True)


@model.command()
@click.pass_obj
def ensure(host: Host) -> int:
    """Pull the tiny demo model if nothing else is configured or found."""
    if asyncio.run(_found(host)):
        return Exit.DONE
    click.echo(
        "No model is configured: fetching a tiny demo model (93 MB, once). `clew setup` sets a better one.",
        err=True,
    )
    try:
        pull_weights(host, "smollm2")
    except PullRefused as error:
        click.echo(f"clew: {error}", err=True)
    return Exit.DONE


async def _found(host: Host) -> bool:
    async with host.models() as models:
        try:
            return await models.detect() is not None
        except ModelUnavailable:
            return True  # something is configured, if not well: the turn will say what is missing
