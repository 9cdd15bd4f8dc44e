"""The settings as a tree of places: what may stand where, and what it is called.

Everything that walks the settings (reading, writing, listing, documentation) walks them here, so that a new
field in `settings` is a new setting everywhere. A path is the tuple of names from the top, a key its dotted form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import get_args, get_origin

import msgspec

from clew.config.settings import Section, Settings

Path = tuple[str, ...]


class Leaf(msgspec.Struct, frozen=True):
    """A place for one value. `hint` is the annotation, with its range."""

    hint: object
    default: object = None


class Table(msgspec.Struct, frozen=True):
    """A place for a section, with the keys the section has."""

    section: type[Section]


class Named(msgspec.Struct, frozen=True):
    """A place for any number of items under names of the user's choosing."""

    item: Leaf | Table


Node = Leaf | Table | Named
TOP = Table(Settings)


@cache
def children(section: type[Section]) -> Mapping[str, Node]:
    """What may stand in a section, in the order of its definition."""
    return {field.name: _node(field.type, field.default) for field in msgspec.structs.fields(section)}


def child(node: Table | Named, name: str) -> Node | None:
    """What may stand under a name, or None where the name means nothing."""
    return node.item if isinstance(node, Named) else children(node.section).get(name)


def places(node: Node = TOP, at: Path = ()) -> Iterator[tuple[Path, Leaf]]:
    """Every place for a value; a name of the user's choosing is written NAME."""
    match node:
        case Leaf():
            yield at, node
        case Table():
            for name, below in children(node.section).items():
                yield from places(below, (*at, name))
        case Named():
            yield from places(node.item, (*at, "NAME"))


def values(value: object, node: Node = TOP, at: Path = ()) -> Iterator[tuple[Path, Leaf, object]]:
    """Every value of some settings with its place, also where users named it."""
    match node:
        case Leaf():
            yield at, node, value
        case Table():
            for name, below in children(node.section).items():
                yield from values(getattr(value, name), below, (*at, name))
        case Named():
            assert isinstance(value, Mapping)
            for name, item in value.items():
                yield from values(item, node.item, (*at, name))


def build(given: Mapping[Path, object]) -> Settings:
    """Makes settings of values that fit their places; what is not given keeps its default."""
    tree: dict[str, object] = {}
    for path, value in given.items():
        table = tree
        for name in path[:-1]:
            below = table.setdefault(name, {})
            assert isinstance(below, dict)
            table = below
        table[path[-1]] = value
    return msgspec.convert(tree, Settings)


def dotted(path: Path) -> str:
    """The key of a path."""
    return ".".join(path)


def _node(hint: object, default: object = None) -> Node:
    if isinstance(hint, type) and issubclass(hint, Section):
        return Table(hint)
    if get_origin(hint) is Mapping:
        item = _node(get_args(hint)[1])
        assert not isinstance(item, Named)
        return Named(item)
    return Leaf(hint, default)
