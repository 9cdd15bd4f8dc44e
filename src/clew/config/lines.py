"""Places in a TOML text, for errors only: tomllib knows where a syntax error is, but not where a key stands."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath

from clew.config.errors import Problem
from clew.config.schema import Path


def lines_of(text: str) -> Mapping[Path, int]:
    """The line each key of a valid TOML text first stands on, counted from 1."""
    found: dict[Path, int] = {}
    table: Path = ()
    for line, statement, tree in _statements(text):
        keys = list(_paths(tree))
        if statement.lstrip().startswith("["):
            table = max(keys, key=len)
        else:
            keys = [table + key for key in keys]
        for key in keys:
            found.setdefault(key, line)
    return found


def toml_problem(error: tomllib.TOMLDecodeError, file: FilePath) -> Problem:
    """A syntax error as a sentence with its line and column."""
    what, _, where = str(error).removesuffix(")").rpartition(" (at ")
    return Problem(place=f"{file}, {where}", sentence=f"this is not TOML: {what[:1].lower()}{what[1:]}")


def _statements(text: str) -> Iterator[tuple[int, str, Mapping[str, object]]]:
    """Takes the text apart into the shortest runs of lines that are TOML by themselves."""
    first, pending = 1, ""
    for number, line in enumerate(text.split("\n"), 1):
        pending += line + "\n"
        try:
            tree = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue
        if tree:
            yield first, pending, tree
        first, pending = number + 1, ""


def _paths(tree: object, at: Path = ()) -> Iterator[Path]:
    if at:
        yield at
    if isinstance(tree, Mapping):
        for name, below in tree.items():
            yield from _paths(below, (*at, name))
