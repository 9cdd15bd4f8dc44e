"""`clew memory`: what is remembered of whoever sits here."""

from __future__ import annotations

import click

from clew.domain.conversation.ids import LOCAL
from clew.domain.memory.facts import Fact
from clew.runtime.memory.desk import MemoryDesk
from clew.runtime.talk import Services
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.opened import with_services
from clew.surfaces.cli.output import json_line, shown

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def memory() -> None:
    """What is remembered of you from one session to the next."""


@memory.command("list")
@_AS_JSON
@click.pass_obj
def list_(host: Host, as_json: bool) -> None:
    """List the facts, oldest first."""
    facts = with_services(host, lambda services: _of(services).standing(LOCAL))
    if as_json:
        click.echo(json_line([_public(fact) for fact in facts]))
    elif facts:
        click.echo(shown("\n".join(f"{fact.id}: {fact.text}" for fact in facts)))
    else:
        click.echo("Nothing is remembered.")


@memory.command()
@click.argument("text", nargs=-1, required=True)
@_AS_JSON
@click.pass_obj
def add(host: Host, text: tuple[str, ...], as_json: bool) -> None:
    """Keep TEXT as a fact."""
    typed = " ".join(text)
    if as_json:
        fact, _ = with_services(host, lambda services: _of(services).keep(LOCAL, typed))
        click.echo(json_line(_public(fact)))
    else:
        click.echo(shown(with_services(host, lambda services: _of(services).add(LOCAL, typed))))


@memory.command()
@click.argument("which", nargs=-1, required=True)
@_AS_JSON
@click.pass_obj
def forget(host: Host, which: tuple[str, ...], as_json: bool) -> None:
    """Forget the fact WHICH: its number, or words that only it has."""
    typed = " ".join(which)
    if as_json:
        fact = with_services(host, lambda services: _of(services).forgotten(LOCAL, typed))
        click.echo(json_line(_public(fact)))
    else:
        click.echo(shown(with_services(host, lambda services: _of(services).forget(LOCAL, typed))))


def _of(services: Services) -> MemoryDesk:
    assert services.memory is not None, "the ledger of a home remembers"
    return services.memory


def _public(fact: Fact) -> dict[str, object]:
    """Times are milliseconds since 1970."""
    return {
        "number": fact.id,
        "text": fact.text,
        "kind": fact.kind,
        "confidence": fact.confidence,
        "session": fact.session,
        "message": fact.message,
        "supersedes": fact.supersedes,
        "said_at": fact.said_at,
        "created_at": fact.created_at,
    }
