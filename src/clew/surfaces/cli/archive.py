"""`clew sessions export` and `clew sessions import`: sessions as files, and back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import click

from clew.domain.conversation.ids import LOCAL
from clew.runtime.archive.formats import ExportFormat, export
from clew.runtime.archive.importing import import_jsonl
from clew.runtime.talk import Services
from clew.surfaces.cli.codes import UsageError
from clew.surfaces.cli.opened import opened
from clew.surfaces.cli.output import json_line
from clew.surfaces.cli.public import public

CHUNK_BYTES = 1 << 20


@click.command("export")
@click.argument("session")
@click.option(
    "--format",
    "-f",
    "wanted",
    default="md",
    show_default=True,
    type=click.Choice([f.value for f in ExportFormat]),
    help="How it is written.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A new file; default: standard output.",
)
@click.option("--tree", "whole_tree", is_flag=True, help="Undone branches too (jsonl always has them).")
@opened
async def export_(
    services: Services, session: str, wanted: str, output: Path | None, whole_tree: bool
) -> None:
    """Write SESSION to a file.

    md and html are for people, json for programs, jsonl for another Clew.
    """
    ident = await services.ledger.resolve(LOCAL, session)
    parts = export(services.ledger, LOCAL, ident, ExportFormat(wanted), whole_tree=whole_tree)
    sink: BinaryIO = sys.stdout.buffer if output is None else _new_file(output)
    try:
        async for part in parts:
            sink.write(part)
        sink.flush()
    finally:
        if output is not None:
            sink.close()


def _new_file(path: Path) -> BinaryIO:
    try:
        file = path.open("xb")
    except FileExistsError as error:
        raise UsageError(f"{path} is there already; nothing was written.") from error
    path.chmod(0o600)
    return file


@click.command("import")
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of the sessions.")
@opened
async def import_(services: Services, source: str, as_json: bool) -> None:
    """Read sessions from the jsonl file SOURCE (or `-`).

    Each gets a new id, and has its whole history.
    """
    with _opened(source) as stream:
        rows = await import_jsonl(
            services.ledger,
            LOCAL,
            _chunks(stream),
            new_id=services.desk.new_id,
            at=services.clock.now_ms(),
        )
    if as_json:
        click.echo(json_line([public(row) for row in rows]))
        return
    for row in rows:
        click.echo(f"{row.id}  {row.handle.head.seq} messages  {row.title or 'untitled'}")


def _opened(source: str) -> BinaryIO:
    if source == "-":
        return sys.stdin.buffer
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"There is no file {source}.")
    return path.open("rb")


async def _chunks(stream: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(stream.read, CHUNK_BYTES):
        yield chunk
