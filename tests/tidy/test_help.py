"""What `--help` says of each command is whole, and a mistake is answered with one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import click
import pytest

from clew.surfaces.cli.codes import Exit
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.main import cli, main


def commands(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """A command and all that stands below it."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, click.Context(below, parent=context, info_name=name))


ALL = {
    context.command_path: (command, context)
    for command, context in commands(cli, click.Context(cli, info_name="clew"))
}


@pytest.mark.parametrize("path", ALL)
def test_help_is_whole(path: str) -> None:
    """Every command and option says what it does; no line of a list is cut; no name shows how the code is written."""
    command, context = ALL[path]
    shown = command.get_help(context)
    assert command.help
    assert re.findall(r"^.*[a-z,;]\.\.\.$", shown, re.MULTILINE) == []
    assert "_" not in command.get_usage(context)
    assert [
        option.name for option in command.params if isinstance(option, click.Option) and not option.help
    ] == []


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("sesions", "No such command 'sesions'. Did you mean 'sessions'? `clew --help` says more."),
        ("sessions|lst", "No such command 'lst'. Did you mean 'list'? `clew sessions --help` says more."),
        ("run|--jsn|x", "No such option '--jsn'. Did you mean '--json'? `clew run --help` says more."),
        ("What is it?", "That is no command; to say something: clew run TEXT. `clew --help` says more."),
        ("db|backup", "Missing argument 'TARGET'. `clew db backup --help` says more."),
        ("reminders|cancel|x", "Invalid value for 'NUMBER': 'x' is not a valid integer. `clew reminders cancel --help` says more."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(capsys: pytest.CaptureFixture[str], typed: str, sentence: str) -> None:
    """It names what was probably meant, and where to read on; the exit code is 2."""
    assert main(cast(Host, None), typed.split("|")) == Exit.USAGE
    assert capsys.readouterr().err == f"clew: {sentence}\n"
