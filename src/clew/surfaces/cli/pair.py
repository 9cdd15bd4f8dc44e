"""`clew pair`: a code that makes somebody on a chat platform known to Clew. What is kept of it is its hash."""

from __future__ import annotations

import asyncio
import re
from typing import Final

import click

from clew.domain.conversation.ids import LOCAL, PrincipalId
from clew.domain.routing.pairing import CODE_LENGTH, CODE_SECONDS, code_sha256
from clew.surfaces.cli.codes import Exit, UsageError
from clew.surfaces.cli.host import Host

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")


@click.command()
@click.argument("name", required=False)
@click.option("--me", is_flag=True, help="The account is yours: it sees the sessions of this terminal.")
@click.pass_obj
def pair(host: Host, name: str | None, me: bool) -> int:
    """Make a code with which somebody (NAME, or yourself with --me) pairs an account on a chat platform.

    The same NAME again is the same person with another account.
    """
    if me == (name is not None):
        raise UsageError("Say who is paired: clew pair NAME for somebody else, or clew pair --me.")
    if name is not None and (not _NAME.fullmatch(name) or name == LOCAL):
        raise UsageError("A name is lower-case letters, digits, dots and dashes, at most 40; yours is --me.")
    code = asyncio.run(_offered(host, LOCAL if name is None else PrincipalId(name), name or LOCAL))
    click.echo(f"/pair {code[:5]}-{code[5:]}")
    click.echo(f"Send this to the bot within {CODE_SECONDS // 60} minutes. It works once.", err=True)
    return Exit.DONE


async def _offered(host: Host, principal: PrincipalId, name: str) -> str:
    async with host.services() as services:
        if principal != LOCAL:
            await services.ledger.add_principal(principal, name, "user")
        code = services.chance.token(CODE_LENGTH)
        expires_at = services.clock.now_ms() + CODE_SECONDS * 1000
        await services.ledger.offer_pairing(code_sha256(code), principal, expires_at)
    return code
