"""`clew sessions`: list, show, search, tree, export, import, delete."""

from __future__ import annotations

import sys
from typing import Final

import click

from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.ledger.rows import CallRow, Order, SessionRow
from clew.runtime.account import read_account
from clew.runtime.commands.looking import when
from clew.runtime.talk import Services
from clew.surfaces.cli.archive import export_, import_
from clew.surfaces.cli.codes import Exit, UsageError
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.opened import opened, with_services
from clew.surfaces.cli.output import json_line, shown
from clew.surfaces.cli.places import REFERENCE
from clew.surfaces.cli.prune import prune
from clew.surfaces.cli.public import public
from clew.surfaces.cli.tree import draw

RECEIVED_MAX: Final = 10_000


@click.group()
def sessions() -> None:
    """Look at, search, export and delete sessions."""


@sessions.command("list")
@click.option(
    "--limit", "-n", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many."
)
@click.option("--archived", is_flag=True, help="The archived ones instead.")
@click.option(
    "--sides", is_flag=True, help="Those too that worked beside another: subagents, /background, reviews."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def list_(host: Host, limit: int, archived: bool, sides: bool, as_json: bool) -> None:
    """The newest sessions first."""
    rows = with_services(
        host, lambda s: s.ledger.sessions(LOCAL, limit=limit, archived=archived, sides=sides)
    )
    if as_json:
        click.echo(json_line([public(row) for row in rows]))
        return
    for row in rows:
        click.echo(f"{row.id}  {when(row.last_active_at)}  {row.surface:10} {shown(row.title or 'untitled')}")
    if not rows:
        click.echo("There are no sessions yet.", err=True)


@sessions.command()
@click.argument("session", type=REFERENCE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@opened
async def show(services: Services, session: str, as_json: bool) -> None:
    """What was said in SESSION, and what happened to each call."""
    ledger = services.ledger
    ident = await ledger.resolve(LOCAL, session)
    row, path = await ledger.session(LOCAL, ident), await ledger.path(LOCAL, ident)
    calls = {call.id: call for call in await ledger.calls(LOCAL, ident)}
    rows = await ledger.received(LOCAL, ident, RECEIVED_MAX)
    account = await read_account(ledger, LOCAL, ident, rows)
    if as_json:
        messages = [
            {"position": m.seq, "turn": m.turn, "role": m.role, "status": m.status, "text": m.text,
             "created_at": m.created_at, "calls": [{"id": c.id, "name": c.name, "arguments": c.arguments,
             **_call_facts(calls.get(c.id))} for c in m.calls]}
            for m in path
        ]  # fmt: skip
        received = [
            {"number": r.n, "kind": r.kind, "received_at": r.at, "state": r.state, "turn": r.turn,
             "settled_at": r.settled_at, "settled_by": r.settled_by}
            for r in rows
        ]  # fmt: skip
        click.echo(json_line({**public(row), "messages": messages, "received": received}))
        return
    click.echo(
        f"{row.id}  {shown(row.title or 'untitled')}  {len(path)} messages, version {row.handle.version}"
    )
    at_it = await ledger.compaction(LOCAL, ident)
    if at_it is not None:
        click.echo(f"Being summarised by process {at_it.holder}.")
    for message in path:
        status = "" if message.status == "ok" else f" ({message.status})"
        click.echo(
            f"\n[{message.seq}] {message.role}{status}  {when(message.created_at)}\n{shown(message.text)}"
        )
        for call in message.calls:
            known = calls.get(call.id)
            click.echo(f"  → {shown(f'{call.name} {call.arguments}')}")
            click.echo(f"    {shown(account.call(known)) if known else 'imported'}")
    if rows:
        click.echo("\nWhat arrived while a turn ran, or before one:")
    for received_row in rows:
        click.echo(f"  {shown(account.received(received_row))}")
    for line in account.undelivered(await ledger.replies(LOCAL, ident, RECEIVED_MAX)):
        click.echo(f"  {shown(line)}")


def _call_facts(call: CallRow | None) -> dict[str, str | int | None]:
    if call is None:
        return {"state": None}
    return {"state": call.state, "planned_at": call.planned_at, "started_at": call.started_at,
            "finished_at": call.finished_at}  # fmt: skip


@sessions.command()
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", "-n", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many.")
@click.option("--newest", is_flag=True, help="Newest first instead of best first.")
@click.option("--session", "within", type=REFERENCE, metavar="ID", help="Only in this session.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@opened
async def search(  # noqa: PLR0917
    services: Services, words: tuple[str, ...], limit: int, newest: bool, within: str | None, as_json: bool
) -> None:
    """Find WORDS in everything that was said.

    \b
    clew sessions search parser               that word
    clew sessions search '"late at night"'    a phrase
    clew sessions search 'pars* -lexer'       what begins so, without another word
    """
    ledger = services.ledger
    only = await ledger.resolve(LOCAL, within) if within else None
    order = Order.NEWEST if newest else Order.RANKED
    found = await ledger.search(LOCAL, " ".join(words), limit=limit, order=order, session=only)
    if as_json:
        rows = [
            {
                **public(await ledger.session(LOCAL, hit.session)),
                "snippet": hit.snippet,
                "position": hit.position,
            }
            for hit in found.hits
        ]
        click.echo(json_line(rows))
        return
    for hit in found.hits:
        click.echo(f"{hit.session} [{hit.position}] {when(hit.created_at)} {hit.role}: {shown(hit.snippet)}")
    if found.incomplete_since is not None:
        click.echo(
            f"Incomplete: messages after {when(found.incomplete_since)} are still being indexed.",
            err=True,
        )
    elif not found.hits:
        click.echo("Nothing was found.", err=True)


@sessions.command()
@click.argument("session", type=REFERENCE, required=False)
@opened
async def tree(services: Services, session: str | None) -> None:
    """Draw branches and undone tips of SESSION (default: the last one)."""
    ident = await _named_or_last(services, session)
    for line in await draw(services.ledger, services.runner, LOCAL, ident):
        click.echo(shown(line))


async def _named_or_last(services: Services, session: str | None) -> SessionId:
    if session is not None:
        return await services.ledger.resolve(LOCAL, session)
    rows = await services.ledger.sessions(LOCAL, limit=1)
    if not rows:
        raise UsageError("There are no sessions yet.")
    return rows[0].id


@sessions.command()
@click.argument("session", type=REFERENCE)
@click.option("--with-forks", is_flag=True, help="Delete the sessions branched from it too.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@opened
async def delete(services: Services, session: str, with_forks: bool, yes: bool) -> int:
    """Forget SESSION for good: its words leave every file."""
    ident = await services.ledger.resolve(LOCAL, session)
    row = await services.ledger.session(LOCAL, ident)
    if not yes and not _confirmed(row):
        return Exit.REFUSED
    gone = await services.ledger.forget(LOCAL, ident, services.clock.now_ms(), with_forks=with_forks)
    click.echo(f"Deleted {ident}: {gone.messages} messages, {gone.blobs} attachments.")
    if gone.kept_for:
        click.echo(f"What these branches still hold stays: {', '.join(gone.kept_for)} (see --with-forks).")
    return Exit.DONE


def _confirmed(row: SessionRow) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("This cannot be undone: say --yes.")
    return click.confirm(f"Delete {row.id} “{shown(row.title or 'untitled')}” for good?", err=True)


sessions.add_command(export_)
sessions.add_command(import_)
sessions.add_command(prune)
