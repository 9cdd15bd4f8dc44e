"""Where the terminal is, as a conversation, and how a session is named there."""

from __future__ import annotations

from typing import Final

import click

from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.conversation.text import clean
from clew.domain.ledger.errors import NotFound
from clew.runtime.sessions import Place
from clew.runtime.talk import Services

TERMINAL: Final = Place(route_key="terminal:local", surface="terminal")


class _Reference(click.ParamType[str]):
    """A session's id, the start of one, or a title; bytes that are no text name nothing, and are no error of ours."""

    name = "session"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return clean(value).text


REFERENCE: Final = _Reference()


async def chosen(services: Services, session: str | None, go_on: bool) -> SessionId | None:
    """The session that is named, or the last one to `go_on` with; None for another. Raises NotFound, Ambiguous."""
    if session is not None:
        return await services.ledger.resolve(LOCAL, session)
    if not go_on:
        return None
    row = await services.desk.current(LOCAL, TERMINAL)
    if row is None:
        raise NotFound("There is no session to continue.")
    return row.id
