"""Where the terminal is, as a conversation, and how a session is named there."""

from __future__ import annotations

from typing import Final

import click

from clew.domain.conversation.text import clean
from clew.runtime.sessions import Place

TERMINAL: Final = Place(route_key="terminal:local", surface="terminal")


class _Reference(click.ParamType[str]):
    """A session's id, the start of one, or a title; bytes that are no text name nothing, and are no error of ours."""

    name = "session"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return clean(value).text


REFERENCE: Final = _Reference()
