"""`clew pair`: codes that make somebody on a chat platform known to Clew, keys of the HTTP API, and who is known.

What is kept of a code or a key is its hash.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

import click

from clew.domain.conversation.ids import LOCAL, PrincipalId
from clew.domain.routing import keys
from clew.domain.routing.pairing import CODE_LENGTH, CODE_SECONDS, Account, code_sha256
from clew.runtime.talk import Services
from clew.surfaces.cli.codes import UsageError
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.opened import with_services

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")


class _Pair(click.Group):
    """`clew pair NAME` and `clew pair --me` are `clew pair code ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["code", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Pair)
def pair() -> None:
    """Let people on chat platforms talk to Clew, and see who may.

    \b
    clew pair NAME    a code for somebody else, with sessions of their own
    clew pair --me    a code for an account of yours: it sees the sessions of this terminal
    """


@pair.command()
@click.argument("name", required=False)
@click.option("--me", is_flag=True, help="The account is yours: it sees the sessions of this terminal.")
@click.option("--admin", is_flag=True, help="Whoever it is may also decide for others in shared groups.")
@click.pass_obj
def code(host: Host, name: str | None, me: bool, admin: bool) -> None:
    """Make a code that pairs an account on a chat platform.

    It is for somebody (NAME), or yourself (--me). The same NAME again is the same person with another account.
    """
    if me == (name is not None):
        raise UsageError("Say who is paired: clew pair NAME for somebody else, or clew pair --me.")
    if name is not None and (not _NAME.fullmatch(name) or name == LOCAL):
        raise UsageError("A name is lower-case letters, digits, dots and dashes, at most 40; yours is --me.")
    principal = LOCAL if name is None else PrincipalId(name)

    async def offer(services: Services, code: str, expires_at: int) -> None:
        if principal != LOCAL:
            await services.ledger.add_principal(principal, name or LOCAL, "user")
        if admin and principal != LOCAL:
            await services.ledger.set_role(principal, "admin")
        await services.ledger.offer_pairing(code_sha256(code), principal, expires_at)

    _offered(host, offer, "Send this to the bot, in a direct message,")


@pair.command()
@click.option("--me", is_flag=True, help="One of the two is you in this terminal.")
@click.pass_obj
def link(host: Host, me: bool) -> None:
    """Make a code with which two accounts become one person.

    That person sees the sessions of both. What came together stays so: `clew pair unlink` parts them for what is said afterwards.
    """

    async def offer(services: Services, code: str, expires_at: int) -> None:
        await services.ledger.offer_link(code_sha256(code), LOCAL if me else None, expires_at)

    both = "Send this to the bot from an account it knows, then from the other one, in direct messages,"
    _offered(host, offer, "Send this to the bot from your account, in a direct message," if me else both)


@pair.command("list")
@click.pass_obj
def list_(host: Host) -> None:
    """Say who is known, with their role and accounts.

    Whom the settings name is there once they said something.
    """
    for person in with_services(host, lambda services: services.ledger.people()):
        accounts = ", ".join(
            f"{platform} {id_}" for platform, id_ in person.accounts if platform not in keys.SURFACES
        )
        click.echo(f"{person.id}\t{person.role}\t{accounts or '-'}")


@pair.command()
@click.argument("platform")
@click.argument("id_", metavar="ID")
@click.pass_obj
def revoke(host: Host, platform: str, id_: str) -> None:
    """Make an account a stranger's again.

    PLATFORM and ID are as `clew pair list` shows them.
    """
    if not with_services(host, lambda services: services.ledger.unpair(Account(platform, id_))):
        raise UsageError(f"{platform} {id_} is nobody's account.")
    if id_ in getattr(getattr(host.settings().gateway, platform, None), "allow", ()):
        click.echo(f"gateway.{platform}.allow still names {id_}.", err=True)


@pair.command()
@click.argument("platform")
@click.argument("id_", metavar="ID")
@click.pass_obj
def unlink(host: Host, platform: str, id_: str) -> None:
    """Make an account a person of its own again.

    PLATFORM and ID are as `clew pair list` shows them. What was said before stays with the person it was; the account begins anew, and neither sees what the other says.
    """
    account = Account(platform, id_)
    person = with_services(host, lambda services: services.ledger.unlink(account))
    click.echo(f"{platform} {id_} is {person} from now on.")


@pair.command()
@click.argument("name")
@click.argument("what", type=click.Choice(["admin", "user"]))
@click.pass_obj
def role(host: Host, name: str, what: str) -> None:
    """Say whether NAME decides for others.

    An admin does in shared groups, a user does not.
    """
    with_services(host, lambda services: services.ledger.set_role(PrincipalId(name), what))


@pair.group()
def key() -> None:
    """Keys for the HTTP API of `clew serve`.

    What is kept of a key is its hash.
    """


@key.command("create")
@click.argument("name", required=False)
@click.option("--tools", is_flag=True, help="The agent's own tools work for whoever shows it.")
@click.pass_obj
def create_key(host: Host, name: str | None, tools: bool) -> None:
    """Make a key of yours, or of NAME's.

    It is shown once. `clew pair list` shows who is known.
    """
    principal, surface = PrincipalId(name or LOCAL), keys.WITH_TOOLS if tools else keys.PLAIN

    async def made(services: Services) -> str:
        if principal != LOCAL and await services.ledger.person(principal) is None:
            raise UsageError(f"There is nobody called {principal}; `clew pair {principal}` makes them known.")
        key = keys.written(services.chance.token(keys.SECRET_LENGTH))
        code = services.chance.token(CODE_LENGTH)
        now = services.clock.now_ms()
        await services.ledger.offer_pairing(code_sha256(code), principal, now + CODE_SECONDS * 1000)
        await services.ledger.pair(code_sha256(code), keys.account(key, surface), now)
        return key

    click.echo(with_services(host, made))
    click.echo("Keep it: it is not shown again. `clew pair key revoke` takes it back.", err=True)


@key.command("list")
@click.pass_obj
def list_keys(host: Host) -> None:
    """Say whose keys there are.

    A line each: id, whose it is, and whether the agent's own tools work for it.
    """
    for ident, person, surface in with_services(host, _keys):
        click.echo(
            f"{ident[: keys.SHOWN_LENGTH]}\t{person}\t{'tools' if surface == keys.WITH_TOOLS else '-'}"
        )


@key.command("revoke")
@click.argument("id_", metavar="ID")
@click.pass_obj
def revoke_key(host: Host, id_: str) -> None:
    """Take the key ID back.

    `clew pair key list` shows the ids. From the next request on it opens nothing.
    """

    async def revoked(services: Services) -> bool:
        named = [
            Account(surface, ident)
            for ident, _, surface in await _keys(services)
            if len(id_) >= keys.SHOWN_LENGTH and ident.startswith(id_)
        ]
        return len(named) == 1 and await services.ledger.unpair(named[0])

    if not with_services(host, revoked):
        raise UsageError(f"There is no key {id_}; `clew pair key list` shows their ids.")


async def _keys(services: Services) -> list[tuple[str, PrincipalId, str]]:
    """(hash, whose, surface) of each key."""
    return [
        (ident, person.id, platform)
        for person in await services.ledger.people()
        for platform, ident in person.accounts
        if platform in keys.SURFACES
    ]


def _offered(host: Host, offer: Callable[[Services, str, int], Awaitable[None]], hint: str) -> None:
    async def made(services: Services) -> str:
        code = services.chance.token(CODE_LENGTH)
        await offer(services, code, services.clock.now_ms() + CODE_SECONDS * 1000)
        return code

    code = with_services(host, made)
    click.echo(f"/pair {code[:5]}-{code[5:]}")
    click.echo(f"{hint} within {CODE_SECONDS // 60} minutes. It works once.", err=True)
