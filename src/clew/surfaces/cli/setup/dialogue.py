"""How setup talks with a person: lists to pick from, lines, and a key that is not shown."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from clew.surfaces.cli.host import Host
from clew.surfaces.cli.picker import Choice, Picker, pick
from clew.surfaces.cli.terminal import SteadyOutput, is_dumb, quiet_terminal

LISTED_MAX = 30


class Left(Exception):
    """The person wants out of this question."""


class Dialogue:
    """At a terminal. Ctrl-C raises click.Abort from every question."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def say(self, sentence: str) -> None:
        click.echo(sentence)

    def choose(self, title: str, choices: Sequence[Choice], *, free: bool = False) -> str:
        """The key of a choice, or with `free` what was typed. Raises Left."""
        if is_dumb(self._host.environ):
            return self._choose_by_number(title, choices, free=free)
        chosen = asyncio.run(self._picked(title, choices, free=free))
        if chosen is None:
            raise Left
        click.echo(f"{title} {click.style(chosen.label, bold=True)}")
        return chosen.key

    def secret(self, question: str) -> str:
        """What was typed or pasted unseen; only its length is shown. Empty when nothing was."""
        typed: str = click.prompt(question, hide_input=True, default="", show_default=False)
        key = "".join(typed.split())
        if key:
            click.echo(f"({len(key)} characters)")
        return key

    def line(self, question: str, default: str = "") -> str:
        typed: str = click.prompt(question, default=default, show_default=bool(default))
        return typed.strip()

    @contextmanager
    def waiting(self, sentence: str) -> Iterator[None]:
        """While something is tried, what is typed is not shown: it may be a key."""
        click.echo(sentence)
        if is_dumb(self._host.environ):
            yield
            return
        with quiet_terminal():
            yield

    def agrees(self, question: str) -> bool:
        return click.confirm(question, default=True)

    async def _picked(self, title: str, choices: Sequence[Choice], *, free: bool) -> Choice | None:
        return await pick(Picker(title, choices, free=free), SteadyOutput(sys.stdout, self._host.environ))

    def _choose_by_number(self, title: str, choices: Sequence[Choice], *, free: bool) -> str:
        click.echo(title)
        for number, choice in enumerate(choices[:LISTED_MAX], 1):
            click.echo(f"{number:3} {choice.label}  {choice.detail}")
        if len(choices) > LISTED_MAX:
            click.echo(f"    and {len(choices) - LISTED_MAX} more, by name")
        while True:
            typed = self.line("Number or name (empty leaves)")
            if not typed:
                raise Left
            if typed.isdigit() and 1 <= int(typed) <= len(choices):
                return choices[int(typed) - 1].key
            if free or any(choice.key == typed for choice in choices):
                return typed
            click.echo(f"There is no {typed} in the list.")
